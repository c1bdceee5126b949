//! Settings, states and names of relays.

use std::time::Duration;

use nostr_sdk::Event;

use crate::core::time::Timestamp;

/// Times and bounds of sessions.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// For name lookup, TCP, TLS and WebSocket handshake together.
    pub connect_timeout: Duration,
    /// For the answer to one published event, connection included.
    pub answer_timeout: Duration,
    /// First wait before connecting again; doubles up to `backoff_max`, each
    /// time with a random part.
    pub backoff_min: Duration,
    /// Longest wait before connecting again.
    pub backoff_max: Duration,
    /// A connection that held this long makes the backoff start over.
    pub stable_after: Duration,
    /// How often to ping; a relay silent for twice that is taken for gone.
    pub ping_every: Duration,
    /// A relay that is not in the set is closed when idle this long.
    pub idle_close: Duration,
    /// Connections to relays that are not in the set, at most.
    pub on_demand_max: usize,
    /// Once one relay has answered a fetch in full, the others have this long.
    pub laggard: Duration,
    /// Whether relays that are not in the set may have addresses that are not
    /// public. They are named by strangers (kind 10050): leave it off outside tests.
    pub private_on_demand: bool,
}

impl Default for RelayOptions {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            connect_timeout: secs(5),
            answer_timeout: secs(10),
            backoff_min: secs(1),
            backoff_max: secs(60),
            stable_after: secs(20),
            ping_every: secs(25),
            idle_close: secs(60),
            on_demand_max: 16,
            laggard: secs(2),
            private_on_demand: false,
        }
    }
}

/// What is wrong with a relay of the set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Not a `ws://` or `wss://` URL.
    #[error("not a relay URL: {0}")]
    BadUrl(String),
}

/// How a relay of the set is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its URL, normalised.
    pub url: String,
    /// Whether there is a connection.
    pub connected: bool,
    /// Since when it is so.
    pub since: Timestamp,
    /// Connections made so far.
    pub connections: u64,
    /// What went wrong last, kept after it is well again.
    pub last_error: Option<String>,
}

/// What one relay answered to a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayRead {
    /// The relay, as the caller named it.
    pub relay: String,
    /// Events that match the filter, ids and signatures checked, newest first.
    pub events: Vec<Event>,
    /// Whether the relay said that this is all (EOSE).
    pub complete: bool,
}

/// A relay's URL in one form: `ws` or `wss`, lower-case host, no fragment, no
/// trailing slash where the path is empty.
///
/// # Errors
/// Not a relay URL.
pub fn normalise(url: &str) -> Result<String, RelayError> {
    let bad = || RelayError::BadUrl(url.chars().take(200).collect());
    let mut parsed = url::Url::parse(url.trim()).map_err(|_| bad())?;
    let no_secret = parsed.username().is_empty() && parsed.password().is_none();
    if !matches!(parsed.scheme(), "ws" | "wss") || parsed.host_str().is_none() || !no_secret {
        return Err(bad());
    }
    parsed.set_fragment(None);
    let text = parsed.to_string();
    let bare = parsed.path() == "/" && parsed.query().is_none();
    Ok(if bare {
        text.trim_end_matches('/').to_owned()
    } else {
        text
    })
}
