//! Stores in memory: for tests and for commands that live shortly.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{InboxStore, Incoming, OutboxStore, Outgoing, StoreError};
use crate::core::ids::EventId;
use crate::core::time::Timestamp;

/// Gift wraps that are remembered at most; older ones are decrypted again.
const WRAPS: usize = 20_000;

/// An [`InboxStore`] that forgets when the process ends. It keeps the ids of
/// messages, not the messages: what was handed on is the receiver's.
#[derive(Default)]
pub struct MemoryInbox(Mutex<InboxState>);

#[derive(Default)]
struct InboxState {
    rumors: HashSet<EventId>,
    wraps: HashSet<EventId>,
    order: VecDeque<EventId>,
    last_seen: HashMap<String, Timestamp>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryInbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn remember(&self, wrap: &EventId) {
        let mut state = lock(&self.0);
        if !state.wraps.insert(*wrap) {
            return;
        }
        state.order.push_back(*wrap);
        if state.order.len() > WRAPS
            && let Some(oldest) = state.order.pop_front()
        {
            state.wraps.remove(&oldest);
        }
    }
}

#[async_trait]
impl InboxStore for MemoryInbox {
    async fn store(&self, message: &Incoming, wrap: &EventId) -> Result<bool, StoreError> {
        self.remember(wrap);
        Ok(lock(&self.0).rumors.insert(message.rumor))
    }

    async fn seen_wrap(&self, wrap: &EventId) -> bool {
        lock(&self.0).wraps.contains(wrap)
    }

    async fn last_seen(&self, relay: &str) -> Option<Timestamp> {
        lock(&self.0).last_seen.get(relay).copied()
    }

    async fn set_last_seen(&self, relay: &str, at: Timestamp) -> Result<(), StoreError> {
        lock(&self.0).last_seen.insert(relay.to_owned(), at);
        Ok(())
    }
}

/// What became of a message in a [`MemoryOutbox`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No relay has confirmed it so far.
    Waiting(Outgoing),
    /// This relay has.
    Confirmed {
        /// Which.
        relay: String,
        /// When.
        at: Timestamp,
    },
    /// It expired before.
    GivenUp,
}

/// An [`OutboxStore`] that forgets when the process ends.
#[derive(Default)]
pub struct MemoryOutbox {
    messages: Mutex<BTreeMap<String, Fate>>,
    changed: tokio::sync::Notify,
}

impl MemoryOutbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a message in; nudge the outbox after it.
    pub fn put(&self, message: Outgoing) {
        let id = message.id.clone();
        self.set(&id, Fate::Waiting(message));
    }

    /// What became of a message.
    pub fn fate(&self, id: &str) -> Option<Fate> {
        lock(&self.messages).get(id).cloned()
    }

    /// Waits until a message is confirmed or given up.
    pub async fn settled(&self, id: &str) -> Option<Fate> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.fate(id) {
                Some(Fate::Waiting(_)) => changed.await,
                other => return other,
            }
        }
    }

    fn set(&self, id: &str, fate: Fate) {
        lock(&self.messages).insert(id.to_owned(), fate);
        self.changed.notify_waiters();
    }

    fn waiting(&self) -> Vec<Outgoing> {
        let all = lock(&self.messages);
        let waiting = all.values().filter_map(|fate| match fate {
            Fate::Waiting(message) => Some(message.clone()),
            _ => None,
        });
        waiting.collect()
    }
}

#[async_trait]
impl OutboxStore for MemoryOutbox {
    async fn due(
        &self,
        now: Timestamp,
        limit: usize,
        in_work: &HashSet<String>,
    ) -> Result<Vec<Outgoing>, StoreError> {
        let mut due = self.waiting();
        due.retain(|message| message.next_attempt <= now && !in_work.contains(&message.id));
        due.sort_by_key(|message| (message.next_attempt, message.written_at));
        due.truncate(limit);
        Ok(due)
    }

    async fn next_due(&self) -> Option<Timestamp> {
        self.waiting().iter().map(|m| m.next_attempt).min()
    }

    async fn confirmed(&self, id: &str, relay: &str, at: Timestamp) -> Result<(), StoreError> {
        let relay = relay.to_owned();
        self.set(id, Fate::Confirmed { relay, at });
        Ok(())
    }

    async fn postponed(&self, id: &str, attempts: u32, until: Timestamp) -> Result<(), StoreError> {
        if let Some(Fate::Waiting(mut message)) = self.fate(id) {
            message.attempts = attempts;
            message.next_attempt = until;
            self.set(id, Fate::Waiting(message));
        }
        Ok(())
    }

    async fn given_up(&self, id: &str, _at: Timestamp) -> Result<(), StoreError> {
        self.set(id, Fate::GivenUp);
        Ok(())
    }
}
