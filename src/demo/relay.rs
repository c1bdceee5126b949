//! A Nostr relay in this process, on loopback. It can be stopped and started
//! again on the same port with all that it stored.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nostr_relay_builder::LocalRelay;
use nostr_relay_builder::builder::{RateLimit, RelayBuilder, RelayBuilderNip42};
use nostr_sdk::prelude::{MemoryDatabase, MemoryDatabaseOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::port::Port;

/// Events that are kept at most.
const EVENTS: usize = 100_000;

/// Connections at a time.
const CONNECTIONS: usize = 512;

/// How the relay behaves.
#[derive(Clone, Debug)]
pub struct TestRelayOptions {
    /// Events in one answer, at most, whatever the filter says.
    pub answer_limit: usize,
    /// Whether clients have to say who they are (NIP-42), to read and to write.
    pub auth: bool,
}

impl Default for TestRelayOptions {
    fn default() -> Self {
        Self {
            answer_limit: 5_000,
            auth: false,
        }
    }
}

/// A relay on loopback.
pub struct TestRelay {
    port: Port,
    relay: LocalRelay,
    listening: Mutex<Listening>,
}

struct Listening {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        self.listening().cancel.cancel();
    }
}

impl TestRelay {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start() -> std::io::Result<Self> {
        Self::start_with(TestRelayOptions::default()).await
    }

    /// Starts one that behaves so.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start_with(options: TestRelayOptions) -> std::io::Result<Self> {
        let port = Port::take()?;
        let listener = port.listen().await?;
        let database = MemoryDatabase::with_opts(MemoryDatabaseOptions {
            events: true,
            max_events: Some(EVENTS),
        });
        let mut builder = RelayBuilder::default()
            .database(database)
            .rate_limit(RateLimit {
                max_reqs: 10_000,
                notes_per_minute: 10_000_000,
            })
            .default_filter_limit(options.answer_limit)
            .max_filter_limit(options.answer_limit);
        if options.auth {
            builder = builder.nip42(RelayBuilderNip42::default());
        }
        let relay = LocalRelay::new(builder);
        let listening = Mutex::new(listen(listener, relay.clone()));
        Ok(Self {
            port,
            relay,
            listening,
        })
    }

    /// Its URL: the same for as long as it lives.
    pub fn url(&self) -> String {
        format!("ws://{}", self.port.addr())
    }

    /// Closes the port and all connections. What it stored stays.
    pub async fn stop(&self) {
        let tasks = {
            let listening = self.listening();
            listening.cancel.cancel();
            listening.tasks.clone()
        };
        tasks.close();
        tasks.wait().await;
    }

    /// Listens on the same port again, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// It listens already.
    pub async fn restart(&self) -> std::io::Result<()> {
        let listener = self.port.listen().await?;
        *self.listening() = listen(listener, self.relay.clone());
        Ok(())
    }

    /// Closes all connections and accepts new ones.
    ///
    /// # Errors
    /// This process has no more file descriptors.
    pub async fn drop_connections(&self) -> std::io::Result<()> {
        self.stop().await;
        self.restart().await
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(listener: TcpListener, relay: LocalRelay) -> Listening {
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let accepting = accept(listener, relay, cancel.clone(), tasks.clone());
    tasks.spawn(cancel.clone().run_until_cancelled_owned(accepting));
    Listening { cancel, tasks }
}

async fn accept(
    listener: TcpListener,
    relay: LocalRelay,
    cancel: CancellationToken,
    tasks: TaskTracker,
) {
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((stream, addr)) = listener.accept().await else {
            continue;
        };
        let relay = relay.clone();
        let serving = async move {
            serve(relay, stream, addr).await;
            drop(place);
        };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(serving));
    }
}

async fn serve(relay: LocalRelay, mut stream: TcpStream, addr: SocketAddr) {
    // A client says nothing before the handshake is answered, so what is lent
    // for the handshake keeps nothing back.
    if tokio_tungstenite::accept_async(&mut stream).await.is_err() {
        return;
    }
    if let Err(error) = relay.take_connection(stream, addr).await {
        tracing::debug!(%error, "connection to the in-process relay ended");
    }
}
