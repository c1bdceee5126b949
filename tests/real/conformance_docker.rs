//! The conformance suite on a container engine, with real programs in an image
//! of the host's busybox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use satlet::compute::conformance::{Escape, Failure, Fixture, HostSide, Program, debian_line};
use satlet::compute::{Image, SharedBackend, WorkloadSpec};
use satlet::core::capacity::Resources;
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::time::Timestamp;
use tokio::sync::OnceCell;

use crate::support::engine::{self, Proxy};
use crate::support::oci::OciImage;
use crate::support::outside::Lazy;

struct DockerFixture {
    dir: tempfile::TempDir,
    client: bollard::Docker,
    proxy: Proxy,
    config: satlet::compute::docker::DockerConfig,
    backend: SharedBackend,
    stranger: OnceCell<(tempfile::TempDir, SharedBackend)>,
    outside: Lazy,
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::broken(format!("the fixture: {error}"))
}

impl DockerFixture {
    async fn new() -> Result<Self, Failure> {
        let socket = engine::socket().await.map_err(Failure::skipped)?;
        let dir = tempfile::tempdir().map_err(broken)?;
        let image = OciImage::busybox();
        let image = image.ok_or_else(|| Failure::skipped("no static busybox"))?;
        image
            .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
            .write_dir(&dir.path().join("image"));
        let near = dir.path().join("docker.sock");
        let proxy = Proxy::new(&near, &socket);
        let config = engine::config(&dir.path().join("state"), &near);
        let backend = engine::open(config.clone()).await.map_err(broken)?;
        Ok(Self {
            client: engine::connect(&socket).map_err(broken)?,
            dir,
            proxy,
            config,
            backend: Arc::new(backend),
            stranger: OnceCell::new(),
            outside: Lazy::default(),
        })
    }

    fn id(&self) -> Result<String, Failure> {
        engine::instance(&self.config.root).ok_or_else(|| broken("no instance"))
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("image")
    }
}

#[async_trait]
impl Fixture for DockerFixture {
    fn backend(&self) -> SharedBackend {
        self.backend.clone()
    }

    async fn reopen(&self) -> Result<SharedBackend, Failure> {
        let again = engine::open(self.config.clone()).await.map_err(broken)?;
        Ok(Arc::new(again))
    }

    fn image(&self) -> Image {
        Image::Layout(self.layout())
    }

    fn bad_image(&self) -> Image {
        Image::Layout(self.dir.path().join("no-such-layout"))
    }

    fn program(&self, program: &Program) -> String {
        match program {
            Program::ForkBomb => "timeout -s KILL 4 sh -c 'b(){ b|b& }; b; sleep 10'".to_owned(),
            Program::Connect(to) => format!(
                "nc -w 3 {} {} -e true 2>/dev/null && echo reached || echo unreachable",
                to.ip(),
                to.port()
            ),
            Program::Listen(port, greeting) => {
                format!("exec nc -ll -p {port} -e echo -n {greeting}")
            }
            // The engine copies the two streams apart: what is printed on one
            // right after the other may be written down before it.
            Program::Lines(_) => format!("{}; sleep 0.5", debian_line(program)),
            // Busybox's `date` ends well although it was refused.
            Program::Try(Escape::Clock) => "if date -s @$(date +%s) 2>&1 | \
                 grep -q \"can't set\"; then echo held; else echo escaped; fi"
                .to_owned(),
            other => debian_line(other),
        }
    }

    /// Another installation in the same engine, and a container of nobody's.
    async fn plant_stranger(&self) -> Result<(), Failure> {
        let make = async || {
            let dir = tempfile::tempdir().map_err(broken)?;
            let mut config = self.config.clone();
            config.root = dir.path().join("state");
            let other = engine::open(config).await.map_err(broken)?;
            let other: SharedBackend = Arc::new(other);
            let spec = WorkloadSpec {
                owner: PublicKey::from_bytes([9; 32]),
                image: self.image(),
                resources: Resources::default(),
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

    async fn set_engine_down(&self, down: bool) -> Result<(), Failure> {
        match down {
            true => self.proxy.cut(),
            false => self.proxy.up(),
        }
        Ok(())
    }

    async fn leftovers(&self) -> Result<Vec<String>, Failure> {
        let id = self.id()?;
        for _ in 0..50 {
            if engine::left(&self.client, &id).await.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(engine::left(&self.client, &id).await)
    }

    async fn host(&self) -> Result<HostSide, Failure> {
        let mut side = self.outside.look(&self.config.root).await?;
        // An engine that maps no users shares the host's user namespace.
        if !self.maps_users().await? {
            side.namespaces.retain(|(name, _)| name != "user");
        }
        Ok(side)
    }

    fn touched(&self) -> usize {
        self.outside.touched()
    }

    async fn close(&self) {
        let others = self.stranger.get().map(|(dir, _)| dir.path().join("state"));
        for root in [Some(self.config.root.clone()), others]
            .into_iter()
            .flatten()
        {
            if let Some(id) = engine::instance(&root) {
                engine::clear(&self.client, &id).await;
            }
        }
    }

    /// Disk that is not held is refused, and so not sold: see
    /// `what_cannot_be_enforced_is_refused`.
    fn unlimited(&self, what: &str) -> Failure {
        match what {
            "disk" => Failure::moot("the storage of this engine has no quotas"),
            _ => Failure::skipped(format!("this engine does not limit {what}")),
        }
    }

    async fn root_is_mapped(&self) -> Result<(), Failure> {
        match self.maps_users().await? {
            true => Ok(()),
            false => Err(Failure::moot(
                "users are mapped where the engine is set up with userns-remap; this one is not",
            )),
        }
    }
}

impl DockerFixture {
    async fn maps_users(&self) -> Result<bool, Failure> {
        let info = self.client.info().await.map_err(broken)?;
        let options = info.security_options.unwrap_or_default();
        Ok(options
            .iter()
            .any(|option| option.contains("userns") || option.contains("rootless")))
    }
}

satlet::backend_conformance!(DockerFixture::new(); flavor = "multi_thread", worker_threads = 2);
