//! Heartbeats: kinds 38384 and 20384.

use serde::{Deserialize, Serialize};

use crate::core::ids::PublicKey;
use crate::core::time::Timestamp;

/// Content of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The provider, 64 lower-case hexadecimal digits: must be the author.
    pub provider_npub: PublicKey,
    /// When it was sent; clients judge by this, not by the event's stamp.
    pub timestamp: Timestamp,
    /// Workloads there are.
    pub active_workloads: u64,
    /// What may still be promised.
    pub available_capacity: AvailableCapacity,
    /// Version of this schema.
    #[serde(default = "schema_one")]
    pub version: u32,
}

/// What may still be promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailableCapacity {
    /// Millicores.
    pub cpu_available: u64,
    /// MiB.
    pub memory_mb_available: u64,
    /// GB.
    pub storage_gb_available: u64,
}

fn schema_one() -> u32 {
    super::kinds::SCHEMA
}

/// A provider whose newest heartbeat is older than this many seconds is offline.
pub const ONLINE_SECS: u64 = 120;
