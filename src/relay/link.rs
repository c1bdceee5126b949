//! One relay: connects, serves what it is told, connects again. It never waits
//! for its users: a subscription whose queue is full is closed and marked, so
//! that its user asks again.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use nostr_sdk::{Event, Filter, Keys, SubscriptionId};
use rand::Rng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::Ack;
use super::connect::{Socket, connect};
use super::convert::now;
use super::open::Open;
use super::session::RelayOptions;
use super::subscription::Sink;
use crate::core::time::Timestamp;

/// Commands that wait for one relay, at most.
pub(super) const COMMANDS: usize = 256;

/// Messages that wait to be written to one relay, and how many of these places
/// are kept for what is not a command.
const OUTGOING: usize = 64;
const OUTGOING_KEPT: usize = 16;

/// Events that wait for a relay's answer, at most.
const PENDING: usize = 1024;

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
        let known = self.state.borrow().last_error == error;
        match &error {
            Some(why) if !known && !self.on_demand => {
                tracing::warn!(relay = %self.url, %why, "not connected to a relay");
            }
            Some(why) => tracing::debug!(relay = %self.url, %why, "not connected to a relay"),
            None if self.on_demand => tracing::debug!(relay = %self.url, "connected to a relay"),
            None => tracing::info!(relay = %self.url, "connected to a relay"),
        }
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
