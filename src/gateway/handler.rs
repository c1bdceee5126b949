//! One connection, as the SSH library tells about it. Nothing here waits for a
//! workload: while a callback runs, the whole connection stands still.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PublicKey;
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::algorithms::{WINDOW, methods};
use super::channel::Out;
use super::connection::Connection;
use super::host_key::openssh;
use super::input::Input;
use super::server::Shared;
use super::{Door, forward, session};
use crate::compute::{ExecCommand, ExecRequest, TtySize};

/// Names longer than this are no lease's.
const MAX_USER: usize = 64;

/// How long the provider may take to say who may enter.
const ASK: Duration = Duration::from_secs(5);

/// Environment variables of one session, and bytes in each.
const MAX_ENV: usize = 32;
const MAX_ENV_BYTES: usize = 1024;

/// Window given to a client whose workload does not read: it goes on sending
/// two bytes at a time, and each packet is a chance to open the window again.
const DRIP: u32 = 2;

/// A dripping client waits this long between packets.
const DRIP_PAUSE: Duration = Duration::from_millis(20);

/// Signals that wait for a command to start.
const SIGNALS: usize = 16;

/// The callbacks of one connection.
pub(super) struct Client {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    door: Option<Door>,
    /// For the log: the last name that was tried, and how many keys.
    tried: (String, u32),
    channels: HashMap<ChannelId, Open>,
}

/// A channel that the client has open.
struct Open {
    input: Arc<Input>,
    cancel: DropGuard,
    token: CancellationToken,
    size: watch::Sender<Option<TtySize>>,
    signals: mpsc::Sender<i32>,
    /// Before its command is started.
    waiting: Option<Waiting>,
}

struct Waiting {
    out: Out,
    size: watch::Receiver<Option<TtySize>>,
    signals: mpsc::Receiver<i32>,
    env: Vec<(String, String)>,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, connection: Arc<Connection>) -> Self {
        Self {
            shared,
            connection,
            door: None,
            tried: (String::new(), 0),
            channels: HashMap::new(),
        }
    }

    /// Asks the provider. One path for every refusal.
    async fn ask(&self, user: &str, key: &PublicKey) -> Option<Door> {
        let user = if user.len() <= MAX_USER { user } else { "" };
        let key = openssh(key);
        let asking = self.shared.doors.open(user, &key);
        tokio::time::timeout(ASK, asking).await.ok().flatten()
    }

    fn note_try(&mut self, user: &str) {
        self.tried.0 = user.chars().take(MAX_USER).collect();
        self.tried.1 = self.tried.1.saturating_add(1);
    }

    /// Makes room for one more channel, where there is any.
    fn open(&mut self, channel: Channel<Msg>) -> Result<(ChannelId, Open), ChannelOpenFailure> {
        self.channels.retain(|_, open| !open.token.is_cancelled());
        if self.connection.ending.is_cancelled() || self.door.is_none() {
            return Err(ChannelOpenFailure::AdministrativelyProhibited);
        }
        if self.channels.len() >= self.shared.limits.max_channels {
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
            cancel: token.clone().drop_guard(),
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
    fn launch(&mut self, id: ChannelId, command: ExecCommand, ssh: &Session) -> bool {
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
    fn run(
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

    fn set_size(&self, id: ChannelId, cols: u32, rows: u32) -> bool {
        let Some(open) = self.channels.get(&id) else {
            return false;
        };
        open.size.send_replace(Some(tty_size(cols, rows)));
        true
    }

    fn set_env(&mut self, id: ChannelId, name: &str, value: &str) -> bool {
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

    fn is_waiting(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|c| c.waiting.is_some())
    }
}

fn answer(session: &mut Session, channel: ChannelId, yes: bool) -> Result<(), russh::Error> {
    if yes {
        session.channel_success(channel)
    } else {
        session.channel_failure(channel)
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
fn term_name(term: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    if !term.is_empty() && term.len() <= MAX_USER && term.bytes().all(plain) {
        term
    } else {
        "dumb"
    }
}

fn refusal() -> Auth {
    Auth::Reject {
        proceed_with_methods: Some(methods()),
        partial_success: false,
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.note_try(user);
        let known = self.ask(user, offer.public_key).await.is_some();
        Ok(if known { Auth::Accept } else { refusal() })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let Some(door) = self.ask(user, key.public_key).await else {
            return Ok(refusal());
        };
        self.door = Some(door);
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        let Some(door) = &self.door else {
            return Err(russh::Error::Inconsistent);
        };
        let lease = door.lease.clone();
        tracing::info!(%lease, peer = %self.connection.peer, "login");
        self.connection.set_lease(lease);
        self.connection.touch();
        self.shared.enter(&self.connection).await;
        self.connection.authenticated.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.open(channel) {
            Ok((id, open)) => {
                self.channels.insert(id, open);
                reply.accept().await;
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        let dial = self.door.clone().filter(|d| d.backend.dial().is_some());
        let (Some(door), Some(host), Some(port)) = (dial, forward::loopback(host), port) else {
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await;
            return Ok(());
        };
        match self.open(channel) {
            Ok((id, mut open)) => {
                let Some(waiting) = open.waiting.take() else {
                    return Ok(());
                };
                let task = forward::Task {
                    door,
                    host,
                    port,
                    input: open.input.clone(),
                    out: waiting.out,
                    reply,
                    cancel: open.token.clone(),
                };
                self.run(id, open.token.clone(), task.run(), session);
                self.channels.insert(id, open);
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = self.is_waiting(channel)
            && self.set_env(channel, "TERM", term_name(term))
            && self.set_size(channel, cols, rows);
        answer(session, channel, yes)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        cols: u32,
        rows: u32,
        _pix_width: u32,
        _pix_height: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let has_tty = |open: &Open| open.size.borrow().is_some();
        let yes =
            self.channels.get(&channel).is_some_and(has_tty) && self.set_size(channel, cols, rows);
        answer(session, channel, yes)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = self.set_env(channel, name, value);
        answer(session, channel, yes)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = self.launch(channel, ExecCommand::Shell, session);
        answer(session, channel, yes)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let line = match std::str::from_utf8(data) {
            Ok(line) if !line.contains('\0') => line.to_owned(),
            _ => return session.channel_failure(channel),
        };
        let yes = self.launch(channel, ExecCommand::Line(line), session);
        answer(session, channel, yes)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = name == "sftp" && self.launch(channel, ExecCommand::Sftp, session);
        answer(session, channel, yes)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let (Some(open), Some(number)) =
            (self.channels.get(&channel), session::signal_number(&signal))
        {
            // RFC 4254 has no answer to a signal; one too many is lost.
            let _ = open.signals.try_send(number);
        }
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.connection.touch();
        let Some(open) = self.channels.get(&channel) else {
            return Ok(());
        };
        if open.input.push(data).is_err() {
            let lease = self.connection.lease();
            tracing::warn!(?lease, "a client sends more than its workload reads");
            self.channels.remove(&channel);
            return session.close(channel);
        }
        if data.len() <= DRIP as usize && self.connection.meter.stalled() {
            tokio::time::sleep(DRIP_PAUSE).await;
        }
        Ok(())
    }

    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        if self.connection.meter.stalled() {
            DRIP
        } else {
            WINDOW
        }
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get(&channel) {
            open.input.end();
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.remove(&channel) {
            drop(open.cancel);
        }
        Ok(())
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
