//! A receipt as it travels: a Nostr event (NIP-01) that the provider has signed
//! and that is never published. Its content is a
//! [`Receipt`](crate::core::receipt::Receipt) as JSON; `specs/receipt.md` says
//! what a reader checks, and `relay::receipt` does it.

use serde::{Deserialize, Deserializer, Serialize};

use crate::core::ids::{EventId, PublicKey};
use crate::core::time::Timestamp;

/// The event's kind. In the ephemeral range, so that a relay to which somebody
/// sends one does not keep it, and it replaces no other event.
pub const KIND: u16 = 28_383;

/// The event's tags: it is its author's alone to publish (NIP-70).
pub const TAGS: [[&str; 1]; 1] = [["-"]];

/// Longest content that is read, in bytes.
pub const MAX_CONTENT: usize = 16 * 1024;

/// A signed receipt. Nothing in it is to be believed before it was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// SHA-256 of the event (NIP-01).
    pub id: EventId,
    /// Who signed it: the provider.
    pub pubkey: PublicKey,
    /// As of when the account is.
    pub created_at: Timestamp,
    /// [`KIND`].
    pub kind: u16,
    /// [`TAGS`].
    pub tags: Vec<Vec<String>>,
    /// The receipt, as JSON.
    pub content: String,
    /// Signature (BIP-340) of the id, 128 hexadecimal digits.
    pub sig: String,
}

/// Reads a receipt that stands beside money: one that is not of the right form
/// is as good as none, so that the rest of the message can be read.
pub(super) fn if_readable<'de, D: Deserializer<'de>>(
    reader: D,
) -> Result<Option<Box<SignedReceipt>>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(reader)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}
