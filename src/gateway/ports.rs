//! Ports of single leases: further entrances of the same server, where a
//! password is the way in.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::server::{Entrance, Shared, accept};

/// Opens and closes ports of single leases.
#[async_trait]
pub trait Ports: Send + Sync {
    /// Listens on `port`; one that is listened on already stays as it is.
    ///
    /// # Errors
    /// What the system says: somebody else listens there, say.
    async fn open(&self, port: u16) -> io::Result<()>;

    /// Stops listening on `port`. Connections that are open are not touched:
    /// their lease's end closes them.
    fn close(&self, port: u16);

    /// The ports that are listened on.
    fn listening(&self) -> Vec<u16>;
}

/// The ports of a [`Gateway`](super::Gateway), beside its main one.
pub struct GatewayPorts {
    // Not an owner: the gateway may ask the one who holds this.
    shared: Weak<Shared>,
    address: IpAddr,
    open: Mutex<BTreeMap<u16, CancellationToken>>,
}

impl GatewayPorts {
    pub(super) fn new(shared: &Arc<Shared>, address: IpAddr) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            address,
            open: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, CancellationToken>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Ports for GatewayPorts {
    async fn open(&self, port: u16) -> io::Result<()> {
        let gone = || io::Error::other("the gateway has ended");
        let shared = self.shared.upgrade().ok_or_else(gone)?;
        if self.lock().contains_key(&port) {
            return Ok(());
        }
        let listener = TcpListener::bind(SocketAddr::new(self.address, port)).await?;
        let stop = shared.new_entrance();
        let cancelled = stop.clone();
        if let Some(other) = self.lock().insert(port, stop) {
            other.cancel();
        }
        tokio::spawn(async move {
            let accepting = accept(listener, shared, Entrance::Port(port));
            cancelled.run_until_cancelled(accepting).await;
        });
        Ok(())
    }

    fn close(&self, port: u16) {
        if let Some(stop) = self.lock().remove(&port) {
            stop.cancel();
        }
    }

    fn listening(&self) -> Vec<u16> {
        self.lock().keys().copied().collect()
    }
}

impl Drop for GatewayPorts {
    fn drop(&mut self) {
        for stop in self.lock().values() {
            stop.cancel();
        }
    }
}
