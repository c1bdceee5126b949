//! Direct messages of the older kind: kind 4, encrypted by NIP-04. Sender,
//! receiver and time are in the open and nothing authenticates the ciphertext
//! but the event's signature; it is spoken for clients that know nothing else.

use nostr_sdk::nips::nip04;
use nostr_sdk::secp256k1::rand::SeedableRng;
use nostr_sdk::secp256k1::rand::rngs::StdRng;
use nostr_sdk::{Event, EventBuilder, Keys, Kind, Tag};
use sha2::{Digest, Sha256};

use super::convert::{id_from, key_from, key_to, time_from, time_to};
use super::wrap::{Unwrapped, WrapError, is_to};
use super::{Dropped, MAX_PLAINTEXT};
use crate::core::ids::PublicKey;
use crate::core::time::Timestamp;

/// Encrypts `body` to `to` in a signed kind 4 event. The same arguments give the
/// same event id, so that an attempt repeated at another relay is the same
/// message to whoever reads both. `expires` becomes the NIP-40 tag.
///
/// # Errors
/// [`WrapError::TooLong`] above [`MAX_PLAINTEXT`] bytes, [`WrapError::Crypto`]
/// for a key off the curve.
pub fn write(
    keys: &Keys,
    to: &PublicKey,
    body: &str,
    written_at: Timestamp,
    expires: Timestamp,
) -> Result<Event, WrapError> {
    if body.len() > MAX_PLAINTEXT {
        return Err(WrapError::TooLong(body.len()));
    }
    let crypto = |e: &dyn std::fmt::Display| WrapError::Crypto(e.to_string());
    // The initialisation vector must be unpredictable, not fresh: it is drawn
    // from our secret key and all that is said.
    let mut seed = Sha256::new();
    seed.update(b"satlet nip04 iv");
    seed.update(keys.secret_key().as_secret_bytes());
    seed.update(to.as_bytes());
    seed.update(written_at.as_secs().to_be_bytes());
    seed.update(body.as_bytes());
    let mut rng = StdRng::from_seed(seed.finalize().into());
    let receiver = key_to(to);
    let text = nip04::encrypt_with_rng(&mut rng, keys.secret_key(), &receiver, body)
        .map_err(|e| crypto(&e))?;
    EventBuilder::new(Kind::EncryptedDirectMessage, text)
        .tags([
            Tag::public_key(receiver),
            Tag::alt("Private Message"),
            Tag::expiration(time_to(expires)),
        ])
        .custom_created_at(time_to(written_at))
        .sign_with_keys(keys)
        .map_err(|e| crypto(&e))
}

/// Opens a kind 4 event to `keys`, whose id and signature are the caller's to
/// check before. The event's own id stands for the rumor's.
///
/// # Errors
/// The reason why it is not a message to us.
pub fn read(keys: &Keys, event: &Event) -> Result<Unwrapped, Dropped> {
    if event.kind != Kind::EncryptedDirectMessage || !is_to(event, &keys.public_key()) {
        return Err(Dropped::NotForUs);
    }
    let body = nip04::decrypt(keys.secret_key(), &event.pubkey, event.content.as_str())
        .map_err(|_| Dropped::Undecryptable)?;
    if body.len() > MAX_PLAINTEXT {
        return Err(Dropped::TooLarge);
    }
    Ok(Unwrapped {
        rumor: id_from(&event.id),
        sender: key_from(&event.pubkey),
        written_at: time_from(event.created_at),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_secs(1_790_000_000)
    }

    fn letter(from: &Keys, to: &Keys, body: &str) -> Event {
        let to = key_from(&to.public_key());
        write(from, &to, body, now(), Timestamp::from_secs(1_790_000_040)).unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_author_and_text() {
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let event = letter(&alice, &bob, "{\"pod_id\":\"container-1007\"}");
        event.verify().unwrap();
        let read = read(&bob, &event).unwrap();
        assert_eq!(read.body, "{\"pod_id\":\"container-1007\"}");
        assert_eq!(read.sender, key_from(&alice.public_key()));
        assert_eq!(read.rumor, id_from(&event.id));
        assert_eq!(read.written_at, now());
    }

    #[test]
    fn a_repeated_attempt_is_the_same_message_and_another_text_has_another_vector() {
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let (first, again) = (letter(&alice, &bob, "one"), letter(&alice, &bob, "one"));
        assert_eq!(first.id, again.id);
        let other = letter(&alice, &bob, "two");
        let vector = |event: &Event| event.content.split_once("?iv=").unwrap().1.to_owned();
        assert_ne!(vector(&first), vector(&other));
    }

    #[test]
    fn tags_are_those_that_existing_clients_know_with_an_expiration() {
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let event = letter(&alice, &bob, "x");
        let tags: Vec<Vec<String>> = event.tags.iter().map(|t| t.clone().to_vec()).collect();
        let to = bob.public_key().to_hex();
        assert_eq!(
            tags,
            [
                vec!["p".to_owned(), to],
                vec!["alt".to_owned(), "Private Message".to_owned()],
                vec!["expiration".to_owned(), "1790000040".to_owned()],
            ]
        );
    }

    #[test]
    fn a_message_to_somebody_else_and_a_broken_one_are_dropped() {
        let (alice, bob, eve) = (Keys::generate(), Keys::generate(), Keys::generate());
        let event = letter(&alice, &bob, "x");
        assert_eq!(read(&eve, &event), Err(Dropped::NotForUs));
        let broken = EventBuilder::new(Kind::EncryptedDirectMessage, "AAAA?iv=AAAA")
            .tags([Tag::public_key(bob.public_key())])
            .sign_with_keys(&alice)
            .unwrap();
        assert_eq!(read(&bob, &broken), Err(Dropped::Undecryptable));
    }
}
