//! The relays of one side: a session for each, with a connection, a queue and a
//! backoff of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use nostr_sdk::filter::MatchEventOptions;
use nostr_sdk::{Event, Filter, Keys};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Ack;
use super::conversations::Conversations;
use super::convert::now;
use super::link::{COMMANDS, Command, LinkState, LinkTask};
pub use super::options::{RelayError, RelayOptions, RelayRead, RelayStatus, normalise};
use super::subscription::{Item, Subscription};
use super::workers::Workers;

/// Largest event that is read, in bytes of its JSON.
pub const MAX_EVENT: usize = 128 * 1024;

/// Events that one relay may answer to a fetch, at most.
pub const FETCH_MAX: usize = 5_000;

/// Bytes of content that one relay may answer to a fetch, at most.
const FETCH_BYTES: usize = 16 * 1024 * 1024;

/// The relays of one side. Clones are handles to the same sessions, which end
/// with [`shutdown`](Self::shutdown) or when the last handle is dropped.
#[derive(Clone)]
pub struct Relays(Arc<Shared>);

struct Shared {
    keys: Keys,
    options: RelayOptions,
    links: Mutex<Links>,
    /// The set, for those who do something on each relay of it.
    set: watch::Sender<Vec<String>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    workers: Arc<Workers>,
    conversations: Arc<Conversations>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[derive(Default)]
struct Links {
    set: BTreeMap<String, Link>,
    on_demand: BTreeMap<String, Link>,
}

/// A handle to one relay's session.
#[derive(Clone)]
pub(super) struct Link {
    commands: mpsc::Sender<Command>,
    pub(super) state: watch::Receiver<LinkState>,
    cancel: CancellationToken,
    used: Instant,
}

impl Link {
    /// Opens a subscription with a queue of `capacity`; it ends at once where
    /// there is no connection.
    pub(super) async fn subscribe(&self, filter: Filter, capacity: usize) -> Subscription {
        let (subscription, command) = Subscription::new(filter, capacity, self.commands.clone());
        // Where nobody takes the command its sink is dropped: the queue ends.
        let _ = self.commands.send(command).await;
        subscription
    }

    /// Closes the connection, which misbehaves, and has it made again.
    pub(super) async fn reproach(&self, why: &str) {
        let _ = self.commands.send(Command::Reproach(why.to_owned())).await;
    }

    async fn publish(&self, event: Arc<Event>) -> Ack {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Publish { event, reply }).await;
        match (sent, answer.await) {
            (Ok(()), Ok(ack)) => ack,
            _ => Ack::NoAnswer(self.last_error()),
        }
    }

    fn last_error(&self) -> String {
        let error = self.state.borrow().last_error.clone();
        error.unwrap_or_else(|| "not connected".to_owned())
    }
}

impl Relays {
    /// Starts a session for each of `urls`; returns at once. `keys` answer
    /// relays that ask who we are (NIP-42). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A malformed URL.
    pub fn start(keys: Keys, urls: &[String], options: RelayOptions) -> Result<Self, RelayError> {
        let relays = Self(Arc::new(Shared {
            keys,
            options,
            links: Mutex::default(),
            set: watch::Sender::new(Vec::new()),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            workers: Workers::new(),
            conversations: Arc::default(),
        }));
        urls.iter().try_for_each(|url| relays.add(url))?;
        Ok(relays)
    }

    /// Sends `event` to all of `to` side by side, and returns each relay's own
    /// answer. Relays that are not in the set are connected to for the purpose.
    pub async fn publish(&self, event: &Event, to: &[String]) -> BTreeMap<String, Ack> {
        self.publish_until(event, to, usize::MAX).await
    }

    /// Like [`publish`](Self::publish), but returns as soon as `enough` relays
    /// have accepted. The answers that were not waited for are left out.
    pub async fn publish_until(
        &self,
        event: &Event,
        to: &[String],
        enough: usize,
    ) -> BTreeMap<String, Ack> {
        let mut answers = BTreeMap::new();
        let mut accepted = 0;
        let mut running = self.publish_each(Arc::new(event.clone()), to);
        while accepted < enough
            && let Some((relay, ack)) = running.next().await
        {
            accepted += usize::from(ack == Ack::Accepted);
            answers.insert(relay, ack);
        }
        answers
    }

    /// The answers as they come, one for each of `to`.
    pub(super) fn publish_each(
        &self,
        event: Arc<Event>,
        to: &[String],
    ) -> FuturesUnordered<BoxFuture<'static, (String, Ack)>> {
        let each = to.iter().map(|url| {
            let (relays, event, url) = (self.clone(), event.clone(), url.clone());
            async move {
                let ack = relays.publish_one(event, &url).await;
                (url, ack)
            }
            .boxed()
        });
        each.collect()
    }

    async fn publish_one(&self, event: Arc<Event>, url: &str) -> Ack {
        let link = match self.link(url) {
            Ok(link) => link,
            Err(why) => return Ack::NoAnswer(why),
        };
        let timeout = self.0.options.answer_timeout;
        match tokio::time::timeout(timeout, link.publish(event)).await {
            Ok(ack) => ack,
            Err(_) => Ack::NoAnswer(format!("no answer within {timeout:?}")),
        }
    }

    /// Asks each of `relays` (of the set where empty) for stored events, at
    /// most [`FETCH_MAX`] of each. Returns when all have answered or the time is
    /// over; a relay that is down costs no time.
    pub async fn fetch(
        &self,
        filter: Filter,
        relays: &[String],
        timeout: Duration,
    ) -> Vec<RelayRead> {
        let set = self.urls();
        let relays = if relays.is_empty() { &set } else { relays };
        let stop = CancellationToken::new();
        let mut running: FuturesUnordered<_> = relays
            .iter()
            .map(|url| self.fetch_one(url, filter.clone(), stop.child_token()))
            .collect();
        let mut until = Instant::now() + timeout;
        let mut reads = Vec::new();
        loop {
            tokio::select! {
                read = running.next() => {
                    let Some(read) = read else { return reads };
                    if read.complete {
                        until = until.min(Instant::now() + self.0.options.laggard);
                    }
                    reads.push(read);
                }
                () = tokio::time::sleep_until(until), if !stop.is_cancelled() => stop.cancel(),
            }
        }
    }

    async fn fetch_one(&self, url: &str, filter: Filter, stop: CancellationToken) -> RelayRead {
        let mut events = Vec::new();
        let complete = tokio::select! {
            complete = self.collect(url, &filter, &mut events) => complete,
            () = stop.cancelled() => false,
        };
        RelayRead {
            relay: url.to_owned(),
            events: verified(filter, events).await,
            complete,
        }
    }

    async fn collect(&self, url: &str, filter: &Filter, events: &mut Vec<Event>) -> bool {
        let Ok(link) = self.link(url) else {
            return false;
        };
        let max = filter.limit.unwrap_or(FETCH_MAX).min(FETCH_MAX);
        let mut subscription = link.subscribe(filter.clone(), max + 8).await;
        let mut bytes = 0;
        while let Some(item) = subscription.next().await {
            match item {
                Item::Event(event) => {
                    bytes += event.content.len();
                    if events.len() >= max || bytes > FETCH_BYTES {
                        return false;
                    }
                    events.push(*event);
                }
                Item::Unreadable(..) => {}
                Item::Eose => return true,
                Item::Closed(_) => return false,
            }
        }
        false
    }

    /// Adds a relay to the set; nothing changes where it is in it.
    ///
    /// # Errors
    /// A malformed URL.
    pub fn add(&self, url: &str) -> Result<(), RelayError> {
        let url = normalise(url)?;
        let mut links = self.links();
        let known = links.set.len();
        let link = links.set.entry(url);
        link.or_insert_with_key(|url| self.spawn(url, false));
        if links.set.len() > known {
            self.0.set.send_replace(links.set.keys().cloned().collect());
        }
        Ok(())
    }

    /// Takes a relay out of the set and closes its connection.
    pub fn remove(&self, url: &str) {
        let Ok(url) = normalise(url) else { return };
        let mut links = self.links();
        if let Some(link) = links.set.remove(&url) {
            link.cancel.cancel();
            self.0.set.send_replace(links.set.keys().cloned().collect());
        }
    }

    /// The set, normalised, in the order of the URLs.
    pub fn urls(&self) -> Vec<String> {
        self.0.set.borrow().clone()
    }

    /// Those who open and wrap the messages of this side.
    pub(super) fn workers(&self) -> Arc<Workers> {
        Arc::clone(&self.0.workers)
    }

    /// What our keys have agreed on with others.
    pub(super) fn conversations(&self) -> Arc<Conversations> {
        Arc::clone(&self.0.conversations)
    }

    /// The set, and each change of it.
    pub(super) fn set(&self) -> watch::Receiver<Vec<String>> {
        self.0.set.subscribe()
    }

    /// How each relay of the set is doing.
    pub fn status(&self) -> Vec<RelayStatus> {
        let links = self.links();
        let status = links.set.iter().map(|(url, link)| {
            let state = link.state.borrow();
            RelayStatus {
                url: url.clone(),
                connected: state.connected,
                since: state.since,
                connections: state.connections,
                last_error: state.last_error.clone(),
            }
        });
        status.collect()
    }

    /// Waits until at least `count` relays of the set are connected, or the
    /// timeout; says how many are.
    pub async fn wait_connected(&self, count: usize, timeout: Duration) -> usize {
        let states: Vec<_> = self.links().set.values().map(|l| l.state.clone()).collect();
        let mut waiting: FuturesUnordered<_> = states
            .into_iter()
            .map(|mut state| async move { state.wait_for(|s| s.connected).await.is_ok() })
            .collect();
        let enough = async {
            let mut connected = 0;
            while connected < count
                && let Some(is) = waiting.next().await
            {
                connected += usize::from(is);
            }
        };
        let _ = tokio::time::timeout(timeout, enough).await;
        self.status().iter().filter(|s| s.connected).count()
    }

    /// Closes all connections and waits for the sessions to end.
    pub async fn shutdown(&self) {
        self.0.cancel.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    pub(super) fn ended(&self) -> bool {
        self.0.cancel.is_cancelled()
    }

    /// The session of a relay of the set.
    pub(super) fn member(&self, url: &str) -> Option<Link> {
        self.links().set.get(url).cloned()
    }

    /// The session of a relay of the set, or one made on demand.
    pub(super) fn link(&self, url: &str) -> Result<Link, String> {
        let url = normalise(url).map_err(|e| e.to_string())?;
        let mut links = self.links();
        if let Some(link) = links.set.get(&url) {
            return Ok(link.clone());
        }
        links.on_demand.retain(|_, link| !link.commands.is_closed());
        if let Some(link) = links.on_demand.get_mut(&url) {
            link.used = Instant::now();
            return Ok(link.clone());
        }
        if links.on_demand.len() >= self.0.options.on_demand_max {
            self.make_room(&mut links.on_demand)?;
        }
        let link = self.spawn(&url, true);
        links.on_demand.insert(url, link.clone());
        Ok(link)
    }

    /// Ends the session that nobody has used for the longest time.
    fn make_room(&self, on_demand: &mut BTreeMap<String, Link>) -> Result<(), String> {
        let oldest = on_demand.iter().min_by_key(|(_, link)| link.used);
        let idle = oldest.filter(|(_, link)| link.used.elapsed() > self.0.options.answer_timeout);
        let Some(url) = idle.map(|(url, _)| url.clone()) else {
            return Err("too many connections to relays outside of the set".to_owned());
        };
        if let Some(link) = on_demand.remove(&url) {
            link.cancel.cancel();
        }
        Ok(())
    }

    fn spawn(&self, url: &str, on_demand: bool) -> Link {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (state_tx, state) = watch::channel(LinkState {
            connected: false,
            since: now(),
            connections: 0,
            last_error: None,
        });
        let cancel = self.0.cancel.child_token();
        let task = LinkTask {
            url: url.to_owned(),
            keys: self.0.keys.clone(),
            options: self.0.options.clone(),
            on_demand,
            commands: receiver,
            state: state_tx,
            cancel: cancel.clone(),
        };
        self.0.tasks.spawn(task.run());
        Link {
            commands,
            state,
            cancel,
            used: Instant::now(),
        }
    }
}

/// Those that match and are signed, once each, newest first. Relays may lie.
async fn verified(filter: Filter, events: Vec<Event>) -> Vec<Event> {
    let check = move || {
        let mut seen = HashSet::new();
        let mut good = events;
        good.retain(|event| {
            filter.match_event(event, MatchEventOptions::new())
                && !event.is_expired()
                && event.verify().is_ok()
                && seen.insert(event.id)
        });
        good.sort_by_key(|event| (Reverse(event.created_at), event.id));
        good
    };
    tokio::task::spawn_blocking(check).await.unwrap_or_default()
}
