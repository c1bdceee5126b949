//! A container engine for tests: the one that `SATLET_TEST_DOCKER` names (the
//! path of its socket), or the machine's own; and a proxy of it that can be cut.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use satlet::compute::docker::{Docker, DockerConfig, Range};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

/// The socket of an engine that answers; else why there is none.
pub(crate) async fn socket() -> Result<PathBuf, String> {
    let named = std::env::var_os("SATLET_TEST_DOCKER");
    let path = named.map_or_else(|| PathBuf::from("/var/run/docker.sock"), PathBuf::from);
    if !nix::unistd::geteuid().is_root() {
        return Err("walls around containers need root".to_owned());
    }
    let client = connect(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let ping = tokio::time::timeout(std::time::Duration::from_secs(20), client.ping()).await;
    match ping {
        Ok(Ok(_)) => Ok(path),
        Ok(Err(error)) => Err(format!("no engine at {}: {error}", path.display())),
        Err(_) => Err(format!("the engine at {} does not answer", path.display())),
    }
}

/// A client of the engine, beside the backend.
pub(crate) fn connect(path: &Path) -> Result<bollard::Docker, bollard::errors::Error> {
    // The protocol of Docker 20.10, which every later engine speaks or negotiates.
    let version = bollard::ClientVersion {
        major_version: 1,
        minor_version: 41,
    };
    let path = path.to_str().unwrap_or_default();
    bollard::Docker::connect_with_unix(path, 120, &version)
}

/// Subnets that no other test of this process has.
fn subnets() -> Range {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start: usize = std::process::id() as usize;
    let number = start.wrapping_mul(37) + NEXT.fetch_add(1, Ordering::Relaxed);
    Range::parse(&format!(
        "10.{}.{}.0/24",
        64 + number / 256 % 60,
        number % 256
    ))
    .unwrap()
}

/// Settings of a backend in this directory.
pub(crate) fn config(root: &Path, socket: &Path) -> DockerConfig {
    DockerConfig {
        root: root.to_owned(),
        helper: PathBuf::from(env!("CARGO_BIN_EXE_satletd")),
        name: "docker".parse().unwrap(),
        socket: socket.to_owned(),
        network: true,
        resolvers: vec![[1, 1, 1, 1].into()],
        subnets: subnets(),
        max_image_mib: 256,
        engine_exec: false,
    }
}

/// Opens it.
pub(crate) async fn open(config: DockerConfig) -> Result<Docker, String> {
    Docker::open(config)
        .await
        .map_err(|error| error.to_string())
}

/// What an installation puts into the names of all it makes.
pub(crate) fn instance(root: &Path) -> Option<String> {
    std::fs::read_to_string(root.join("instance")).ok()
}

/// A socket that leads to the engine's until it is cut.
pub(crate) struct Proxy {
    path: PathBuf,
    engine: PathBuf,
    task: std::sync::Mutex<Option<AbortHandle>>,
    requests: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) fn new(path: &Path, engine: &Path) -> Self {
        let proxy = Self {
            path: path.to_owned(),
            engine: engine.to_owned(),
            task: std::sync::Mutex::default(),
            requests: Arc::default(),
        };
        proxy.up();
        proxy
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Connections are refused, and those that are open are cut.
    pub(crate) fn cut(&self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    pub(crate) fn up(&self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).unwrap();
        let (engine, count) = (self.engine.clone(), self.requests.clone());
        let task = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let engine = engine.clone();
                open.spawn(async move {
                    let Ok(mut far) = UnixStream::connect(engine).await else {
                        return;
                    };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                while open.try_join_next().is_some() {}
            }
        });
        *self.task.lock().unwrap() = Some(task.abort_handle());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

/// What an installation has in the engine and on the host.
pub(crate) async fn left(client: &bollard::Docker, id: &str) -> Vec<String> {
    use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions};
    let filter = || {
        let label = format!("satlet.instance={id}");
        Some([("label".to_owned(), vec![label])].into())
    };
    let options = ListContainersOptions {
        all: true,
        filters: filter(),
        ..ListContainersOptions::default()
    };
    let containers = client.list_containers(Some(options)).await.unwrap();
    let containers = containers.into_iter().map(|one| format!("{:?}", one.names));
    let options = ListNetworksOptions { filters: filter() };
    let networks = client.list_networks(Some(options)).await.unwrap();
    let networks = networks.into_iter().map(|one| format!("{:?}", one.name));
    let mut left: Vec<String> = containers.chain(networks).collect();
    let prefix = format!("sd{id}-");
    let links = std::fs::read_dir("/sys/class/net").into_iter().flatten();
    let links = links
        .flatten()
        .map(|link| link.file_name().to_string_lossy().into_owned());
    left.extend(links.filter(|link| link.starts_with(&prefix)));
    let table = format!("satlet_{id}");
    let there = std::process::Command::new("nft")
        .args(["list", "table", "inet", &table])
        .output();
    if there.is_ok_and(|output| output.status.success()) {
        left.push(table);
    }
    left
}

/// Takes away all that an installation has, by force.
pub(crate) async fn clear(client: &bollard::Docker, id: &str) {
    use bollard::query_parameters::{
        ListContainersOptions, ListImagesOptions, ListNetworksOptions, RemoveContainerOptions,
        RemoveImageOptions,
    };
    let filter = || {
        let label = format!("satlet.instance={id}");
        Some([("label".to_owned(), vec![label])].into())
    };
    let options = ListContainersOptions {
        all: true,
        filters: filter(),
        ..ListContainersOptions::default()
    };
    for one in client
        .list_containers(Some(options))
        .await
        .unwrap_or_default()
    {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            link: false,
        };
        let _ = client
            .remove_container(&one.id.unwrap(), Some(options))
            .await;
    }
    let options = ListNetworksOptions { filters: filter() };
    for one in client
        .list_networks(Some(options))
        .await
        .unwrap_or_default()
    {
        let _ = client.remove_network(&one.id.unwrap()).await;
    }
    let ours = format!("satlet-{id}/*");
    let options = ListImagesOptions {
        filters: Some([("reference".to_owned(), vec![ours.clone()])].into()),
        ..ListImagesOptions::default()
    };
    for one in client.list_images(Some(options)).await.unwrap_or_default() {
        for tag in one.repo_tags.iter().filter(|tag| tag.contains(id)) {
            let options = RemoveImageOptions::default();
            let _ = client.remove_image(tag, Some(options), None).await;
        }
    }
    let table = format!("satlet_{id}");
    let _ = std::process::Command::new("nft")
        .args(["delete", "table", "inet", &table])
        .stderr(std::process::Stdio::null())
        .status();
}
