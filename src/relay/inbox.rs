//! Messages to us.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use nostr_sdk::{Event, Keys, Kind};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::conversations::Conversations;
use super::convert::{id_from, now};
use super::pow;
use super::reader::Reader;
use super::seen::{Claim, Seen, Taken};
use super::session::{MAX_EVENT, Relays};
use super::workers::Workers;
use super::wrap::{Unwrapped, is_to, unwrap_by};
use super::{Channel, Dropped, InboxStore, Incoming, direct};
use crate::core::ids::EventId;

/// Times and bounds of the inbox.
#[derive(Clone, Debug)]
pub struct InboxOptions {
    /// Whether NIP-04 messages (kind 4) are read too.
    pub direct: bool,
    /// Leading zero bits that the id of a gift wrap has to have (NIP-13); 0:
    /// none. NIP-04 messages are not asked for any: who sends these cannot mine.
    /// It may be changed while the inbox runs.
    pub pow_bits: Arc<AtomicU8>,
    /// How far to look back on a relay that was never seen before.
    pub first_look_back: Duration,
    /// Added to the two days by which stamps may be set back (NIP-59): clocks
    /// differ.
    pub margin: Duration,
    /// Events asked for in one page; a relay may send fewer.
    pub page: usize,
    /// How long a relay may be silent within a page.
    pub page_timeout: Duration,
    /// Live events of one relay that are worked on at once; and as many stored
    /// ones, so that neither waits for the other.
    pub parallel: usize,
    /// Messages that wait to be taken by the receiver.
    pub queue: usize,
    /// How often `last_seen` is moved on while connected.
    pub advance_every: Duration,
    /// How often stored messages are asked for again while connected: relays
    /// lose live events now and then.
    pub recheck_every: Duration,
    /// First wait after a failure of the store or of a relay's answer; doubles
    /// up to a hundred times that.
    pub retry: Duration,
}

impl Default for InboxOptions {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            direct: false,
            pow_bits: Arc::default(),
            first_look_back: secs(3 * 24 * 60 * 60),
            margin: secs(60 * 60),
            page: 500,
            page_timeout: secs(10),
            parallel: 64,
            queue: 256,
            advance_every: secs(30),
            recheck_every: secs(60 * 60),
            retry: Duration::from_millis(250),
        }
    }
}

/// Reads messages to us from all relays of the set; stops when it is dropped.
pub struct Inbox {
    counts: Arc<Counts>,
    ready: watch::Sender<usize>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Inbox {
    /// Starts to read. Messages come out of the receiver once each, stored
    /// before; while it is full the relays wait. Must be called inside a tokio
    /// runtime.
    pub fn start(
        relays: &Relays,
        keys: Keys,
        store: Arc<dyn InboxStore>,
        options: InboxOptions,
    ) -> (Self, mpsc::Receiver<Incoming>) {
        let (out, receiver) = mpsc::channel(options.queue.max(1));
        let inbox = Self {
            counts: Arc::default(),
            ready: watch::Sender::new(0),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let worker = Arc::new(Worker {
            keys,
            store,
            options,
            out,
            workers: relays.workers(),
            conversations: relays.conversations(),
            seen: Arc::default(),
            counts: inbox.counts.clone(),
            ready: inbox.ready.clone(),
            cancel: inbox.cancel.clone(),
            tasks: inbox.tasks.clone(),
        });
        inbox.tasks.spawn(supervise(relays.clone(), worker));
        (inbox, receiver)
    }

    /// How many events were dropped for this reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.counts.get(reason)
    }

    /// Waits until at least one relay is connected with all its stored messages
    /// handed on, or the timeout; `true` if so. What a consumer waits for
    /// before it sends a request.
    pub async fn wait_ready(&self, timeout: Duration) -> bool {
        let mut ready = self.ready.subscribe();
        let waited = tokio::time::timeout(timeout, ready.wait_for(|count| *count > 0)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Stops reading and waits until nothing is worked on.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Keeps a reader for each relay of the set.
async fn supervise(relays: Relays, worker: Arc<Worker>) {
    let mut set = relays.set();
    let mut readers: BTreeMap<String, CancellationToken> = BTreeMap::new();
    loop {
        let urls = set.borrow_and_update().clone();
        readers.retain(|url, cancel| {
            let keep = urls.contains(url);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        for url in urls {
            let (relays, worker) = (relays.clone(), worker.clone());
            readers.entry(url.clone()).or_insert_with(|| {
                let cancel = worker.cancel.child_token();
                let reader = Reader::new(url, relays, worker.clone());
                let reading = cancel.clone().run_until_cancelled_owned(reader.run());
                worker.tasks.spawn(reading);
                cancel
            });
        }
        tokio::select! {
            changed = set.changed() => if changed.is_err() { return },
            () = worker.cancel.cancelled() => return,
        }
    }
}

/// Events dropped, by reason.
#[derive(Default)]
pub(super) struct Counts([AtomicU64; 9]);

impl Counts {
    fn of(&self, reason: Dropped) -> Option<&AtomicU64> {
        let index = match reason {
            Dropped::TooLarge => 0,
            Dropped::NotForUs => 1,
            Dropped::BadSignature => 2,
            Dropped::Undecryptable => 3,
            Dropped::ForgedAuthor => 4,
            Dropped::WrongKind => 5,
            Dropped::Expired => 6,
            Dropped::Duplicate => 7,
            Dropped::NoWork => 8,
        };
        self.0.get(index)
    }

    fn get(&self, reason: Dropped) -> u64 {
        self.of(reason).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, reason: Dropped) {
        if let Some(count) = self.of(reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What all readers of one inbox share.
pub(super) struct Worker {
    pub(super) keys: Keys,
    pub(super) store: Arc<dyn InboxStore>,
    pub(super) options: InboxOptions,
    out: mpsc::Sender<Incoming>,
    /// For signatures and decryption.
    workers: Arc<Workers>,
    conversations: Arc<Conversations>,
    /// Events with a good signature that were worked on, junk too.
    seen: Arc<Seen>,
    pub(super) counts: Arc<Counts>,
    pub(super) ready: watch::Sender<usize>,
    pub(super) cancel: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Worker {
    /// Does all that is to do with one event; returns why it was dropped.
    /// Returns only when the message is stored and handed on, or is not for us.
    pub(super) async fn handle(&self, relay: &str, event: Event) -> Result<(), Dropped> {
        let done = self.open_and_deliver(relay, event).await;
        if let Err(reason) = done {
            self.counts.add(reason);
        }
        done
    }

    async fn open_and_deliver(&self, relay: &str, event: Event) -> Result<(), Dropped> {
        check(&self.keys, self.options.direct, &event)?;
        let channel = channel(&event);
        let id = id_from(&event.id);
        if self.seen.has(&id) {
            return Err(Dropped::Duplicate);
        }
        let bits = self.options.pow_bits.load(Ordering::Relaxed);
        if channel == Channel::GiftWrap && !pow::proves(&event, bits) {
            return Err(Dropped::NoWork);
        }
        if self.store.seen_wrap(&id).await {
            return Err(Dropped::Duplicate);
        }
        let (claim, message) = match self.open(event, id).await? {
            Ok(opened) => opened,
            Err(Taken::Done) => return Err(Dropped::Duplicate),
            // Not dealt with before that one is.
            Err(Taken::Working(mut working)) => {
                drop(working.changed().await);
                return Err(Dropped::Duplicate);
            }
        };
        let message = Incoming {
            channel,
            rumor: message.rumor,
            wrap: Some(id),
            sender: message.sender,
            written_at: message.written_at,
            received_at: now(),
            relay: relay.to_owned(),
            body: message.body,
        };
        let new = self.store_it(&message, &id).await;
        claim.done();
        if !new {
            return Err(Dropped::Duplicate);
        }
        if self.out.send(message).await.is_err() {
            // Nobody takes messages any more; the store has this one.
            self.cancel.cancel();
        }
        Ok(())
    }

    /// Checks the signature, makes sure that nobody else works on this event,
    /// and decrypts it.
    async fn open(
        &self,
        event: Event,
        id: EventId,
    ) -> Result<Result<(Claim, Unwrapped), Taken>, Dropped> {
        let (keys, seen) = (self.keys.clone(), Arc::clone(&self.seen));
        let known = Arc::clone(&self.conversations);
        let work = self.workers.run(move || {
            event.verify().map_err(|_| Dropped::BadSignature)?;
            // With a bad signature the id is anybody's, maybe that of a good one;
            // so it is noted here and not before.
            let claim = match seen.claim(&id) {
                Ok(claim) => claim,
                Err(taken) => return Ok(Err(taken)),
            };
            match decrypt(&keys, &event, &known) {
                Ok(message) => Ok(Ok((claim, message))),
                Err(junk) => {
                    claim.done();
                    Err(junk)
                }
            }
        });
        work.await.unwrap_or(Err(Dropped::Undecryptable))
    }

    /// Stores it, however often that fails: what is not stored is not handed on.
    async fn store_it(&self, message: &Incoming, wrap: &EventId) -> bool {
        let mut wait = self.options.retry;
        loop {
            match self.store.store(message, wrap).await {
                Ok(new) => return new,
                Err(error) => {
                    tracing::error!(%error, rumor = %message.rumor, "cannot store a message yet");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(self.options.retry * 100);
        }
    }
}

fn channel(event: &Event) -> Channel {
    if event.kind == Kind::EncryptedDirectMessage {
        Channel::Nip04
    } else {
        Channel::GiftWrap
    }
}

/// What costs next to nothing, before what does ([`open`]): kind (NIP-04 only
/// where `direct`), receiver, size and expiration.
///
/// # Errors
/// The reason why the event is dropped.
pub fn check(keys: &Keys, direct: bool, event: &Event) -> Result<(), Dropped> {
    let wanted = match event.kind {
        Kind::GiftWrap => true,
        Kind::EncryptedDirectMessage => direct,
        _ => false,
    };
    if !wanted || !is_to(event, &keys.public_key()) {
        return Err(Dropped::NotForUs);
    }
    if event.content.len() > MAX_EVENT {
        return Err(Dropped::TooLarge);
    }
    if event.is_expired() {
        return Err(Dropped::Expired);
    }
    Ok(())
}

/// Verifies the event's id and signature and opens it to `keys`: a kind 4
/// message as that, anything else as a gift wrap.
///
/// # Errors
/// The reason why the event is dropped.
pub fn open(keys: &Keys, event: &Event) -> Result<Unwrapped, Dropped> {
    event.verify().map_err(|_| Dropped::BadSignature)?;
    decrypt(keys, event, &Conversations::default())
}

/// Opens an event whose signature is right.
fn decrypt(keys: &Keys, event: &Event, known: &Conversations) -> Result<Unwrapped, Dropped> {
    match channel(event) {
        Channel::GiftWrap => unwrap_by(keys, event, known),
        Channel::Nip04 => direct::read(keys, event),
    }
}
