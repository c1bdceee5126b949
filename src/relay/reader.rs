//! Reads the messages to us on one relay: the live ones by a subscription, the
//! stored ones in pages, the newest first. A page is asked for when the one
//! before is handled, so a slow receiver slows this relay's reading and loses
//! nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nostr_sdk::{Event, EventId, Filter, Kind};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::Dropped;
use super::convert::{now, time_from, time_to};
use super::inbox::Worker;
use super::patience::Patience;
use super::session::{Link, Relays};
use super::subscription::{Item, Subscription};
use super::wrap::BACKDATE_SECS;
use crate::core::time::Timestamp;

/// Live events that wait while others are worked on: a second's work. Their
/// bytes are bounded too.
const LIVE_QUEUE: usize = 4096;

/// Reads one relay.
pub(super) struct Reader {
    url: String,
    relays: Relays,
    worker: Arc<Worker>,
    /// One permit for each live event that may be worked on.
    live_slots: Arc<Semaphore>,
    /// The same for stored ones: a long list of these must not delay what is
    /// sent now.
    stored_slots: Arc<Semaphore>,
    patience: Arc<Patience>,
}

/// One page of stored events.
#[derive(Default)]
struct Page {
    ids: HashSet<EventId>,
    oldest: Option<Timestamp>,
}

impl Page {
    fn note(&mut self, id: EventId, at: Timestamp) {
        self.ids.insert(id);
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
    }
}

/// Counts one relay as caught up for as long as it lives.
struct Ready<'a>(&'a watch::Sender<usize>);

impl<'a> Ready<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Reader {
    pub(super) fn new(url: String, relays: Relays, worker: Arc<Worker>) -> Self {
        let slots = || Arc::new(Semaphore::new(worker.options.parallel.max(1)));
        Self {
            live_slots: slots(),
            stored_slots: slots(),
            url,
            relays,
            worker,
            patience: Arc::new(Patience::new()),
        }
    }

    /// Reads until it is cancelled or the relays are shut down.
    pub(super) async fn run(self) {
        let retry = self.worker.options.retry;
        let mut wait = retry;
        while !self.relays.ended() {
            let mut set = self.relays.set();
            let Some(link) = self.relays.member(&self.url) else {
                if set.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let started = Instant::now();
            let mut state = link.state.clone();
            // It fails when this session has ended; there may be a new one.
            if state.wait_for(|state| state.connected).await.is_ok() {
                self.follow(&link).await;
            }
            // A relay that ends each subscription at once is not asked in a loop.
            let lasted = started.elapsed() > wait * 2;
            wait = if lasted {
                retry
            } else {
                (wait * 2).min(retry * 100)
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Follows one subscription to its end: the connection is gone, the relay
    /// closed it, or its queue was full.
    async fn follow(&self, link: &Link) {
        self.patience.renew();
        // The stored ones come in pages; one is asked for because some relays
        // take a limit of zero for none at all.
        let filter = self.filter(self.since().await).limit(1);
        let mut live = link.subscribe(filter, LIVE_QUEUE).await;
        let caught_up = AtomicBool::new(false);
        tokio::select! {
            () = self.live(link, &mut live, &caught_up) => {}
            () = self.keep_caught_up(link, &caught_up) => {}
        }
        tracing::debug!(relay = %self.url, full = live.lost(), "subscription ended");
    }

    fn filter(&self, since: Timestamp) -> Filter {
        let mut kinds = vec![Kind::GiftWrap];
        kinds.extend(
            self.worker
                .options
                .direct
                .then_some(Kind::EncryptedDirectMessage),
        );
        Filter::new()
            .kinds(kinds)
            .pubkey(self.worker.keys.public_key())
            .since(time_to(since))
    }

    /// From when on a message may be stamped that we have not seen.
    async fn since(&self) -> Timestamp {
        let options = &self.worker.options;
        match self.worker.store.last_seen(&self.url).await {
            Some(seen) => seen
                .minus(Duration::from_secs(BACKDATE_SECS))
                .minus(options.margin),
            None => now().minus(options.first_look_back),
        }
    }

    async fn live(&self, link: &Link, live: &mut Subscription, caught_up: &AtomicBool) {
        let mut tick = tokio::time::interval(self.worker.options.advance_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                item = live.next() => match item {
                    Some(Item::Event(event)) => self.work_on(link, &self.live_slots, *event).await,
                    Some(Item::Unreadable(_, _, reason)) => self.worker.counts.add(reason),
                    Some(Item::Eose) => {}
                    Some(Item::Closed(reason)) => {
                        tracing::debug!(relay = %self.url, ?reason, "the relay ended the subscription");
                        return;
                    }
                    None => return,
                },
                _ = tick.tick() => {
                    let at = now();
                    if caught_up.load(Ordering::Relaxed) && live.is_empty() {
                        self.drained(&self.live_slots).await;
                        self.seen(at).await;
                    }
                }
            }
        }
    }

    /// Reads the stored events, and again from time to time.
    async fn keep_caught_up(&self, link: &Link, caught_up: &AtomicBool) {
        let options = &self.worker.options;
        let mut wait = options.retry;
        let mut ready = None;
        loop {
            let started = now();
            match self.catch_up(link).await {
                Ok(()) => {
                    self.seen(started).await;
                    caught_up.store(true, Ordering::Relaxed);
                    ready.get_or_insert_with(|| Ready::new(&self.worker.ready));
                    wait = options.retry;
                    tokio::time::sleep(options.recheck_every).await;
                }
                Err(why) => {
                    tracing::debug!(relay = %self.url, %why, "stored messages not read yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(options.retry * 100);
                }
            }
        }
    }

    /// Reads all stored events, page by page back in time. The relay decides how
    /// many it sends for one request, so a page is the last one only when it
    /// is empty.
    async fn catch_up(&self, link: &Link) -> Result<(), String> {
        let since = self.since().await;
        let filter = self.filter(since).limit(self.worker.options.page);
        let mut until: Option<Timestamp> = None;
        let mut before = HashSet::new();
        loop {
            let filter = match until {
                Some(until) => filter.clone().until(time_to(until)),
                None => filter.clone(),
            };
            let page = self.page(link, filter).await?;
            self.drained(&self.stored_slots).await;
            let Some(oldest) = page.oldest else {
                return Ok(());
            };
            // Others may bear the oldest stamp too: that second is asked for
            // again, until it brings nothing new.
            let next = if page.ids.is_subset(&before) {
                oldest.minus(Duration::from_secs(1))
            } else {
                oldest
            };
            if next < since || next.as_secs() == 0 {
                return Ok(());
            }
            until = Some(next);
            before = page.ids;
        }
    }

    async fn page(&self, link: &Link, filter: Filter) -> Result<Page, String> {
        let options = &self.worker.options;
        let (since, until) = (filter.since, filter.until);
        let mut page = Page::default();
        let mut stored = link.subscribe(filter, options.page + 8).await;
        loop {
            let item = tokio::time::timeout(options.page_timeout, stored.next()).await;
            match item.map_err(|_| "the relay does not end its answer")? {
                Some(Item::Event(event)) => {
                    let at = event.created_at;
                    if since.is_some_and(|s| at < s) || until.is_some_and(|u| at > u) {
                        self.worker.counts.add(Dropped::NotForUs);
                        blame(&self.patience, link).await;
                        continue;
                    }
                    page.note(event.id, time_from(at));
                    self.work_on(link, &self.stored_slots, *event).await;
                }
                Some(Item::Unreadable(id, at, reason)) => {
                    self.worker.counts.add(reason);
                    page.note(id, at);
                }
                Some(Item::Eose) => return Ok(page),
                Some(Item::Closed(reason)) => return Err(reason),
                // It sent more than was asked for: what came is the newest.
                None if stored.lost() => return Ok(page),
                None => return Err("the connection is gone".to_owned()),
            }
        }
    }

    /// Has one event worked on, as soon as there is a slot. What is begun is
    /// ended even if this relay goes: a stored message must be handed on.
    async fn work_on(&self, link: &Link, slots: &Arc<Semaphore>, event: Event) {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (worker, url) = (self.worker.clone(), self.url.clone());
        let patience = self.patience.clone();
        let link = link.clone();
        let cancel = worker.cancel.clone();
        let tasks = worker.tasks.clone();
        let work = async move {
            let done = worker.handle(&url, event).await;
            if matches!(done, Err(Dropped::BadSignature | Dropped::NotForUs)) {
                blame(&patience, &link).await;
            }
            drop(slot);
        };
        tasks.spawn(cancel.run_until_cancelled_owned(work));
    }

    /// Waits until nothing is worked on that took one of these.
    async fn drained(&self, slots: &Semaphore) {
        let all = u32::try_from(self.worker.options.parallel.max(1)).unwrap_or(u32::MAX);
        drop(slots.acquire_many(all).await);
    }

    async fn seen(&self, at: Timestamp) {
        if let Err(error) = self.worker.store.set_last_seen(&self.url, at).await {
            // Then more is read again next time; nothing is lost.
            tracing::warn!(relay = %self.url, %error, "cannot note that the relay was read");
        }
    }
}

/// One more event that an honest relay would not send.
async fn blame(patience: &Patience, link: &Link) {
    if !patience.bear() {
        link.reproach("the relay sends events that are false or not asked for")
            .await;
    }
}
