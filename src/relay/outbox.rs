//! Messages from us.

use std::sync::Arc;
use std::time::Duration;

use nostr_sdk::Keys;

use super::OutboxStore;
use super::session::Relays;

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
            parallel: 32,
            lookup_timeout: secs(3),
            lookup_keep: secs(300),
            linger: secs(3),
        }
    }
}

/// Sends what the store holds until a relay confirms it; stops when it is dropped.
pub struct Outbox {
    _p: (),
}

impl Outbox {
    /// Starts to send what is due.
    pub fn start(
        _relays: &Relays,
        _keys: Keys,
        _store: Arc<dyn OutboxStore>,
        _options: OutboxOptions,
    ) -> Self {
        Self { _p: () }
    }

    /// Says that something new was stored.
    pub fn nudge(&self) {}

    /// A handle for saying so from elsewhere.
    pub fn nudger(&self) -> Nudger {
        Nudger {
            notify: Arc::new(tokio::sync::Notify::new()),
        }
    }

    /// Stops: attempts that run are given up, the store still has the messages.
    pub async fn shutdown(&self) {}
}

/// Wakes an [`Outbox`].
#[derive(Clone)]
pub struct Nudger {
    notify: Arc<tokio::sync::Notify>,
}

impl Nudger {
    /// Says that something new was stored.
    pub fn nudge(&self) {
        self.notify.notify_one();
    }
}
