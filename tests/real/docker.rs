//! Leases on a container engine, looked at from outside: what the engine says
//! of one, what a registry is asked, what the stock OpenSSH client gets.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bollard::models::{ContainerInspectResponse, HostConfig};
use bollard::query_parameters::InspectContainerOptions;
use satlet::compute::docker::{Docker, DockerConfig};
use satlet::compute::{
    Backend, BackendError, Exec, ExecCommand, ExecRequest, ExecSession, ExitStatus, Handle, Image,
    Observed, TtySize, WorkloadSpec,
};
use satlet::core::capacity::Resources;
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::time::Timestamp;
use satlet::gateway::{Door, Doors, Gateway, GatewayLimits, HostKey};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::engine::{self, Proxy};
use crate::support::local_gateway::{make_key, noise};
use crate::support::oci::OciImage;
use crate::support::openssh::{self, Stock};

/// A backend on its own installation, all of which goes with it.
struct Bench {
    dir: tempfile::TempDir,
    client: bollard::Docker,
    config: DockerConfig,
    docker: Docker,
}

/// Or why there is none.
async fn bench(change: impl FnOnce(&mut DockerConfig)) -> Result<Bench, String> {
    let socket = engine::socket().await?;
    let dir = tempfile::tempdir().unwrap();
    let mut config = engine::config(&dir.path().join("state"), &socket);
    change(&mut config);
    Ok(Bench {
        client: engine::connect(&socket).unwrap(),
        docker: engine::open(config.clone()).await.unwrap(),
        config,
        dir,
    })
}

fn busybox(motto: &str) -> Result<OciImage, String> {
    let image = OciImage::busybox().ok_or("no static busybox")?;
    Ok(image
        .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        .file("etc/motto", motto.as_bytes(), 0o644))
}

fn spec(image: Image) -> WorkloadSpec {
    WorkloadSpec {
        owner: PublicKey::from_bytes([7; 32]),
        image,
        resources: Resources {
            cpu_millicores: 250,
            memory_mib: 96,
            disk_mib: 0,
            pids: 77,
        },
        command: Vec::new(),
        env: Vec::new(),
        expires_at: Timestamp::from_secs(1_900_000_000),
        note: String::new(),
    }
}

fn key() -> LeaseId {
    LeaseId::from_random(rand::random())
}

impl Bench {
    fn layout(&self) -> Result<Image, String> {
        let path = self.dir.path().join("layout");
        busybox("to let\n")?.write_dir(&path);
        Ok(Image::Layout(path))
    }

    fn id(&self) -> String {
        engine::instance(&self.config.root).unwrap()
    }

    async fn inspect(&self, key: &LeaseId) -> ContainerInspectResponse {
        let name = format!("satlet-{}-{key}", self.id());
        let options = None::<InspectContainerOptions>;
        self.client.inspect_container(&name, options).await.unwrap()
    }

    async fn sh(&self, handle: &Handle, line: &str) -> String {
        let (status, out, err) = run(&self.docker, handle, line, b"").await;
        assert_eq!(status, ExitStatus::Code(0), "{line}: {out}{err}");
        out
    }
}

impl Drop for Bench {
    /// Also after a panic nothing is left in the engine.
    fn drop(&mut self) {
        let (client, id) = (self.client.clone(), self.id());
        let clear = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(engine::clear(&client, &id));
        };
        let _ = std::thread::spawn(clear).join();
    }
}

fn request(line: &str) -> ExecRequest {
    ExecRequest {
        command: ExecCommand::Line(line.to_owned()),
        env: Vec::new(),
        tty: None,
    }
}

async fn run(
    docker: &Docker,
    handle: &Handle,
    line: &str,
    input: &[u8],
) -> (ExitStatus, String, String) {
    let session = Exec::exec(docker, handle, request(line)).await;
    finish(session.unwrap(), input).await
}

async fn finish(session: ExecSession, input: &[u8]) -> (ExitStatus, String, String) {
    let ExecSession {
        mut stdin,
        mut stdout,
        stderr,
        control,
        exit,
    } = session;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let feed = async {
        stdin.write_all(input).await.unwrap_or_default();
        stdin.shutdown().await.unwrap_or_default();
        drop(stdin);
    };
    let errors = async {
        if let Some(mut stderr) = stderr {
            stderr.read_to_end(&mut err).await.unwrap();
        }
    };
    let all = async { tokio::join!(feed, stdout.read_to_end(&mut out), errors, exit) };
    let (.., status) = tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("the command ends");
    drop(control);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.unwrap().unwrap(), text(out), text(err))
}

/// Each line of what the documentation promises, as the engine has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_hardened() {
    let bench = match bench(|_| {}).await {
        Ok(bench) => bench,
        Err(why) => skip!("a_lease_is_hardened", "{why}"),
    };
    let image = match bench.layout() {
        Ok(image) => image,
        Err(why) => skip!("a_lease_is_hardened", "{why}"),
    };
    let key = key();
    bench.docker.create(&key, &spec(image)).await.unwrap();
    let seen = bench.inspect(&key).await;
    let host: HostConfig = seen.host_config.clone().unwrap();
    assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    let mut added = host.cap_add.unwrap();
    added.sort();
    assert_eq!(
        added.join(" ").replace("CAP_", ""),
        "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID \
         SYS_CHROOT"
    );
    // No word about seccomp: the engine's own profile.
    assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.memory, Some(96 * 1024 * 1024));
    assert_eq!(host.memory_swap, host.memory);
    assert_eq!(host.nano_cpus, Some(250_000_000));
    assert_eq!(host.pids_limit, Some(77));
    assert_ne!(host.oom_kill_disable, Some(true));
    assert_eq!(host.oom_score_adj, Some(300));
    assert_eq!(host.init, Some(true));
    let restart = host.restart_policy.unwrap().name.unwrap().to_string();
    assert!(matches!(restart.as_str(), "no" | ""), "{restart}");
    let log = host.log_config.unwrap();
    assert_eq!(log.typ.as_deref(), Some("json-file"));
    let log = log.config.unwrap();
    assert_eq!(
        (log["max-size"].as_str(), log["max-file"].as_str()),
        ("1m", "2")
    );
    let network = host.network_mode.unwrap();
    assert_eq!(network, format!("satlet-{}-{key}", bench.id()));
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    for (mode, what) in [(host.pid_mode, "pid"), (host.uts_mode, "uts")] {
        assert_ne!(mode.as_deref(), Some("host"), "{what}");
    }
    assert!(host.binds.unwrap_or_default().is_empty());
    assert!(host.mounts.unwrap_or_default().is_empty());
    assert!(host.devices.unwrap_or_default().is_empty());
    assert!(host.port_bindings.unwrap_or_default().is_empty());
    assert_eq!(host.publish_all_ports, Some(false));
    assert_eq!(host.dns.unwrap(), ["1.1.1.1"]);
    assert!(seen.mounts.unwrap_or_default().is_empty());
    let labels = seen.config.unwrap().labels.unwrap();
    assert_eq!(labels["satlet.lease"], key.as_str());
    assert_eq!(
        labels["satlet.owner"],
        PublicKey::from_bytes([7; 32]).to_string()
    );
    assert_eq!(labels["satlet.expires-at"], "1900000000");
}

/// Without a way out there is no network at all, and no name of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_network_there_is_loopback_only() {
    let bench = match bench(|config| config.network = false).await {
        Ok(bench) => bench,
        Err(why) => skip!("without_network_there_is_loopback_only", "{why}"),
    };
    let image = match bench.layout() {
        Ok(image) => image,
        Err(why) => skip!("without_network_there_is_loopback_only", "{why}"),
    };
    assert!(!bench.docker.capabilities().outgoing_network);
    let key = key();
    let handle = bench.docker.create(&key, &spec(image)).await.unwrap();
    let mode = bench.inspect(&key).await.host_config.unwrap().network_mode;
    assert_eq!(mode.as_deref(), Some("none"));
    let devices = bench.sh(&handle, "ls /sys/class/net").await;
    assert_eq!(devices.trim(), "lo");
    bench.docker.destroy(&handle).await.unwrap();
    assert_eq!(engine::left(&bench.client, &bench.id()).await, [""; 0]);
}

/// Twenty at once are twenty, each on a subnet of its own; all go again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_at_once_are_twenty() {
    let bench = match bench(|config| config.subnets = "10.62.0.0/22".parse_range()).await {
        Ok(bench) => bench,
        Err(why) => skip!("twenty_at_once_are_twenty", "{why}"),
    };
    let image = match bench.layout() {
        Ok(image) => image,
        Err(why) => skip!("twenty_at_once_are_twenty", "{why}"),
    };
    let spec = spec(image);
    let keys: Vec<LeaseId> = (0..20).map(|_| key()).collect();
    bench.docker.prepare(&spec.image).await.unwrap();
    let before = std::time::Instant::now();
    let made = keys.iter().map(|key| bench.docker.create(key, &spec));
    let made: Result<Vec<Handle>, BackendError> =
        futures::future::join_all(made).await.into_iter().collect();
    let handles = made.unwrap();
    let took = before.elapsed();
    let mut addresses = std::collections::BTreeSet::new();
    for (key, handle) in keys.iter().zip(&handles) {
        assert_eq!(&handle.key, key);
        let networks = bench.inspect(key).await.network_settings.unwrap().networks;
        let own: Vec<_> = networks.unwrap().into_values().collect();
        assert_eq!(own.len(), 1);
        assert!(addresses.insert(own[0].ip_address.clone().unwrap()));
    }
    assert_eq!(bench.docker.list_owned().await.unwrap().len(), 20);
    if std::env::var_os("SATLET_TIMES").is_some() {
        let text = format!("20 creates at once: {took:?}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }
    let gone = handles.iter().map(|handle| bench.docker.destroy(handle));
    for gone in futures::future::join_all(gone).await {
        gone.unwrap();
    }
    assert_eq!(engine::left(&bench.client, &bench.id()).await, [""; 0]);
}

trait ParseRange {
    fn parse_range(&self) -> satlet::compute::docker::Range;
}

impl ParseRange for str {
    fn parse_range(&self) -> satlet::compute::docker::Range {
        satlet::compute::docker::Range::parse(self).unwrap()
    }
}

/// A network that a crash left before its container is found and removed; the
/// range is small enough that it would be missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_half_made_is_swept() {
    let bench = match bench(|_| {}).await {
        Ok(bench) => bench,
        Err(why) => skip!("what_a_crash_left_half_made_is_swept", "{why}"),
    };
    let (id, lease) = (bench.id(), key());
    let labels: HashMap<String, String> = [
        ("satlet.instance", id.clone()),
        ("satlet.lease", lease.to_string()),
        ("satlet.owner", PublicKey::from_bytes([7; 32]).to_string()),
        ("satlet.expires-at", "1900000000".to_owned()),
        ("satlet.schema", "1".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let request = bollard::models::NetworkCreateRequest {
        name: format!("satlet-{id}-{lease}"),
        labels: Some(labels),
        ..Default::default()
    };
    // From the engine's own pool: the host may have no room there.
    if let Err(why) = bench.client.create_network(request).await {
        let why = why.to_string();
        skip!("what_a_crash_left_half_made_is_swept", "{why}");
    }
    let reopened = engine::open(bench.config.clone()).await.unwrap();
    let owned = reopened.list_owned().await.unwrap();
    assert_eq!(owned.len(), 1);
    assert_eq!(owned[0].labels.lease, lease);
    let seen = reopened.observe(&owned[0].handle).await.unwrap();
    assert_eq!(seen, Observed::Absent);
    reopened.destroy(&owned[0].handle).await.unwrap();
    assert_eq!(engine::left(&bench.client, &id).await, [""; 0]);
}

/// "Not there" from another engine than the one that made it is no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_engine_does_not_know() {
    let bench = match bench(|config| config.network = false).await {
        Ok(bench) => bench,
        Err(why) => skip!("another_engine_does_not_know", "{why}"),
    };
    let mut handle = Handle {
        backend: "docker".parse().unwrap(),
        version: 1,
        key: key(),
        data: json!({"engine": "somebody else's"}),
    };
    let seen = bench.docker.observe(&handle).await;
    assert!(matches!(seen, Err(BackendError::Retry(_))), "{seen:?}");
    let gone = bench.docker.destroy(&handle).await;
    assert!(matches!(gone, Err(BackendError::Retry(_))), "{gone:?}");
    handle.data = json!({});
    let seen = bench.docker.observe(&handle).await.unwrap();
    assert_eq!(seen, Observed::Absent);
}

/// The engine's own exec, for a daemon that may not go in itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_by_the_engine_s_own_exec() {
    let name = "commands_run_by_the_engine_s_own_exec";
    let bench = match bench(|config| {
        config.engine_exec = true;
        config.network = false;
    })
    .await
    {
        Ok(bench) => bench,
        Err(why) => skip!(name, "{why}"),
    };
    let image = match bench.layout() {
        Ok(image) => image,
        Err(why) => skip!(name, "{why}"),
    };
    let handle = bench.docker.create(&key(), &spec(image)).await.unwrap();
    assert!(bench.docker.dial().is_none());
    let line = "cat; echo oops >&2; exit 7";
    let (status, out, err) = run(&bench.docker, &handle, line, b"hello").await;
    assert_eq!(
        (status, out.as_str(), err.as_str()),
        (ExitStatus::Code(7), "hello", "oops\n")
    );
    let on_tty = ExecRequest {
        tty: Some(TtySize { cols: 91, rows: 31 }),
        ..request("sleep 1; stty size")
    };
    let session = Exec::exec(&bench.docker, &handle, on_tty).await.unwrap();
    assert!(session.stderr.is_none());
    let (_, out, _) = finish(session, b"").await;
    assert!(out.contains("31 91"), "{out:?}");
    // A client that is gone takes its command with it.
    let session = Exec::exec(&bench.docker, &handle, request("echo up; sleep 4321")).await;
    let mut session = session.unwrap();
    let mut up = [0; 3];
    session.stdout.read_exact(&mut up).await.unwrap();
    drop(session);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let (_, seen, _) = run(&bench.docker, &handle, "ps | grep -c '[s]leep 4321'", b"").await;
        if seen.trim() == "0" {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it goes on: {seen}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A registry of one repository, out of a layout, that counts what it is asked.
#[derive(Clone, Default)]
struct Registry {
    /// A manifest's digest by tag.
    tags: Arc<Mutex<BTreeMap<String, String>>>,
    layouts: Arc<Mutex<Vec<PathBuf>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/box/manifests/{name}", get(manifest))
            .route("/v2/box/blobs/{name}", get(blob))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    /// Puts an image there under this tag; its digest.
    fn push(&self, dir: &Path, tag: &str, motto: &str) -> Result<String, String> {
        let path = dir.join(format!("pushed-{tag}-{}", motto.trim()));
        let digest = busybox(motto)?.write_dir(&path);
        self.layouts.lock().unwrap().push(path);
        self.tags
            .lock()
            .unwrap()
            .insert(tag.to_owned(), digest.clone());
        Ok(digest)
    }

    fn content(&self, digest: &str) -> Option<Vec<u8>> {
        let name = Path::new("blobs").join(digest.replace(':', "/"));
        let layouts = self.layouts.lock().unwrap();
        layouts
            .iter()
            .find_map(|dir| std::fs::read(dir.join(&name)).ok())
    }

    fn count(&self, what: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|one| one.starts_with(what)).count()
    }
}

async fn manifest(
    State(registry): State<Registry>,
    UrlPath(name): UrlPath<String>,
    method: axum::http::Method,
) -> Response {
    registry
        .asked
        .lock()
        .unwrap()
        .push(format!("{method} manifest {name}"));
    let digest = registry
        .tags
        .lock()
        .unwrap()
        .get(&name)
        .cloned()
        .unwrap_or(name);
    match registry.content(&digest) {
        Some(body) => (
            [
                (
                    header::CONTENT_TYPE,
                    "application/vnd.oci.image.manifest.v1+json".to_owned(),
                ),
                (
                    header::HeaderName::from_static("docker-content-digest"),
                    digest,
                ),
            ],
            body,
        )
            .into_response(),
        None => {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            (StatusCode::NOT_FOUND, body).into_response()
        }
    }
}

async fn blob(State(registry): State<Registry>, UrlPath(digest): UrlPath<String>) -> Response {
    registry
        .asked
        .lock()
        .unwrap()
        .push(format!("blob {digest}"));
    // Slow enough that others ask meanwhile.
    tokio::time::sleep(Duration::from_millis(300)).await;
    match registry.content(&digest) {
        Some(body) => body.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// However many want it, it is pulled once; what was sold is what is run, also
/// after its name has come to mean something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_once_and_stays_what_it_was() {
    let name = "an_image_is_pulled_once_and_stays_what_it_was";
    let bench = match bench(|config| config.network = false).await {
        Ok(bench) => bench,
        Err(why) => skip!(name, "{why}"),
    };
    let registry = Registry::default();
    let at = registry.start().await;
    let motto = format!("first {}\n", rand::random::<u32>());
    let digest = match registry.push(bench.dir.path(), "one", &motto) {
        Ok(digest) => digest,
        Err(why) => skip!(name, "{why}"),
    };
    let tagged = format!("127.0.0.1:{}/box:one", at.port());
    let image = Image::Reference(tagged.clone());
    let all = (0..8).map(|_| bench.docker.prepare(&image));
    for done in futures::future::join_all(all).await {
        done.unwrap();
    }
    let manifests = registry.count("GET manifest");
    assert!(manifests <= 1, "{manifests} manifests were fetched");
    // The layer and the configuration.
    assert_eq!(registry.count("blob"), 2);
    let handle = bench
        .docker
        .create(&key(), &spec(image.clone()))
        .await
        .unwrap();
    assert_eq!(registry.count("blob"), 2);
    // The name means something else now, in the engine too.
    let later = format!("second {}\n", rand::random::<u32>());
    registry.push(bench.dir.path(), "one", &later).unwrap();
    let options = bollard::query_parameters::CreateImageOptions {
        from_image: Some(tagged.clone()),
        ..Default::default()
    };
    let steps = bench.client.create_image(Some(options), None, None);
    futures::StreamExt::collect::<Vec<_>>(steps).await;
    bench.docker.stop(&handle, Duration::ZERO).await.unwrap();
    bench.docker.start(&handle).await.unwrap();
    assert_eq!(bench.sh(&handle, "cat /etc/motto").await, motto);
    // By its digest it is the first one still.
    let pinned = format!("127.0.0.1:{}/box@{digest}", at.port());
    let pinned = bench
        .docker
        .create(&key(), &spec(Image::Reference(pinned)))
        .await
        .unwrap();
    assert_eq!(bench.sh(&pinned, "cat /etc/motto").await, motto);
    let none = format!("127.0.0.1:{}/box:none", at.port());
    let none = bench.docker.prepare(&Image::Reference(none)).await;
    assert!(matches!(none, Err(BackendError::Image(_))), "{none:?}");
    for owned in bench.docker.list_owned().await.unwrap() {
        bench.docker.destroy(&owned.handle).await.unwrap();
    }
    let options = bollard::query_parameters::RemoveImageOptions::default();
    let _ = bench
        .client
        .remove_image(&tagged, Some(options), None)
        .await;
}

/// An image over the limit is refused and does not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_image_is_refused() {
    let bench = match bench(|config| {
        config.network = false;
        config.max_image_mib = 1;
    })
    .await
    {
        Ok(bench) => bench,
        Err(why) => skip!("a_large_image_is_refused", "{why}"),
    };
    let registry = Registry::default();
    let at = registry.start().await;
    if let Err(why) = registry.push(bench.dir.path(), "one", &format!("{}", key())) {
        skip!("a_large_image_is_refused", "{why}");
    }
    let reference = format!("127.0.0.1:{}/box:one", at.port());
    let refused = bench
        .docker
        .prepare(&Image::Reference(reference.clone()))
        .await;
    assert!(
        matches!(refused, Err(BackendError::Image(_))),
        "{refused:?}"
    );
    assert!(bench.client.inspect_image(&reference).await.is_err());
}

/// A pull that nobody waits for ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_nobody_waits_for_ends() {
    let socket = match engine::socket().await {
        Ok(socket) => socket,
        Err(why) => skip!("a_pull_that_nobody_waits_for_ends", "{why}"),
    };
    let near = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(&near.path().join("docker.sock"), &socket);
    let near = near.path().join("docker.sock");
    let bench = bench(|config| {
        config.network = false;
        config.socket = near;
    });
    let bench = bench.await.unwrap();
    // A registry that accepts and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let image = Image::Reference(format!("127.0.0.1:{port}/box:one"));
    let before = proxy.connections();
    {
        let pull = bench.docker.prepare(&image);
        tokio::pin!(pull);
        let accepted = async {
            let connected = listener.accept().await;
            connected.unwrap()
        };
        tokio::select! {
            done = &mut pull => panic!("a silent registry gave {done:?}"),
            _kept = accepted => {}
        }
    }
    assert!(proxy.connections() > before);
    // What is left of it is no hindrance: the engine answers, nothing is there.
    bench.docker.probe().await.unwrap();
    let name = match &image {
        Image::Reference(name) => name.clone(),
        _ => String::new(),
    };
    assert!(bench.client.inspect_image(&name).await.is_err());
}

/// One lease's door.
struct OneDoor {
    key: String,
    handle: Handle,
    backend: Arc<Docker>,
}

#[async_trait]
impl Doors for OneDoor {
    async fn open(&self, user: &str, openssh: &str) -> Option<Door> {
        (user == self.handle.key.as_str() && openssh == self.key).then(|| Door {
            owner: PublicKey::from_bytes([7; 32]),
            handle: self.handle.clone(),
            backend: self.backend.clone(),
            lease: self.handle.key.clone(),
        })
    }

    async fn still_open(&self, _: &LeaseId) -> bool {
        true
    }
}

/// The stock client: exit codes, a terminal, files both ways, a forwarded port;
/// in an image that has nothing but busybox.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stock_ssh_client_works() {
    let name = "the_stock_ssh_client_works";
    if let Some(tool) = openssh::missing(&["ssh", "scp", "sftp"]) {
        skip!(name, "{tool} (OpenSSH client) is not installed");
    }
    let bench = match bench(|_| {}).await {
        Ok(bench) => bench,
        Err(why) => skip!(name, "{why}"),
    };
    let image = match bench.layout() {
        Ok(image) => image,
        Err(why) => skip!(name, "{why}"),
    };
    let handle = bench.docker.create(&key(), &spec(image)).await.unwrap();
    let id = bench.dir.path().join("id");
    let doors = Arc::new(OneDoor {
        key: make_key(&id),
        handle: handle.clone(),
        backend: Arc::new(bench.docker.clone()),
    });
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let host_key = HostKey::load_or_create(&bench.dir.path().join("host_key")).unwrap();
    let gateway = Gateway::start(any, host_key, doors, GatewayLimits::default());
    let gateway = gateway.await.unwrap();
    let access = json!({
        "host": "127.0.0.1", "port": gateway.local_addr().port(),
        "user": handle.key.as_str(), "host_key": gateway.host_key_openssh(),
    });
    let stock = Stock::new(&access, &id);

    let said = stock.run("hostname; exit 7").await;
    assert_eq!(said.status.code(), Some(7), "{said:?}");
    assert_eq!(openssh::out(&said).trim(), handle.key.as_str());
    let mut ssh = stock.command("ssh");
    ssh.args(["-tt".to_owned(), stock.there(), "tty; exit 3".to_owned()]);
    let said = openssh::finish(ssh).await;
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(openssh::out(&said).contains("/dev/pts/"), "{said:?}");

    let (there, here) = (bench.dir.path().join("data"), bench.dir.path().join("back"));
    let bytes = noise(300_000);
    std::fs::write(&there, &bytes).unwrap();
    for protocol in [&["-s"][..], &["-O"][..]] {
        // The old protocol wants a program in the image; busybox has none.
        let mut scp = stock.command("scp");
        scp.args(protocol)
            .arg(&there)
            .arg(format!("{}:data", stock.there()));
        let copied = openssh::finish(scp).await;
        if protocol == ["-O"] {
            assert!(!copied.status.success(), "{copied:?}");
            continue;
        }
        assert!(copied.status.success(), "{copied:?}");
        let mut scp = stock.command("scp");
        scp.args(protocol)
            .arg(format!("{}:data", stock.there()))
            .arg(&here);
        let copied = openssh::finish(scp).await;
        assert!(copied.status.success(), "{copied:?}");
        assert!(std::fs::read(&here).unwrap() == bytes);
    }
    let owner = bench.sh(&handle, "stat -c '%u %s' data").await;
    assert_eq!(owner.trim(), "0 300000");

    let batch = bench.dir.path().join("batch");
    std::fs::write(&batch, "mkdir box\nrename data box/data\nls box\n").unwrap();
    let mut sftp = stock.command("sftp");
    sftp.arg("-b").arg(&batch).arg(stock.there());
    let listed = openssh::finish(sftp).await;
    assert!(openssh::out(&listed).contains("box/data"), "{listed:?}");

    let line = request("exec nc -ll -p 7777 -e echo -n welcome");
    let listener = Exec::exec(&bench.docker, &handle, line).await.unwrap();
    let socket = bench.dir.path().join("forwarded");
    let mut ssh = stock.command("ssh");
    ssh.arg("-N")
        .arg(format!("-L{}:127.0.0.1:7777", socket.display()))
        .arg(stock.there());
    let client = ssh.spawn().unwrap();
    let greeting = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let mut text = String::new();
            if let Ok(mut stream) = tokio::net::UnixStream::connect(&socket).await
                && stream.read_to_string(&mut text).await.is_ok()
                && !text.is_empty()
            {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(greeting.await.unwrap(), "welcome");
    drop((client, listener));
}
