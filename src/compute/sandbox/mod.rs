//! The embedded default backend: namespaces, control groups and seccomp of
//! this kernel, with crate libcontainer in a helper process. No daemon of
//! another project, no image and no network is needed to run the host's own
//! `/usr`.
//!
//! * [`Sandbox`] is the daemon's side: it keeps the books ([`store`]), starts a
//!   helper for each deed ([`client`]) and looks at processes ([`process`]).
//! * [`helper_main`] is the helper: [`run`] makes workloads ([`stage`] their
//!   file system, [`spec`] their configuration, [`init`] their first process,
//!   [`net`] their way out), [`enter`] runs commands in them.
//!
//! A workload lives on its own: the daemon may be killed and started again, and
//! all that is known is on disk and in /proc.

mod backend;
mod cgroup;
mod channel;
mod client;
mod disk;
pub(in crate::compute) mod door;
mod enter;
mod etc;
mod facts;
mod foreign;
mod helper;
pub mod image;
mod init;
mod launch;
mod net;
mod process;
mod run;
mod seats;
mod seccomp;
mod session;
mod spec;
mod stage;
mod store;
mod sys;
#[cfg(test)]
mod tests;
mod user;
mod wire;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

pub use helper::{HELPER_ARG, helper_main};

use crate::compute::wall;
use crate::compute::{
    BackendError, Capabilities, ExecCommand, Handle, Image, LABEL_SCHEMA, Labels, WorkloadKey,
    WorkloadSpec,
};
use crate::core::ids::Name;
use client::Program;
use facts::Facts;
use image::{ImageLimits, ImageStore, PreparedImage};
use store::{Instance, META_VERSION, Meta, MetaImage, Store};
use wire::{
    DestroyRequest, EnterCommand, EnterRequest, ImageSource, NetPlan, Reply, Request, RunNote,
    RunRequest,
};

/// How long a helper may take to make or remove a workload. Copying a large
/// image where the kernel cannot map ids is the slow case.
const MAKE: Duration = Duration::from_secs(300);
/// How long a helper may take to find out what the host permits.
const PROBE: Duration = Duration::from_secs(30);
/// How long a helper may take to start a command or to connect.
const ENTER: Duration = Duration::from_secs(15);
/// Disk of a workload that was promised none, in MiB: its /tmp and /home are
/// there, and bounded.
const DISK_UNPROMISED_MIB: u32 = 256;
/// Version of the data in handles.
const HANDLE_VERSION: u32 = 1;

/// How a [`Sandbox`] is set up.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// State directory, of this installation alone.
    pub root: PathBuf,
    /// Program to run as the helper: one of ours, whose `main` calls
    /// [`helper_main`]; the daemon passes its own.
    pub helper: PathBuf,
    /// Name that handles carry.
    pub name: Name,
    /// Whether tenants get a way out.
    pub network: NetworkChoice,
    /// Largest image, unpacked, in MiB.
    pub max_image_mib: u64,
}

/// Whether tenants get a way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkChoice {
    /// NAT to public addresses, where the host permits; these name servers.
    Outgoing {
        /// Name servers for resolv.conf; reachable wherever they are.
        resolvers: Vec<Ipv4Addr>,
    },
    /// Loopback only.
    Loopback,
}

impl Default for NetworkChoice {
    /// A way out, with two public name servers.
    fn default() -> Self {
        Self::Outgoing {
            resolvers: vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)],
        }
    }
}

/// The backend.
#[derive(Debug)]
pub struct Sandbox {
    config: SandboxConfig,
    program: Program,
    store: Store,
    instance: Instance,
    facts: Facts,
    capabilities: Capabilities,
    images: ImageStore,
    /// How often it was tidied up.
    rounds: AtomicU32,
    seats: seats::Seats,
    /// Held while the books change; never across an await.
    books: Mutex<()>,
}

impl Sandbox {
    /// Opens the state directory and finds out what the host permits.
    ///
    /// # Errors
    /// `Permanent` where the state directory or the helper cannot be used.
    /// A host that permits little is no error: see [`Capabilities::notes`].
    pub async fn open(config: SandboxConfig) -> Result<Self, BackendError> {
        let (path, helper) = (config.root.clone(), config.helper.clone());
        let (store, instance, program) = blocking(move || {
            let routes = wall::routes().unwrap_or_default();
            let (store, instance) = Store::open(&path, || draw_instance(&routes))?;
            Ok((store, instance, Program::load(&helper)?))
        })
        .await
        .map_err(|err| BackendError::Permanent(format!("opening the sandbox: {err}")))?;
        let limits = ImageLimits::default().with_max_mib(config.max_image_mib);
        let images = ImageStore::open(store.root().join("images"), limits)?;
        let facts = find_facts(&program, &store, &instance).await?;
        let wanted = matches!(config.network, NetworkChoice::Outgoing { .. });
        Ok(Self {
            capabilities: facts.capabilities(wanted),
            config,
            program,
            store,
            instance,
            facts,
            images,
            rounds: AtomicU32::new(0),
            seats: seats::Seats::default(),
            books: Mutex::new(()),
        })
    }

    /// The lease of a handle of ours.
    fn key<'a>(&self, handle: &'a Handle) -> Result<&'a WorkloadKey, BackendError> {
        if handle.backend != self.config.name {
            return Err(BackendError::Permanent(format!(
                "the handle is of backend {}",
                handle.backend
            )));
        }
        // Version 1 is the first; nothing was in its data but the key, which
        // is beside it.
        if handle.version == 0 || handle.version > HANDLE_VERSION {
            return Err(BackendError::Permanent(format!(
                "handle version {} is not known",
                handle.version
            )));
        }
        Ok(&handle.key)
    }

    fn handle(&self, meta: &Meta) -> Handle {
        Handle {
            backend: self.config.name.clone(),
            version: HANDLE_VERSION,
            key: meta.labels.lease.clone(),
            data: serde_json::json!({ "slot": meta.slot }),
        }
    }

    fn cgroup(&self, key: &WorkloadKey) -> Option<PathBuf> {
        let groups = self.facts.groups.as_ref()?;
        let ours = format!("satlet-{}", self.instance.id);
        Some(groups.parent.join(ours).join(key.as_str()))
    }

    fn net_plan(&self, slot: u32) -> Option<NetPlan> {
        let NetworkChoice::Outgoing { resolvers } = &self.config.network else {
            return None;
        };
        if !self.facts.network(true) || slot >= net::MAX_TENANTS {
            return None;
        }
        let (host, guest) = net::addresses(self.instance.network, slot);
        Some(NetPlan {
            instance: self.instance.id.clone(),
            interface: net::interface(&self.instance.id, slot),
            host,
            guest,
            network: format!("{}/22", self.instance.network),
            resolvers: resolvers.clone(),
            lock: self.store.root().join("net.lock"),
        })
    }

    fn run_request(&self, meta: &Meta) -> RunRequest {
        let image = meta.image.as_ref();
        let key = &meta.labels.lease;
        let spec = &meta.spec;
        let net = self.net_plan(meta.slot);
        let config = image.map(|image| image.config.clone()).unwrap_or_default();
        let argv = if spec.command.is_empty() {
            [config.entrypoint, config.cmd].concat()
        } else {
            spec.command.clone()
        };
        let disk_mib = match spec.resources.disk_mib {
            0 => DISK_UNPROMISED_MIB,
            promised => promised,
        };
        RunRequest {
            dir: self.store.dir(key),
            key: key.to_string(),
            uid_base: self.uid_base(meta.slot),
            image: match image {
                Some(image) => ImageSource::Unpacked(image.rootfs.clone()),
                None => ImageSource::Host,
            },
            disk_mib: self.facts.probed.disk.is_none().then_some(disk_mib),
            resources: spec.resources,
            cgroup: self.cgroup(key),
            swap_limit: self.facts.groups.as_ref().is_some_and(|groups| groups.swap),
            resolvers: net
                .as_ref()
                .map(|net| net.resolvers.clone())
                .unwrap_or_default(),
            net,
            argv,
            env: environment(config.env, &spec.env),
            cwd: config.workdir,
            user: config.user,
        }
    }

    fn uid_base(&self, slot: u32) -> Option<u32> {
        self.facts.root.then(|| {
            self.instance
                .uid_base
                .saturating_add(slot.saturating_mul(spec::ID_RANGE))
        })
    }

    fn destroy_request(&self, key: &WorkloadKey, slot: u32) -> Request {
        Request::Destroy(DestroyRequest {
            dir: self.store.dir(key),
            cgroup: self.cgroup(key),
            net: self.net_plan(slot),
            slot: self.store.slot_path(slot),
        })
    }

    /// The books, looked at and changed by one at a time.
    fn books<T>(&self, work: impl FnOnce(&Store) -> std::io::Result<T>) -> Result<T, BackendError> {
        let guard = self.books.lock();
        let result = work(&self.store);
        drop(guard);
        result.map_err(|err| match err.raw_os_error() {
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => {
                BackendError::NoCapacity("the sandbox has no room or no free slot".to_owned())
            }
            _ => BackendError::Retry(format!("the sandbox's books: {err}")),
        })
    }

    fn meta(&self, key: &WorkloadKey) -> Result<Option<Meta>, BackendError> {
        self.books(|store| store.meta(key))
    }

    fn ensure(
        &self,
        key: &WorkloadKey,
        spec: &WorkloadSpec,
        image: Option<&PreparedImage>,
    ) -> Result<(Meta, bool), BackendError> {
        self.books(|store| {
            store.ensure(key, |slot| Meta {
                version: META_VERSION,
                labels: Labels {
                    lease: key.clone(),
                    owner: spec.owner,
                    expires_at: spec.expires_at,
                    schema: LABEL_SCHEMA,
                    note: spec.note.clone(),
                },
                spec: spec.clone(),
                slot,
                image: image.map(|image| MetaImage {
                    digest: image.digest.clone(),
                    rootfs: image.rootfs.clone(),
                    config: image.config.clone(),
                }),
            })
        })
    }

    /// Sees to it that the rules that wall tenants off are in force.
    async fn uphold_network(&self) -> Result<(), BackendError> {
        let Some(plan) = self.net_plan(0) else {
            return Ok(());
        };
        blocking(move || wall::uphold(&net::wall_of(&plan)))
            .await
            .map_err(|err| BackendError::Retry(format!("the rules of the network: {err}")))
    }

    /// Removes unpacked images that no lease stands on and nobody waits for.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn prune_images(&self) -> Result<Vec<String>, BackendError> {
        let leases = self.books(Store::list)?;
        let keep: Vec<_> = leases
            .into_iter()
            .filter_map(|meta| meta.image.map(|image| image.digest))
            .collect();
        self.images.prune(&keep).await
    }

    /// The image of a workload, ready; `None` for the host's own.
    async fn prepared(
        &self,
        image: &Image,
    ) -> Result<Option<std::sync::Arc<PreparedImage>>, BackendError> {
        match image {
            Image::Host => Ok(None),
            other => self.images.ensure(other).await.map(Some),
        }
    }

    /// Brings a workload that is in the books to running.
    async fn bring_up(&self, meta: &Meta) -> Result<RunNote, BackendError> {
        let request = Request::Run(Box::new(self.run_request(meta)));
        match client::call(&self.program, &request, MAKE).await? {
            (Reply::Running(note), _) => Ok(note),
            _ => Err(wrong_answer()),
        }
    }

    async fn remove(&self, key: &WorkloadKey, slot: u32) -> Result<(), BackendError> {
        let request = self.destroy_request(key, slot);
        match client::call(&self.program, &request, MAKE).await? {
            (Reply::Destroyed, _) => Ok(()),
            _ => Err(wrong_answer()),
        }
    }

    /// What runs of a workload, if it does; whether it is there at all.
    fn running(&self, key: &WorkloadKey) -> Result<(Option<Meta>, Option<RunNote>), BackendError> {
        let Some(meta) = self.meta(key)? else {
            return Ok((None, None));
        };
        let look = || -> std::io::Result<Option<RunNote>> {
            let Some(note) = store::read_run(&self.store.dir(key))? else {
                return Ok(None);
            };
            Ok(process::alive(&note)?.then_some(note))
        };
        let note =
            look().map_err(|err| BackendError::Retry(format!("looking at the workload: {err}")))?;
        Ok((Some(meta), note))
    }

    fn enter_request(
        &self,
        meta: &Meta,
        target: RunNote,
        request: crate::compute::ExecRequest,
    ) -> EnterRequest {
        let image_env = meta
            .image
            .as_ref()
            .map(|image| image.config.env.clone())
            .unwrap_or_default();
        let base = environment(image_env, &meta.spec.env);
        EnterRequest {
            target,
            cgroup: self.cgroup(&meta.labels.lease),
            command: match request.command {
                ExecCommand::Shell => EnterCommand::Shell,
                ExecCommand::Line(line) => EnterCommand::Line(line),
                ExecCommand::Argv(argv) => EnterCommand::Argv(argv),
                ExecCommand::Sftp => EnterCommand::Sftp,
            },
            env: merge(base, &request.env),
            tty: request.tty.map(|size| (size.cols, size.rows)),
            foreign: false,
        }
    }
}

/// PATH, then the image's environment, then the workload's; later ones win.
fn environment(image: Vec<(String, String)>, own: &[(String, String)]) -> Vec<(String, String)> {
    let path = ("PATH".to_owned(), launch::DEFAULT_PATH.to_owned());
    merge(merge(vec![path], &image), own)
}

fn merge(mut base: Vec<(String, String)>, over: &[(String, String)]) -> Vec<(String, String)> {
    for (key, value) in over {
        base.retain(|(known, _)| known != key);
        base.push((key.clone(), value.clone()));
    }
    base
}

fn wrong_answer() -> BackendError {
    BackendError::OutcomeUnknown("the sandbox helper gave a wrong answer".to_owned())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|err| Err(std::io::Error::other(err)))
}

/// Draws what is this installation's own. Ids are in 126 blocks of 256 ranges
/// from 2^24 on, clear of what distributions give to users (/etc/subuid);
/// addresses are a /22 of 10.128.0.0/9 that no route of the host touches.
fn draw_instance(routes: &str) -> Instance {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let letter = |_| {
        let index = rand::random_range(0..LETTERS.len());
        char::from(LETTERS.get(index).copied().unwrap_or(b'a'))
    };
    let draw = || Ipv4Addr::from(0x0a80_0000 | (rand::random_range(0..8192_u32) << 10));
    let mut network = draw();
    for _ in 0..64 {
        if !wall::clashes(network, 22, routes) {
            break;
        }
        network = draw();
    }
    Instance {
        id: (0..6).map(letter).collect(),
        uid_base: rand::random_range(1..127_u32) << 24,
        network,
    }
}

async fn find_facts(
    program: &Program,
    store: &Store,
    instance: &Instance,
) -> Result<Facts, BackendError> {
    let request = Request::Probe {
        dir: store.root().to_owned(),
    };
    let probed = match client::call(program, &request, PROBE).await {
        Ok((Reply::Probed(probed), _)) => probed,
        Ok(_) => return Err(wrong_answer()),
        Err(err) => return Err(BackendError::Permanent(format!("the helper: {err}"))),
    };
    let root = nix::unistd::geteuid().is_root();
    let id = instance.id.clone();
    let groups = blocking(move || facts::usable_groups(&id, root))
        .await
        .map_err(|err| BackendError::Permanent(format!("looking for control groups: {err}")))?;
    Ok(Facts {
        root,
        groups,
        net_tools: facts::has_program("ip") && facts::has_program("nft"),
        probed,
    })
}

/// The last `max` bytes of the two log files, older first, from a line's start
/// where the cut allows it.
fn read_logs(dir: &Path, max: usize) -> std::io::Result<Vec<u8>> {
    let mut parts = Vec::new();
    for name in store::LOGS {
        let path = dir.join(name);
        if let Some(bytes) = store::read_end(&path, init::LOG_CAP.saturating_mul(2))? {
            parts.push((std::fs::metadata(path)?.len(), bytes));
        }
    }
    if parts
        .first()
        .is_some_and(|(first, _)| init::current_log(*first) == 0)
    {
        parts.reverse();
    }
    let all: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
    Ok(tail(all, max))
}

pub(in crate::compute) fn tail(mut all: Vec<u8>, max: usize) -> Vec<u8> {
    let cut = all.len().saturating_sub(max);
    if cut == 0 {
        return all;
    }
    let at_line = cut
        .checked_sub(1)
        .is_some_and(|before| all.get(before) == Some(&b'\n'));
    let rest = all.split_off(cut);
    if at_line {
        return rest;
    }
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) if end + 1 < rest.len() => rest.into_iter().skip(end + 1).collect(),
        _ => rest,
    }
}
