//! A connection to the gateway, and commands over it.

use std::borrow::Cow;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Disconnect, Preferred, Sig};
use russh_sftp::client::SftpSession;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::{SshError, SshKey, SshTarget};

/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_secs(15);

/// How long greeting, key exchange and authentication may take together.
const LOGIN: Duration = Duration::from_secs(30);

/// How long the gateway may take to open a channel or say goodbye.
const ANSWER: Duration = Duration::from_secs(20);

/// A gateway that vanished without a word is noticed after four of these.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How often a connection that only waits is looked at.
const GONE: Duration = Duration::from_secs(1);

/// Bytes the gateway may send ahead on a channel. Less than sockets hold, so
/// that two ends that both write never wait for each other.
const WINDOW: u32 = 512 * 1024;

/// Seconds that one request about files may take.
const SFTP_SECONDS: u64 = 120;

/// SSH_EXTENDED_DATA_STDERR, RFC 4254 section 5.2.
const STDERR: u32 = 1;

/// A terminal for a command.
pub struct Tty {
    /// Its name (`TERM`).
    pub term: String,
    /// Columns and rows; changes are passed on.
    pub size: watch::Receiver<(u16, u16)>,
}

/// What a command reads.
pub struct Input(mpsc::Receiver<Vec<u8>>);

impl Input {
    /// These bytes and then the end.
    pub fn bytes(bytes: Vec<u8>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        if !bytes.is_empty() {
            // There is room for one.
            let _ = sender.try_send(bytes);
        }
        Self(receiver)
    }

    /// This process's standard input. It is read by a thread of its own, which
    /// may hold one more piece when the command ends.
    pub fn standard() -> Self {
        let (sender, receiver) = mpsc::channel(4);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 32 * 1024];
            // Not locked, so that others may print prompts and read answers.
            while let Ok(read) = std::io::stdin().read(&mut buffer) {
                let piece = buffer.get(..read).unwrap_or_default().to_vec();
                if piece.is_empty() || sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }
}

/// An authenticated connection to one lease.
pub struct SshClient {
    handle: Handle<Pinned>,
}

/// Notes the host key that is shown, and goes no further.
#[derive(Clone, Default)]
struct Looking(Arc<std::sync::Mutex<Option<String>>>);

impl client::Handler for Looking {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        if let PublicKeyOrCertificate::PublicKey { key, .. } = shown {
            let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *noted = key.to_openssh().ok();
        }
        Ok(false)
    }
}

/// The host key that is shown at `host:port`, as `ssh-ed25519 AAAA…`. Nobody
/// logs in. With `like`, a key of its algorithm is asked for.
///
/// # Errors
/// Nothing that speaks SSH was reached in time.
pub async fn host_key(host: &str, port: u16, like: Option<&str>) -> Result<String, SshError> {
    let failed = |why: String| SshError::Connect {
        host: host.to_owned(),
        port,
        why,
    };
    let mut config = client::Config::default();
    if let Some(like) = like {
        let like = PublicKey::from_openssh(like).map_err(|_| SshError::BadHostKey)?;
        config.preferred.key = Cow::Owned(vec![like.algorithm()]);
    }
    let noted = Looking::default();
    let stream = dial(host, port).await?;
    let looking = client::connect_stream(Arc::new(config), stream, noted.clone());
    let outcome = tokio::time::timeout(LOGIN, looking)
        .await
        .map_err(|_| failed("no answer in time".to_owned()))?;
    let key = noted
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match (key, outcome) {
        (Some(key), _) => Ok(key),
        (None, Err(why)) => Err(failed(why.to_string())),
        (None, Ok(_)) => Err(failed("it shows no host key".to_owned())),
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, SshError> {
    let failed = |why: String| SshError::Connect {
        host: host.to_owned(),
        port,
        why,
    };
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| failed("no answer in time".to_owned()))?
        .map_err(|why| failed(why.to_string()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Accepts one host key and no other.
struct Pinned {
    key: PublicKey,
    wrong: Arc<AtomicBool>,
}

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let right = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.key_data() == self.key.key_data(),
            PublicKeyOrCertificate::Certificate(_) => false,
        };
        self.wrong.store(!right, Ordering::SeqCst);
        Ok(right)
    }
}

impl SshClient {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// Any [`SshError`] but `Copy`.
    pub async fn connect(target: &SshTarget) -> Result<Self, SshError> {
        let pinned = PublicKey::from_openssh(&target.host_key).map_err(|_| SshError::BadHostKey)?;
        let way = load_way(&target.key)?;
        let failed = |why: String| SshError::Connect {
            host: target.host.clone(),
            port: target.port,
            why,
        };
        let stream = dial(&target.host, target.port).await?;
        let wrong = Arc::new(AtomicBool::new(false));
        let handler = Pinned {
            key: pinned.clone(),
            wrong: wrong.clone(),
        };
        let login = login(config(&pinned), stream, handler, &target.user, way);
        match tokio::time::timeout(LOGIN, login).await {
            Err(_) => Err(failed("no answer in time".to_owned())),
            Ok(_) if wrong.load(Ordering::SeqCst) => Err(SshError::WrongHostKey),
            Ok(Err(why)) => Err(failed(why.to_string())),
            Ok(Ok(None)) => Err(SshError::Refused),
            Ok(Ok(Some(handle))) => Ok(Self { handle }),
        }
    }

    async fn session(&self) -> Result<Channel<Msg>, SshError> {
        in_time(self.handle.channel_open_session()).await
    }

    /// Runs a command, or a shell without one, and gives its exit code; a
    /// command that was ended by signal n gives 128 + n. Where `stdout` takes
    /// no more, the command is ended and gives 141 (128 + SIGPIPE).
    ///
    /// # Errors
    /// The connection broke, the lease ended, or the gateway refused.
    pub async fn exec<O, E>(
        &self,
        command: Option<&str>,
        tty: Option<Tty>,
        input: Input,
        stdout: O,
        stderr: E,
    ) -> Result<i32, SshError>
    where
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let channel = self.session().await?;
        let mut resize = None;
        if let Some(tty) = tty {
            let (cols, rows) = *tty.size.borrow();
            let (cols, rows) = (u32::from(cols), u32::from(rows));
            channel
                .request_pty(false, &tty.term, cols, rows, 0, 0, &[])
                .await
                .map_err(broken)?;
            resize = Some(tty.size);
        }
        match command {
            Some(command) => channel.exec(true, command).await,
            None => channel.request_shell(true).await,
        }
        .map_err(broken)?;
        let (mut read, write) = channel.split();
        let outcome = tokio::select! {
            outcome = collect(&mut read, stdout, stderr) => outcome,
            () = feed(&write, input, resize) => Err(SshError::Session("cut".to_owned())),
        };
        // It may be closed already.
        let _ = write.close().await;
        outcome
    }

    /// Files of the workload.
    ///
    /// # Errors
    /// The connection broke, or the gateway refused.
    pub(super) async fn sftp(&self) -> Result<SftpSession, SshError> {
        let channel = self.session().await?;
        in_time(channel.request_subsystem(true, "sftp")).await?;
        let starting = SftpSession::new(channel.into_stream());
        let sftp = tokio::time::timeout(ANSWER, starting)
            .await
            .map_err(|_| SshError::Session("no answer in time".to_owned()))?
            .map_err(|why| SshError::Session(why.to_string()))?;
        sftp.set_timeout(SFTP_SECONDS);
        Ok(sftp)
    }

    /// A connection to `host:port` as the workload sees it.
    pub(super) async fn dial(&self, host: &str, port: u16) -> Result<Channel<Msg>, SshError> {
        let (from, from_port) = ("127.0.0.1", 0);
        let port = u32::from(port);
        in_time(
            self.handle
                .channel_open_direct_tcpip(host, port, from, from_port),
        )
        .await
    }

    /// Returns when the connection has ended.
    pub(super) async fn gone(&self) {
        // The library has no notification for this.
        while !self.handle.is_closed() {
            tokio::time::sleep(GONE).await;
        }
    }

    /// Says goodbye. Dropping it closes the connection too.
    pub async fn close(&self) {
        let goodbye = self.handle.disconnect(Disconnect::ByApplication, "", "");
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    }
}

async fn login(
    config: Arc<client::Config>,
    stream: TcpStream,
    handler: Pinned,
    user: &str,
    way: Way,
) -> Result<Option<Handle<Pinned>>, russh::Error> {
    let mut handle = client::connect_stream(config, stream, handler).await?;
    let outcome = match way {
        Way::Key(key) => {
            let key = PrivateKeyWithHashAlg::new(Arc::new(*key), None);
            handle.authenticate_publickey(user, key).await?
        }
        Way::Password(password) => handle.authenticate_password(user, password).await?,
    };
    Ok(outcome.success().then_some(handle))
}

fn config(pinned: &PublicKey) -> Arc<client::Config> {
    Arc::new(client::Config {
        window_size: WINDOW,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        preferred: Preferred {
            key: Cow::Owned(vec![pinned.algorithm()]),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    })
}

/// What is shown to be let in.
enum Way {
    Key(Box<PrivateKey>),
    Password(String),
}

fn load_way(key: &SshKey) -> Result<Way, SshError> {
    match key {
        SshKey::Password(password) => Ok(Way::Password(password.to_string())),
        SshKey::Key(key) => Ok(Way::Key(key.clone())),
        SshKey::File(path) => russh::keys::load_secret_key(path, None)
            .map(|key| Way::Key(Box::new(key)))
            .map_err(|why| SshError::BadKey(format!("{}: {why}", path.display()))),
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, russh::Error>>) -> Result<T, SshError> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(broken),
        Err(_) => Err(SshError::Session("no answer in time".to_owned())),
    }
}

fn broken(why: russh::Error) -> SshError {
    SshError::Session(why.to_string())
}

/// Sends input and sizes; never returns, as the command's end is what counts.
async fn feed(
    write: &ChannelWriteHalf<Msg>,
    mut input: Input,
    resize: Option<watch::Receiver<(u16, u16)>>,
) {
    let sizes = async {
        let Some(mut size) = resize else { return };
        while size.changed().await.is_ok() {
            let (cols, rows) = *size.borrow_and_update();
            let (cols, rows) = (u32::from(cols), u32::from(rows));
            if write.window_change(cols, rows, 0, 0).await.is_err() {
                return;
            }
        }
    };
    let bytes = async {
        while let Some(piece) = input.0.recv().await {
            if write.data_bytes(piece).await.is_err() {
                return;
            }
        }
        let _ = write.eof().await;
    };
    tokio::join!(sizes, bytes);
    std::future::pending().await
}

/// Receives output until the channel closes.
async fn collect<O, E>(
    read: &mut russh::ChannelReadHalf,
    mut stdout: O,
    mut stderr: E,
) -> Result<i32, SshError>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut code = None;
    while let Some(message) = read.wait().await {
        let written = match message {
            ChannelMsg::Data { data } => show(&mut stdout, &data).await,
            ChannelMsg::ExtendedData { data, ext: STDERR } => show(&mut stderr, &data).await,
            ChannelMsg::ExitStatus { exit_status } => {
                code = Some(exit_status.cast_signed());
                Ok(())
            }
            ChannelMsg::ExitSignal { signal_name, .. } => {
                code = Some(128 + signal_number(&signal_name));
                Ok(())
            }
            ChannelMsg::Failure => {
                return Err(SshError::Session(
                    "the gateway does not run this".to_owned(),
                ));
            }
            ChannelMsg::Close => break,
            _ => Ok(()),
        };
        match written {
            Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => return Ok(128 + 13),
            other => other?,
        }
    }
    code.ok_or_else(|| SshError::Session("the connection was closed".to_owned()))
}

async fn show<W: AsyncWrite + Unpin>(sink: &mut W, data: &[u8]) -> std::io::Result<()> {
    sink.write_all(data).await?;
    sink.flush().await
}

fn signal_number(signal: &Sig) -> i32 {
    let name = match signal {
        Sig::Custom(name) => format!("SIG{name}"),
        other => format!("SIG{other:?}"),
    };
    name.parse::<nix::sys::signal::Signal>()
        .map_or(0, |signal| signal as i32)
}
