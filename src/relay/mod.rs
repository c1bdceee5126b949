//! Nostr in and out. One session for each relay, with reconnect and backoff of
//! its own, so that a relay that is down, slow or lying harms nothing but
//! itself. Both sides use it: the daemon and the consumer.
//!
//! * [`Inbox`](inbox::Inbox): gift wraps to us -> verified, unwrapped, deduped
//!   by rumor id, stored by the caller's [`InboxStore`], and only then handed on.
//! * [`direct`]: the older way, NIP-04, through the same inbox and outbox.
//! * [`Outbox`](outbox::Outbox): messages that the caller's [`OutboxStore`]
//!   holds are wrapped and sent until a relay confirms them.
//! * [`Relays::publish`](session::Relays::publish): one event to many relays,
//!   with each relay's own answer.

mod connect;
mod conversations;
pub mod convert;
pub mod direct;
pub mod inbox;
mod link;
pub mod memory;
mod open;
mod options;
pub mod outbox;
mod patience;
pub mod pow;
pub mod publisher;
mod reader;
pub mod receipt;
mod seen;
pub mod session;
mod subscription;
mod workers;
pub mod wrap;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::ids::{EventId, PublicKey};
use crate::core::time::Timestamp;
pub use crate::protocol::channel::Channel;
#[doc(hidden)]
pub use open::hear;

/// A message to us, verified: the seal's signer is the rumor's author.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// How it came.
    #[serde(default, skip_serializing_if = "Channel::is_usual")]
    pub channel: Channel,
    /// Id of the rumor (kind 14): the same however often it is wrapped. By
    /// NIP-04 the event's own id.
    pub rumor: EventId,
    /// Id of the event that it came in, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrap: Option<EventId>,
    /// Who wrote it.
    pub sender: PublicKey,
    /// The rumor's own time; the outer stamps are back-dated.
    pub written_at: Timestamp,
    /// When it got here.
    pub received_at: Timestamp,
    /// The relay that delivered it first.
    pub relay: String,
    /// The plaintext, at most [`MAX_PLAINTEXT`] bytes.
    pub body: String,
}

/// Without the text, which may hold a token.
impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("rumor", &self.rumor)
            .field("sender", &self.sender)
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

/// Longest plaintext that is handed on, in bytes: what NIP-44 can carry.
pub const MAX_PLAINTEXT: usize = 65_535;

/// Why an event was not handed on; for counting and for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Larger than [`MAX_EVENT`](session::MAX_EVENT).
    TooLarge,
    /// Without the proof of work (NIP-13) that is asked for.
    NoWork,
    /// Not a gift wrap to us.
    NotForUs,
    /// Id or signature of the wrap is wrong.
    BadSignature,
    /// It does not decrypt, or what comes out is not a seal with a rumor.
    Undecryptable,
    /// The seal's signer is not the rumor's author (NIP-17).
    ForgedAuthor,
    /// Not a kind 14 rumor.
    WrongKind,
    /// Expired (NIP-40).
    Expired,
    /// Had it before.
    Duplicate,
}

/// The caller's store failed; the message is not lost: the relay still has it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(pub String);

/// Where messages to us are kept. All writes are durable when they return.
#[async_trait]
pub trait InboxStore: Send + Sync {
    /// Stores a message and remembers the gift wrap (outer event id) that it
    /// came in; `true` if it is to be handed on. A rumor that is known is not
    /// stored again; whether it is handed on when its author wrapped it anew
    /// (who does that asks for the answer again) is the store's to say. Only
    /// after this returns is the message handed on, and messages stored but not
    /// handed on before a crash are the caller's to find at start. A message that
    /// may be lost in a crash, because a relay brings it again and nothing came
    /// of it, the store may leave to whoever takes it.
    async fn store(&self, message: &Incoming, wrap: &EventId) -> Result<bool, StoreError>;

    /// Whether this gift wrap (outer event id) was seen: saves the decryption.
    /// A store may forget old ones: deduping is by rumor id.
    async fn seen_wrap(&self, wrap: &EventId) -> bool;

    /// When this relay was last known to be connected and caught up.
    async fn last_seen(&self, relay: &str) -> Option<Timestamp>;

    /// Notes that this relay was connected and caught up at `at`.
    async fn set_last_seen(&self, relay: &str, at: Timestamp) -> Result<(), StoreError>;
}

/// A message that has to reach somebody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The caller's name for it, unique for ever.
    pub id: String,
    /// How it goes.
    #[serde(default, skip_serializing_if = "Channel::is_usual")]
    pub channel: Channel,
    /// To whom.
    pub to: PublicKey,
    /// The plaintext.
    pub body: String,
    /// Relays to use besides the receiver's own (kind 10050): the one that the
    /// request came from.
    pub relays: Vec<String>,
    /// NIP-40 expiration, put on the gift wrap; after it the message is given up.
    pub expires_at: Timestamp,
    /// The rumor's time: the same for each attempt, so that all attempts are
    /// one rumor and the receiver sees one message.
    pub written_at: Timestamp,
    /// Attempts so far.
    pub attempts: u32,
    /// Not to be sent before this.
    pub next_attempt: Timestamp,
}

/// Without the text, which may hold a token.
impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("id", &self.id)
            .field("to", &self.to)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Where messages wait until a relay has confirmed them.
#[async_trait]
pub trait OutboxStore: Send + Sync {
    /// Messages that are due at `now`, oldest first, at most `limit`, but for
    /// those in work (by [`Outgoing::id`]).
    async fn due(
        &self,
        now: Timestamp,
        limit: usize,
        in_work: &HashSet<String>,
    ) -> Result<Vec<Outgoing>, StoreError>;

    /// When the next message is due, if any waits.
    async fn next_due(&self) -> Option<Timestamp>;

    /// A relay has confirmed it: done.
    async fn confirmed(&self, id: &str, relay: &str, at: Timestamp) -> Result<(), StoreError>;

    /// No relay confirmed it this time.
    async fn postponed(&self, id: &str, attempts: u32, until: Timestamp) -> Result<(), StoreError>;

    /// It expired unconfirmed.
    async fn given_up(&self, id: &str, at: Timestamp) -> Result<(), StoreError>;
}

/// One relay's answer to one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// `OK true`.
    Accepted,
    /// `OK false`, with the relay's reason.
    Refused(String),
    /// No answer in time, or no connection.
    NoAnswer(String),
}
