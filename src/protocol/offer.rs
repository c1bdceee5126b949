//! Offers: kind 38383. One event serves clients of both dialects: the older
//! one reads the fields it knows, satlet's own are under `satlet`.

use serde::{Deserialize, Serialize};

use super::reply::{LightningTerms, MintTerms};
use crate::core::capacity::Resources;
use crate::core::ids::{Name, PublicKey};
use crate::core::payment::lock::LockKey;

/// Content of an offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The provider, 64 lower-case hexadecimal digits: must be the author.
    pub provider_npub: PublicKey,
    /// Friendly name.
    pub hostname: String,
    /// Where it stands, as the operator says.
    #[serde(default)]
    pub location: Option<String>,
    /// What kinds of workloads: backend names.
    pub capabilities: Vec<String>,
    /// Tiers; the first is the default.
    pub specs: Vec<Spec>,
    /// Mint URLs.
    pub whitelisted_mints: Vec<String>,
    /// Part of the time that the provider was up, 0 to 100; what is outside is
    /// read as the nearest of these.
    #[serde(deserialize_with = "percent")]
    pub uptime_percent: f32,
    /// Leases that ended well.
    pub total_jobs_completed: u64,
    /// Always null.
    #[serde(default)]
    pub api_endpoint: Option<String>,
    /// Version of this schema.
    #[serde(default = "schema_one")]
    pub version: u32,
    /// `shared-kernel`, `dedicated-host` or `attested-research-tier`.
    #[serde(default = "shared_kernel")]
    pub isolation_level: String,
    /// What satlet adds; absent in other providers' offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub satlet: Option<Extension>,
}

/// A tier, as older clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its id in requests.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// MiB.
    pub memory_mb: u64,
    /// Price in msat per second.
    pub rate_msats_per_sec: u64,
}

/// What satlet adds to an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Dialects that the provider speaks: `satlet/1`, `paygress/1`.
    pub dialects: Vec<String>,
    /// The SSH gateway.
    pub gateway: Gateway,
    /// The tiers in full, in the order of `specs`.
    pub tiers: Vec<TierTerms>,
    /// Templates by name.
    #[serde(default)]
    pub templates: Vec<TemplateTerms>,
    /// Images that may be asked for: `host`, references, or patterns with `*`.
    pub images: Vec<String>,
    /// Mints with their fees.
    pub mints: Vec<MintTerms>,
    /// The key that tokens for this provider may be locked to (NUT-11); absent:
    /// it takes unlocked tokens only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_key: Option<LockKey>,
    /// The provider gives new keys a first lease; absent: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolTerms>,
    /// How Lightning is taken; absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lightning: Option<LightningTerms>,
    /// Relays where the provider reads requests (its kind 10050 says the same).
    pub relays: Vec<String>,
    /// Limits of requests.
    pub limits: Limits,
    /// Resource limits that this host cannot enforce: `cpu`, `memory`, `pids`, `disk`.
    #[serde(default)]
    pub not_enforced: Vec<String>,
    /// Whether workloads reach the outside.
    pub outgoing_network: bool,
}

/// What a provider gives to keys that are new to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolTerms {
    /// The tier that is given.
    pub tier: Name,
    /// The longest time that is given, in seconds. A quote says what the asker
    /// would get.
    pub max_seconds: u64,
}

/// The SSH gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Its host key, `ssh-ed25519 AAAA…`.
    pub host_key: String,
}

/// A tier in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierTerms {
    /// Its id.
    pub id: Name,
    /// What a workload is given.
    pub gives: Resources,
    /// Price in msat per second.
    pub rate_msat_per_s: u64,
    /// The shortest time sold, in seconds.
    pub min_seconds: u64,
    /// The longest time sold, in seconds.
    pub max_seconds: u64,
    /// How many more fit now.
    pub free_slots: u32,
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateTerms {
    /// Its id.
    pub id: Name,
    /// One line for people.
    pub description: String,
    /// Its image.
    pub image: String,
}

/// Limits of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest request body in bytes.
    pub max_request_bytes: usize,
    /// Requests that one key may send in a minute.
    pub requests_per_minute: u32,
    /// Leases that one key may have at once.
    pub leases_per_key: u32,
    /// Seconds that an expired lease waits for a top-up.
    pub grace_seconds: u64,
    /// Leading zero bits that the id of a gift wrap to the provider has to have
    /// (NIP-13); 0, or absent: none.
    #[serde(default)]
    pub pow_bits: u8,
    /// Seconds for which the provider keeps a refund that nobody takes; then it is
    /// taken back and becomes its owner's credit. 0, or absent: not told.
    #[serde(default)]
    pub refund_keep_seconds: u64,
}

fn schema_one() -> u32 {
    super::kinds::SCHEMA
}

fn shared_kernel() -> String {
    "shared-kernel".to_owned()
}

/// A number like 1e300 is infinite as `f32`, and JSON cannot say that again.
fn percent<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    f32::deserialize(from).map(|percent| percent.clamp(0.0, 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_out_of_range_can_be_written_again() {
        for (said, read) in [
            ("1e300", 100.0),
            ("-1", 0.0),
            ("99.5", 99.5),
            ("100", 100.0),
        ] {
            let json = format!(
                r#"{{"provider_npub":"{}","hostname":"","capabilities":[],"specs":[],
                    "whitelisted_mints":[],"uptime_percent":{said},"total_jobs_completed":0}}"#,
                "a".repeat(64)
            );
            let offer: Offer = serde_json::from_str(&json).unwrap();
            assert!((offer.uptime_percent - read).abs() < f32::EPSILON, "{said}");
            let written = serde_json::to_string(&offer).unwrap();
            assert_eq!(serde_json::from_str::<Offer>(&written).unwrap(), offer);
        }
    }
}
