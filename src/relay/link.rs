//! One relay: connects, serves what it is told, connects again. It never waits
//! for its users: a subscription whose queue is full is closed and marked, so
//! that its user asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use nostr_sdk::{
    ClientMessage, Event, EventBuilder, EventId, Filter, JsonUtil, Keys, RelayMessage, RelayUrl,
    SubscriptionId,
};
use rand::Rng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::Ack;
use super::connect::{Socket, connect};
use super::convert::{now, time_from};
use super::session::{MAX_EVENT, RelayOptions};
use crate::core::time::Timestamp;

/// What stands around an event in a message, at most, in bytes.
const ENVELOPE: usize = 256;

/// Bytes of events that wait in one subscription's queue, at most.
const QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// Commands that wait for one relay, at most.
pub(super) const COMMANDS: usize = 256;

/// Messages that wait to be written to one relay, and how many of these places
/// are kept for what is not a command.
const OUTGOING: usize = 64;
const OUTGOING_KEPT: usize = 16;

/// Events that wait for a relay's answer, at most.
const PENDING: usize = 1024;

/// Challenges that are answered on one connection, at most (NIP-42).
const CHALLENGES: u32 = 16;

/// What a link is told.
pub(super) enum Command {
    /// Send an event and report the relay's answer.
    Publish {
        event: Arc<Event>,
        reply: oneshot::Sender<Ack>,
    },
    /// Open a subscription.
    Subscribe {
        id: SubscriptionId,
        filter: Box<Filter>,
        sink: Sink,
    },
    /// Close a subscription.
    Unsubscribe(SubscriptionId),
    /// Close the connection for this reason.
    Reproach(String),
}

/// What a subscription gives.
pub(super) enum Item {
    /// An event, not verified in any way.
    Event(Box<Event>),
    /// There was one, larger than [`MAX_EVENT`].
    TooLarge(EventId, Timestamp),
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

/// How a link is doing.
#[derive(Clone, Debug)]
pub(super) struct LinkState {
    pub(super) connected: bool,
    pub(super) since: Timestamp,
    pub(super) connections: u64,
    pub(super) last_error: Option<String>,
}

/// All that a link's task needs.
pub(super) struct LinkTask {
    pub(super) url: String,
    pub(super) keys: Keys,
    pub(super) options: RelayOptions,
    /// Not of the set: ends when idle and when it cannot connect.
    pub(super) on_demand: bool,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) state: watch::Sender<LinkState>,
    pub(super) cancel: CancellationToken,
}

impl LinkTask {
    /// Runs until cancelled or until all handles are gone.
    pub(super) async fn run(mut self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.keep_connected() => {}
        }
    }

    async fn keep_connected(&mut self) {
        let mut wait = self.options.backoff_min;
        loop {
            let public_only = self.on_demand && !self.options.private_on_demand;
            let why = match connect(&self.url, public_only, self.options.connect_timeout).await {
                Ok(socket) => {
                    let started = Instant::now();
                    let Some(why) = self.serve(socket).await else {
                        return;
                    };
                    if started.elapsed() >= self.options.stable_after {
                        wait = self.options.backoff_min;
                    }
                    why
                }
                Err(why) => why,
            };
            tracing::debug!(relay = %self.url, %why, "not connected");
            self.note(false, Some(why.clone()));
            if self.on_demand {
                self.commands.close();
                while let Some(command) = self.commands.recv().await {
                    refuse(command, &why);
                }
                return;
            }
            if !self.refuse_for(jittered(wait), &why).await {
                return;
            }
            wait = (wait * 2).min(self.options.backoff_max);
        }
    }

    fn note(&self, connected: bool, error: Option<String>) {
        self.state.send_modify(|state| {
            if state.connected != connected {
                state.since = now();
            }
            state.connections += u64::from(connected);
            state.connected = connected;
            if error.is_some() {
                state.last_error = error;
            }
        });
    }

    /// Answers commands with `why` for that long; `false` when nobody is left.
    async fn refuse_for(&mut self, wait: Duration, why: &str) -> bool {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                command = self.commands.recv() => match command {
                    Some(command) => refuse(command, why),
                    None => return false,
                },
            }
        }
    }

    /// Serves one connection; returns why it ended, `None` when nobody is left.
    async fn serve(&mut self, socket: Socket) -> Option<String> {
        self.note(true, None);
        tracing::debug!(relay = %self.url, "connected");
        let (sink, mut stream) = socket.split();
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let writer = write(sink, outgoing, self.options.answer_timeout);
        tokio::pin!(writer);
        let mut open = Open::new(&self.url, &self.keys, out);
        let mut ping = tokio::time::interval(self.options.ping_every);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut used = Instant::now();
        loop {
            let room = open.out.capacity() > OUTGOING_KEPT && open.pending.len() < PENDING;
            let idle = used + self.options.idle_close;
            let done = tokio::select! {
                command = self.commands.recv(), if room => match command {
                    Some(command) => { used = Instant::now(); open.command(command) }
                    None => return None,
                },
                message = read(&mut stream) => {
                    heard = Instant::now();
                    message.and_then(|message| open.message(&message))
                }
                why = &mut writer => Err(why),
                _ = ping.tick() => {
                    open.sweep();
                    if heard.elapsed() > self.options.ping_every * 2 {
                        Err("the relay went silent".to_owned())
                    } else {
                        open.send(Message::Ping(Vec::new().into()))
                    }
                }
                () = tokio::time::sleep_until(idle), if self.on_demand => {
                    if open.is_idle() { return None; }
                    used = Instant::now();
                    Ok(())
                }
            };
            if let Err(why) = done {
                open.fail(&why);
                return Some(why);
            }
        }
    }
}

/// `wait`, less a random part of up to a half: relays that went down together
/// are not all tried together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn refuse(command: Command, why: &str) {
    // A subscription that is refused sees its queue end.
    if let Command::Publish { reply, .. } = command {
        let _ = reply.send(Ack::NoAnswer(why.to_owned()));
    }
}

async fn read(stream: &mut SplitStream<Socket>) -> Result<Message, String> {
    match stream.next().await {
        Some(Ok(message)) => Ok(message),
        Some(Err(e)) => Err(e.to_string()),
        None => Err("the relay closed the connection".to_owned()),
    }
}

/// Writes what is queued; returns why it stopped.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut outgoing: mpsc::Receiver<Message>,
    timeout: Duration,
) -> String {
    while let Some(message) = outgoing.recv().await {
        match tokio::time::timeout(timeout, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return e.to_string(),
            Err(_) => return "the relay does not read".to_owned(),
        }
    }
    "nothing more to write".to_owned()
}

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

struct Pending {
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
struct Open<'a> {
    url: &'a str,
    keys: &'a Keys,
    out: mpsc::Sender<Message>,
    pending: HashMap<EventId, Pending>,
    subscriptions: HashMap<SubscriptionId, Served>,
    auth: Auth,
    challenges: u32,
}

impl<'a> Open<'a> {
    fn new(url: &'a str, keys: &'a Keys, out: mpsc::Sender<Message>) -> Self {
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

    fn send(&self, message: Message) -> Result<(), String> {
        let sent = self.out.try_send(message);
        sent.map_err(|_| "the relay does not read".to_owned())
    }

    fn say(&self, message: &ClientMessage<'_>) -> Result<(), String> {
        self.send(Message::text(message.as_json()))
    }

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.subscriptions.is_empty()
    }

    /// Forgets events whose senders do not wait any more.
    fn sweep(&mut self) {
        self.pending
            .retain(|_, pending| pending.replies.iter().any(|reply| !reply.is_closed()));
    }

    /// Tells all who wait that there will be no answer.
    fn fail(&mut self, why: &str) {
        for (_, pending) in self.pending.drain() {
            for reply in pending.replies {
                let _ = reply.send(Ack::NoAnswer(why.to_owned()));
            }
        }
    }

    fn command(&mut self, command: Command) -> Result<(), String> {
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

    fn message(&mut self, message: &Message) -> Result<(), String> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Close(_) => return Err("the relay closed the connection".to_owned()),
            _ => return Ok(()),
        };
        let Ok(parsed) = RelayMessage::from_json(text) else {
            // Some relays send messages of their own; they mean nothing here.
            tracing::trace!(relay = %self.url, bytes = text.len(), "not a message of NIP-01");
            return Ok(());
        };
        match parsed {
            RelayMessage::Event {
                subscription_id,
                event,
            } => {
                let size = text.len();
                let item = if size > MAX_EVENT + ENVELOPE {
                    Item::TooLarge(event.id, time_from(event.created_at))
                } else {
                    Item::Event(Box::new(event.into_owned()))
                };
                self.give(&subscription_id, item, size)
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
        let Some(open) = self.subscriptions.get(id) else {
            return Ok(());
        };
        let size = if matches!(item, Item::Event(_)) {
            size
        } else {
            0
        };
        let queued = open.sink.queued.fetch_add(size, Ordering::Relaxed);
        let full = queued.saturating_add(size) > QUEUED_BYTES;
        if !full && open.sink.items.try_send((item, size)).is_ok() {
            return Ok(());
        }
        open.sink.lost.store(true, Ordering::Relaxed);
        self.close(id)
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
            let _ = open.sink.items.try_send((Item::Closed(reason), 0));
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
