//! Messages to us.

use std::sync::Arc;
use std::time::Duration;

use nostr_sdk::Keys;
use tokio::sync::mpsc;

use super::session::Relays;
use super::{Dropped, InboxStore, Incoming};

/// Times and bounds of the inbox.
#[derive(Clone, Debug)]
pub struct InboxOptions {
    /// How far to look back on a relay that was never seen before.
    pub first_look_back: Duration,
    /// Added to the two days by which stamps may be set back (NIP-59): clocks
    /// differ.
    pub margin: Duration,
    /// Events asked for in one page; a relay may send fewer.
    pub page: usize,
    /// How long a relay may be silent within a page.
    pub page_timeout: Duration,
    /// Events of one relay that are worked on at once.
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
            first_look_back: secs(3 * 24 * 60 * 60),
            margin: secs(60 * 60),
            page: 500,
            page_timeout: secs(10),
            parallel: 16,
            queue: 256,
            advance_every: secs(30),
            recheck_every: secs(60 * 60),
            retry: Duration::from_millis(250),
        }
    }
}

/// Reads messages to us from all relays of the set; stops when it is dropped.
pub struct Inbox {
    _p: (),
}

impl Inbox {
    /// Starts to read. Messages come out of the receiver once each, stored
    /// before; while it is full the relays wait.
    pub fn start(
        _relays: &Relays,
        _keys: Keys,
        _store: Arc<dyn InboxStore>,
        options: InboxOptions,
    ) -> (Self, mpsc::Receiver<Incoming>) {
        let (_tx, rx) = mpsc::channel(options.queue.max(1));
        (Self { _p: () }, rx)
    }

    /// How many events were dropped for this reason.
    pub fn dropped(&self, _reason: Dropped) -> u64 {
        0
    }

    /// Waits until at least one relay is connected with all its stored messages
    /// handed on, or the timeout; `true` if so. What a consumer waits for
    /// before it sends a request.
    pub async fn wait_ready(&self, _timeout: Duration) -> bool {
        false
    }

    /// Stops reading and waits until nothing is worked on.
    pub async fn shutdown(&self) {}
}
