//! Workloads as containers of Docker, or of another engine that speaks its
//! protocol (Podman). For operators whose machine has an engine, and for disk
//! quotas of an engine's storage.
//!
//! * [`Docker`] keeps the contract ([`backend`], [`powers`]); a container is
//!   made hardened ([`spec`]), on a network of its own ([`networks`]), from an
//!   image that is found at the sale ([`images`]).
//! * All that has to be known later is in labels and names ([`names`]): the
//!   engine is the store, and what stands there is adopted.
//! * Commands, files and forwarded ports go in by the sandbox's own door where
//!   the engine is on this host (`sandbox::door`), because an engine gives no
//!   signals, no exit by signal, and no end to a command whose client is gone.
//!   Where we may not go in, the engine's own exec is used ([`exec`]).

mod backend;
mod engine;
mod exec;
mod facts;
mod flights;
mod images;
mod names;
mod networks;
mod observe;
mod powers;
mod spec;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bollard::models::Network;
use bollard::query_parameters::{
    CreateContainerOptions, ImportImageOptions, ListNetworksOptions, RemoveContainerOptions,
    RemoveImageOptions,
};
use futures::StreamExt;

pub use networks::Range;

use crate::compute::sandbox::door::Door;
use crate::compute::sandbox::image::ImageLimits;
use crate::compute::{BackendError, Capabilities, Handle, WorkloadKey};
use crate::core::ids::Name;
use engine::{CHANGE, READ, within};
use facts::Here;
use flights::Flights;
use images::Images;
use names::Instance;
use networks::Networks;

/// Version of the data in handles.
const HANDLE_VERSION: u32 = 1;
/// Where our own note of who we are is.
const INSTANCE_FILE: &str = "instance";

/// How a [`Docker`] is set up.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Directory of this installation alone; nearly nothing is in it.
    pub root: PathBuf,
    /// Program to run as the helper: one of ours, whose `main` calls
    /// [`crate::compute::sandbox::helper_main`].
    pub helper: PathBuf,
    /// Name that handles carry.
    pub name: Name,
    /// The engine's socket.
    pub socket: PathBuf,
    /// Whether tenants get a way out, where this host permits it.
    pub network: bool,
    /// Their name servers; reachable wherever they are.
    pub resolvers: Vec<Ipv4Addr>,
    /// Where their subnets are cut from.
    pub subnets: Range,
    /// Largest image, unpacked, in MiB.
    pub max_image_mib: u64,
    /// Run commands by the engine although we could go in ourselves.
    pub engine_exec: bool,
}

/// The backend.
#[derive(Clone, Debug)]
pub struct Docker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: Name,
    docker: bollard::Docker,
    /// The engine's own id of itself; empty where it has none.
    engine: String,
    /// What it called itself when it was opened.
    data_dir: Option<PathBuf>,
    instance: Instance,
    capabilities: Capabilities,
    /// Whether it holds a size of root file systems.
    quota: bool,
    images: Images,
    /// `None`: loopback only.
    networks: Option<Networks>,
    /// `None`: we may not go into containers.
    door: Option<Door>,
    flights: Flights,
    /// How often it was tidied up.
    rounds: AtomicU32,
}

impl Docker {
    /// Connects to the engine and finds out what it can do.
    ///
    /// # Errors
    /// `Retry` where it does not answer, `Permanent` where it may not be used
    /// (too old, no system call filter) or the directory cannot be written.
    pub async fn open(config: DockerConfig) -> Result<Self, BackendError> {
        let docker = engine::connect(&config.socket).await?;
        let asked = async { tokio::try_join!(docker.version(), docker.info()) };
        let asked = within(READ, asked).await;
        let (version, info) = asked.map_err(|trouble| trouble.asking("asking the engine"))?;
        facts::check(&version, &info)?;
        let instance = instance(&config.root)?;
        let quota = probe_quota(&docker, &instance, &config.root).await?;
        let root = nix::unistd::geteuid().is_root();
        let here = Here {
            wall: root && ["ip", "nft"].into_iter().all(has_program),
            root,
            network: config.network,
            quota,
        };
        let capabilities = facts::capabilities(&info, here);
        let door = match root && !config.engine_exec {
            true => Some(Door::open(&config.helper)?),
            false => None,
        };
        let networks = capabilities
            .outgoing_network
            .then(|| Networks::new(&instance, config.subnets, config.resolvers, &config.root));
        let limits = ImageLimits::default().with_max_mib(config.max_image_mib);
        let images = Images::new(docker.clone(), instance.clone(), limits, config.root);
        let inner = Inner {
            name: config.name,
            docker,
            engine: info.id.unwrap_or_default(),
            data_dir: info.docker_root_dir.map(PathBuf::from),
            instance,
            capabilities,
            quota,
            images,
            networks,
            door,
            flights: Flights::default(),
            rounds: AtomicU32::new(0),
        };
        inner.note_networks().await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    /// The lease of a handle of ours.
    fn key<'a>(&self, handle: &'a Handle) -> Result<&'a WorkloadKey, BackendError> {
        if handle.backend != self.name {
            return Err(BackendError::Permanent(format!(
                "the handle is of backend {}",
                handle.backend
            )));
        }
        if handle.version == 0 || handle.version > HANDLE_VERSION {
            return Err(BackendError::Permanent(format!(
                "handle version {} is not known",
                handle.version
            )));
        }
        Ok(&handle.key)
    }

    fn handle(&self, key: &WorkloadKey) -> Handle {
        Handle {
            backend: self.name.clone(),
            version: HANDLE_VERSION,
            key: key.clone(),
            data: serde_json::json!({ "engine": self.engine }),
        }
    }

    /// Networks with our label, or a lease's alone.
    async fn list_networks(&self, key: Option<&WorkloadKey>) -> Result<Vec<Network>, BackendError> {
        let filter = match key {
            Some(key) => self.instance.filter_lease(key),
            None => self.instance.filter(),
        };
        let options = ListNetworksOptions {
            filters: Some(filter),
        };
        within(READ, self.docker.list_networks(Some(options)))
            .await
            .map_err(|trouble| trouble.asking("listing networks"))
    }

    /// The place that a network of ours has.
    fn slot(&self, network: &Network) -> Option<u32> {
        let bridge = network.options.as_ref()?;
        self.instance
            .slot(bridge.get("com.docker.network.bridge.name")?)
    }

    async fn note_networks(&self) -> Result<(), BackendError> {
        let Some(networks) = &self.networks else {
            return Ok(());
        };
        let there = self.list_networks(None).await?;
        let slots = there.iter().filter_map(|network| self.slot(network));
        slots.for_each(|slot| networks.note(slot));
        Ok(())
    }
}

/// Who we are, drawn when the directory is new.
fn instance(root: &Path) -> Result<Instance, BackendError> {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let failed = |error: std::io::Error| {
        BackendError::Permanent(format!("the directory {}: {error}", root.display()))
    };
    std::fs::create_dir_all(root).map_err(failed)?;
    let file = root.join(INSTANCE_FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => Instance::parse(text.trim())
            .ok_or_else(|| BackendError::Permanent(format!("{} is damaged", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let letter = |_| {
                let index = rand::random_range(0..LETTERS.len());
                char::from(LETTERS.get(index).copied().unwrap_or(b'a'))
            };
            let text: String = (0..6).map(letter).collect();
            let mut new = tempfile::NamedTempFile::new_in(root).map_err(failed)?;
            std::io::Write::write_all(&mut new, text.as_bytes()).map_err(failed)?;
            new.as_file().sync_all().map_err(failed)?;
            new.persist_noclobber(&file)
                .map_err(|error| failed(error.error))?;
            Instance::parse(&text)
                .ok_or_else(|| BackendError::Permanent("no name could be drawn".to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

fn has_program(name: &str) -> bool {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .into_iter()
    .any(|dir| Path::new(dir).join(name).exists())
}

/// Whether the engine takes a size for a root file system, tried with an empty
/// image: what it says of its driver does not tell.
async fn probe_quota(
    docker: &bollard::Docker,
    instance: &Instance,
    work: &Path,
) -> Result<bool, BackendError> {
    let failed = |error: std::io::Error| BackendError::Retry(format!("a trial image: {error}"));
    let tag = format!("{}:latest", instance.repository("trial"));
    let archive = empty_image(&tag, work).map_err(failed)?;
    let body = bollard::body_try_stream(tokio_util::io::ReaderStream::new(
        tokio::fs::File::from_std(archive),
    ));
    let load = async {
        let mut steps = docker.import_image(ImportImageOptions::default(), body, None);
        while let Some(step) = steps.next().await {
            step?;
        }
        Ok(())
    };
    within(CHANGE, load)
        .await
        .map_err(|trouble| trouble.asking("trying a disk quota"))?;
    let body = bollard::models::ContainerCreateBody {
        image: Some(tag.clone()),
        cmd: Some(vec!["none".to_owned()]),
        host_config: Some(bollard::models::HostConfig {
            storage_opt: Some([("size".to_owned(), "64m".to_owned())].into()),
            network_mode: Some("none".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let created = docker.create_container(None::<CreateContainerOptions>, body);
    let created = within(CHANGE, created).await;
    if let Ok(made) = &created {
        let options = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        // One that stays is not ours to anybody, does not run, and is empty.
        let gone = docker.remove_container(&made.id, Some(options));
        drop(within(CHANGE, gone).await);
    }
    let gone = docker.remove_image(&tag, None::<RemoveImageOptions>, None);
    drop(within(CHANGE, gone).await);
    Ok(created.is_ok())
}

/// An archive as `docker load` takes it, of an image with nothing in it.
fn empty_image(tag: &str, work: &Path) -> std::io::Result<std::fs::File> {
    use sha2::{Digest, Sha256};
    // The end of a tar file: two blocks of zeros.
    let layer = [0_u8; 1024];
    let diff = format!("sha256:{}", hex::encode(Sha256::digest(layer)));
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    });
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}
    ]);
    let mut tar = tar::Builder::new(tempfile::tempfile_in(work)?);
    for (name, bytes) in [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer.to_vec()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(u64::try_from(bytes.len()).unwrap_or(0));
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    let mut file = tar.into_inner()?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file)
}
