//! Between nostr's types and those of `core`, and the clock.

use crate::core::ids::{EventId, PublicKey};
use crate::core::time::Timestamp;

/// The key as `core` has it.
pub fn key_from(key: &nostr_sdk::PublicKey) -> PublicKey {
    PublicKey::from_bytes(key.to_bytes())
}

/// The key as nostr has it; whether it is a point of the curve shows at use.
pub fn key_to(key: &PublicKey) -> nostr_sdk::PublicKey {
    nostr_sdk::PublicKey::from_byte_array(*key.as_bytes())
}

/// The id as `core` has it.
pub fn id_from(id: &nostr_sdk::EventId) -> EventId {
    EventId::from_bytes(id.to_bytes())
}

/// The instant as `core` has it.
pub fn time_from(time: nostr_sdk::Timestamp) -> Timestamp {
    Timestamp::from_secs(time.as_secs())
}

/// The instant as nostr has it.
pub fn time_to(time: Timestamp) -> nostr_sdk::Timestamp {
    nostr_sdk::Timestamp::from_secs(time.as_secs())
}

/// The system clock.
pub fn now() -> Timestamp {
    time_from(nostr_sdk::Timestamp::now())
}
