//! What the client needs of the relays. [`RelayPost`](super::relay_post::RelayPost)
//! is the real one; tests put a script in its place.

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::core::ids::PublicKey;
use crate::core::time::Timestamp;
use crate::protocol::heartbeat::Heartbeat;
use crate::protocol::offer::Offer;
use crate::relay::{Ack, Incoming};

/// A message to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// To whom.
    pub to: PublicKey,
    /// The plaintext.
    pub body: String,
    /// The rumor's time: the same for each attempt.
    pub written_at: Timestamp,
    /// Where the receiver reads, besides its kind 10050 and our own relays.
    pub relays: Vec<String>,
}

/// An offer that was found, checked: its author is the provider in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The offer.
    pub offer: Offer,
    /// When it was published.
    pub published_at: Timestamp,
    /// The provider's newest heartbeat, if there is one.
    pub heartbeat: Option<Heartbeat>,
}

/// Why the relays could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostError(pub String);

/// Nostr, as the client sees it.
#[async_trait]
pub trait Post: Send + Sync {
    /// Starts to listen for messages to us, stored ones of the last three days
    /// first. Called once, before anything is sent. Messages are handed on
    /// until the receiver is dropped.
    ///
    /// # Errors
    /// No relay is set.
    async fn listen(&self) -> Result<mpsc::Receiver<Incoming>, PostError>;

    /// Wraps a message anew and sends it; each relay's own answer.
    async fn send(&self, letter: &Letter) -> Vec<(String, Ack)>;

    /// Tells our relays where we read messages (kind 10050).
    async fn announce(&self) -> Vec<(String, Ack)>;

    /// Asks our relays for offers and heartbeats.
    ///
    /// # Errors
    /// No relay could be asked.
    async fn discover(&self) -> Result<Vec<Found>, PostError>;
}
