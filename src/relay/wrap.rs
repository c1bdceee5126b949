//! NIP-17 messages: kind 14 rumor in a kind 13 seal in a kind 1059 gift wrap
//! (NIP-59), both layers encrypted by NIP-44.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nostr_sdk::nips::nip44::{self, v2};
use nostr_sdk::{Event, EventBuilder, JsonUtil, Keys, Kind, Tag, UnsignedEvent};

use super::conversations::Conversations;
use super::convert::{id_from, key_from, key_to, time_from, time_to};
use super::pow::{self, Stop};
use super::{Dropped, MAX_PLAINTEXT};
use crate::core::ids::{EventId, PublicKey};
use crate::core::time::Timestamp;

/// How far back the stamps of seal and wrap are set at most (NIP-59): two days.
pub const BACKDATE_SECS: u64 = 2 * 24 * 60 * 60;

/// Longest rumor, as JSON in bytes, that can be wrapped. NIP-44 pads it and
/// carries at most 65,535 bytes; the encrypted rumor grows by a third and has
/// to fit once more, in the seal. 40,960 is the last padded size that does.
pub const MAX_RUMOR: usize = 40_960;

/// Why a message cannot be wrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// The rumor is longer than [`MAX_RUMOR`]; JSON escapes count.
    #[error("the message is {0} bytes as JSON, more than {MAX_RUMOR}")]
    TooLong(usize),
    /// The receiver's key is not a point of the curve.
    #[error("cannot encrypt or sign: {0}")]
    Crypto(String),
    /// More than [`pow::MAX_BITS`] bits.
    #[error("{0} bits of proof of work are asked for, more than {max}", max = pow::MAX_BITS)]
    TooMuchWork(u8),
}

/// A message out of its wrap, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwrapped {
    /// Id of the rumor, computed from its content.
    pub rumor: EventId,
    /// Author of the rumor and signer of the seal.
    pub sender: PublicKey,
    /// The rumor's own time.
    pub written_at: Timestamp,
    /// The plaintext.
    pub body: String,
}

/// Wraps `body` for `to`. The same arguments give the same rumor id, each time
/// in a new wrap by a new one-time key; the stamps of seal and wrap are set back
/// at random. `expires` becomes the wrap's NIP-40 tag.
///
/// # Errors
/// [`WrapError::TooLong`], or [`WrapError::Crypto`] for a key off the curve.
pub fn wrap(
    keys: &Keys,
    to: &PublicKey,
    body: &str,
    written_at: Timestamp,
    expires: Timestamp,
) -> Result<(Event, EventId), WrapError> {
    wrap_by(
        keys,
        to,
        body,
        written_at,
        expires,
        &Conversations::default(),
    )
}

/// As [`wrap`], with what is known of conversations.
pub(super) fn wrap_by(
    keys: &Keys,
    to: &PublicKey,
    body: &str,
    written_at: Timestamp,
    expires: Timestamp,
    known: &Conversations,
) -> Result<(Event, EventId), WrapError> {
    let rumor = rumor(keys, to, body, written_at);
    let id = rumor.id.map(|id| id_from(&id));
    let id = id.ok_or_else(|| WrapError::Crypto("the rumor has no id".to_owned()))?;
    let work = Work::default();
    let event = seal_and_mine(keys, to, &rumor, expires, &work, known)?;
    Ok((event, id))
}

/// As [`wrap`], with a proof of so many bits of work on the gift wrap (NIP-13).
/// It is done on a thread of its own, and given up when this is dropped.
///
/// # Errors
/// As [`wrap`], and [`WrapError::TooMuchWork`].
pub async fn wrap_with_work(
    keys: &Keys,
    to: &PublicKey,
    body: &str,
    written_at: Timestamp,
    expires: Timestamp,
    bits: u8,
) -> Result<Event, WrapError> {
    if bits > pow::MAX_BITS {
        return Err(WrapError::TooMuchWork(bits));
    }
    let stop = Stop::default();
    let _guard = stop.guard();
    let (keys, to, body) = (keys.clone(), *to, body.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let rumor = rumor(&keys, &to, &body, written_at);
        let (work, known) = (Work { bits, stop }, Conversations::default());
        seal_and_mine(&keys, &to, &rumor, expires, &work, &known)
    });
    work.await.map_err(|e| WrapError::Crypto(e.to_string()))?
}

/// Whether a reply with this body can be wrapped at all.
pub fn fits(keys: &Keys, to: &PublicKey, body: &str) -> bool {
    let rumor = rumor(keys, to, body, Timestamp::from_secs(u64::from(u32::MAX)));
    rumor.as_json().len() <= MAX_RUMOR
}

fn rumor(keys: &Keys, to: &PublicKey, body: &str, written_at: Timestamp) -> UnsignedEvent {
    let tags = [Tag::public_key(key_to(to))];
    let kind = Kind::PrivateDirectMessage;
    let mut rumor = UnsignedEvent::new(keys.public_key(), time_to(written_at), kind, tags, body);
    rumor.ensure_id();
    rumor
}

/// Seals `rumor` with `keys` and wraps it. That the rumor is by `keys` is the
/// caller's business: the tests forge with this.
#[cfg(test)]
pub(super) fn seal_and_wrap(
    keys: &Keys,
    to: &PublicKey,
    rumor: &UnsignedEvent,
    expires: Timestamp,
) -> Result<Event, WrapError> {
    let (work, known) = (Work::default(), Conversations::default());
    seal_and_mine(keys, to, rumor, expires, &work, &known)
}

/// Proof of work that a wrap bears (NIP-13), and what ends the search for it.
#[derive(Default)]
struct Work {
    bits: u8,
    stop: Stop,
}

fn seal_and_mine(
    keys: &Keys,
    to: &PublicKey,
    rumor: &UnsignedEvent,
    expires: Timestamp,
    work: &Work,
    known: &Conversations,
) -> Result<Event, WrapError> {
    let crypto = |e: &dyn std::fmt::Display| WrapError::Crypto(e.to_string());
    let to = key_to(to);
    let plain = rumor.as_json();
    if plain.len() > MAX_RUMOR {
        return Err(WrapError::TooLong(plain.len()));
    }
    let agreed = known.agree(keys, &to).map_err(|e| crypto(&e))?;
    let sealed = v2::encrypt_to_bytes(&agreed, plain.as_bytes()).map_err(|e| crypto(&e))?;
    let seal = EventBuilder::new(Kind::Seal, BASE64_STANDARD.encode(sealed))
        .custom_created_at(backdated())
        .sign_with_keys(keys)
        .map_err(|e| crypto(&e))?;
    let one_time = Keys::generate();
    let wrapped = nip44::encrypt(
        one_time.secret_key(),
        &to,
        seal.as_json(),
        nip44::Version::V2,
    )
    .map_err(|e| crypto(&e))?;
    let mut tags = vec![Tag::public_key(to), Tag::expiration(time_to(expires))];
    let (kind, at) = (Kind::GiftWrap, backdated());
    if work.bits > 0 {
        let author = one_time.public_key();
        let mined = pow::mine(&author, at, kind, &tags, &wrapped, work.bits, &work.stop);
        tags.push(mined.ok_or_else(|| WrapError::Crypto("given up".to_owned()))?);
    }
    EventBuilder::new(kind, wrapped)
        .tags(tags)
        .custom_created_at(at)
        .sign_with_keys(&one_time)
        .map_err(|e| crypto(&e))
}

fn backdated() -> nostr_sdk::Timestamp {
    nostr_sdk::Timestamp::tweaked(0..BACKDATE_SECS)
}

/// Opens a gift wrap to `keys`. The wrap's own id and signature are the
/// caller's to check before; here the seal's are, and that its signer is the
/// rumor's author. The rumor's id is computed, not believed.
///
/// # Errors
/// The reason why it is not a message to us.
pub fn unwrap(keys: &Keys, wrap: &Event) -> Result<Unwrapped, Dropped> {
    unwrap_by(keys, wrap, &Conversations::default())
}

/// As [`unwrap`], with what is known of conversations.
pub(super) fn unwrap_by(
    keys: &Keys,
    wrap: &Event,
    known: &Conversations,
) -> Result<Unwrapped, Dropped> {
    if wrap.kind != Kind::GiftWrap || !is_to(wrap, &keys.public_key()) {
        return Err(Dropped::NotForUs);
    }
    let seal = nip44::decrypt(keys.secret_key(), &wrap.pubkey, &wrap.content);
    let seal = seal.map_err(|_| Dropped::Undecryptable)?;
    let seal = Event::from_json(seal).map_err(|_| Dropped::Undecryptable)?;
    if seal.kind != Kind::Seal || seal.verify().is_err() {
        return Err(Dropped::Undecryptable);
    }
    let rumor = open_seal(keys, &seal, known).ok_or(Dropped::Undecryptable)?;
    let mut rumor = UnsignedEvent::from_json(rumor).map_err(|_| Dropped::Undecryptable)?;
    if rumor.pubkey != seal.pubkey {
        return Err(Dropped::ForgedAuthor);
    }
    if rumor.kind != Kind::PrivateDirectMessage {
        return Err(Dropped::WrongKind);
    }
    if rumor.content.len() > MAX_PLAINTEXT {
        return Err(Dropped::TooLarge);
    }
    rumor.id = None;
    Ok(Unwrapped {
        rumor: id_from(&rumor.id()),
        sender: key_from(&rumor.pubkey),
        written_at: time_from(rumor.created_at),
        body: rumor.content,
    })
}

/// What is in a seal whose signature is right. `None` where it does not decrypt,
/// or is of another version than the one there is.
fn open_seal(keys: &Keys, seal: &Event, known: &Conversations) -> Option<Vec<u8>> {
    let sealed = BASE64_STANDARD.decode(&seal.content).ok()?;
    if sealed.first() != Some(&nip44::Version::V2.as_u8()) {
        return None;
    }
    let agreed = known.agree(keys, &seal.pubkey).ok()?;
    v2::decrypt_to_bytes(&agreed, &sealed).ok()
}

/// Whether one of the event's `p` tags names `key`, whatever else is in it:
/// the relay compared no more than that either.
pub fn is_to(event: &Event, key: &nostr_sdk::PublicKey) -> bool {
    let key = key.to_hex();
    let names = |tag: &Tag| matches!(tag.as_slice(), [p, name, ..] if p == "p" && *name == key);
    event.tags.iter().any(names)
}
