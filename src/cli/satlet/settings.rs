//! `identity` and `config`.

use nostr_sdk::nips::nip19::ToBech32;
use serde_json::json;

use super::args::ConfigCommand;
use super::market::to_json;
use super::{App, Outcome};
use crate::cli::output::{Done, note};
use crate::consumer::ClientError;
use crate::consumer::home::{Settings, npub, public_key};
use crate::relay::session;
use crate::wallet;

pub(super) fn identity(app: &App, export: bool) -> Outcome {
    let keys = app.home()?.identity()?;
    let key = public_key(&keys);
    let npub = npub(&key);
    let mut json = json!({ "npub": npub, "hex": key });
    let mut text = format!("npub  {npub}\nhex   {key}");
    if export {
        let secret = keys
            .secret_key()
            .to_bech32()
            .map_err(|_| ClientError::internal("the key has no text form"))?;
        note("whoever has the secret key owns the leases: keep it to yourself");
        text.push_str(&format!("\nnsec  {secret}"));
        if let Some(fields) = json.as_object_mut() {
            fields.insert("nsec".to_owned(), json!(secret));
        }
    }
    Ok(Done::new(json, text))
}

pub(super) fn config(app: &App, command: ConfigCommand) -> Outcome {
    let home = app.home()?;
    let mut settings = home.settings()?;
    match command {
        ConfigCommand::Get { key } => show(&settings, key.as_deref()),
        ConfigCommand::Set { key, value } => {
            set(&mut settings, &key, &value)?;
            home.save_settings(&settings)?;
            show(&settings, Some(&key))
        }
    }
}

fn show(settings: &Settings, key: Option<&str>) -> Outcome {
    let all = to_json(settings)?;
    let Some(key) = key else {
        let text = serde_json::to_string_pretty(&all)
            .map_err(|error| ClientError::internal(error.to_string()))?;
        return Ok(Done::new(all, text));
    };
    let value = all.get(key).ok_or_else(|| unknown(key))?;
    let text = match value {
        serde_json::Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(|item| item.as_str()).collect();
            items.join("\n")
        }
        other => other.to_string(),
    };
    Ok(Done::new(json!({ key: value }), text))
}

fn set(settings: &mut Settings, key: &str, value: &str) -> Result<(), ClientError> {
    let items = || {
        value
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
    };
    match key {
        "relays" => {
            let urls =
                items().map(|url| session::normalise(url).map_err(|error| bad(&error.to_string())));
            settings.relays = urls.collect::<Result<_, _>>()?;
            if settings.relays.is_empty() {
                return Err(bad("at least one relay is needed"));
            }
        }
        "mints" => {
            settings.mints = items().map(mint_url).collect::<Result<_, _>>()?;
        }
        "ask_above_sat" => {
            settings.ask_above_sat = value
                .trim()
                .parse()
                .map_err(|_| bad("ask_above_sat is a number of sat"))?;
        }
        _ => return Err(unknown(key)),
    }
    Ok(())
}

/// A mint's URL in the form that is stored: https, or http on this machine.
pub(super) fn mint_url(text: &str) -> Result<String, ClientError> {
    let mint = wallet::normalise(text).map_err(|error| bad(&error.to_string()))?;
    let url = url::Url::parse(&mint.0).map_err(|error| bad(&error.to_string()))?;
    let local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".onion"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    if url.scheme() != "https" && !local {
        return Err(bad("a mint is reached by https: its tokens are money"));
    }
    Ok(mint.0)
}

fn bad(message: &str) -> ClientError {
    ClientError::usage("bad_setting", message, "See satlet config get.")
}

fn unknown(key: &str) -> ClientError {
    ClientError::usage(
        "unknown_setting",
        format!("there is no setting '{key}'"),
        "Settings are relays, mints and ask_above_sat.",
    )
}
