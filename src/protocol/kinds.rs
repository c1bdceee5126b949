//! Event kinds and tag values.

use crate::core::ids::PublicKey;
use crate::core::time::Timestamp;

/// Offer: addressable, one per provider.
pub const OFFER: u16 = 38383;
/// Stored heartbeat: addressable, one per provider and minute.
pub const HEARTBEAT: u16 = 38384;
/// Live copy of a heartbeat: ephemeral.
pub const HEARTBEAT_LIVE: u16 = 20384;
/// Direct message relays (NIP-17).
pub const DM_RELAYS: u16 = 10050;

/// `t` tag of offers. Kind 38383 has other users (NIP-69), so both are asked for.
pub const TAG_OFFER: &str = "paygress";
/// Second `t` tag of offers.
pub const TAG_COMPUTE: &str = "compute";
/// `t` tag of heartbeats.
pub const TAG_HEARTBEAT: &str = "paygress-heartbeat";
/// `v` tag of offers and heartbeats: version of the schema.
pub const SCHEMA: u32 = 1;

/// `d` tag of a provider's offer.
pub fn offer_d(provider: &PublicKey) -> String {
    format!("paygress:offer:v1:{provider}")
}

/// `d` tag of a provider's heartbeat: one for each minute.
pub fn heartbeat_d(provider: &PublicKey, at: Timestamp) -> String {
    format!("paygress:heartbeat:v1:{provider}:{}", at.as_secs() / 60)
}
