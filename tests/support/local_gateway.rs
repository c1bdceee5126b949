//! A gateway on a loopback port, with one lease whose workload is this machine.
#![expect(clippy::unwrap_used, reason = "in a test a panic is a finding")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rand::RngCore;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use satlet::consumer::ssh::{SshKey, SshTarget};
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::gateway::{Door, Doors, Gateway, GatewayLimits, HostKey};
use tempfile::TempDir;

use super::local_backend::LocalBackend;

/// The only lease there is.
pub(crate) const LEASE: &str = "abcdefghijkl";

/// One lease, one key.
pub(crate) struct OneDoor {
    key: String,
    pub(crate) open: AtomicBool,
    backend: Arc<LocalBackend>,
}

#[async_trait]
impl Doors for OneDoor {
    async fn open(&self, user: &str, openssh: &str) -> Option<Door> {
        let right = user == LEASE && openssh == self.key && self.open.load(Ordering::SeqCst);
        let lease: LeaseId = LEASE.parse().unwrap();
        right.then(|| Door {
            owner: PublicKey::from_bytes([7; 32]),
            handle: self.backend.handle(&lease),
            backend: self.backend.clone(),
            lease,
        })
    }

    async fn still_open(&self, _: &LeaseId) -> bool {
        self.open.load(Ordering::SeqCst)
    }
}

/// A gateway, its backend, and two keys in files: `id` is right, `other` is not.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) gateway: Gateway,
    pub(crate) doors: Arc<OneDoor>,
    pub(crate) backend: Arc<LocalBackend>,
}

impl Bench {
    pub(crate) async fn start(limits: GatewayLimits) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        make_key(&dir.path().join("other"));
        let backend = Arc::new(LocalBackend::new(&dir.path().join("home")));
        let doors = Arc::new(OneDoor {
            key: make_key(&dir.path().join("id")),
            open: AtomicBool::new(true),
            backend: backend.clone(),
        });
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let host_key = HostKey::load_or_create(&dir.path().join("host_key")).unwrap();
        let gateway = Gateway::start(any, host_key, doors.clone(), limits);
        Self {
            gateway: gateway.await.unwrap(),
            dir,
            doors,
            backend,
        }
    }

    /// A path in the workload's home directory.
    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join("home").join(name)
    }

    /// For the built-in client.
    pub(crate) fn target(&self) -> SshTarget {
        SshTarget {
            host: "127.0.0.1".to_owned(),
            port: self.gateway.local_addr().port(),
            user: LEASE.to_owned(),
            host_key: self.gateway.host_key_openssh(),
            key: SshKey::File(self.dir.path().join("id")),
        }
    }
}

/// Writes a new private key and gives its public half.
pub(crate) fn make_key(path: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    std::fs::write(path, key.to_openssh(LineEnding::LF).unwrap()).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    key.public_key().to_openssh().unwrap().trim().to_owned()
}

/// Polls until `condition` holds, for a minute.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes that do not repeat.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    rand::rng().fill_bytes(&mut data);
    data
}
