//! How a tenant gets in: one SSH server for all leases on one port. The user
//! name is the lease id, the key is one that travelled in the spawn. It enters
//! by the backend's exec power, so any image with a shell works and nothing has
//! to listen inside.
//!
//! Clients of the older dialect know a port of the lease's own and a password
//! instead: [`Ports`] are further entrances of the same server.

mod algorithms;
mod channel;
mod client;
mod connection;
mod forward;
mod handler;
mod host_key;
mod input;
mod limits;
mod ports;
mod server;
mod session;
mod stream;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use host_key::HostKey;
pub use ports::{GatewayPorts, Ports};
pub use server::Gateway;

use async_trait::async_trait;

use crate::compute::{Handle, SharedBackend};
use crate::core::ids::{LeaseId, PublicKey};

/// Who may enter which workload; the provider answers from its ledger.
#[async_trait]
pub trait Doors: Send + Sync {
    /// The workload behind `user` (a full lease id), if the SSH key with this
    /// `openssh` text (`ssh-ed25519 AAAA…`, no comment) opens it now. `None`
    /// for a wrong key, an unknown lease, an ended lease alike.
    async fn open(&self, user: &str, openssh: &str) -> Option<Door>;

    /// The workload behind a lease's own `port`, if `password` opens it now for
    /// `user`. `None` for whatever does not fit.
    async fn open_port(&self, port: u16, user: &str, password: &str) -> Option<Door> {
        let _ = (port, user, password);
        None
    }

    /// Whether the lease still lets people in; asked regularly for sessions
    /// that are open, which are closed when it says no.
    async fn still_open(&self, lease: &LeaseId) -> bool;
}

/// A way into one workload.
#[derive(Clone)]
pub struct Door {
    /// The lease, for the log.
    pub lease: LeaseId,
    /// Whose it is.
    pub owner: PublicKey,
    /// What runs it.
    pub backend: SharedBackend,
    /// The workload.
    pub handle: Handle,
}

/// Limits of the gateway.
#[derive(Clone, Debug)]
pub struct GatewayLimits {
    /// A connection that has not authenticated by then is closed.
    pub login_timeout: Duration,
    /// A connection on which nothing moved for this long is closed.
    pub idle_timeout: Duration,
    /// A connection is closed after this long, whatever it does.
    pub total_timeout: Duration,
    /// Failed authentications on one connection before it is closed.
    pub auth_attempts: usize,
    /// Wrong passwords from one address (an IPv6 /64 counts as one) in a
    /// minute; after them no password is looked at until the minute is over.
    pub passwords_per_minute: u32,
    /// Connections at once, all together; more are refused at accept.
    pub max_connections: usize,
    /// Connections at once from one address (an IPv6 /64 counts as one).
    pub max_connections_per_address: usize,
    /// New connections from one address in a minute.
    pub connects_per_minute: u32,
    /// Channels (sessions and forwards) at once on one connection.
    pub max_channels: usize,
    /// Connections at once into one lease.
    pub max_connections_per_lease: usize,
    /// Channels at once into one lease, over all its connections.
    pub max_channels_per_lease: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60 * 60),
            total_timeout: Duration::from_secs(24 * 60 * 60),
            auth_attempts: 10,
            passwords_per_minute: 20,
            max_connections: 512,
            max_connections_per_address: 64,
            connects_per_minute: 120,
            max_channels: 64,
            max_connections_per_lease: 64,
            max_channels_per_lease: 256,
        }
    }
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        why: std::io::Error,
    },
    /// The host key file cannot be read or written.
    #[error("host key {path}: {why}")]
    HostKeyFile {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// Others than its owner can read the host key.
    #[error("host key {0}: others can read it; make it mode 0600")]
    HostKeyExposed(std::path::PathBuf),
    /// The file holds something that is not an unencrypted ed25519 key.
    #[error("host key {0}: not an ed25519 key in OpenSSH format without a passphrase")]
    HostKeyMalformed(std::path::PathBuf),
}
