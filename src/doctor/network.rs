//! Relays and mints, asked once each, all side by side.

use std::str::FromStr;
use std::time::Duration;

use cdk::mint_url::MintUrl;
use cdk::wallet::{HttpClient, MintConnector};
use futures::future::join_all;
use nostr_sdk::Client;
use serde::{Deserialize, Serialize};

use crate::provider::settings::MintSetting;

/// How long one relay or mint may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a mint told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintAnswer {
    /// Units of its active keysets, as it names them.
    pub units: Vec<String>,
    /// Fee per proof of its active `sat` keyset, in thousandths (NUT-02).
    pub input_fee_ppk: Option<u64>,
    /// Numbers of the NUTs that it says it supports (NUT-06), sorted.
    pub nuts: Vec<u32>,
    /// Its clock, if it tells (NUT-06).
    pub time: Option<u64>,
}

/// Connects to each relay once.
pub(super) async fn relays(urls: &[String]) -> Vec<(String, Result<(), String>)> {
    join_all(urls.iter().map(async |url| (url.clone(), relay(url).await))).await
}

async fn relay(url: &str) -> Result<(), String> {
    let client = Client::default();
    client.add_relay(url).await.map_err(|e| e.to_string())?;
    let connected = client.try_connect_relay(url, TIMEOUT).await;
    client.shutdown().await;
    connected.map_err(|error| error.to_string())
}

/// Asks each mint once.
pub(super) async fn mints(mints: &[MintSetting]) -> Vec<(String, Result<MintAnswer, String>)> {
    join_all(mints.iter().map(async |setting| {
        let answer = tokio::time::timeout(TIMEOUT, mint(&setting.url)).await;
        let late = || Err(format!("no answer within {} s", TIMEOUT.as_secs()));
        (setting.url.clone(), answer.unwrap_or_else(|_| late()))
    }))
    .await
}

async fn mint(url: &str) -> Result<MintAnswer, String> {
    let url = MintUrl::from_str(url).map_err(|e| e.to_string())?;
    let client = HttpClient::new(url, None);
    let info = client.get_mint_info().await.map_err(|e| e.to_string())?;
    let keysets = client.get_mint_keysets().await.map_err(|e| e.to_string())?;
    let active: Vec<_> = keysets
        .keysets
        .iter()
        .filter(|keyset| keyset.active)
        .collect();
    let mut units: Vec<String> = active
        .iter()
        .map(|keyset| keyset.unit.to_string())
        .collect();
    units.sort();
    units.dedup();
    let sat = active
        .iter()
        .find(|keyset| keyset.unit.to_string() == "sat");
    Ok(MintAnswer {
        units,
        input_fee_ppk: sat.map(|keyset| keyset.input_fee_ppk),
        nuts: nuts(&serde_json::to_value(&info.nuts).unwrap_or_default()),
        time: info.time,
    })
}

/// Numbers of the object's keys, without those that say that they are not
/// supported or are disabled.
pub(super) fn nuts(told: &serde_json::Value) -> Vec<u32> {
    let says = |value: &serde_json::Value, key: &str| value.get(key).and_then(|v| v.as_bool());
    let mut numbers: Vec<u32> = told
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| says(value, "supported") != Some(false))
        .filter(|(_, value)| says(value, "disabled") != Some(true))
        .filter_map(|(number, _)| number.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}
