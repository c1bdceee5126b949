//! What is known about one connection, shared by its handler, its channels and
//! the gateway.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::input::Meter;
use crate::core::ids::LeaseId;

/// Why the gateway ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndReason {
    /// The lease lets nobody in any more.
    LeaseEnded(LeaseId),
    /// The gateway stops.
    Shutdown,
    /// `idle_timeout`.
    Idle,
    /// `total_timeout`.
    Total,
    /// `max_connections_per_lease`.
    TooMany,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseEnded(lease) => write!(f, "lease {lease} has ended"),
            Self::Shutdown => f.write_str("the gateway is restarting; the lease goes on"),
            Self::Idle => f.write_str("nothing happened for too long; the lease goes on"),
            Self::TooMany => f.write_str("too many connections into this lease; close another"),
            Self::Total => f.write_str("the connection is too old; the lease goes on"),
        }
    }
}

/// One connection.
pub(super) struct Connection {
    /// Who is at the other end.
    pub(super) peer: SocketAddr,
    /// Cancelled when the client has authenticated.
    pub(super) authenticated: CancellationToken,
    /// Cancelled when the gateway ends the connection, after [`Self::reason`].
    pub(super) ending: CancellationToken,
    /// The tasks of its channels.
    pub(super) channels: TaskTracker,
    /// What its clients sent and nobody has read.
    pub(super) meter: Arc<Meter>,
    lease: OnceLock<LeaseId>,
    reason: OnceLock<EndReason>,
    since: Instant,
    moved_ms: AtomicU64,
    open: AtomicUsize,
}

/// A channel that counts as open until this is dropped.
pub(super) struct Counted(Arc<Connection>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, gateway_bytes: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            peer,
            authenticated: CancellationToken::new(),
            ending: CancellationToken::new(),
            channels: TaskTracker::new(),
            meter: Arc::new(Meter::new(gateway_bytes)),
            lease: OnceLock::new(),
            reason: OnceLock::new(),
            since: Instant::now(),
            moved_ms: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        })
    }

    /// The lease, once the client has authenticated.
    pub(super) fn lease(&self) -> Option<&LeaseId> {
        self.lease.get()
    }

    pub(super) fn set_lease(&self, lease: LeaseId) {
        // The first stays: a connection authenticates once.
        let _ = self.lease.set(lease);
    }

    /// Counts one more channel.
    pub(super) fn count(self: &Arc<Self>) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    /// Channels that are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends the connection. The first reason counts.
    pub(super) fn end(&self, reason: EndReason) {
        let _ = self.reason.set(reason);
        self.ending.cancel();
    }

    /// Why the gateway ends it, if it does.
    pub(super) fn reason(&self) -> Option<&EndReason> {
        self.reason.get()
    }

    /// Something moved.
    pub(super) fn touch(&self) {
        let age = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(age, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for `limit`.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
            let due = self.since + moved + limit;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}
