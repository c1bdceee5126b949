//! The state of one connection, and what its requests do to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::keys::PublicKey;
use russh::server::{Msg, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::channel::Out;
use super::connection::{Connection, Counted};
use super::host_key::openssh;
use super::input::Input;
use super::server::{Entrance, Shared};
use super::{Door, session};
use crate::compute::{ExecCommand, ExecRequest, TtySize};

/// Names longer than this are no lease's.
const MAX_USER: usize = 64;

/// Passwords longer than this are no lease's.
const MAX_PASSWORD: usize = 256;

/// How long the provider may take to say who may enter.
const ASK: Duration = Duration::from_secs(5);

/// Environment variables of one session, and bytes in each.
const MAX_ENV: usize = 32;
const MAX_ENV_BYTES: usize = 1024;

/// Signals that wait for a command to start.
const SIGNALS: usize = 16;

/// One connection: who it is and what it has open.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Arc<Connection>,
    pub(super) entrance: Entrance,
    pub(super) door: Option<Door>,
    /// For the log: the last name that was tried, and how many keys or passwords.
    tried: (String, u32),
    pub(super) channels: HashMap<ChannelId, Open>,
}

/// A channel that the client has open.
pub(super) struct Open {
    pub(super) input: Arc<Input>,
    _cancel: DropGuard,
    _counted: Counted,
    pub(super) token: CancellationToken,
    pub(super) size: watch::Sender<Option<TtySize>>,
    pub(super) signals: mpsc::Sender<i32>,
    /// Before its command is started.
    pub(super) waiting: Option<Waiting>,
}

pub(super) struct Waiting {
    pub(super) out: Out,
    size: watch::Receiver<Option<TtySize>>,
    signals: mpsc::Receiver<i32>,
    env: Vec<(String, String)>,
}

impl Client {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Arc<Connection>,
        entrance: Entrance,
    ) -> Self {
        Self {
            shared,
            connection,
            entrance,
            door: None,
            tried: (String::new(), 0),
            channels: HashMap::new(),
        }
    }

    /// Asks the provider. One path for every refusal.
    pub(super) async fn ask(&self, user: &str, key: &PublicKey) -> Option<Door> {
        if self.entrance != Entrance::Main {
            return None;
        }
        let user = if user.len() <= MAX_USER { user } else { "" };
        let key = openssh(key);
        let asking = self.shared.doors.open(user, &key);
        tokio::time::timeout(ASK, asking).await.ok().flatten()
    }

    /// Asks the provider whether a password opens this entrance. Somebody who
    /// guesses is not listened to for a while.
    pub(super) async fn ask_password(&self, user: &str, password: &str) -> Option<Door> {
        let Entrance::Port(port) = self.entrance else {
            return None;
        };
        let fits = user.len() <= MAX_USER && password.len() <= MAX_PASSWORD;
        let (gate, ip) = (&self.shared.gate, self.connection.peer.ip());
        if !fits || !gate.may_guess(ip, Instant::now()) {
            return None;
        }
        let asking = self.shared.doors.open_port(port, user, password);
        let door = tokio::time::timeout(ASK, asking).await.ok().flatten();
        if door.is_none() {
            gate.guessed_wrong(ip, Instant::now());
        }
        door
    }

    pub(super) fn note_try(&mut self, user: &str) {
        self.tried.0 = user.chars().take(MAX_USER).collect();
        self.tried.1 = self.tried.1.saturating_add(1);
    }

    /// Makes room for one more channel, where there is any.
    pub(super) fn open(
        &mut self,
        channel: Channel<Msg>,
    ) -> Result<(ChannelId, Open), ChannelOpenFailure> {
        self.channels.retain(|_, open| !open.token.is_cancelled());
        if self.connection.ending.is_cancelled() || self.door.is_none() {
            return Err(ChannelOpenFailure::AdministrativelyProhibited);
        }
        let limits = &self.shared.limits;
        let lease = self.connection.lease();
        if self.channels.len() >= limits.max_channels
            || lease.is_some_and(|lease| self.shared.lease_is_full(lease))
        {
            return Err(ChannelOpenFailure::ResourceShortage);
        }
        let id = channel.id();
        // Without a reader the library never waits to hand over data; the
        // callback below takes it.
        let (_, half) = channel.split();
        let out = Out::new(half, self.connection.clone());
        let token = self.connection.ending.child_token();
        let (size_in, size) = watch::channel(None);
        let (signals_in, signals) = mpsc::channel(SIGNALS);
        let open = Open {
            input: Input::new(self.connection.meter.clone()),
            _cancel: token.clone().drop_guard(),
            _counted: self.connection.count(),
            token,
            size: size_in,
            signals: signals_in,
            waiting: Some(Waiting {
                out,
                size,
                signals,
                env: Vec::new(),
            }),
        };
        Ok((id, open))
    }

    /// Starts a command on a session channel; `false` where that cannot be.
    pub(super) fn launch(&mut self, id: ChannelId, command: ExecCommand, ssh: &Session) -> bool {
        let (Some(door), Some(open)) = (self.door.clone(), self.channels.get_mut(&id)) else {
            return false;
        };
        if door.backend.exec().is_none() {
            return false;
        }
        let Some(waiting) = open.waiting.take() else {
            return false;
        };
        let tty = *waiting.size.borrow();
        let task = session::Task {
            door,
            request: ExecRequest {
                command,
                env: waiting.env,
                tty,
            },
            input: open.input.clone(),
            out: waiting.out,
            size: waiting.size,
            signals: waiting.signals,
            ssh: ssh.handle(),
            connection: self.connection.clone(),
            cancel: open.token.clone(),
        };
        let token = open.token.clone();
        self.run(id, token, task.run(), ssh);
        true
    }

    /// Runs a channel's task. A panic in it closes this channel and no more.
    pub(super) fn run(
        &self,
        id: ChannelId,
        token: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
        ssh: &Session,
    ) {
        let ssh = ssh.handle();
        let task = tokio::spawn(task);
        let lease = self.connection.lease().cloned();
        self.connection.channels.spawn(async move {
            if task.await.is_err() {
                tracing::error!(?lease, "a channel of the gateway panicked");
                let _ = ssh.close(id).await;
            }
            token.cancel();
        });
    }

    pub(super) fn set_size(&self, id: ChannelId, cols: u32, rows: u32) -> bool {
        let Some(open) = self.channels.get(&id) else {
            return false;
        };
        open.size.send_replace(Some(tty_size(cols, rows)));
        true
    }

    pub(super) fn set_env(&mut self, id: ChannelId, name: &str, value: &str) -> bool {
        let Some(waiting) = self.channels.get_mut(&id).and_then(|c| c.waiting.as_mut()) else {
            return false;
        };
        let fits = waiting.env.len() < MAX_ENV && value.len() <= MAX_ENV_BYTES;
        if !fits || !env_allowed(name) || value.contains('\0') {
            return false;
        }
        waiting.env.retain(|(known, _)| known != name);
        waiting.env.push((name.to_owned(), value.to_owned()));
        true
    }

    pub(super) fn is_waiting(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|c| c.waiting.is_some())
    }
}

/// Variables that say how to show things, and nothing that changes what runs.
fn env_allowed(name: &str) -> bool {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    matches!(name, "LANG" | "TERM" | "COLORTERM")
        || (name.len() <= MAX_USER && name.strip_prefix("LC_").is_some_and(plain))
}

fn tty_size(cols: u32, rows: u32) -> TtySize {
    // Clients that do not know say 0.
    let within = |n: u32, unknown: u16| match n {
        0 => unknown,
        n => u16::try_from(n).unwrap_or(u16::MAX),
    };
    TtySize {
        cols: within(cols, 80),
        rows: within(rows, 24),
    }
}

/// A terminal's name as terminfo has them, else a plain one.
pub(super) fn term_name(term: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    if !term.is_empty() && term.len() <= MAX_USER && term.bytes().all(plain) {
        term
    } else {
        "dumb"
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let peer = self.connection.peer;
        if let Some(lease) = self.connection.lease() {
            let why = self.connection.reason();
            let why = why.map_or_else(|| "closed by the client".to_owned(), ToString::to_string);
            tracing::info!(%lease, %peer, why, "logout");
        } else {
            match &self.tried {
                (_, 0) => tracing::debug!(%peer, "left without a key"),
                (user, keys) => tracing::info!(?user, %peer, keys, "refused"),
            }
        }
    }
}
