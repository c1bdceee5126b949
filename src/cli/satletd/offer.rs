//! `satletd offer`.

use std::path::Path;

use anyhow::Context;

use super::output::{Output, clean, table};
use super::{ConfigArg, Exit, load, runtime};
use crate::config::units::{show_duration, show_mib};
use crate::config::{Config, secrets};
use crate::core::capacity::Resources;
use crate::core::ids::PublicKey;
use crate::gateway::HostKey;
use crate::protocol::offer::{Extension, Offer, TierTerms};
use crate::protocol::reply::MintTerms;
use crate::provider::backend;
use crate::provider::control::{Ask, ControlError, ask};
use crate::provider::daemon::HOST_KEY;
use crate::provider::offer::{OfferFacts, build};
use crate::wallet::lock_key_of;

pub(super) fn offer(output: &mut Output<'_>, arg: &ConfigArg, json: bool) -> anyhow::Result<Exit> {
    let config = match load(output, arg) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let offer = match runtime()?.block_on(find(&config))? {
        Found::Published(offer) => {
            for key in differences(&config, &offer) {
                output.tell(&format!(
                    "{key} is not as in {}: start satletd again to publish it.",
                    arg.config.display()
                ));
            }
            offer
        }
        Found::Made(offer) => {
            output.tell("satletd does not run: this is what it would publish with no lease.");
            offer
        }
    };
    if json {
        output.json(&offer)?;
    } else {
        for line in render(&offer) {
            output.line(&line)?;
        }
    }
    Ok(Exit::Done)
}

enum Found {
    /// By the running daemon.
    Published(Offer),
    /// From the configuration.
    Made(Offer),
}

async fn find(config: &Config) -> anyhow::Result<Found> {
    match ask(&config.settings.data_dir, Ask::Offer).await {
        Ok(offer) => Ok(Found::Published(offer)),
        Err(ControlError::NotRunning(_)) => would_be(config).await.map(Found::Made),
        Err(error) => Err(error.into()),
    }
}

async fn would_be(config: &Config) -> anyhow::Result<Offer> {
    let settings = &config.settings;
    let secrets::Secrets { keys, mnemonic } =
        secrets::read(config).map_err(|_| anyhow::anyhow!("the secret files have changed"))?;
    let looked = backend::look(&settings.backend, &settings.data_dir)
        .await
        .context("the backend cannot be opened")?;
    let backend = &looked.backend;
    let mints = settings.mints.iter().map(|mint| MintTerms {
        url: mint.url.clone(),
        units: vec!["sat".to_owned()],
        input_fee_ppk: None,
        state: None,
    });
    let facts = OfferFacts {
        provider: PublicKey::from_bytes(keys.public_key().to_bytes()),
        backend: backend.name().clone(),
        capabilities: backend.capabilities().clone(),
        gateway: (settings.gateway.listen.port(), host_key(&settings.data_dir)),
        lock_key: Some(lock_key_of(mnemonic.to_seed(""))?),
        mints: mints.collect(),
        promised: (Resources::default(), 0),
        completed: 0,
    };
    Ok(build(settings, &facts))
}

/// The public half of the gateway's key; it is made at the first start, and
/// nothing is made here.
fn host_key(data_dir: &Path) -> String {
    let path = data_dir.join(HOST_KEY);
    if !path.exists() {
        return String::new();
    }
    HostKey::load_or_create(&path).map_or_else(|_| String::new(), |key| key.openssh())
}

/// Settings that the published offer does not show as the file has them.
fn differences(config: &Config, offer: &Offer) -> Vec<&'static str> {
    let settings = &config.settings;
    let satlet = offer.satlet.as_ref();
    let mints: Vec<&str> = settings
        .mints
        .iter()
        .map(|mint| mint.url.as_str())
        .collect();
    // A tier that this host cannot give is in the file and not in the offer.
    let tiers_as_in_file = offer.specs.iter().all(|spec| {
        settings.tiers.iter().any(|tier| {
            tier.id.as_str() == spec.id
                && (tier.rate_msat_per_s == spec.rate_msats_per_sec
                    || settings.fiat.prices.contains_key(&tier.id))
                && u64::from(tier.resources.memory_mib) == spec.memory_mb
                && u64::from(tier.resources.cpu_millicores) == spec.cpu_millicores
        })
    });
    [
        ("hostname", offer.hostname == settings.hostname),
        ("location", offer.location == settings.location),
        ("mints", accepted(offer) == mints),
        ("tiers", tiers_as_in_file),
        ("relays", satlet.is_none_or(|s| s.relays == settings.relays)),
        (
            "images.allow",
            satlet.is_none_or(|s| s.images == settings.images.allow),
        ),
        (
            "gateway.public_host",
            satlet.is_none_or(|s| s.gateway.host == settings.gateway.public_host),
        ),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(key, _)| key)
    .collect()
}

fn render(offer: &Offer) -> Vec<String> {
    let place = offer.location.as_deref().map(|l| format!(" ({l})"));
    let mut lines = vec![format!(
        "{}{}  {}",
        clean(&offer.hostname),
        clean(&place.unwrap_or_default()),
        offer.provider_npub
    )];
    if let Some(satlet) = &offer.satlet {
        lines.push(format!(
            "gateway  {}:{}",
            satlet.gateway.host, satlet.gateway.port
        ));
        lines.push(format!("images   {}", clean(&satlet.images.join(", "))));
        lines.push(format!("relays   {}", satlet.relays.join(", ")));
        if !satlet.not_enforced.is_empty() {
            lines.push(format!(
                "not enforced on this host: {}",
                satlet.not_enforced.join(", ")
            ));
        }
        lines.push(format!("mints    {}", mints(offer)));
        lines.extend(tiers(satlet));
    }
    lines
}

/// The mints of an offer, whether they are well or not.
fn accepted(offer: &Offer) -> Vec<String> {
    let satlet = offer.satlet.as_ref();
    match satlet {
        Some(satlet) => satlet.mints.iter().map(|mint| mint.url.clone()).collect(),
        None => offer.whitelisted_mints.clone(),
    }
}

/// The same for people.
fn mints(offer: &Offer) -> String {
    let Some(satlet) = &offer.satlet else {
        return offer.whitelisted_mints.join(", ");
    };
    let shown = satlet.mints.iter().map(|mint| match &mint.state {
        Some(state) => format!("{} ({})", mint.url, clean(state)),
        None => mint.url.clone(),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn tiers(satlet: &Extension) -> Vec<String> {
    if satlet.tiers.is_empty() {
        return vec!["No tier can be sold on this host: `satletd check` says why.".to_owned()];
    }
    let head = [
        "TIER", "CPU", "MEMORY", "DISK", "SAT/H", "FROM", "TO", "FREE",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(satlet.tiers.iter().map(tier));
    table(&rows)
}

fn tier(tier: &TierTerms) -> Vec<String> {
    let seconds = |secs| show_duration(std::time::Duration::from_secs(secs));
    // msat a second to sat an hour, with one decimal.
    let tenths = tier.rate_msat_per_s.saturating_mul(36);
    vec![
        tier.id.to_string(),
        format!("{}m", tier.gives.cpu_millicores),
        show_mib(tier.gives.memory_mib.into()),
        show_mib(tier.gives.disk_mib.into()),
        format!("{}.{}", tenths / 10, tenths % 10),
        seconds(tier.min_seconds),
        seconds(tier.max_seconds),
        tier.free_slots.to_string(),
    ]
}
