//! Public events: offers, heartbeats and where we read messages; and the
//! consumer's side, which finds providers by them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nostr_sdk::{Event, EventBuilder, Filter, Keys, Kind, Tag};

use super::convert::{key_from, key_to, now, time_from, time_to};
use super::session::{MAX_EVENT, Relays};
use crate::core::ids::PublicKey;
use crate::core::time::Timestamp;
use crate::protocol::heartbeat::{Heartbeat, ONLINE_SECS};
use crate::protocol::kinds;
use crate::protocol::offer::Offer;

/// Heartbeats older than this are not asked for, in seconds.
const HEARTBEAT_WINDOW: u64 = 300;

/// Providers that one discovery looks at, at most.
const MAX_PROVIDERS: usize = 2_000;

/// Authors in one filter, at most: relays bound the size of a request.
const AUTHORS: usize = 250;

/// Most relays that are read from a kind 10050 list.
pub const MAX_DM_RELAYS: usize = 5;

/// Why a public event is not what it seems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicError {
    /// The content does not become an event.
    #[error("cannot build the event: {0}")]
    Build(String),
    /// Another kind.
    #[error("the event is of kind {0}")]
    WrongKind(u16),
    /// The `t` tag is missing.
    #[error("the event lacks the tag t={0}")]
    NoTag(&'static str),
    /// Larger than [`MAX_EVENT`].
    #[error("the content is {0} bytes")]
    TooLarge(usize),
    /// Not the JSON it should be.
    #[error("the content is malformed: {0}")]
    Malformed(String),
    /// It speaks for somebody who did not sign it.
    #[error("the event speaks for {claimed} but is by {author}")]
    NotTheAuthor {
        /// Whom it speaks for.
        claimed: PublicKey,
        /// Who signed it.
        author: PublicKey,
    },
}

/// Stamps for replaceable events: of two with the same second a relay may keep
/// either, so each is later than the one before it for the same kind and `d`.
#[derive(Default)]
pub struct Stamps(Mutex<BTreeMap<(u16, String), Timestamp>>);

impl Stamps {
    /// `now`, or one second after the last stamp given for this kind and `d`.
    pub fn next(&self, kind: u16, d: &str, now: Timestamp) -> Timestamp {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = last.entry((kind, d.to_owned())).or_default();
        *entry = now.max(entry.plus_secs(1));
        *entry
    }
}

fn build(
    keys: &Keys,
    kind: u16,
    tags: Vec<Vec<String>>,
    content: String,
    created_at: Timestamp,
) -> Result<Event, PublicError> {
    let tags: Result<Vec<Tag>, _> = tags.into_iter().map(Tag::parse).collect();
    let tags = tags.map_err(|e| PublicError::Build(e.to_string()))?;
    EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags)
        .allow_self_tagging()
        .custom_created_at(time_to(created_at))
        .sign_with_keys(keys)
        .map_err(|e| PublicError::Build(e.to_string()))
}

fn tag(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, PublicError> {
    serde_json::to_string(value).map_err(|e| PublicError::Build(e.to_string()))
}

fn own(keys: &Keys, claimed: PublicKey) -> Result<PublicKey, PublicError> {
    let author = key_from(&keys.public_key());
    if claimed == author {
        Ok(author)
    } else {
        Err(PublicError::NotTheAuthor { claimed, author })
    }
}

/// The offer as an event: kind 38383.
///
/// # Errors
/// The offer's `provider_npub` is not the key of `keys`.
pub fn offer_event(
    keys: &Keys,
    offer: &Offer,
    created_at: Timestamp,
) -> Result<Event, PublicError> {
    let me = own(keys, offer.provider_npub)?;
    let tags = vec![
        tag("t", kinds::TAG_OFFER),
        tag("t", kinds::TAG_COMPUTE),
        tag("d", &kinds::offer_d(&me)),
        tag("v", &kinds::SCHEMA.to_string()),
    ];
    build(keys, kinds::OFFER, tags, json(offer)?, created_at)
}

/// The heartbeat as events: the stored one (kind 38384) and the live one
/// (kind 20384), each signed by itself, stamped with the heartbeat's time.
///
/// # Errors
/// The heartbeat's `provider_npub` is not the key of `keys`.
pub fn heartbeat_events(keys: &Keys, beat: &Heartbeat) -> Result<[Event; 2], PublicError> {
    let me = own(keys, beat.provider_npub)?;
    let at = beat.timestamp;
    let t = tag("t", kinds::TAG_HEARTBEAT);
    let p = tag("p", &me.to_hex());
    let d = tag("d", &kinds::heartbeat_d(&me, at));
    let v = tag("v", &kinds::SCHEMA.to_string());
    let content = json(beat)?;
    let stored = vec![t.clone(), p.clone(), d, v.clone()];
    Ok([
        build(keys, kinds::HEARTBEAT, stored, content.clone(), at)?,
        build(keys, kinds::HEARTBEAT_LIVE, vec![t, p, v], content, at)?,
    ])
}

/// Where we read messages: kind 10050 (NIP-17).
///
/// # Errors
/// It cannot be signed.
pub fn dm_relays_event(
    keys: &Keys,
    relays: &[String],
    created_at: Timestamp,
) -> Result<Event, PublicError> {
    let tags = relays.iter().map(|relay| tag("relay", relay)).collect();
    build(keys, kinds::DM_RELAYS, tags, String::new(), created_at)
}

/// The relays of a kind 10050 event: well-formed ones, the first
/// [`MAX_DM_RELAYS`] of them.
pub fn parse_dm_relays(event: &Event) -> Vec<String> {
    if event.kind.as_u16() != kinds::DM_RELAYS {
        return Vec::new();
    }
    let values = event.tags.iter().filter_map(|tag| match tag.as_slice() {
        [name, url, ..] if name == "relay" => super::session::normalise(url).ok(),
        _ => None,
    });
    let mut relays = Vec::new();
    for url in values {
        if relays.len() < MAX_DM_RELAYS && !relays.contains(&url) {
            relays.push(url);
        }
    }
    relays
}

fn content_of<T: serde::de::DeserializeOwned>(
    event: &Event,
    kind: u16,
    t: &'static str,
) -> Result<T, PublicError> {
    if event.kind.as_u16() != kind {
        return Err(PublicError::WrongKind(event.kind.as_u16()));
    }
    if event.content.len() > MAX_EVENT {
        return Err(PublicError::TooLarge(event.content.len()));
    }
    if !event.tags.hashtags().any(|tag| tag == t) {
        return Err(PublicError::NoTag(t));
    }
    serde_json::from_str(&event.content).map_err(|e| PublicError::Malformed(e.to_string()))
}

fn by_author(event: &Event, claimed: PublicKey) -> Result<(), PublicError> {
    let author = key_from(&event.pubkey);
    if author == claimed {
        Ok(())
    } else {
        Err(PublicError::NotTheAuthor { claimed, author })
    }
}

/// Reads an offer. Id and signature are the caller's to check:
/// [`Relays::fetch`] has.
///
/// # Errors
/// It is not an offer, or is not by the provider that it names.
pub fn parse_offer(event: &Event) -> Result<Offer, PublicError> {
    let offer: Offer = content_of(event, kinds::OFFER, kinds::TAG_OFFER)?;
    by_author(event, offer.provider_npub)?;
    Ok(offer)
}

/// Reads a heartbeat, of either kind.
///
/// # Errors
/// It is not a heartbeat, or is not by the provider that it names.
pub fn parse_heartbeat(event: &Event) -> Result<Heartbeat, PublicError> {
    let kind = match event.kind.as_u16() {
        kinds::HEARTBEAT_LIVE => kinds::HEARTBEAT_LIVE,
        _ => kinds::HEARTBEAT,
    };
    let beat: Heartbeat = content_of(event, kind, kinds::TAG_HEARTBEAT)?;
    by_author(event, beat.provider_npub)?;
    Ok(beat)
}

/// A provider that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovered {
    /// Its newest offer.
    pub offer: Offer,
    /// The stamp of that offer.
    pub event_at: Timestamp,
    /// Whether its newest heartbeat is younger than [`ONLINE_SECS`].
    pub online: bool,
    /// Its newest heartbeat.
    pub last_heartbeat: Option<Heartbeat>,
    /// The relays that had the offer.
    pub relays: Vec<String>,
}

/// Finds providers on the relays of the set: offers, then heartbeats of their
/// authors, `timeout` for each of the two. Those online come first.
pub async fn discover(relays: &Relays, timeout: Duration) -> Vec<Discovered> {
    let filter = Filter::new()
        .kind(Kind::from_u16(kinds::OFFER))
        .hashtag(kinds::TAG_OFFER);
    let mut found = newest_offers(&relays.fetch(filter, &[], timeout).await);
    if found.is_empty() {
        return Vec::new();
    }
    let authors: Vec<_> = found.keys().map(key_to).collect();
    let since = time_to(now().minus(Duration::from_secs(HEARTBEAT_WINDOW)));
    let asked = authors.chunks(AUTHORS).map(|authors| {
        let filter = Filter::new()
            .kind(Kind::from_u16(kinds::HEARTBEAT))
            .authors(authors.iter().copied())
            .since(since);
        relays.fetch(filter, &[], timeout)
    });
    for read in futures::future::join_all(asked).await.into_iter().flatten() {
        for beat in read.events.iter().filter_map(|e| parse_heartbeat(e).ok()) {
            if let Some(entry) = found.get_mut(&beat.provider_npub) {
                note_beat(entry, beat);
            }
        }
    }
    let mut all: Vec<Discovered> = found.into_values().map(|(found, _)| found).collect();
    all.sort_by_key(|found| !found.online);
    all
}

type Found = BTreeMap<PublicKey, (Discovered, nostr_sdk::EventId)>;

/// The newest offer of each author; of two with one stamp the lower id (NIP-01).
fn newest_offers(reads: &[super::session::RelayRead]) -> Found {
    let mut found = Found::new();
    for read in reads {
        for event in &read.events {
            let Ok(offer) = parse_offer(event) else {
                continue;
            };
            note_offer(&mut found, &read.relay, event, offer);
        }
    }
    found
}

fn note_offer(found: &mut Found, relay: &str, event: &Event, offer: Offer) {
    let author = offer.provider_npub;
    let event_at = time_from(event.created_at);
    if let Some((old, id)) = found.get_mut(&author) {
        if *id == event.id {
            old.relays.push(relay.to_owned());
            return;
        }
        let newer = event_at > old.event_at || (event_at == old.event_at && event.id < *id);
        if !newer {
            return;
        }
    } else if found.len() >= MAX_PROVIDERS {
        return;
    }
    let relays = vec![relay.to_owned()];
    let new = Discovered {
        offer,
        event_at,
        online: false,
        last_heartbeat: None,
        relays,
    };
    found.insert(author, (new, event.id));
}

fn note_beat(entry: &mut (Discovered, nostr_sdk::EventId), beat: Heartbeat) {
    let found = &mut entry.0;
    // One from the future would hide those that come.
    if beat.timestamp.secs_since(now()) >= ONLINE_SECS {
        return;
    }
    let newest = found.last_heartbeat.as_ref();
    if newest.is_none_or(|newest| newest.timestamp < beat.timestamp) {
        found.online = now().secs_since(beat.timestamp) < ONLINE_SECS;
        found.last_heartbeat = Some(beat);
    }
}
