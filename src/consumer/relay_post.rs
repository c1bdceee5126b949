//! [`Post`] on the relay layer. Sessions start with the first use.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nostr_sdk::{Event, Filter, Keys, Kind};
use tokio::sync::{OnceCell, mpsc};

use super::post::{Found, Letter, Post, PostError};
use crate::core::ids::PublicKey;
use crate::protocol::kinds;
use crate::protocol::offer::Offer;
use crate::relay::convert::{key_to, now};
use crate::relay::inbox::{Inbox, InboxOptions};
use crate::relay::memory::MemoryInbox;
use crate::relay::session::{RelayOptions, Relays, normalise};
use crate::relay::wrap::WrapError;
use crate::relay::{Ack, Incoming, publisher, wrap};

/// How long relays may take to connect and to hand over what they have stored.
const READY: Duration = Duration::from_secs(8);
/// How long relays may take to answer a query.
const FETCH: Duration = Duration::from_secs(5);
/// Providers whose work is remembered, at most.
const PEERS: usize = 4096;
/// Relays forget our wraps after this; requests are sent again when needed.
const WRAP_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Nostr by the relay layer.
pub struct RelayPost {
    keys: Keys,
    urls: Vec<String>,
    relays: OnceCell<Relays>,
    inbox: OnceCell<Inbox>,
    looked_up: tokio::sync::Mutex<HashMap<PublicKey, Vec<String>>>,
    /// Proof of work that providers ask for, in bits, as far as it is known.
    work: std::sync::Mutex<HashMap<PublicKey, u8>>,
}

impl RelayPost {
    /// Uses these relays; connects when first used.
    pub fn new(keys: Keys, urls: Vec<String>) -> Self {
        Self {
            keys,
            urls,
            relays: OnceCell::new(),
            inbox: OnceCell::new(),
            looked_up: tokio::sync::Mutex::default(),
            work: std::sync::Mutex::default(),
        }
    }

    async fn relays(&self) -> Result<&Relays, PostError> {
        self.relays
            .get_or_try_init(|| async {
                if self.urls.is_empty() {
                    return Err(PostError("no relay is set".to_owned()));
                }
                Relays::start(self.keys.clone(), &self.urls, RelayOptions::default())
                    .map_err(|error| PostError(error.to_string()))
            })
            .await
    }

    /// Where `to` says that it reads (kind 10050); asked once for each.
    async fn reads_at(&self, relays: &Relays, to: &PublicKey, also: &[String]) -> Vec<String> {
        if let Some(known) = self.looked_up.lock().await.get(to) {
            return known.clone();
        }
        let filter = Filter::new()
            .kind(Kind::from_u16(kinds::DM_RELAYS))
            .author(key_to(to))
            .limit(1);
        let newest = relays
            .fetch(filter, also, FETCH)
            .await
            .into_iter()
            .flat_map(|read| read.events)
            .filter(|event| event.pubkey == key_to(to))
            .max_by_key(|event| event.created_at);
        let found = newest
            .map(|event| publisher::parse_dm_relays(&event))
            .unwrap_or_default();
        if !found.is_empty() {
            self.looked_up.lock().await.insert(*to, found.clone());
        }
        found
    }

    fn note_work(&self, offer: &Offer) {
        let bits = offer.satlet.as_ref().map_or(0, |more| more.limits.pow_bits);
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.len() < PEERS {
            work.insert(offer.provider_npub, bits);
        }
    }

    fn known_work(&self, to: &PublicKey) -> Option<u8> {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.get(to).copied()
    }

    /// How much work `to` asks for in its offer (NIP-13); asked once for each.
    async fn work_of(&self, relays: &Relays, to: &PublicKey, also: &[String]) -> u8 {
        if let Some(bits) = self.known_work(to) {
            return bits;
        }
        let filter = Filter::new()
            .kind(Kind::from_u16(kinds::OFFER))
            .author(key_to(to))
            .limit(1);
        let reads = relays.fetch(filter, also, FETCH).await;
        let newest = reads
            .iter()
            .flat_map(|read| &read.events)
            .max_by_key(|event| event.created_at);
        if let Some(offer) = newest.and_then(|event| publisher::parse_offer(event).ok()) {
            self.note_work(&offer);
        }
        self.known_work(to).unwrap_or(0)
    }

    async fn wrapped(&self, letter: &Letter, bits: u8) -> Result<Event, WrapError> {
        let (keys, to) = (&self.keys, &letter.to);
        let expires = now().plus(WRAP_LIFE);
        wrap::wrap_with_work(keys, to, &letter.body, letter.written_at, expires, bits).await
    }
}

#[async_trait]
impl Post for RelayPost {
    async fn listen(&self) -> Result<mpsc::Receiver<Incoming>, PostError> {
        let relays = self.relays().await?;
        // Nothing is remembered from one run to the next: all that relays still
        // have is read again, so an answer that came meanwhile is found.
        let store = Arc::new(MemoryInbox::new());
        let (inbox, messages) =
            Inbox::start(relays, self.keys.clone(), store, InboxOptions::default());
        if !inbox.wait_ready(READY).await {
            tracing::debug!("no relay is ready yet; going on");
        }
        if self.inbox.set(inbox).is_err() {
            return Err(PostError("listening already".to_owned()));
        }
        Ok(messages)
    }

    async fn send(&self, letter: &Letter) -> Vec<(String, Ack)> {
        let relays = match self.relays().await {
            Ok(relays) => relays,
            Err(error) => return vec![(String::new(), Ack::NoAnswer(error.0))],
        };
        let to = &letter.to;
        let refused = |error: WrapError| vec![(String::new(), Ack::Refused(error.to_string()))];
        let done = self.known_work(to).unwrap_or(0);
        let mut event = match self.wrapped(letter, done).await {
            Ok(event) => event,
            Err(error) => return refused(error),
        };
        let known: BTreeSet<String> = letter
            .relays
            .iter()
            .chain(&self.urls)
            .filter_map(|url| normalise(url).ok())
            .collect();
        let known: Vec<String> = known.into_iter().collect();
        let (acks, listed, bits) = tokio::join!(
            relays.publish(&event, &known),
            self.reads_at(relays, to, &known),
            self.work_of(relays, to, &known)
        );
        let mut acks: Vec<(String, Ack)> = acks.into_iter().collect();
        if bits > done {
            // The first wrap was sent before this was known, and is dropped.
            event = match self.wrapped(letter, bits).await {
                Ok(event) => event,
                Err(error) => return refused(error),
            };
            acks = relays.publish(&event, &known).await.into_iter().collect();
        }
        let more: Vec<String> = listed
            .into_iter()
            .filter(|url| !known.contains(url))
            .collect();
        if !more.is_empty() {
            acks.extend(relays.publish(&event, &more).await);
        }
        acks
    }

    async fn announce(&self) -> Vec<(String, Ack)> {
        let Ok(relays) = self.relays().await else {
            return Vec::new();
        };
        let urls: Vec<String> = relays
            .urls()
            .into_iter()
            .take(publisher::MAX_DM_RELAYS)
            .collect();
        match publisher::dm_relays_event(&self.keys, &urls, now()) {
            Ok(event) => relays
                .publish(&event, &relays.urls())
                .await
                .into_iter()
                .collect(),
            Err(error) => vec![(String::new(), Ack::Refused(error.to_string()))],
        }
    }

    async fn discover(&self) -> Result<Vec<Found>, PostError> {
        let relays = self.relays().await?;
        if relays.wait_connected(1, READY).await == 0 {
            return Err(PostError(format!(
                "none of {} answers",
                self.urls.join(", ")
            )));
        }
        let found = publisher::discover(relays, FETCH).await;
        found.iter().for_each(|one| self.note_work(&one.offer));
        Ok(found
            .into_iter()
            .map(|one| Found {
                offer: one.offer,
                published_at: one.event_at,
                heartbeat: one.last_heartbeat,
            })
            .collect())
    }
}
