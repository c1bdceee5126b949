//! The conformance suite on the fake.

use async_trait::async_trait;
use serde_json::json;

use crate::compute::conformance::{Escape, Failure, Fixture, HostSide, Program};
use crate::compute::fake::shell::{HOST_PROCESS, HOST_SECRET};
use crate::compute::fake::{Defect, FakeBackend, FakeEngine, FakeHost};
use crate::compute::{Enforced, Handle, Image, SharedBackend};
use crate::core::ids::{LeaseId, Name};

pub(super) struct FakeFixture {
    pub(super) engine: FakeEngine,
    name: Name,
    backend: SharedBackend,
}

impl FakeFixture {
    pub(super) async fn new() -> Result<Self, Failure> {
        Self::on(host())
    }

    pub(super) fn on(host: FakeHost) -> Result<Self, Failure> {
        let engine = FakeEngine::new(host);
        let name: Name = "fake".parse().map_err(|_| Failure::broken("name"))?;
        let backend = std::sync::Arc::new(FakeBackend::open(name.clone(), &engine));
        let fixture = Self {
            engine,
            name,
            backend,
        };
        fixture.engine.lose_image(fixture.bad_image());
        Ok(fixture)
    }

    pub(super) fn broken(defect: Defect) -> Result<Self, Failure> {
        let fixture = Self::on(host())?;
        fixture.engine.inject(defect);
        Ok(fixture)
    }
}

fn host() -> FakeHost {
    FakeHost {
        max_workloads: 8,
        create_takes: std::time::Duration::from_millis(30),
        ..FakeHost::default()
    }
}

#[async_trait]
impl Fixture for FakeFixture {
    fn backend(&self) -> SharedBackend {
        self.backend.clone()
    }

    async fn reopen(&self) -> Result<SharedBackend, Failure> {
        let backend = FakeBackend::open(self.name.clone(), &self.engine);
        Ok(std::sync::Arc::new(backend))
    }

    fn bad_image(&self) -> Image {
        Image::Reference("registry.invalid/missing:1".to_owned())
    }

    fn program(&self, program: &Program) -> String {
        match program {
            Program::Count(file) => format!("count {file}"),
            Program::CountAloud => "count -".to_owned(),
            Program::TrapTerm { ready, file, code } => {
                format!("echo up > {ready}; trap-term {file} {code}")
            }
            Program::IgnoreTerm { ready } => format!("echo up > {ready}; ignore-term"),
            Program::ForkBomb => "fork-bomb".to_owned(),
            Program::ForkMany(n) => format!("fork-many {n}"),
            Program::FillMemory(mib) => format!("fill-memory {mib}"),
            Program::FillDisk(dir, mib) => format!("fill-disk {dir} {mib}"),
            Program::FillDisks(_, mib) => format!("fill-disk everywhere {mib}"),
            Program::Spin(seconds) => format!("spin {seconds}"),
            Program::Connect(to) => format!("connect {} {}", to.ip(), to.port()),
            Program::Listen(port, text) => format!("listen {port} {text}"),
            Program::Addresses => "addresses".to_owned(),
            Program::Processes => "processes".to_owned(),
            Program::WatchTty => "watch-tty".to_owned(),
            Program::Lines(n) => format!("lines {n}"),
            Program::Try(escape) => attempt(*escape),
        }
    }

    fn slots(&self) -> Option<usize> {
        Some(8)
    }

    fn old_handle(&self, handle: &Handle) -> Option<Handle> {
        let serial = handle.data.get("id")?.as_u64()?;
        Some(Handle {
            version: 1,
            data: json!({ "serial": serial.to_string() }),
            ..handle.clone()
        })
    }

    async fn plant_stranger(&self) -> Result<(), Failure> {
        self.engine
            .plant_stranger(LeaseId::from_random(rand::random()));
        Ok(())
    }

    async fn set_engine_down(&self, down: bool) -> Result<(), Failure> {
        self.engine.set_down(down);
        Ok(())
    }

    async fn leftovers(&self) -> Result<Vec<String>, Failure> {
        let left = self.engine.workloads();
        Ok(left.iter().map(|view| view.key.to_string()).collect())
    }

    async fn host(&self) -> Result<HostSide, Failure> {
        let at = |text: &str| text.parse().map_err(|_| Failure::broken("address"));
        let names = ["pid", "mnt", "net", "ipc", "uts", "user"];
        let namespaces = names.map(|name| (name.to_owned(), format!("{name}:[the host]")));
        Ok(HostSide {
            services: vec![at("192.0.2.1:22")?],
            lan: vec![at("10.0.0.9:80")?],
            outside: Vec::new(),
            secrets: vec![(HOST_SECRET.0.to_owned(), HOST_SECRET.1.to_owned())],
            process: Some(HOST_PROCESS.to_owned()),
            namespaces: namespaces.to_vec(),
        })
    }
}

fn attempt(escape: Escape) -> String {
    format!("try {escape:?}")
}

crate::backend_conformance!(FakeFixture::new(); start_paused = true);

/// A host that can hold no limit says so and sells none.
#[tokio::test(start_paused = true)]
async fn a_host_without_limits_refuses_them() -> Result<(), Failure> {
    let host = FakeHost {
        enforces: Enforced::default(),
        ..host()
    };
    let fixture = FakeFixture::on(host)?;
    crate::compute::conformance::limits::what_cannot_be_enforced_is_refused(&fixture).await
}
