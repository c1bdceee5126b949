//! What is said on one open connection: commands to the relay, its messages to
//! whoever waits for them, and who we are (NIP-42).

use std::collections::HashMap;
use std::sync::Arc;

use nostr_sdk::{
    ClientMessage, Event, EventBuilder, EventId, Filter, JsonUtil, Keys, RelayMessage, RelayUrl,
    SubscriptionId,
};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;

use super::link::Command;
use super::session::MAX_EVENT;
use super::subscription::{Item, Sink, Subscription};
use super::{Ack, Dropped};
use crate::core::time::Timestamp;

/// What stands around an event in a message, at most, in bytes.
const ENVELOPE: usize = 256;

/// Messages that wait in [`hear`], at most.
const HEARD: usize = 64;

/// Challenges that are answered on one connection, at most (NIP-42).
const CHALLENGES: u32 = 16;

/// Who we are to the relay (NIP-42).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    /// It has not asked, or refused us.
    No,
    /// Our answer, by this id, is on its way.
    Sent(EventId),
    /// It knows.
    Yes,
}

pub(super) struct Pending {
    event: Arc<Event>,
    replies: Vec<oneshot::Sender<Ack>>,
    wants_auth: bool,
    repeated: bool,
}

struct Served {
    filter: Box<Filter>,
    sink: Sink,
    wants_auth: bool,
    repeated: bool,
}

/// One open connection.
pub(super) struct Open<'a> {
    url: &'a str,
    keys: &'a Keys,
    pub(super) out: mpsc::Sender<Message>,
    pub(super) pending: HashMap<EventId, Pending>,
    subscriptions: HashMap<SubscriptionId, Served>,
    auth: Auth,
    challenges: u32,
}

impl<'a> Open<'a> {
    pub(super) fn new(url: &'a str, keys: &'a Keys, out: mpsc::Sender<Message>) -> Self {
        Self {
            url,
            keys,
            out,
            pending: HashMap::new(),
            subscriptions: HashMap::new(),
            auth: Auth::No,
            challenges: 0,
        }
    }

    pub(super) fn send(&self, message: Message) -> Result<(), String> {
        let sent = self.out.try_send(message);
        sent.map_err(|_| "the relay does not read".to_owned())
    }

    fn say(&self, message: &ClientMessage<'_>) -> Result<(), String> {
        self.send(Message::text(message.as_json()))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.subscriptions.is_empty()
    }

    /// Forgets events whose senders do not wait any more.
    pub(super) fn sweep(&mut self) {
        self.pending
            .retain(|_, pending| pending.replies.iter().any(|reply| !reply.is_closed()));
    }

    /// Tells all who wait that there will be no answer.
    pub(super) fn fail(&mut self, why: &str) {
        for (_, pending) in self.pending.drain() {
            for reply in pending.replies {
                let _ = reply.send(Ack::NoAnswer(why.to_owned()));
            }
        }
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Publish { reply, .. } if reply.is_closed() => Ok(()),
            Command::Publish { event, reply } => self.publish(event, reply),
            Command::Subscribe { id, filter, sink } => {
                let request = ClientMessage::req(id.clone(), vec![(*filter).clone()]);
                let said = self.say(&request);
                let open = Served {
                    filter,
                    sink,
                    wants_auth: false,
                    repeated: false,
                };
                self.subscriptions.insert(id, open);
                said
            }
            Command::Unsubscribe(id) => self.close(&id),
            Command::Reproach(why) => Err(why),
        }
    }

    fn publish(&mut self, event: Arc<Event>, reply: oneshot::Sender<Ack>) -> Result<(), String> {
        if let Some(pending) = self.pending.get_mut(&event.id) {
            pending.replies.push(reply);
            return Ok(());
        }
        let said = self.say(&ClientMessage::Event(std::borrow::Cow::Borrowed(&event)));
        let pending = Pending {
            event: event.clone(),
            replies: vec![reply],
            wants_auth: false,
            repeated: false,
        };
        self.pending.insert(event.id, pending);
        said
    }

    fn close(&mut self, id: &SubscriptionId) -> Result<(), String> {
        match self.subscriptions.remove(id) {
            Some(_) => self.say(&ClientMessage::close(id.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn message(&mut self, message: &Message) -> Result<(), String> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Close(_) => return Err("the relay closed the connection".to_owned()),
            _ => return Ok(()),
        };
        // What is too large is not taken apart.
        let parsed = match text.len() <= MAX_EVENT + ENVELOPE {
            true => RelayMessage::from_json(text).map_err(|_| Dropped::Undecryptable),
            false => Err(Dropped::TooLarge),
        };
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(why) => {
                return match unreadable(text, why) {
                    Some((id, item)) => self.give(&id, item, 0),
                    // Some relays send messages of their own; they mean nothing here.
                    None => Ok(()),
                };
            }
        };
        match parsed {
            RelayMessage::Event {
                subscription_id,
                event,
            } => {
                let item = Item::Event(Box::new(event.into_owned()));
                self.give(&subscription_id, item, text.len())
            }
            RelayMessage::EndOfStoredEvents(id) => self.give(&id, Item::Eose, 0),
            RelayMessage::Closed {
                subscription_id,
                message,
            } => self.closed(&subscription_id, &message),
            RelayMessage::Ok {
                event_id,
                status,
                message,
            } => self.answered(event_id, status, &message),
            RelayMessage::Auth { challenge } => self.challenged(&challenge),
            RelayMessage::Notice(notice) => {
                let notice: String = notice.chars().take(200).collect();
                tracing::debug!(relay = %self.url, ?notice, "notice");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn give(&mut self, id: &SubscriptionId, item: Item, size: usize) -> Result<(), String> {
        match self.subscriptions.get(id) {
            Some(open) if !open.sink.put(item, size) => self.close(id),
            _ => Ok(()),
        }
    }

    fn closed(&mut self, id: &SubscriptionId, reason: &str) -> Result<(), String> {
        let auth = self.auth;
        let Some(open) = self.subscriptions.get_mut(id) else {
            return Ok(());
        };
        if wants_auth(reason) && auth != Auth::No && !open.repeated {
            open.wants_auth = true;
            return self.repeat_if_known();
        }
        let reason: String = reason.chars().take(200).collect();
        if let Some(open) = self.subscriptions.remove(id) {
            open.sink.put(Item::Closed(reason), 0);
        }
        Ok(())
    }

    fn answered(&mut self, id: EventId, ok: bool, reason: &str) -> Result<(), String> {
        if self.auth == Auth::Sent(id) {
            return self.authenticated(ok);
        }
        let auth = self.auth;
        let Some(pending) = self.pending.get_mut(&id) else {
            return Ok(());
        };
        if !ok && wants_auth(reason) && auth != Auth::No && !pending.repeated {
            pending.wants_auth = true;
            return self.repeat_if_known();
        }
        let ack = if ok || reason.starts_with("duplicate:") {
            Ack::Accepted
        } else {
            Ack::Refused(reason.chars().take(200).collect())
        };
        self.reply(&id, &ack);
        Ok(())
    }

    fn reply(&mut self, id: &EventId, ack: &Ack) {
        if let Some(pending) = self.pending.remove(id) {
            for reply in pending.replies {
                let _ = reply.send(ack.clone());
            }
        }
    }

    fn challenged(&mut self, challenge: &str) -> Result<(), String> {
        self.challenges += 1;
        if self.challenges > CHALLENGES {
            return Err("the relay asks who we are again and again".to_owned());
        }
        let url = RelayUrl::parse(self.url).map_err(|e| e.to_string())?;
        let event = EventBuilder::auth(challenge, url).sign_with_keys(self.keys);
        let event = event.map_err(|e| e.to_string())?;
        self.auth = Auth::Sent(event.id);
        self.say(&ClientMessage::auth(event))
    }

    fn authenticated(&mut self, ok: bool) -> Result<(), String> {
        if ok {
            self.auth = Auth::Yes;
            return self.repeat_if_known();
        }
        self.auth = Auth::No;
        let waiting = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.wants_auth);
        let waiting: Vec<EventId> = waiting.map(|(id, _)| *id).collect();
        let ack = Ack::Refused("auth-required: the relay does not accept our key".to_owned());
        for id in waiting {
            self.reply(&id, &ack);
        }
        self.subscriptions.retain(|_, open| !open.wants_auth);
        Ok(())
    }

    /// Sends again what the relay would not take before it knew us.
    fn repeat_if_known(&mut self) -> Result<(), String> {
        if self.auth != Auth::Yes {
            return Ok(());
        }
        let mut again = Vec::new();
        for pending in self.pending.values_mut().filter(|p| p.wants_auth) {
            (pending.wants_auth, pending.repeated) = (false, true);
            again.push(ClientMessage::event((*pending.event).clone()));
        }
        for (id, open) in self.subscriptions.iter_mut().filter(|(_, o)| o.wants_auth) {
            (open.wants_auth, open.repeated) = (false, true);
            again.push(ClientMessage::req(id.clone(), vec![(*open.filter).clone()]));
        }
        again.iter().try_for_each(|message| self.say(message))
    }
}

fn wants_auth(reason: &str) -> bool {
    reason.starts_with("auth-required")
}

/// An event that a relay has stored though it is not one for us, as one with an
/// empty tag. It counts where a page is counted: strangers may not hide other
/// people's messages behind a page full of such.
fn unreadable(text: &str, why: Dropped) -> Option<(SubscriptionId, Item)> {
    #[derive(serde::Deserialize)]
    struct Stamp {
        id: EventId,
        created_at: u64,
    }
    let (kind, id, event): (String, String, Stamp) = serde_json::from_str(text).ok()?;
    let at = Timestamp::from_secs(event.created_at);
    let item = Item::Unreadable(event.id, at, why);
    (kind == "EVENT").then(|| (SubscriptionId::new(id), item))
}

/// Gives `texts`, as one relay would send them, to a connection with one
/// subscription, `s`, and no answer to send. Returns how many items came out of
/// the subscription, or why the connection was closed. For tests.
///
/// # Errors
/// What the relay is reproached with.
#[doc(hidden)]
pub fn hear<'t>(keys: &Keys, texts: impl IntoIterator<Item = &'t str>) -> Result<usize, String> {
    let (out, mut written) = mpsc::channel(HEARD);
    let (commands, _) = mpsc::channel(1);
    let mut open = Open::new("wss://relay.example.org", keys, out);
    let (mut subscription, command) = Subscription::new(Filter::new(), HEARD, commands);
    if let Command::Subscribe { filter, sink, .. } = command {
        let id = SubscriptionId::new("s");
        open.command(Command::Subscribe { id, filter, sink })?;
    }
    let mut items = 0_usize;
    for text in texts {
        open.message(&Message::text(text))?;
        while written.try_recv().is_ok() {}
        while let Some(item) = subscription.try_next() {
            items = items.saturating_add(1);
            if let Item::Closed(reason) = item {
                debug_assert!(reason.chars().count() <= 200);
            }
        }
    }
    Ok(items)
}
