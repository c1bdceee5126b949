//! What can be seen of the host, the relays and the mints. Nothing is judged
//! here, and nothing is changed but a file that is written and removed again.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use super::network::{MintAnswer, mints, relays};
use crate::compute::{BackendError, Capabilities, Health, Inventory, SharedBackend};
use crate::core::ids::Name;
use crate::core::time::Timestamp;
use crate::provider::control::{Ask, StatusView, ask};
use crate::provider::settings::Settings;

/// The backend, as it presents itself.
#[derive(Clone, Debug)]
pub struct BackendFacts {
    /// Its name.
    pub name: Name,
    /// What it can do on this host.
    pub capabilities: Capabilities,
    /// Whether it takes work now.
    pub health: Result<Health, String>,
    /// What the host has.
    pub inventory: Result<Inventory, String>,
}

/// The data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirFacts {
    /// Its path.
    pub path: PathBuf,
    /// Permission bits and owner; `None` where it is not there yet.
    pub mode_and_owner: Option<(u32, u32)>,
    /// Whether files can be written in it, or it can be made.
    pub writable: Result<(), String>,
    /// Space for us on its file system, in MiB.
    pub free_mib: Option<u64>,
}

/// All that was seen.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The backend, or why it cannot be opened.
    pub backend: Result<BackendFacts, String>,
    /// Our user id.
    pub uid: u32,
    /// The data directory.
    pub data_dir: DirFacts,
    /// This host's clock.
    pub now: Timestamp,
    /// Open files that this user may have at most (the hard limit).
    pub open_files: Option<u64>,
    /// Whether the gateway's address can be listened on.
    pub listen: Result<(), String>,
    /// Process id of a daemon that runs with this data directory.
    pub running: Option<u32>,
    /// Each relay: whether it could be connected.
    pub relays: Vec<(String, Result<(), String>)>,
    /// Each mint: what it told.
    pub mints: Vec<(String, Result<MintAnswer, String>)>,
    /// Layouts that are configured and not there.
    pub missing_layouts: Vec<(String, PathBuf)>,
}

/// Looks at everything, side by side where it takes time. Without `network`
/// no relay and no mint is asked.
pub async fn gather(
    settings: &Settings,
    backend: Result<SharedBackend, BackendError>,
    now: Timestamp,
    network: bool,
) -> Facts {
    let running = ask::<StatusView>(&settings.data_dir, Ask::Status);
    let (backend, running, relays, mints) = tokio::join!(
        backend_facts(backend),
        running,
        relays(if network { &settings.relays } else { &[] }),
        mints(if network { &settings.mints } else { &[] }),
    );
    Facts {
        backend,
        uid: nix::unistd::geteuid().as_raw(),
        data_dir: dir_facts(&settings.data_dir),
        now,
        open_files: getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(_, hard)| hard),
        listen: TcpListener::bind(settings.gateway.listen)
            .map(drop)
            .map_err(|error| error.to_string()),
        running: running.ok().map(|status| status.pid),
        relays,
        mints,
        missing_layouts: settings
            .images
            .layouts
            .iter()
            .filter(|(_, path)| !path.exists())
            .map(|(name, path)| (name.clone(), path.clone()))
            .collect(),
    }
}

async fn backend_facts(
    backend: Result<SharedBackend, BackendError>,
) -> Result<BackendFacts, String> {
    let backend = backend.map_err(|error| error.to_string())?;
    let limit = std::time::Duration::from_secs(10);
    let health = tokio::time::timeout(limit, backend.probe()).await;
    let inventory = tokio::time::timeout(limit, backend.inventory()).await;
    let late = || "it does not answer".to_owned();
    Ok(BackendFacts {
        name: backend.name().clone(),
        capabilities: backend.capabilities().clone(),
        health: health.map_or_else(|_| Err(late()), |h| h.map_err(|e| e.to_string())),
        inventory: inventory.map_or_else(|_| Err(late()), |i| i.map_err(|e| e.to_string())),
    })
}

/// The directory, or the nearest one above it that is there: that is where it
/// would be made.
fn dir_facts(path: &Path) -> DirFacts {
    let there = path.ancestors().find(|dir| dir.exists());
    let writable = match there {
        Some(dir) => tempfile::tempfile_in(dir)
            .map(drop)
            .map_err(|error| error.to_string()),
        None => Err("no directory above it is there".to_owned()),
    };
    DirFacts {
        path: path.to_owned(),
        mode_and_owner: std::fs::metadata(path)
            .ok()
            .map(|meta| (meta.mode() & 0o777, meta.uid())),
        writable,
        free_mib: free_mib(path),
    }
}

/// Space for us, in MiB, on the file system where `path` is or would be made.
pub fn free_mib(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|dir| dir.exists())?;
    let fs = statvfs(there).ok()?;
    let bytes = fs.blocks_available().saturating_mul(fs.fragment_size());
    Some(bytes / (1024 * 1024))
}
