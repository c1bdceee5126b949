//! A subscription on one relay: a bounded queue between its session and whoever
//! asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nostr_sdk::{Event, EventId, Filter, SubscriptionId};
use tokio::sync::mpsc;

use super::Dropped;
use super::link::Command;
use crate::core::time::Timestamp;

/// Bytes of events that wait in one subscription's queue, at most.
const QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// What a subscription gives.
pub(super) enum Item {
    /// An event, not verified in any way.
    Event(Box<Event>),
    /// There was one that cannot be read, for this reason.
    Unreadable(EventId, Timestamp, Dropped),
    /// The stored ones are all sent.
    Eose,
    /// The relay ended it.
    Closed(String),
}

/// Where a link puts what comes for a subscription.
pub(super) struct Sink {
    items: mpsc::Sender<(Item, usize)>,
    queued: Arc<AtomicUsize>,
    lost: Arc<AtomicBool>,
}

impl Sink {
    /// Puts an item of `size` bytes into the queue; `false` where it is full,
    /// and then nothing more may be put.
    pub(super) fn put(&self, item: Item, size: usize) -> bool {
        let size = if matches!(item, Item::Event(_)) {
            size
        } else {
            0
        };
        let queued = self.queued.fetch_add(size, Ordering::Relaxed);
        let fits = queued.saturating_add(size) <= QUEUED_BYTES;
        let put = fits && self.items.try_send((item, size)).is_ok();
        if !put {
            self.lost.store(true, Ordering::Relaxed);
        }
        put
    }
}

/// A subscription on one relay. It ends, as a stream does, with the connection,
/// and when its queue was full.
pub(super) struct Subscription {
    id: SubscriptionId,
    items: mpsc::Receiver<(Item, usize)>,
    queued: Arc<AtomicUsize>,
    lost: Arc<AtomicBool>,
    commands: mpsc::Sender<Command>,
}

impl Subscription {
    /// A subscription with room for `capacity` items, and the command that opens it.
    pub(super) fn new(
        filter: Filter,
        capacity: usize,
        commands: mpsc::Sender<Command>,
    ) -> (Self, Command) {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let id = SubscriptionId::new(format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let (tx, items) = mpsc::channel(capacity.max(1));
        let queued = Arc::new(AtomicUsize::new(0));
        let lost = Arc::new(AtomicBool::new(false));
        let sink = Sink {
            items: tx,
            queued: queued.clone(),
            lost: lost.clone(),
        };
        let command = Command::Subscribe {
            id: id.clone(),
            filter: Box::new(filter),
            sink,
        };
        let subscription = Self {
            id,
            items,
            queued,
            lost,
            commands,
        };
        (subscription, command)
    }

    /// The next item; `None` when it has ended.
    pub(super) async fn next(&mut self) -> Option<Item> {
        let (item, size) = self.items.recv().await?;
        self.queued.fetch_sub(size, Ordering::Relaxed);
        Some(item)
    }

    /// The next item that is there already.
    pub(super) fn try_next(&mut self) -> Option<Item> {
        let (item, size) = self.items.try_recv().ok()?;
        self.queued.fetch_sub(size, Ordering::Relaxed);
        Some(item)
    }

    /// Whether nothing waits in the queue.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether it ended because its queue was full.
    pub(super) fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Where the link is too busy for this it finds out at the next event.
        let _ = self
            .commands
            .try_send(Command::Unsubscribe(self.id.clone()));
    }
}
