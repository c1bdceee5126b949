//! The two ways that messages go over Nostr.

use serde::{Deserialize, Serialize};

/// How a message travels; an answer goes the way its request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// NIP-17: a rumor in a seal in a gift wrap.
    #[default]
    GiftWrap,
    /// NIP-04: a kind 4 event.
    Nip04,
}

impl Channel {
    /// Whether it is the usual one, which rows leave out.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}
