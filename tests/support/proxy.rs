//! A TCP proxy before an HTTP server that loses, holds and delays messages.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use satlet::demo::port::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// What happens to the next request of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not passed on, and the connection is closed.
    DropRequest,
    /// It is passed on; its answer is not, and the connection is closed.
    DropResponse,
    /// It is passed on; its answer is never given, the connection stays open.
    HoldResponse,
    /// It is passed on twice, and the second answer is given.
    Repeat,
    /// Half of its answer is given, and the connection is closed.
    CutResponse,
    /// The connection is closed; it is passed on when [`Proxy::let_go`] says so.
    LateRequest,
}

impl Fault {
    /// All of them, but for the last.
    pub const ALL: [Self; 5] = [
        Self::DropRequest,
        Self::DropResponse,
        Self::HoldResponse,
        Self::Repeat,
        Self::CutResponse,
    ];
}

/// Something that happens to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Its path, as [`Proxy::disarm`] counts them.
    pub path: String,
    /// Which of that path, from 1.
    pub n: u32,
    /// What.
    pub fault: Fault,
}

#[derive(Default)]
struct State {
    faults: BTreeMap<String, Fault>,
    seen: BTreeMap<String, u32>,
    delay: Duration,
    /// What is still to happen to requests since this was armed.
    armed: Vec<Strike>,
    /// Rung when what is late may go on.
    late: Arc<Notify>,
    /// How often each path was asked for since then.
    since: BTreeMap<String, u32>,
}

impl State {
    fn fault(&mut self, path: &str) -> Option<Fault> {
        *self.seen.entry(path.to_owned()).or_default() += 1;
        let times = self.since.entry(path.to_owned()).or_default();
        *times += 1;
        let (path, n) = (path.to_owned(), *times);
        let at = |strike: &Strike| strike.path == path && strike.n == n;
        let armed = self.armed.iter().position(at);
        let armed = armed.map(|at| self.armed.remove(at).fault);
        self.faults.remove(&path).or(armed)
    }
}

/// The proxy; ends when it is dropped.
pub struct Proxy {
    port: Port,
    target: SocketAddr,
    state: Arc<Mutex<State>>,
    struck: Arc<Notify>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Proxy {
    /// A proxy on a free loopback port.
    pub async fn start(target: SocketAddr) -> Self {
        let mut this = Self {
            port: Port::take().unwrap(),
            target,
            state: Arc::default(),
            struck: Arc::default(),
            task: None,
        };
        this.accept().await;
        this
    }

    /// `http://…` of the proxy.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.addr())
    }

    /// Does this to the next request of this path.
    pub fn strike(&self, path: &str, fault: Fault) {
        self.state
            .lock()
            .unwrap()
            .faults
            .insert(path.to_owned(), fault);
    }

    /// Counts from here on, and does this.
    pub fn arm(&self, armed: Vec<Strike>) {
        let mut state = self.state.lock().unwrap();
        state.since.clear();
        state.armed = armed;
    }

    /// How often each path was asked for since [`arm`](Self::arm), and whether
    /// some of what was armed is still to come. Nothing happens any more.
    pub fn disarm(&self) -> (BTreeMap<String, u32>, bool) {
        let mut state = self.state.lock().unwrap();
        let waits = !std::mem::take(&mut state.armed).is_empty();
        (state.since.clone(), waits)
    }

    /// Lets a [`Fault::LateRequest`] go on.
    pub fn let_go(&self) {
        self.state.lock().unwrap().late.notify_one();
    }

    /// Waits until a fault has happened.
    pub async fn struck(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.struck.notified())
            .await
            .expect("the request that was to fail never came");
    }

    /// Requests of this path until now.
    pub fn seen(&self, path: &str) -> u32 {
        *self.state.lock().unwrap().seen.get(path).unwrap_or(&0)
    }

    /// Requests of this path, or one below it, until now.
    pub fn seen_below(&self, path: &str) -> u32 {
        let state = self.state.lock().unwrap();
        let below = state.seen.iter().filter(|(at, _)| at.starts_with(path));
        below.map(|(_, times)| times).sum()
    }

    /// Holds every answer back for so long.
    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    /// Closes the port: connections are refused from now on.
    pub async fn refuse(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Opens the port: the same each time.
    pub async fn accept(&mut self) {
        let listener = self.port.listen().await.unwrap();
        let (state, struck, target) = (self.state.clone(), self.struck.clone(), self.target);
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (state, struck) = (state.clone(), struck.clone());
                connections.spawn(async move {
                    let _ = carry(client, target, &state, &struck).await;
                });
            }
        }));
    }
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    state: &Mutex<State>,
    struck: &Notify,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    while let Some(request) = message(&mut client).await? {
        let path = path_of(&request);
        let (fault, delay) = {
            let mut state = state.lock().unwrap();
            (state.fault(&path), state.delay)
        };
        if fault == Some(Fault::DropRequest) {
            struck.notify_one();
            return Ok(());
        }
        if fault == Some(Fault::LateRequest) {
            client.shutdown().await?;
            let late = state.lock().unwrap().late.clone();
            late.notified().await;
            server.write_all(&request).await?;
            message(&mut server).await?;
            struck.notify_one();
            return Ok(());
        }
        if fault == Some(Fault::Repeat) {
            server.write_all(&request).await?;
            message(&mut server).await?;
        }
        server.write_all(&request).await?;
        let Some(response) = message(&mut server).await? else {
            return Ok(());
        };
        tokio::time::sleep(delay).await;
        match fault {
            None | Some(Fault::Repeat) => client.write_all(&response).await?,
            Some(Fault::CutResponse) => {
                struck.notify_one();
                return client.write_all(&response[..response.len() / 2]).await;
            }
            Some(Fault::HoldResponse) => {
                struck.notify_one();
                std::future::pending::<()>().await;
            }
            Some(_) => {
                struck.notify_one();
                return Ok(());
            }
        }
    }
    Ok(())
}

/// `/v1/swap` of `POST /v1/swap HTTP/1.1`; the keys of all keysets are one path,
/// and so are the quotes that are asked about.
fn path_of(request: &[u8]) -> String {
    let head = String::from_utf8_lossy(request);
    let path = head.split(' ').nth(1).unwrap_or_default();
    for many in [
        "/v1/keys/",
        "/v1/melt/quote/bolt11/",
        "/v1/mint/quote/bolt11/",
    ] {
        if path.starts_with(many) {
            return format!("{many}*");
        }
    }
    path.to_owned()
}

/// One HTTP/1.1 message with its body by `content-length`; `None` at the end.
async fn message(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |value| value.trim().parse::<usize>().unwrap());
            if bytes.len() >= end + 4 + length {
                return Ok(Some(bytes));
            }
        }
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// A TCP proxy whose connections can be cut; ends when it is dropped.
pub struct Pipe {
    addr: SocketAddr,
    cut: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pipe {
    /// A proxy on a free loopback port before `target`, `host:port`.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (cut, target) = (Arc::new(Notify::new()), target.to_owned());
        let cutting = cut.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    () = cutting.notified() => connections.abort_all(),
                    Ok((mut client, _)) = listener.accept() => {
                        let target = target.clone();
                        connections.spawn(async move {
                            if let Ok(mut server) = TcpStream::connect(target).await {
                                let both = tokio::io::copy_bidirectional(&mut client, &mut server);
                                let _ = both.await;
                            }
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { addr, cut, task }
    }

    /// `ws://…` of the proxy.
    pub fn ws(&self) -> String {
        format!("ws://{}", self.addr)
    }

    /// Cuts all connections that are open; new ones are taken.
    pub fn cut(&self) {
        self.cut.notify_one();
    }
}
