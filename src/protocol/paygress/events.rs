//! Bodies of the public events of warm standby.

use serde::{Deserialize, Serialize};

use crate::core::ids::PublicKey;
use crate::core::time::Timestamp;

/// Kind of a [`Revocation`]: addressable, by the primary.
pub const REVOCATION: u16 = 38385;
/// Kind of a [`Promotion`]: addressable, by the promoted standby.
pub const PROMOTION: u16 = 38386;

/// A primary says that it serves a workload no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The consumer's name of the workload, or `vmid-<n>`.
    pub workload_id: String,
    /// The primary; must be the event's author.
    pub primary_provider_npub: PublicKey,
    /// As the consumer wrote them, hex or `npub1…`.
    pub standby_providers: Vec<String>,
    /// For people and logs.
    pub reason: String,
    /// When, in Unix seconds.
    pub revoked_at: Timestamp,
    /// Where its state is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_uri: Option<String>,
    /// Version of this schema.
    #[serde(default = "one")]
    pub version: u32,
}

/// A standby says that it is the primary now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The consumer's name of the workload.
    pub workload_id: String,
    /// The new primary; must be the event's author.
    pub new_primary_npub: PublicKey,
    /// When, in Unix seconds.
    pub promoted_at: Timestamp,
    /// Version of this schema.
    #[serde(default = "one")]
    pub version: u32,
}

const fn one() -> u32 {
    1
}

/// Tags of a revocation to these standbys, in the order in use.
pub fn revocation_tags(revocation: &Revocation, standbys: &[PublicKey]) -> Vec<Vec<String>> {
    let (primary, workload) = (&revocation.primary_provider_npub, &revocation.workload_id);
    let mut tags = vec![
        tag("t", "paygress"),
        tag("t", "paygress-revocation"),
        tag("d", &format!("paygress:revocation:v1:{primary}:{workload}")),
        tag("v", "1"),
        tag("workload", workload),
    ];
    tags.extend(standbys.iter().map(|key| tag("p", &key.to_hex())));
    tags
}

/// Tags of a promotion, in the order in use.
pub fn promotion_tags(promotion: &Promotion) -> Vec<Vec<String>> {
    let workload = &promotion.workload_id;
    vec![
        tag("t", "paygress"),
        tag("t", "paygress-promoted"),
        tag("d", &format!("paygress:promoted:v1:{workload}")),
        tag("v", "1"),
        tag("workload", workload),
    ]
}

fn tag(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}
