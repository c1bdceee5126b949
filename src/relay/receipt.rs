//! Receipts as events: signed by the provider, checked by anyone, without a
//! relay in either.

use nostr_sdk::{Event, EventBuilder, JsonUtil, Keys, Kind, Tag};

use super::convert::{id_from, key_from, time_from, time_to};
use crate::core::ids::PublicKey;
use crate::core::receipt::{Flaw, Receipt, VERSION};
use crate::core::time::Timestamp;
use crate::protocol::receipt::{KIND, MAX_CONTENT, SignedReceipt, TAGS};

#[cfg(test)]
mod tests;

/// Why a receipt is not made, or not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Another kind, or other tags.
    #[error("it is an event, but not a receipt")]
    NotAReceipt,
    /// Longer than [`MAX_CONTENT`].
    #[error("its content is {0} bytes, more than {MAX_CONTENT}")]
    TooLong(usize),
    /// Not an event at all.
    #[error("it is not an event of the right form: {0}")]
    NotAnEvent(String),
    /// It was changed after it was signed: the id is that of another event.
    #[error("it was changed: its id is not that of what is in it")]
    Changed,
    /// The signature is not its author's.
    #[error("the signature is not that of the key {0}")]
    Forged(PublicKey),
    /// The content is not the JSON it should be.
    #[error("its content is malformed: {0}")]
    Malformed(String),
    /// It speaks for somebody who did not sign it.
    #[error("it speaks for {claimed}, but {author} has signed it")]
    NotTheProvider {
        /// Whom it speaks for.
        claimed: PublicKey,
        /// Who signed it.
        author: PublicKey,
    },
    /// It is signed, and cannot be true.
    #[error("it does not add up: {0}")]
    False(#[from] Flaw),
}

/// Signs a receipt as of `at`, if it adds up.
///
/// # Errors
/// It does not, it is of another provider, or it is too long.
pub fn sign(keys: &Keys, receipt: &Receipt, at: Timestamp) -> Result<SignedReceipt, ReceiptError> {
    receipt.check(at)?;
    by(receipt, key_from(&keys.public_key()))?;
    let content = serde_json::to_string(receipt);
    let content = content.map_err(|error| ReceiptError::Malformed(error.to_string()))?;
    sign_content(keys, content, at)
}

/// Signs whatever it is given.
fn sign_content(
    keys: &Keys,
    content: String,
    at: Timestamp,
) -> Result<SignedReceipt, ReceiptError> {
    bounded(&content)?;
    let broken = |error: &dyn std::fmt::Display| ReceiptError::NotAnEvent(error.to_string());
    let tags: Result<Vec<Tag>, _> = TAGS.into_iter().map(Tag::parse).collect();
    let event = EventBuilder::new(Kind::from_u16(KIND), content)
        .tags(tags.map_err(|error| broken(&error))?)
        .custom_created_at(time_to(at))
        .sign_with_keys(keys)
        .map_err(|error| broken(&error))?;
    Ok(SignedReceipt {
        id: id_from(&event.id),
        pubkey: key_from(&event.pubkey),
        created_at: time_from(event.created_at),
        kind: event.kind.as_u16(),
        tags: event
            .tags
            .iter()
            .map(|tag| tag.as_slice().to_vec())
            .collect(),
        content: event.content,
        sig: event.sig.to_string(),
    })
}

/// What a receipt says, once everything about it was checked: kind and tags, id
/// and signature, that who signed is the provider in it, and that it adds up.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn open(signed: &SignedReceipt) -> Result<Receipt, ReceiptError> {
    bounded(&signed.content)?;
    let tags = signed.tags.iter().map(|tag| tag.iter().map(String::as_str));
    if signed.kind != KIND || !tags.map(Vec::from_iter).eq(TAGS.map(Vec::from)) {
        return Err(ReceiptError::NotAReceipt);
    }
    let text = serde_json::to_string(signed);
    let text = text.map_err(|error| ReceiptError::NotAnEvent(error.to_string()))?;
    let event = Event::from_json(text);
    let event = event.map_err(|error| ReceiptError::NotAnEvent(error.to_string()))?;
    if !event.verify_id() {
        return Err(ReceiptError::Changed);
    }
    if !event.verify_signature() {
        return Err(ReceiptError::Forged(signed.pubkey));
    }
    let receipt = read(&signed.content)?;
    by(&receipt, signed.pubkey)?;
    receipt.check(signed.created_at)?;
    Ok(receipt)
}

/// The same from text, as a file has it.
///
/// # Errors
/// As [`open`]; not an event at all.
pub fn open_text(text: &str) -> Result<(SignedReceipt, Receipt), ReceiptError> {
    let signed = serde_json::from_str::<SignedReceipt>(text);
    let signed = signed.map_err(|error| ReceiptError::NotAnEvent(error.to_string()))?;
    let receipt = open(&signed)?;
    Ok((signed, receipt))
}

/// Only the version: that of a later format may be all that can be read of it.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

fn read(content: &str) -> Result<Receipt, ReceiptError> {
    let malformed = |error: serde_json::Error| ReceiptError::Malformed(error.to_string());
    let Versioned { version } = serde_json::from_str(content).map_err(malformed)?;
    if version != VERSION {
        return Err(Flaw::Version(version).into());
    }
    serde_json::from_str(content).map_err(malformed)
}

fn bounded(content: &str) -> Result<(), ReceiptError> {
    if content.len() > MAX_CONTENT {
        return Err(ReceiptError::TooLong(content.len()));
    }
    Ok(())
}

fn by(receipt: &Receipt, author: PublicKey) -> Result<(), ReceiptError> {
    let claimed = receipt.provider;
    if claimed != author {
        return Err(ReceiptError::NotTheProvider { claimed, author });
    }
    Ok(())
}
