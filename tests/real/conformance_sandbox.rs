//! The conformance suite on the embedded sandbox, with real programs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use satlet::compute::conformance::{Failure, Fixture, HostSide};
use satlet::compute::sandbox::{NetworkChoice, Sandbox, SandboxConfig};
use satlet::compute::{Image, SharedBackend, WorkloadSpec};
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::time::Timestamp;
use tokio::sync::OnceCell;

use crate::support::outside::Lazy;

struct SandboxFixture {
    dir: tempfile::TempDir,
    sandbox: SharedBackend,
    stranger: OnceCell<(tempfile::TempDir, SharedBackend)>,
    outside: Lazy,
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::broken(format!("the fixture: {error}"))
}

async fn open(root: &Path) -> Result<SharedBackend, Failure> {
    let config = SandboxConfig {
        root: root.to_owned(),
        helper: PathBuf::from(env!("CARGO_BIN_EXE_satletd")),
        name: "sandbox".parse().map_err(broken)?,
        network: NetworkChoice::default(),
        max_image_mib: 1024,
    };
    let sandbox = Sandbox::open(config).await.map_err(broken)?;
    Ok(Arc::new(sandbox))
}

impl SandboxFixture {
    async fn new() -> Result<Self, Failure> {
        let dir = tempfile::tempdir().map_err(broken)?;
        let sandbox = open(&dir.path().join("state")).await?;
        Ok(Self {
            dir,
            sandbox,
            stranger: OnceCell::new(),
            outside: Lazy::default(),
        })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What the installation puts into the names of all it makes on the host.
    fn instance(&self) -> Result<String, Failure> {
        instance(&self.root())
    }
}

fn instance(root: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(root.join("instance.json")).map_err(broken)?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(broken)?;
    let id = value.get("id").and_then(|id| id.as_str());
    id.map(str::to_owned)
        .ok_or_else(|| broken("no id in instance.json"))
}

#[async_trait]
impl Fixture for SandboxFixture {
    fn backend(&self) -> SharedBackend {
        self.sandbox.clone()
    }

    async fn reopen(&self) -> Result<SharedBackend, Failure> {
        open(&self.root()).await
    }

    fn bad_image(&self) -> Image {
        Image::Layout(self.dir.path().join("no-such-layout"))
    }

    /// Another installation on the same host, with a workload.
    async fn plant_stranger(&self) -> Result<(), Failure> {
        let make = async || {
            let dir = tempfile::tempdir().map_err(broken)?;
            let other = open(&dir.path().join("state")).await?;
            let spec = WorkloadSpec {
                owner: PublicKey::from_bytes([9; 32]),
                image: Image::Host,
                resources: satlet::core::capacity::Resources::default(),
                command: Vec::new(),
                env: Vec::new(),
                expires_at: Timestamp::from_secs(1_900_000_000),
                note: String::new(),
            };
            let key = LeaseId::from_random(rand::random());
            other.create(&key, &spec).await.map_err(broken)?;
            Ok::<_, Failure>((dir, other))
        };
        self.stranger.get_or_try_init(make).await.map(|_| ())
    }

    /// The disk with the state is not mounted.
    async fn set_engine_down(&self, down: bool) -> Result<(), Failure> {
        let away = self.dir.path().join("away");
        let (from, to) = match down {
            true => (self.root(), away),
            false => (away, self.root()),
        };
        if !down {
            // Something may have made it anew, which would be in the way.
            std::fs::remove_dir_all(&to).unwrap_or_default();
        }
        std::fs::rename(from, to).map_err(broken)
    }

    async fn leftovers(&self) -> Result<Vec<String>, Failure> {
        // What the kernel takes down by itself may take a moment.
        for _ in 0..50 {
            if leftovers(&self.root(), &self.instance()?).is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(leftovers(&self.root(), &self.instance()?))
    }

    async fn host(&self) -> Result<HostSide, Failure> {
        self.outside.look(&self.root()).await
    }

    fn touched(&self) -> usize {
        self.outside.touched()
    }

    async fn close(&self) {
        let stranger = self.stranger.get().map(|(_, backend)| backend.clone());
        for backend in [Some(self.sandbox.clone()), stranger].into_iter().flatten() {
            for owned in backend.list_owned().await.unwrap_or_default() {
                if let Err(error) = backend.destroy(&owned.handle).await {
                    let mut stderr = std::io::stderr();
                    let _ = writeln!(stderr, "left behind: {:?}: {error}", owned.handle);
                }
            }
        }
    }
}

impl Drop for SandboxFixture {
    /// The installation itself goes, too.
    fn drop(&mut self) {
        let stranger = self.stranger.get().map(|(dir, _)| dir.path().join("state"));
        for root in [Some(self.root()), stranger].into_iter().flatten() {
            if let Ok(id) = instance(&root) {
                let table = format!("satlet_{id}");
                let _ = Command::new("nft")
                    .args(["delete", "table", "inet", &table])
                    .stderr(Stdio::null())
                    .status();
                for dir in groups(&id) {
                    let _ = std::fs::remove_dir(dir);
                }
            }
        }
    }
}

/// The installation's directory in each hierarchy of control groups.
fn groups(id: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_groups = |line: &&str| line.contains(" - cgroup");
    let mount = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
    let all = mounts.lines().filter(of_groups).filter_map(mount);
    all.map(|mount| mount.join(format!("satlet-{id}")))
        .filter(|dir| dir.is_dir())
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.map(name).collect()
}

/// What is there although no workload is.
fn leftovers(root: &Path, id: &str) -> Vec<String> {
    let mut left = Vec::new();
    for place in ["leases", "slots"] {
        let kept = names(&root.join(place)).into_iter();
        left.extend(kept.map(|name| format!("{place}/{name}")));
    }
    for dir in groups(id) {
        let kept = names(&dir)
            .into_iter()
            .filter(|name| dir.join(name).is_dir());
        left.extend(kept.map(|name| format!("{}/{name}", dir.display())));
    }
    let ours = format!("sl{id}-");
    let interfaces = names(Path::new("/sys/class/net")).into_iter();
    left.extend(interfaces.filter(|name| name.starts_with(&ours)));
    let root = root.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts.lines().filter(|line| line.contains(&root));
    left.extend(mounted.map(str::to_owned));
    for device in names(Path::new("/sys/block")) {
        let file = format!("/sys/block/{device}/loop/backing_file");
        let file = std::fs::read_to_string(file).unwrap_or_default();
        if file.starts_with(&root) {
            left.push(format!("{device} on {}", file.trim()));
        }
    }
    left.extend(holders(&root));
    left
}

/// Other processes that have something below `root` open.
fn holders(root: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for pid in names(Path::new("/proc")) {
        if pid == own || pid.parse::<u32>().is_err() {
            continue;
        }
        let fds = PathBuf::from(format!("/proc/{pid}/fd"));
        let open = names(&fds).into_iter();
        let open = open.filter_map(|fd| std::fs::read_link(fds.join(fd)).ok());
        let below = open.filter(|file| file.starts_with(root));
        found.extend(below.map(|file| format!("process {pid} has {}", file.display())));
    }
    found
}

satlet::backend_conformance!(SandboxFixture::new(); flavor = "multi_thread", worker_threads = 2);
