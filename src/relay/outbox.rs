//! Messages from us.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use nostr_sdk::{Event, Filter, Keys, Kind};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::conversations::Conversations;
use super::convert::{key_to, now};
use super::publisher::parse_dm_relays;
use super::session::{Relays, normalise};
use super::workers::Workers;
use super::wrap::{WrapError, wrap_by};
use super::{Ack, Channel, OutboxStore, Outgoing, StoreError, direct};
use crate::core::ids::PublicKey;
use crate::protocol::kinds;

/// Relays that one message names, at most.
const MAX_RELAYS: usize = 10;

/// Receivers whose relays are remembered, at most.
const LISTS: usize = 1024;

/// How long it is believed that a receiver has no list.
const NO_LIST_KEEP: Duration = Duration::from_secs(60);

/// Messages that one relay has confirmed and that still go to others, at most;
/// where there are more, new ones wait.
const LINGERING: usize = 1024;

/// Stamps are whole seconds: looking more often finds nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Times and bounds of the outbox.
#[derive(Clone, Debug)]
pub struct OutboxOptions {
    /// First wait after an attempt that no relay confirmed; doubles up to
    /// `backoff_max`. Whole seconds, at least one.
    pub backoff_min: Duration,
    /// Longest wait between attempts.
    pub backoff_max: Duration,
    /// Messages that are sent at once.
    pub parallel: usize,
    /// For asking our relays where the receiver reads (kind 10050).
    pub lookup_timeout: Duration,
    /// How long such an answer is used.
    pub lookup_keep: Duration,
    /// After the first relay confirmed, the others have this long.
    pub linger: Duration,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            backoff_min: secs(2),
            backoff_max: secs(300),
            parallel: 128,
            lookup_timeout: secs(3),
            lookup_keep: secs(300),
            linger: secs(3),
        }
    }
}

/// Sends what the store holds until a relay confirms it; stops when it is dropped.
pub struct Outbox {
    nudger: Nudger,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Outbox {
    /// Starts to send what is due. Must be called inside a tokio runtime.
    pub fn start(
        relays: &Relays,
        keys: Keys,
        store: Arc<dyn OutboxStore>,
        options: OutboxOptions,
    ) -> Self {
        let outbox = Self {
            nudger: Nudger(Arc::default()),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (tell, freed) = mpsc::channel(options.parallel.max(1).saturating_add(LINGERING));
        let sender = Arc::new(Sender {
            relays: relays.clone(),
            keys,
            store,
            options,
            lists: Mutex::default(),
            workers: relays.workers(),
            conversations: relays.conversations(),
            freed: tell,
        });
        let run = run(sender, outbox.nudger.0.clone(), freed);
        let run = outbox.cancel.clone().run_until_cancelled_owned(run);
        outbox.tasks.spawn(run);
        outbox
    }

    /// Says that something new was stored.
    pub fn nudge(&self) {
        self.nudger.nudge();
    }

    /// A handle for saying so from elsewhere.
    pub fn nudger(&self) -> Nudger {
        self.nudger.clone()
    }

    /// Stops: attempts that run are broken off, the store still has the messages.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Wakes an [`Outbox`].
#[derive(Clone)]
pub struct Nudger(Arc<Notify>);

impl Nudger {
    /// Says that something new was stored.
    pub fn nudge(&self) {
        self.0.notify_one();
    }
}

struct Sender {
    relays: Relays,
    keys: Keys,
    store: Arc<dyn OutboxStore>,
    options: OutboxOptions,
    /// Where receivers read, and until when that is believed.
    lists: Mutex<HashMap<PublicKey, (Vec<String>, Instant)>>,
    /// For encryption and signatures.
    workers: Arc<Workers>,
    conversations: Arc<Conversations>,
    /// Says which tasks have their message confirmed.
    freed: mpsc::Sender<tokio::task::Id>,
}

/// Attempts that run, and the messages that they are about.
#[derive(Default)]
struct Active {
    tasks: HashMap<tokio::task::Id, String>,
    ids: HashSet<String>,
}

impl Active {
    fn begin(&mut self, task: tokio::task::Id, id: String) {
        self.ids.insert(id.clone());
        self.tasks.insert(task, id);
    }

    fn end(&mut self, task: tokio::task::Id) {
        if let Some(id) = self.tasks.remove(&task) {
            self.ids.remove(&id);
        }
    }
}

/// Starts an attempt for each message that is due and has none running.
async fn run(sender: Arc<Sender>, nudge: Arc<Notify>, mut freed: mpsc::Receiver<tokio::task::Id>) {
    let mut active = Active::default();
    let mut running = JoinSet::new();
    loop {
        let wait = start_due(&sender, &mut active, &mut running).await;
        tokio::select! {
            () = nudge.notified() => {}
            Some(task) = freed.recv() => active.end(task),
            Some(done) = running.join_next_with_id() => {
                active.end(done.map_or_else(|error| error.id(), |(id, ())| id));
            }
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
        }
        // One look at the store for all that has ended by now.
        while let Ok(task) = freed.try_recv() {
            active.end(task);
        }
        while let Some(done) = running.try_join_next_with_id() {
            active.end(done.map_or_else(|error| error.id(), |(id, ())| id));
        }
    }
}

/// Returns when to look again, where nothing else tells.
async fn start_due(
    sender: &Arc<Sender>,
    active: &mut Active,
    running: &mut JoinSet<()>,
) -> Option<Duration> {
    let parallel = sender.options.parallel.max(1);
    let room = parallel.saturating_add(LINGERING);
    let free = parallel
        .saturating_sub(active.ids.len())
        .min(room.saturating_sub(running.len()));
    if free == 0 {
        return None;
    }
    let at = now();
    // Those in work are still due in the store.
    let due = match sender.store.due(at, free, &active.ids).await {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(%error, "cannot read the messages that are due");
            return Some(LOOK_AGAIN);
        }
    };
    for message in due {
        let (id, sender) = (message.id.clone(), sender.clone());
        let task = running.spawn(async move { sender.attempt(message).await });
        active.begin(task.id(), id);
    }
    if active.ids.len() >= parallel || running.len() >= room {
        return None;
    }
    let next = sender.store.next_due().await?;
    Some(Duration::from_secs(next.secs_since(at)).max(LOOK_AGAIN))
}

impl Sender {
    /// One attempt, and what the store is told about it.
    async fn attempt(&self, message: Outgoing) {
        let told = if now() >= message.expires_at {
            tracing::info!(id = %message.id, attempts = message.attempts, "a message expired");
            self.store.given_up(&message.id, now()).await
        } else {
            match self.wrapped(&message).await {
                Ok(event) => self.send(Arc::new(event), &message).await,
                Err(error) => {
                    // Another attempt would fail the same way.
                    tracing::error!(id = %message.id, %error, "a message cannot be sent at all");
                    self.store.given_up(&message.id, now()).await
                }
            }
        };
        if let Err(error) = told {
            // It is still due: do not send it again at once. The receiver knows
            // it by the rumor's id.
            tracing::error!(id = %message.id, %error, "cannot note what became of a message");
            tokio::time::sleep(self.options.backoff_min).await;
        }
    }

    async fn wrapped(&self, message: &Outgoing) -> Result<Event, WrapError> {
        let (keys, message) = (self.keys.clone(), message.clone());
        let known = Arc::clone(&self.conversations);
        let work = self.workers.run(move || {
            let Outgoing { to, body, .. } = &message;
            let (at, until) = (message.written_at, message.expires_at);
            match message.channel {
                Channel::GiftWrap => {
                    wrap_by(&keys, to, body, at, until, &known).map(|(event, _)| event)
                }
                Channel::Nip04 => direct::write(&keys, to, body, at, until),
            }
        });
        let died = || WrapError::Crypto("the work was broken off".to_owned());
        work.await.ok_or_else(died)?
    }

    /// Sends to the relays of the message at once, and to those of the receiver
    /// when they are known.
    async fn send(&self, event: Arc<Event>, message: &Outgoing) -> Result<(), StoreError> {
        let direct = distinct(&message.relays, &[]);
        let mut running = self.relays.publish_each(event.clone(), &direct);
        let lookup = self.where_read(message.to);
        tokio::pin!(lookup);
        let (mut looked, mut until) = (false, None);
        let mut failures = Vec::new();
        loop {
            tokio::select! {
                list = &mut lookup, if !looked => {
                    looked = true;
                    let mut more = distinct(&list, &direct);
                    if more.is_empty() && direct.is_empty() {
                        more = self.relays.urls();
                    }
                    running.extend(self.relays.publish_each(event.clone(), &more));
                }
                Some((relay, ack)) = running.next() => match ack {
                    Ack::Accepted if until.is_none() => {
                        until = Some(Instant::now() + self.options.linger);
                        self.store.confirmed(&message.id, &relay, now()).await?;
                        self.free();
                    }
                    Ack::Accepted => {}
                    Ack::Refused(why) | Ack::NoAnswer(why) => failures.push((relay, why)),
                },
                () = over(until), if until.is_some() => return Ok(()),
                else => break,
            }
            // A place is not held for the sake of nobody.
            if looked && running.is_empty() {
                break;
            }
        }
        if until.is_some() {
            return Ok(());
        }
        tracing::debug!(id = %message.id, ?failures, "no relay confirmed a message");
        let next = now()
            .plus(self.backoff(message.attempts))
            .min(message.expires_at);
        let attempts = message.attempts.saturating_add(1);
        self.store.postponed(&message.id, attempts, next).await
    }

    /// What this task is about is done: another message may begin, while this
    /// one goes to the other relays.
    fn free(&self) {
        if let Some(task) = tokio::task::try_id() {
            // There is room for a word of each task, and each says it once;
            // nobody listens where the outbox is being stopped.
            let _ = self.freed.try_send(task);
        }
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let factor = 2u32.saturating_pow(attempts.min(20));
        let wait = self.options.backoff_min.saturating_mul(factor);
        wait.min(self.options.backoff_max).max(LOOK_AGAIN)
    }

    /// The relays where this key reads messages, by its kind 10050 event.
    async fn where_read(&self, key: PublicKey) -> Vec<String> {
        if let Some((list, until)) = self.lists().get(&key)
            && *until > Instant::now()
        {
            return list.clone();
        }
        let filter = Filter::new()
            .kind(Kind::from_u16(kinds::DM_RELAYS))
            .author(key_to(&key))
            .limit(1);
        let reads = self.relays.fetch(filter, &[], self.options.lookup_timeout);
        let reads = reads.await;
        let newest = reads
            .iter()
            .flat_map(|read| &read.events)
            .max_by_key(|event| (event.created_at, std::cmp::Reverse(event.id)));
        let list = newest.map(parse_dm_relays).unwrap_or_default();
        if newest.is_some() {
            self.keep(key, &list, self.options.lookup_keep);
        } else if reads.iter().any(|read| read.complete) {
            self.keep(key, &list, self.options.lookup_keep.min(NO_LIST_KEEP));
        }
        list
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<PublicKey, (Vec<String>, Instant)>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: PublicKey, list: &[String], keep: Duration) {
        let mut lists = self.lists();
        if lists.len() >= LISTS {
            lists.retain(|_, (_, until)| *until > Instant::now());
        }
        if lists.len() >= LISTS {
            lists.clear();
        }
        lists.insert(key, (list.to_vec(), Instant::now() + keep));
    }
}

async fn over(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Those of `urls` that are URLs and not in `but`, once each, at most
/// [`MAX_RELAYS`].
fn distinct(urls: &[String], but: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for url in urls.iter().filter_map(|url| normalise(url).ok()) {
        if found.len() < MAX_RELAYS && !found.contains(&url) && !but.contains(&url) {
            found.push(url);
        }
    }
    found
}
