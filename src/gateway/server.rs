//! Listening, counting, watching and ending connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use russh::Disconnect;
use russh::server::RunningSession;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Client;
use super::connection::{Connection, EndReason};
use super::limits::{Gate, Place};
use super::stream::Cuttable;
use super::{Doors, GatewayError, GatewayLimits, GatewayPorts, HostKey, algorithms};
use crate::core::ids::LeaseId;

/// How often the provider is asked whether open connections may stay.
const RECHECK: Duration = Duration::from_secs(5);

/// How long the provider may take to say that a lease is open; longer is no
/// answer, and no answer changes nothing.
const ASK: Duration = Duration::from_secs(5);

/// A pause after a failed accept (too many open files), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the channels of a connection that is ended have to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long [`Gateway::shutdown`] takes at most.
const DRAIN: Duration = Duration::from_secs(5);

/// The SSH server for all leases. Dropping it ends it at once, with all
/// connections; [`shutdown`](Self::shutdown) lets them say goodbye.
pub struct Gateway {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    host_key: String,
}

/// By which door a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// The port of all leases: by key, the user name is the lease.
    Main,
    /// A lease's own port: by password.
    Port(u16),
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) doors: Arc<dyn Doors>,
    pub(super) limits: GatewayLimits,
    config: Arc<russh::server::Config>,
    port_config: Arc<russh::server::Config>,
    pub(super) gate: Gate,
    inside: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicUsize,
    queued: Arc<AtomicUsize>,
    tasks: TaskTracker,
    /// No new connections.
    closing: CancellationToken,
    /// No connections at all.
    cut: CancellationToken,
    /// The accept loop has ended.
    stopped: CancellationToken,
}

impl Gateway {
    /// Listens on `listen` (port 0: any free one) and lets in whom `doors` lets in.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(
        listen: SocketAddr,
        host_key: HostKey,
        doors: Arc<dyn Doors>,
        limits: GatewayLimits,
    ) -> Result<Self, GatewayError> {
        let refused = |why| GatewayError::Listen {
            address: listen,
            why,
        };
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        let shared = Arc::new(Shared {
            doors,
            config: algorithms::config(&host_key, &limits, Entrance::Main),
            port_config: algorithms::config(&host_key, &limits, Entrance::Port(0)),
            gate: Gate::new(limits.clone()),
            limits,
            inside: Mutex::default(),
            next: AtomicUsize::new(0),
            queued: Arc::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        let stopped = shared.stopped.clone().drop_guard();
        let accepting = shared.clone();
        tokio::spawn(async move {
            // Told also when the loop panics.
            let _stopped = stopped;
            accept(listener, accepting, Entrance::Main).await;
        });
        tokio::spawn(recheck(shared.clone()));
        Ok(Self {
            shared,
            local_addr,
            host_key: host_key.openssh(),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Ports of single leases, on the same address. None is open yet.
    pub fn ports(&self) -> GatewayPorts {
        GatewayPorts::new(&self.shared, self.local_addr.ip())
    }

    /// Its host key as `ssh-ed25519 AAAA…`, with no comment.
    pub fn host_key_openssh(&self) -> String {
        self.host_key.clone()
    }

    /// Ends all connections into a lease at once, with a line that says so.
    pub fn close_lease(&self, lease: &LeaseId) {
        self.shared.close_lease(lease);
    }

    /// Authenticated connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.all().len()
    }

    /// Returns when the gateway takes no new connections any more: after
    /// [`shutdown`](Self::shutdown), or because its accept loop died.
    pub async fn stopped(&self) {
        self.shared.stopped.cancelled().await;
    }

    /// Takes no new connections, tells the open ones, and cuts after a few
    /// seconds those that do not end. Leases and workloads are not touched.
    pub async fn shutdown(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(DRAIN, self.shared.tasks.wait())
            .await
            .is_err()
        {
            self.shared.cut.cancel();
            self.shared.tasks.wait().await;
        }
        self.stopped().await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.cut.cancel();
    }
}

impl Shared {
    /// Registers an authenticated connection, and ends it where its lease has
    /// ended since the key was checked.
    pub(super) async fn enter(&self, connection: &Arc<Connection>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed) as u64;
        let Some(lease) = connection.lease() else {
            return;
        };
        {
            let mut inside = self.lock();
            let same = inside.values().filter(|known| known.lease() == Some(lease));
            if same.count() >= self.limits.max_connections_per_lease {
                connection.end(EndReason::TooMany);
            }
            inside.insert(id, connection.clone());
        }
        if self.has_ended(lease).await {
            connection.end(EndReason::LeaseEnded(lease.clone()));
        }
    }

    /// What ends another entrance; it ends with the gateway too.
    pub(super) fn new_entrance(&self) -> CancellationToken {
        self.closing.child_token()
    }

    fn leave(&self, connection: &Arc<Connection>) {
        self.lock()
            .retain(|_, known| !Arc::ptr_eq(known, connection));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().values().cloned().collect()
    }

    /// Whether a lease has as many channels open as it may.
    pub(super) fn lease_is_full(&self, lease: &LeaseId) -> bool {
        let inside = self.lock();
        let same = inside.values().filter(|known| known.lease() == Some(lease));
        let open: usize = same.map(|connection| connection.open()).sum();
        open >= self.limits.max_channels_per_lease
    }

    fn close_lease(&self, lease: &LeaseId) {
        for connection in self.all() {
            if connection.lease() == Some(lease) {
                connection.end(EndReason::LeaseEnded(lease.clone()));
            }
        }
    }

    async fn has_ended(&self, lease: &LeaseId) -> bool {
        let asking = self.doors.still_open(lease);
        matches!(tokio::time::timeout(ASK, asking).await, Ok(false))
    }
}

/// Takes connections until told to stop. No connection's fate ends it.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, entrance: Entrance) {
    loop {
        let accepted = tokio::select! {
            () = shared.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(&shared, stream, peer, entrance),
            Err(why) => {
                tracing::warn!(%why, "the gateway cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
    match shared.gate.enter(peer.ip(), std::time::Instant::now()) {
        Ok(place) => {
            shared
                .tasks
                .spawn(serve(shared.clone(), stream, peer, entrance, place));
        }
        // The stream is dropped, which closes it.
        Err(why) => tracing::info!(%peer, limit = ?why, "connection refused"),
    }
}

/// One connection, from accept to its end.
async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    entrance: Entrance,
    place: Place,
) {
    let cut = shared.cut.child_token();
    let _cut = cut.clone().drop_guard();
    let connection = Connection::new(peer, shared.queued.clone());
    let client = Client::new(shared.clone(), connection.clone(), entrance);
    if let Err(why) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %why, "no TCP_NODELAY");
    }
    let stream = Cuttable::new(stream, &cut);
    let config = match entrance {
        Entrance::Main => &shared.config,
        Entrance::Port(_) => &shared.port_config,
    };
    let running = russh::server::run_stream(config.clone(), stream, client);
    let started = tokio::time::Instant::now();
    match tokio::time::timeout(shared.limits.login_timeout, running).await {
        Ok(Ok(running)) => watch(&shared, &connection, running, started, &cut).await,
        Ok(Err(why)) => tracing::debug!(%peer, %why, "no SSH client"),
        Err(_) => tracing::debug!(%peer, "login timeout"),
    }
    shared.leave(&connection);
    drop(place);
}

/// Waits for the end of a connection, or brings it about.
async fn watch(
    shared: &Shared,
    connection: &Arc<Connection>,
    mut running: RunningSession<Client>,
    started: tokio::time::Instant,
    cut: &CancellationToken,
) {
    let limits = &shared.limits;
    let login = async {
        let waiting = connection.authenticated.cancelled();
        let deadline = started + limits.login_timeout;
        if tokio::time::timeout_at(deadline, waiting).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = &mut running => {
            if let Err(why) = ended {
                tracing::debug!(peer = %connection.peer, %why, "connection broke");
            }
            return;
        }
        () = login => tracing::debug!(peer = %connection.peer, "login timeout"),
        () = shared.closing.cancelled() => connection.end(EndReason::Shutdown),
        () = connection.idle(limits.idle_timeout) => connection.end(EndReason::Idle),
        () = tokio::time::sleep_until(started + limits.total_timeout) => {
            connection.end(EndReason::Total);
        }
        () = connection.ending.cancelled() => {}
    }
    let goodbye = goodbye(connection, &mut running);
    if tokio::time::timeout(GOODBYE, goodbye).await != Ok(true) {
        cut.cancel();
        // It has nothing left to wait for but itself.
        let _ = running.await;
    }
}

/// Lets the channels and then the connection end in order; whether it did.
async fn goodbye(connection: &Connection, running: &mut RunningSession<Client>) -> bool {
    let Some(reason) = connection.reason() else {
        return false;
    };
    connection.channels.close();
    connection.channels.wait().await;
    let handle = running.handle();
    let _ = handle
        .disconnect(Disconnect::ByApplication, reason.to_string(), String::new())
        .await;
    let _ = running.await;
    true
}

/// Asks regularly whether the leases of open connections still let people in:
/// the truth behind [`Gateway::close_lease`], which is a hint.
async fn recheck(shared: Arc<Shared>) {
    let mut clock = tokio::time::interval(RECHECK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            _ = clock.tick() => {}
        }
        let mut leases: Vec<LeaseId> = shared
            .all()
            .iter()
            .filter_map(|connection| connection.lease().cloned())
            .collect();
        leases.sort();
        leases.dedup();
        join_all(leases.iter().map(async |lease| {
            if shared.has_ended(lease).await {
                shared.close_lease(lease);
            }
        }))
        .await;
    }
}
