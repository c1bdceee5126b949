//! One key's messages on the relays, for one command.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nostr_sdk::Keys;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::client::{Client, Progress};
use super::super::error::{ClientError, Kind};
use super::fit::Fit;
use crate::core::ids::{EventId, PublicKey};
use crate::core::time::Timestamp;
use crate::protocol::paygress::reply::Reply;
use crate::relay::inbox::{Inbox, InboxOptions};
use crate::relay::memory::MemoryInbox;
use crate::relay::session::{RelayOptions, Relays, normalise};
use crate::relay::{Ack, Incoming, direct};

/// How long relays may take to connect and to hand over what they have stored.
const READY: Duration = Duration::from_secs(8);

/// How long to wait before a request that no relay took is sent again.
const AGAIN: Duration = Duration::from_secs(3);

/// A reply may bear a stamp that is so many seconds older than the request:
/// clocks differ.
const SKEW: u64 = 90;

/// A key's messages.
pub(super) struct Line {
    keys: Keys,
    relays: Relays,
    _inbox: Inbox,
    messages: mpsc::Receiver<Incoming>,
}

/// A request, ready to be sent: each attempt is the same event.
pub(super) struct Request<'a> {
    pub(super) to: PublicKey,
    pub(super) body: &'a str,
    pub(super) written_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// What came of waiting.
pub(super) struct Heard {
    /// The reply, and whether all of it is as expected.
    pub(super) reply: Option<(Reply, bool)>,
    /// Ids of all that the provider said.
    pub(super) ids: BTreeSet<EventId>,
    /// Whether a relay may have the request.
    pub(super) sent: bool,
}

impl Line {
    /// Listens as `keys` at our relays and these.
    pub(super) async fn open(
        client: &Client,
        keys: Keys,
        also: &[String],
    ) -> Result<Self, ClientError> {
        let no_relay = |why: String| {
            ClientError::new(
                Kind::Network,
                "no_relay",
                why,
                "Look at the network and the relays (satlet config get relays).",
            )
        };
        // What a stranger calls a relay may be none.
        let also = also.iter().filter(|url| normalise(url).is_ok());
        let urls: Vec<String> = client.relays.iter().chain(also).cloned().collect();
        let relays = Relays::start(keys.clone(), &urls, RelayOptions::default())
            .map_err(|error| no_relay(error.to_string()))?;
        let options = InboxOptions {
            direct: true,
            ..InboxOptions::default()
        };
        let store = Arc::new(MemoryInbox::new());
        let (inbox, messages) = Inbox::start(&relays, keys.clone(), store, options);
        if !inbox.wait_ready(READY).await {
            return Err(no_relay("no relay can be listened to".to_owned()));
        }
        Ok(Self {
            keys,
            relays,
            _inbox: inbox,
            messages,
        })
    }

    /// What the relays had stored of this provider, as far as it is here.
    pub(super) fn stored(&mut self, of: &PublicKey) -> Vec<Incoming> {
        let mut all = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            if message.sender == *of {
                all.push(message);
            }
        }
        all
    }

    /// Sends a request once (the same event again only while no relay has it)
    /// and waits for its reply. What is stale is never taken for it.
    pub(super) async fn ask(
        &mut self,
        request: &Request<'_>,
        how: &Asking<'_>,
        progress: Progress<'_>,
    ) -> Result<Heard, ClientError> {
        let event = self.event(request)?;
        let mut heard = Heard {
            reply: None,
            ids: BTreeSet::new(),
            sent: !how.send,
        };
        let Self {
            relays, messages, ..
        } = self;
        let mut sending = std::pin::pin!(publish(relays, &event, progress));
        let mut waiting = how.send;
        let end = Instant::now() + how.wait;
        loop {
            tokio::select! {
                message = messages.recv() => {
                    let Some(message) = message else { break };
                    if message.sender != request.to || !heard.ids.insert(message.rumor) {
                        continue;
                    }
                    heed(&mut heard, &message, request, how);
                    if matches!(heard.reply, Some((_, true))) {
                        break;
                    }
                }
                taken = &mut sending, if waiting => {
                    waiting = false;
                    heard.sent |= taken;
                    if !taken {
                        break;
                    }
                }
                () = tokio::time::sleep_until(end) => break,
            }
        }
        // While it was still being published a relay may have it.
        heard.sent |= waiting || heard.reply.is_some();
        Ok(heard)
    }
}

impl Line {
    /// Sends a request and does not wait for its reply; whether a relay has it.
    pub(super) async fn hand_over(
        &self,
        request: &Request<'_>,
        wait: Duration,
        progress: Progress<'_>,
    ) -> Result<bool, ClientError> {
        let event = self.event(request)?;
        let sending = publish(&self.relays, &event, progress);
        // Where it is not known, a relay may have it.
        Ok(tokio::time::timeout(wait, sending).await.unwrap_or(true))
    }

    fn event(&self, request: &Request<'_>) -> Result<nostr_sdk::Event, ClientError> {
        let (written, expires) = (request.written_at, request.expires_at);
        direct::write(&self.keys, &request.to, request.body, written, expires)
            .map_err(|error| ClientError::internal(error.to_string()))
    }
}

/// How a reply is waited for.
pub(super) struct Asking<'a> {
    /// Whether to send the request too.
    pub(super) send: bool,
    /// Messages that were there before.
    pub(super) stale: &'a BTreeSet<EventId>,
    /// Whether a reply can be the one.
    pub(super) fits: &'a (dyn Fn(&Reply) -> Fit + Send + Sync),
    /// How long.
    pub(super) wait: Duration,
}

/// Keeps a message if it can be the reply.
fn heed(heard: &mut Heard, message: &Incoming, request: &Request<'_>, how: &Asking<'_>) {
    let old = message.written_at.plus_secs(SKEW) < request.written_at;
    if old || how.stale.contains(&message.rumor) {
        return;
    }
    let Some(reply) = Reply::read(&message.body) else {
        return;
    };
    match (how.fits)(&reply) {
        Fit::Answer => heard.reply = Some((reply, true)),
        Fit::Perhaps if heard.reply.is_none() => heard.reply = Some((reply, false)),
        Fit::Perhaps | Fit::No => {}
    }
}

/// Publishes until a relay has it; `false` if all refuse it. The same event
/// again is the same message: a provider that has it does not see it twice.
async fn publish(relays: &Relays, event: &nostr_sdk::Event, progress: Progress<'_>) -> bool {
    loop {
        let acks = relays.publish(event, &relays.urls()).await;
        if acks.values().any(|ack| *ack == Ack::Accepted) {
            return true;
        }
        if acks.values().all(|ack| matches!(ack, Ack::Refused(_))) {
            return false;
        }
        progress("no relay took the request yet; it is sent again");
        tokio::time::sleep(AGAIN).await;
    }
}
