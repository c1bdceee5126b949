//! The embedded sandbox on this machine's kernel.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use satlet::compute::sandbox::{NetworkChoice, Sandbox, SandboxConfig};
use satlet::compute::{
    Backend, BackendError, ExecCommand, ExecControl, ExecRequest, ExecSession, ExitStatus, Handle,
    Image, Observed, TtySize, WorkloadSpec,
};
use satlet::core::capacity::Resources;
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::time::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

macro_rules! need_root {
    ($name:expr) => {
        if !is_root() {
            eprintln!("SKIPPED {}: needs root", $name);
            return;
        }
    };
}

/// A state directory of its own, with everything in it removed at the end, on
/// failure too.
struct Bed {
    dir: tempfile::TempDir,
    sandbox: Sandbox,
}

fn config(root: &Path, network: NetworkChoice) -> SandboxConfig {
    SandboxConfig {
        root: root.to_owned(),
        helper: PathBuf::from(env!("CARGO_BIN_EXE_satletd")),
        name: "sandbox".parse().unwrap(),
        network,
        max_image_mib: 1024,
    }
}

impl Bed {
    async fn new() -> Self {
        Self::with(NetworkChoice::Loopback).await
    }

    async fn with(network: NetworkChoice) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(config(dir.path(), network)).await.unwrap();
        Self { dir, sandbox }
    }

    async fn create(&self, spec: &WorkloadSpec) -> Handle {
        self.sandbox.create(&key(), spec).await.unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let sandbox = &self.sandbox;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    for owned in sandbox.list_owned().await.unwrap_or_default() {
                        if let Err(err) = sandbox.destroy(&owned.handle).await {
                            eprintln!("left behind in {}: {err}", self.dir.path().display());
                        }
                    }
                });
            });
        });
    }
}

fn key() -> LeaseId {
    LeaseId::from_random(rand::random())
}

fn spec() -> WorkloadSpec {
    WorkloadSpec {
        owner: PublicKey::from_bytes([7; 32]),
        image: Image::Host,
        resources: Resources {
            cpu_millicores: 1000,
            memory_mib: 128,
            disk_mib: 64,
            pids: 64,
        },
        command: Vec::new(),
        env: vec![("COLOUR".to_owned(), "blue".to_owned())],
        expires_at: Timestamp::from_secs(2_000_000_000),
    }
}

fn line(text: &str) -> ExecRequest {
    ExecRequest {
        command: ExecCommand::Line(text.to_owned()),
        env: Vec::new(),
        tty: None,
    }
}

struct Output {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

async fn finish(mut session: ExecSession, input: &[u8]) -> Output {
    let mut stdin = session.stdin;
    let input = input.to_vec();
    let writer = tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
        let _ = stdin.shutdown().await;
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut stderr = session.stderr.take();
    let read_err = async {
        if let Some(stderr) = &mut stderr {
            stderr.read_to_end(&mut err).await.unwrap();
        }
    };
    let (result, ()) = tokio::join!(session.stdout.read_to_end(&mut out), read_err);
    result.unwrap();
    let status = session.exit.await.unwrap().unwrap();
    writer.await.unwrap();
    Output {
        status,
        stdout: String::from_utf8_lossy(&out).into_owned(),
        stderr: String::from_utf8_lossy(&err).into_owned(),
    }
}

async fn run(sandbox: &Sandbox, handle: &Handle, text: &str) -> Output {
    let session = sandbox
        .exec()
        .unwrap()
        .exec(handle, line(text))
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(60), finish(session, b""))
        .await
        .expect("the command ends")
}

/// Looks until `done`, for at most half a minute.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done().await {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_host_workload_runs_commands_and_goes() {
    need_root!("a_host_workload_runs_commands_and_goes");
    let bed = Bed::new().await;
    let began = Instant::now();
    let handle = bed.create(&spec()).await;
    eprintln!("create took {:?}", began.elapsed());
    eprintln!("{:?}", bed.sandbox.capabilities());
    let began = Instant::now();
    let out = run(
        &bed.sandbox,
        &handle,
        "echo hello; echo oops >&2; id -u; pwd; exit 7",
    )
    .await;
    eprintln!("exec took {:?}", began.elapsed());
    assert_eq!(out.stdout, "hello\n0\n/root\n");
    assert_eq!(out.stderr, "oops\n");
    assert_eq!(out.status, ExitStatus::Code(7));
    let out = run(&bed.sandbox, &handle, "cat /proc/self/status /proc/self/uid_map /proc/mounts; ls -la / /dev /etc; ps ax; env; cat /proc/1/environ; ls -l /proc/1/fd /proc/1/exe; ls -l /proc/self/fd").await;
    eprintln!("{}{}", out.stdout, out.stderr);
    bed.sandbox.destroy(&handle).await.unwrap();
    assert_eq!(
        bed.sandbox.observe(&handle).await.unwrap(),
        Observed::Absent
    );
    bed.sandbox.destroy(&handle).await.unwrap();
}
