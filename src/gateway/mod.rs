//! How a tenant gets in: one SSH server for all leases on one port. The user
//! name is the lease id, the key is one that travelled in the spawn. It enters
//! by the backend's exec power, so any image with a shell works and nothing has
//! to listen inside.

use std::time::Duration;

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
    /// Connections at once, all together; more are refused at accept.
    pub max_connections: usize,
    /// Connections at once from one address (an IPv6 /64 counts as one).
    pub max_connections_per_address: usize,
    /// New connections from one address in a minute.
    pub connects_per_minute: u32,
    /// Channels (sessions and forwards) at once on one connection.
    pub max_channels: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60 * 60),
            total_timeout: Duration::from_secs(24 * 60 * 60),
            auth_attempts: 10,
            max_connections: 512,
            max_connections_per_address: 64,
            connects_per_minute: 120,
            max_channels: 64,
        }
    }
}
