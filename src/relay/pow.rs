//! Proof of work (NIP-13): a nonce tag that commits to a target, and an event id
//! with at least that many leading zero bits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nostr_sdk::{Event, Kind, PublicKey, Tag, Timestamp};
use sha2::{Digest, Sha256};

/// The most that is mined: more would keep a processor busy for an hour.
pub const MAX_BITS: u8 = 28;

/// Attempts between two looks at whether anybody still waits.
const LOOK_EVERY: u64 = 4096;

/// Digits of a nonce: always as many, so that they fill one place.
const DIGITS: usize = 16;

/// Leading zero bits of an id.
pub fn leading_zero_bits(id: &[u8; 32]) -> u32 {
    let zeros = id.iter().take_while(|byte| **byte == 0).count();
    let next = id.get(zeros).map_or(0, |byte| byte.leading_zeros());
    u32::try_from(zeros).unwrap_or(u32::MAX) * 8 + next
}

/// Whether an event proves at least `bits` of work and had set out to. Its id is
/// taken as it stands: that it is the event's own is checked with the signature.
pub fn proves(event: &Event, bits: u8) -> bool {
    if bits == 0 {
        return true;
    }
    let target = |tag: &Tag| match tag.as_slice() {
        [name, _, target, ..] if name == "nonce" => target.parse::<u32>().ok(),
        _ => None,
    };
    leading_zero_bits(event.id.as_bytes()) >= u32::from(bits)
        && event.tags.iter().find_map(target) >= Some(u32::from(bits))
}

/// Told when nobody waits for the result any more.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends the mining when the guard is dropped.
    pub(super) fn guard(&self) -> StopGuard {
        StopGuard(self.clone())
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct StopGuard(Stop);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// The nonce tag with which an event of these parts, put after `tags`, has
/// `bits` leading zero bits; `None` where it was stopped.
pub(super) fn mine(
    author: &PublicKey,
    at: Timestamp,
    kind: Kind,
    tags: &[Tag],
    content: &str,
    bits: u8,
    stop: &Stop,
) -> Option<Tag> {
    let blank = "#".repeat(DIGITS);
    let all: Vec<Tag> = tags.iter().cloned().chain([nonce(&blank, bits)?]).collect();
    // NIP-01: what the id is the hash of.
    let text = serde_json::json!([0, author, at, kind, all, content]).to_string();
    let quoted = format!("\"{blank}\"");
    let (before, after) = text.split_once(&quoted)?;
    let start = Sha256::new().chain_update(before).chain_update("\"");
    for n in 0..u64::MAX {
        if n.is_multiple_of(LOOK_EVERY) && stop.is_set() {
            return None;
        }
        let digits = format!("{n:0DIGITS$}");
        let hash = start.clone().chain_update(&digits).chain_update("\"");
        let id: [u8; 32] = hash.chain_update(after).finalize().into();
        if leading_zero_bits(&id) >= u32::from(bits) {
            return nonce(&digits, bits);
        }
    }
    None
}

fn nonce(digits: &str, bits: u8) -> Option<Tag> {
    Tag::parse(["nonce", digits, &bits.to_string()]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nostr_sdk::{EventBuilder, Keys};

    #[test]
    fn zero_bits_are_counted_as_nip_13_has_it() {
        // The example of NIP-13.
        let id = "000000000e9d97a1ab09fc381030b346cdd7a142ad57e6df0b46dc9bef6c7e2d";
        let id: [u8; 32] = hex::decode(id).unwrap().try_into().unwrap();
        assert_eq!(leading_zero_bits(&id), 36);
        assert_eq!(leading_zero_bits(&[0; 32]), 256);
        assert_eq!(leading_zero_bits(&[0xff; 32]), 0);
    }

    fn mined(bits: u8, target: u8) -> Event {
        let keys = Keys::generate();
        let (at, kind) = (Timestamp::from_secs(1_790_000_000), Kind::GiftWrap);
        let tags = [Tag::public_key(keys.public_key())];
        let stop = Stop::default();
        let content = "some \"quoted\" text\n";
        let author = keys.public_key();
        let tag = mine(&author, at, kind, &tags, content, bits, &stop).unwrap();
        let mut parts = tag.to_vec();
        parts[2] = target.to_string();
        let tag = Tag::parse(parts).unwrap();
        EventBuilder::new(kind, content)
            .tags(tags.into_iter().chain([tag]))
            .allow_self_tagging()
            .custom_created_at(at)
            .sign_with_keys(&keys)
            .unwrap()
    }

    #[test]
    fn a_mined_event_proves_what_was_asked_and_no_more_was_promised() {
        let event = mined(10, 10);
        event.verify().unwrap();
        assert!(proves(&event, 10) && proves(&event, 0));
        assert!(!proves(&event, 11), "it had not set out to");
    }

    #[test]
    fn luck_without_a_target_is_no_proof() {
        let keys = Keys::generate();
        let lucky = (0..10_000)
            .map(|n| EventBuilder::new(Kind::GiftWrap, n.to_string()))
            .map(|builder| builder.sign_with_keys(&keys).unwrap())
            .find(|event| leading_zero_bits(event.id.as_bytes()) >= 4);
        assert!(!proves(&lucky.unwrap(), 4));
    }

    #[test]
    fn mining_stops_when_nobody_waits() {
        let stop = Stop::default();
        drop(stop.guard());
        let author = Keys::generate().public_key();
        let at = Timestamp::from_secs(1);
        assert!(mine(&author, at, Kind::GiftWrap, &[], "x", 28, &stop).is_none());
    }
}
