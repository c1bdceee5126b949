//! Who sells what: `list`, `info`, `quote`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::args::{QuoteArgs, WantedArgs};
use super::{App, Outcome};
use crate::cli::output::{Done, duration, escape, table};
use crate::consumer::paygress::LACKS;
use crate::consumer::providers::Provider;
use crate::consumer::{Client, ClientError};
use crate::core::ids::Name;
use crate::core::money::Msat;
use crate::protocol::paygress;
use crate::protocol::reply::{MintTerms, QuoteAnswer};
use crate::protocol::request::Wanted;

pub(super) async fn list(app: &App) -> Outcome {
    let providers = app.client()?.discover().await?;
    let json = json!({ "providers": providers.iter().map(summary).collect::<Vec<_>>() });
    if providers.is_empty() {
        return Ok(Done::new(
            json,
            "no offers found; ask other relays with --relay",
        ));
    }
    let rows: Vec<Vec<String>> = providers.iter().map(row).collect();
    let head = [
        "NAME",
        "KEY",
        "STATE",
        "DIALECT",
        "ISOLATION",
        "LOCATION",
        "FROM",
        "FREE",
        "TIERS",
    ];
    let mut text = table(&head, &rows);
    if providers.iter().any(|one| !one.lacks().is_empty()) {
        let _ = write!(text, "\n{}: {}\n", paygress::DIALECT_NAME, LACKS.join(", "));
    }
    Ok(Done::new(json, text))
}

/// Price for an hour, as people read it.
pub(super) fn per_hour(rate_msat_per_s: u64) -> String {
    match Msat::new(rate_msat_per_s).checked_mul(3_600) {
        Some(price) => format!("{price}/h"),
        None => "too much".to_owned(),
    }
}

fn row(provider: &Provider) -> Vec<String> {
    let offer = &provider.offer;
    let free = offer.satlet.as_ref().map(|more| {
        let slots = more.tiers.iter().map(|tier| tier.free_slots);
        slots.max().unwrap_or(0).to_string()
    });
    let tiers: Vec<&str> = offer
        .specs
        .iter()
        .take(6)
        .map(|spec| spec.id.as_str())
        .collect();
    vec![
        cut(&offer.hostname, 24),
        provider.npub.chars().take(16).collect(),
        state(provider).to_owned(),
        provider.dialect().unwrap_or("unknown").to_owned(),
        cut(&offer.isolation_level, 22),
        cut(offer.location.as_deref().unwrap_or("-"), 20),
        provider
            .first_rate()
            .map_or_else(|| "-".to_owned(), per_hour),
        free.unwrap_or_else(|| "-".to_owned()),
        cut(&tiers.join(","), 40),
    ]
}

fn state(provider: &Provider) -> &'static str {
    if provider.online { "online" } else { "offline" }
}

fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let start: String = text.chars().take(length.saturating_sub(1)).collect();
    format!("{start}…")
}

fn summary(provider: &Provider) -> Value {
    let offer = &provider.offer;
    let free = |id: &str| {
        let tiers = offer
            .satlet
            .as_ref()
            .map(|more| more.tiers.as_slice())
            .unwrap_or_default();
        tiers
            .iter()
            .find(|tier| tier.id.as_str() == id)
            .map(|tier| tier.free_slots)
    };
    let tier = |spec: &crate::protocol::offer::Spec| {
        json!({
            "id": spec.id,
            "name": spec.name,
            "cpu_millicores": spec.cpu_millicores,
            "memory_mb": spec.memory_mb,
            "rate_msat_per_s": spec.rate_msats_per_sec,
            "msat_per_hour": spec.rate_msats_per_sec.checked_mul(3_600),
            "free_slots": free(&spec.id),
        })
    };
    json!({
        "name": offer.hostname,
        "npub": provider.npub,
        "hex": provider.key,
        "online": provider.online,
        "last_heartbeat": provider.last_heartbeat,
        "speaks_satlet": provider.speaks_satlet(),
        "dialect": provider.dialect(),
        "lacks": provider.lacks(),
        "isolation": offer.isolation_level,
        "location": offer.location,
        "tiers": offer.specs.iter().map(tier).collect::<Vec<_>>(),
        "mints": offer.whitelisted_mints,
    })
}

pub(super) async fn info(app: &App, query: &str) -> Outcome {
    let provider = app.client()?.find_provider(query).await?;
    let mut text = String::new();
    let offer = &provider.offer;
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {}", escape(value));
    };
    line("name", &offer.hostname);
    line("key", &provider.npub);
    line("state", state(&provider));
    line("dialect", provider.dialect().unwrap_or("unknown"));
    if !provider.lacks().is_empty() {
        line("lacks", &provider.lacks().join(", "));
    }
    line("location", offer.location.as_deref().unwrap_or("-"));
    line("isolation", &offer.isolation_level);
    line("backends", &offer.capabilities.join(", "));
    line("mints", &offer.whitelisted_mints.join(", "));
    if let Some(more) = &offer.satlet {
        line(
            "gateway",
            &format!("{}:{}", more.gateway.host, more.gateway.port),
        );
        line("host key", &more.gateway.host_key);
        line("images", &more.images.join(", "));
        let names: Vec<&str> = more.templates.iter().map(|one| one.id.as_str()).collect();
        line("templates", &names.join(", "));
        line(
            "network",
            if more.outgoing_network {
                "reaches the outside"
            } else {
                "closed"
            },
        );
        if !more.not_enforced.is_empty() {
            line("not limited", &more.not_enforced.join(", "));
        }
    }
    let rows: Vec<Vec<String>> = offer
        .specs
        .iter()
        .map(|spec| {
            vec![
                spec.id.clone(),
                format!("{} millicores", spec.cpu_millicores),
                format!("{} MiB", spec.memory_mb),
                per_hour(spec.rate_msats_per_sec),
                spec.description.clone(),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["TIER", "CPU", "MEMORY", "PRICE", ""], &rows));
    let mut json = summary(&provider);
    if let Some(fields) = json.as_object_mut() {
        fields.insert("offer".to_owned(), to_json(offer)?);
    }
    Ok(Done::new(json, text))
}

pub(super) async fn quote(app: &App, args: QuoteArgs) -> Outcome {
    let wanted = wanted(args.wanted, args.command)?;
    let client = app.client()?;
    let progress = app.progress();
    let provider = find(&client, &args.provider, &progress).await?;
    let quote = client
        .quote(&provider, wanted, args.seconds, &progress)
        .await?;
    Ok(Done::new(to_json(&quote)?, quote_text(&quote)))
}

/// Finds a provider and says when it is offline.
pub(super) async fn find(
    client: &Client,
    query: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Provider, ClientError> {
    progress("looking for the provider");
    let provider = client.find_provider(query).await?;
    if !provider.online {
        progress("it has sent no heartbeat lately: it may not answer");
    }
    Ok(provider)
}

fn quote_text(quote: &QuoteAnswer) -> String {
    let gives = &quote.gives;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<8} {}", escape(&value));
    };
    line("tier", quote.tier.to_string());
    line("image", quote.image.clone());
    line(
        "price",
        format!("{} for {}", quote.price_msat, duration(quote.seconds)),
    );
    line("rate", per_hour(quote.rate_msat_per_s));
    if let Some(seconds) = quote.gift_seconds {
        line("gift", format!("{} for nothing: --gift", duration(seconds)));
    }
    line(
        "sold",
        format!(
            "{} to {}",
            duration(quote.min_seconds),
            duration(quote.max_seconds)
        ),
    );
    line(
        "gives",
        format!(
            "{} millicores, {} MiB memory, {} MiB disk, {} processes",
            gives.cpu_millicores, gives.memory_mib, gives.disk_mib, gives.pids
        ),
    );
    if !quote.not_enforced.is_empty() {
        line(
            "beware",
            format!(
                "this host does not limit: {}",
                quote.not_enforced.join(", ")
            ),
        );
    }
    line(
        "mints",
        quote
            .mints
            .iter()
            .map(mint_text)
            .collect::<Vec<_>>()
            .join(", "),
    );
    if let Some(terms) = &quote.lightning {
        let within = duration(terms.pay_seconds);
        let what = format!(
            "by Lightning, at {}, to be paid within {within}",
            terms.mint
        );
        line("invoice", what);
    }
    line("until", quote.expires_at.to_string());
    text
}

fn mint_text(mint: &MintTerms) -> String {
    let text = match mint.input_fee_ppk {
        Some(0) => format!("{} (no fee)", mint.url),
        Some(ppk) => format!("{} (fee {ppk}/1000 per proof)", mint.url),
        None => mint.url.clone(),
    };
    match &mint.state {
        Some(state) => format!("{text} [{state}]"),
        None => text,
    }
}

/// What is wanted, from the command line.
pub(super) fn wanted(args: WantedArgs, command: Vec<String>) -> Result<Wanted, ClientError> {
    Ok(Wanted {
        tier: args.tier.map(|text| name(&text, "tier")).transpose()?,
        template: args
            .template
            .map(|text| name(&text, "template"))
            .transpose()?,
        image: args.image,
        ssh_keys: Vec::new(),
        command,
        env: args.env,
    })
}

fn name(text: &str, what: &str) -> Result<Name, ClientError> {
    text.parse().map_err(|error| {
        ClientError::usage(
            "usage",
            format!("{what} '{text}': {error}"),
            "See satlet info PROVIDER.",
        )
    })
}

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<Value, ClientError> {
    serde_json::to_value(value).map_err(|error| ClientError::internal(error.to_string()))
}
