//! Servers that nobody here wrote, started for a test: the relay
//! `nostr-rs-relay` and the mint Nutshell, each in a directory of its own on a
//! loopback port that was free.
//!
//! Environment variables name the programs; `.ci/run` sets them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use satlet::demo::port::Port;
use tempfile::TempDir;

use super::oci::OciImage;
use super::openssh::{in_path, missing};
use super::world::{LONG, Places};

/// A program of a test. It ends when this is dropped, and with this process.
pub(crate) struct Server {
    dir: TempDir,
    port: Arc<Port>,
    name: String,
    end: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// Variables that a program is started with.
type Env = &'static [(&'static str, &'static str)];

/// How a program is started and recognised.
struct Kind {
    program: PathBuf,
    /// Gives it its arguments, environment and files in this directory.
    prepare: fn(&mut Command, &Path, u16, &str),
    /// Put into its environment after that.
    env: Env,
    /// What to ask for over HTTP, and in which form.
    path: &'static str,
    accept: &'static str,
}

impl Server {
    /// Starts it and waits until it answers.
    async fn start(kind: Kind) -> Self {
        tokio::task::spawn_blocking(move || Self::start_blocking(&kind))
            .await
            .unwrap()
    }

    fn start_blocking(kind: &Kind) -> Self {
        Self::attempt(kind)
            .unwrap_or_else(|log| panic!("{} does not start:\n{log}", kind.program.display()))
    }

    /// As [`start`](Self::start); if it ends by itself, gives what it printed.
    fn attempt(kind: &Kind) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let port = Arc::new(Port::take().unwrap());
        let name = format!("satlet-{:032x}", rand::random::<u128>());
        Self::launch(kind, dir, port, name)
    }

    /// Starts it on these files; if it ends by itself, gives what it printed.
    fn launch(kind: &Kind, dir: TempDir, port: Arc<Port>, name: String) -> Result<Self, String> {
        // The program is told to end with the thread that starts it, which is
        // the keeper's: this one may end before the test does.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(&kind.program);
        (kind.prepare)(&mut command, dir.path(), port.number(), &name);
        command.envs(kind.env.iter().copied());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let (end, told) = mpsc::channel();
        let (ended, over) = mpsc::channel();
        let keeper = std::thread::spawn(move || keep(&mut command, &told, &ended));
        let server = Self {
            dir,
            port,
            name: name.clone(),
            end: Some(end),
            keeper: Some(keeper),
        };
        let deadline = Instant::now() + LONG;
        loop {
            // Its name tells it from whoever else may listen there.
            if get(server.addr(), kind.path, kind.accept).is_ok_and(|said| said.contains(&name)) {
                return Ok(server);
            }
            match over.recv_timeout(Duration::from_millis(50)) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => return Err(server.log()),
            }
            assert!(Instant::now() < deadline, "no answer:\n{}", server.log());
        }
    }

    /// Ends it, and starts it again on its files and its port.
    async fn restart(mut self, kind: Kind) -> Self {
        let empty = tempfile::tempdir().unwrap();
        let dir = std::mem::replace(&mut self.dir, empty);
        let (port, name) = (self.port.clone(), self.name.clone());
        let started = tokio::task::spawn_blocking(move || {
            drop(self);
            Self::launch(&kind, dir, port, name)
        });
        started
            .await
            .unwrap()
            .unwrap_or_else(|log| panic!("it does not start again:\n{log}"))
    }

    fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// What it printed.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Runs it until it ends or `told` says so or hangs up; then it is gone.
fn keep(command: &mut Command, told: &mpsc::Receiver<()>, ended: &mpsc::Sender<()>) {
    let mut child: Child = command.spawn().unwrap();
    while matches!(child.try_wait(), Ok(None)) {
        match told.recv_timeout(Duration::from_millis(100)) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    let _ = ended.send(());
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "shown where the test fails")]
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        if std::thread::panicking() {
            eprintln!("the server at {} said:\n{}", self.addr(), self.log());
        }
    }
}

/// The body that this address gives for a path, in this form.
fn get(addr: SocketAddr, path: &str, accept: &str) -> std::io::Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&addr, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let head = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The program that this variable names, or why there is none.
fn program(variable: &str) -> Result<PathBuf, String> {
    if let Some(tool) = missing(&["setpriv"]) {
        return Err(format!("{tool} (util-linux) is not installed"));
    }
    let path = std::env::var_os(variable).ok_or(format!("${variable} names no program"))?;
    let path = PathBuf::from(path);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("${variable} names no file")),
    }
}

/// `nostr-rs-relay`, empty.
pub(crate) struct NostrRsRelay(Server);

impl NostrRsRelay {
    /// The program, or why it cannot be had.
    pub(crate) fn program() -> Result<PathBuf, String> {
        let variable = "SATLET_TEST_NOSTR_RELAY";
        match (std::env::var_os(variable), in_path("nostr-rs-relay")) {
            (None, Some(path)) => Ok(path),
            _ => program(variable),
        }
    }

    /// Starts one with its defaults.
    pub(crate) async fn start(program: PathBuf) -> Self {
        let kind = Kind {
            program,
            prepare: Self::prepare,
            env: &[],
            path: "/",
            accept: "application/nostr+json",
        };
        Self(Server::start(kind).await)
    }

    fn prepare(command: &mut Command, dir: &Path, port: u16, name: &str) {
        let config = format!(
            "[info]\nrelay_url = \"ws://127.0.0.1:{port}/\"\nname = \"{name}\"\n\
             [database]\ndata_directory = \"{}\"\n\
             [network]\naddress = \"127.0.0.1\"\nport = {port}\n\
             [limits]\n[authorization]\n",
            dir.display()
        );
        let path = dir.join("config.toml");
        std::fs::write(&path, config).unwrap();
        command
            .arg("--config")
            .arg(path)
            .env("RUST_LOG", "info")
            .env_remove("RUST_BACKTRACE");
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.0.addr())
    }
}

/// Nutshell over fake Lightning that pays at once, in sat, with nothing issued.
pub(crate) struct Nutshell(Server);

impl Nutshell {
    /// Its input fee in thousandths of a sat for each proof (NUT-02).
    pub(crate) const FEE_PPK: u64 = 100;

    /// The program, or why it cannot be had.
    pub(crate) fn program() -> Result<PathBuf, String> {
        program("SATLET_TEST_NUTSHELL")
    }

    /// Starts one. It takes a few seconds.
    pub(crate) async fn start(program: PathBuf) -> Self {
        Self::start_with(program, &[]).await
    }

    /// Starts one with this in its environment.
    pub(crate) async fn start_with(program: PathBuf, env: Env) -> Self {
        Self(Server::start(Self::kind(program, env)).await)
    }

    /// Starts it again on its files, with this in its environment.
    pub(crate) async fn restart_with(self, program: PathBuf, env: Env) -> Self {
        Self(self.0.restart(Self::kind(program, env)).await)
    }

    fn kind(program: PathBuf, env: Env) -> Kind {
        Kind {
            program,
            prepare: Self::prepare,
            env,
            path: "/v1/info",
            accept: "application/json",
        }
    }

    fn prepare(command: &mut Command, dir: &Path, port: u16, name: &str) {
        command
            .env("MINT_PRIVATE_KEY", name)
            .env("MINT_INFO_NAME", name)
            .env("MINT_BACKEND_BOLT11_SAT", "FakeWallet")
            .env("MINT_DATABASE", dir.join("mint"))
            .env("MINT_LISTEN_HOST", "127.0.0.1")
            .env("MINT_LISTEN_PORT", port.to_string())
            .env("MINT_INPUT_FEE_PPK", Self::FEE_PPK.to_string())
            .env("MINT_RATE_LIMIT", "FALSE")
            .env("FAKEWALLET_BRR", "TRUE")
            .env("FAKEWALLET_DELAY_INCOMING_PAYMENT", "0")
            .env("FAKEWALLET_DELAY_OUTGOING_PAYMENT", "0")
            .env("TOR", "FALSE");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.addr())
    }
}

/// A relay and a mint that are programs of others, for one test.
pub(crate) struct Outside {
    dir: TempDir,
    pub(crate) relay: NostrRsRelay,
    pub(crate) mint: Nutshell,
}

impl Outside {
    /// Starts both side by side; or says what is missing here.
    pub(crate) async fn start() -> Result<Self, String> {
        let (relay, mint) = (NostrRsRelay::program()?, Nutshell::program()?);
        let (relay, mint) = tokio::join!(NostrRsRelay::start(relay), Nutshell::start(mint));
        Ok(Self {
            dir: tempfile::tempdir().unwrap(),
            relay,
            mint,
        })
    }
}

impl Places for Outside {
    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn relay_urls(&self) -> Vec<String> {
        vec![self.relay.url()]
    }

    fn mint_url(&self) -> String {
        self.mint.url()
    }
}

impl Outside {
    /// A file of the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A Docker engine that was started for tests.
pub(crate) struct Docker {
    socket: String,
    api: bollard::Docker,
}

impl Docker {
    /// The image that [`import_busybox`](Self::import_busybox) makes.
    pub(crate) const BUSYBOX: &str = "satlet-test/busybox:latest";

    /// The engine behind `$SATLET_TEST_DOCKER`, or why there is none.
    pub(crate) fn find() -> Result<Self, String> {
        let socket = std::env::var("SATLET_TEST_DOCKER")
            .map_err(|_| "$SATLET_TEST_DOCKER names no Docker socket".to_owned())?;
        let version = bollard::API_DEFAULT_VERSION;
        let api = bollard::Docker::connect_with_unix(&socket, LONG.as_secs(), version);
        let api = api.map_err(|why| format!("{socket}: {why}"))?;
        Ok(Self { socket, api })
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    pub(crate) fn api(&self) -> &bollard::Docker {
        &self.api
    }

    /// Makes [`BUSYBOX`](Self::BUSYBOX), as no registry has to be reached.
    pub(crate) async fn import_busybox(&self) -> Result<(), String> {
        use futures::TryStreamExt;
        let image = OciImage::busybox().ok_or("there is no static busybox")?;
        let options = bollard::query_parameters::CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(Self::BUSYBOX.to_owned()),
            ..Default::default()
        };
        let body = bollard::body_full(image.into_tar().into());
        let told = self.api.create_image(Some(options), Some(body), None);
        let told: Result<Vec<_>, _> = told.try_collect().await;
        told.map(|_| ()).map_err(|why| why.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_stand_side_by_side_and_go_with_their_owners() {
    let program = match NostrRsRelay::program() {
        Ok(program) => program,
        Err(why) => return super::record_skip(&super::test_name(), &why),
    };
    let one = NostrRsRelay::start(program.clone()).await;
    let other = NostrRsRelay::start(program).await;
    assert_ne!(one.url(), other.url());
    let addr = one.0.addr();
    let dir = one.0.dir.path().to_owned();
    let _port = one.0.port.clone();
    drop(one);
    assert!(TcpStream::connect(addr).is_err(), "nobody is there");
    assert!(!dir.exists(), "its files are gone");
    assert!(TcpStream::connect(other.0.addr()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_start_is_shown_with_what_it_said() {
    let kind = Kind {
        program: "sh".into(),
        prepare: |command, _, _, _| {
            command.args(["-c", "echo no such luck >&2"]);
        },
        env: &[],
        path: "/",
        accept: "*/*",
    };
    if missing(&["setpriv"]).is_some() {
        return super::record_skip(&super::test_name(), "setpriv is not installed");
    }
    let said = Server::attempt(&kind).err();
    assert_eq!(said.as_deref(), Some("no such luck\n"));
}
