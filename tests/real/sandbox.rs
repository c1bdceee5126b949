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

pub(super) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

macro_rules! need_root {
    ($name:expr) => {
        if !is_root() {
            skip!($name, "needs root");
        }
    };
}

/// A state directory of its own, with everything in it removed at the end, on
/// failure too.
pub(super) struct Bed {
    // First, so that it goes before its directory does.
    pub(super) sandbox: Guard,
    pub(super) dir: tempfile::TempDir,
}

/// A sandbox whose workloads are all destroyed at the end.
pub(super) struct Guard(pub(super) Sandbox);

impl std::ops::Deref for Guard {
    type Target = Sandbox;
    fn deref(&self) -> &Sandbox {
        &self.0
    }
}

fn config(root: &Path, network: NetworkChoice) -> SandboxConfig {
    SandboxConfig {
        root: root.to_owned(),
        helper: helper(),
        name: "sandbox".parse().unwrap(),
        network,
        max_image_mib: 1024,
    }
}

impl Bed {
    pub(super) async fn new() -> Self {
        Self::with(NetworkChoice::Loopback).await
    }

    pub(super) async fn with(network: NetworkChoice) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(config(dir.path(), network)).await.unwrap();
        Self {
            dir,
            sandbox: Guard(sandbox),
        }
    }

    pub(super) async fn create(&self, spec: &WorkloadSpec) -> Handle {
        self.sandbox.create(&key(), spec).await.unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let sandbox = &self.0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    for owned in sandbox.list_owned().await.unwrap_or_default() {
                        if let Err(err) = sandbox.destroy(&owned.handle).await {
                            let said = format!("left behind: {err}\n");
                            let _ =
                                std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
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

pub(super) fn spec() -> WorkloadSpec {
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
        note: String::new(),
    }
}

pub(super) fn line(text: &str) -> ExecRequest {
    ExecRequest {
        command: ExecCommand::Line(text.to_owned()),
        env: Vec::new(),
        tty: None,
    }
}

pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

pub(super) async fn finish(mut session: ExecSession, input: &[u8]) -> Output {
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

pub(super) async fn run(sandbox: &Sandbox, handle: &Handle, text: &str) -> Output {
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

/// Looks until `done`, for at most a minute: the machine may be busy.
pub(super) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done().await {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_host_workload_runs_commands_and_goes() {
    need_root!("a_host_workload_runs_commands_and_goes");
    let bed = Bed::new().await;
    let key = key();
    let handle = bed.sandbox.create(&key, &spec()).await.unwrap();
    let out = run(
        &bed.sandbox,
        &handle,
        "echo hello; echo oops >&2; id -u; pwd; echo $COLOUR; exit 7",
    )
    .await;
    assert_eq!(out.stdout, "hello\n0\n/root\nblue\n");
    assert_eq!(out.stderr, "oops\n");
    assert_eq!(out.status, ExitStatus::Code(7));
    let again = bed.sandbox.create(&key, &spec()).await.unwrap();
    assert_eq!(again, handle);
    let owned = bed.sandbox.list_owned().await.unwrap();
    assert_eq!(owned.len(), 1);
    assert_eq!(owned[0].labels.lease, key);
    bed.sandbox.destroy(&handle).await.unwrap();
    assert_eq!(
        bed.sandbox.observe(&handle).await.unwrap(),
        Observed::Absent
    );
    bed.sandbox.destroy(&handle).await.unwrap();
    assert!(bed.sandbox.list_owned().await.unwrap().is_empty());
    let left: Vec<_> = std::fs::read_dir(bed.dir.path().join("leases"))
        .unwrap()
        .chain(std::fs::read_dir(bed.dir.path().join("slots")).unwrap())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn exec_carries_input_signals_and_refusals() {
    need_root!("exec_carries_input_signals_and_refusals");
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let exec = bed.sandbox.exec().unwrap();
    let session = exec.exec(&handle, line("tr a-z A-Z")).await.unwrap();
    let big = b"some text\n".repeat(50_000);
    let out = finish(session, &big).await;
    assert_eq!(out.stdout.len(), big.len());
    assert!(out.stdout.starts_with("SOME TEXT\n"));

    let session = exec.exec(&handle, line("sleep 100")).await.unwrap();
    session.control.send(ExecControl::Signal(15)).await.unwrap();
    assert_eq!(finish(session, b"").await.status, ExitStatus::Signal(15));

    let missing = ExecRequest {
        command: ExecCommand::Argv(vec!["no-such-program".to_owned()]),
        env: Vec::new(),
        tty: None,
    };
    let refused = exec.exec(&handle, missing).await.err().unwrap();
    assert!(matches!(refused, BackendError::Permanent(_)), "{refused}");

    let out = run(&bed.sandbox, &handle, "ls /proc/self/fd").await;
    assert_eq!(out.stdout, "0\n1\n2\n3\n", "3 is the listing itself");
}

#[tokio::test]
async fn a_terminal_has_its_size_and_takes_a_new_one() {
    need_root!("a_terminal_has_its_size_and_takes_a_new_one");
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let request = ExecRequest {
        command: ExecCommand::Shell,
        env: vec![("TERM".to_owned(), "dumb".to_owned())],
        tty: Some(TtySize { cols: 91, rows: 33 }),
    };
    let mut session = bed
        .sandbox
        .exec()
        .unwrap()
        .exec(&handle, request)
        .await
        .unwrap();
    assert!(session.stderr.is_none());
    session
        .stdin
        .write_all(b"stty size; tty; ps -o tpgid= -p $$; echo up''yes\n")
        .await
        .unwrap();
    let mut seen = String::new();
    read_to(&mut session, &mut seen, "upyes").await;
    assert!(seen.contains("33 91"), "{seen}");
    assert!(seen.contains("/dev/pts/0"), "{seen}");
    let size = TtySize {
        cols: 120,
        rows: 50,
    };
    session
        .control
        .send(ExecControl::Resize(size))
        .await
        .unwrap();
    session
        .stdin
        .write_all(b"until [ \"$(stty size)\" = '50 120' ]; do sleep 0.05; done; echo re''sized\n")
        .await
        .unwrap();
    read_to(&mut session, &mut seen, "resized").await;
    session.stdin.write_all(b"sleep 1000\n").await.unwrap();
    until("the sleep runs", async || {
        run(&bed.sandbox, &handle, "pgrep -x sleep").await.status == ExitStatus::Code(0)
    })
    .await;
    session.stdin.write_all(b"\x03").await.unwrap();
    session.stdin.write_all(b"exit 3\n").await.unwrap();
    let out = finish(session, b"").await;
    assert_eq!(out.status, ExitStatus::Code(3), "{}", out.stdout);
}

async fn read_to(session: &mut ExecSession, seen: &mut String, what: &str) {
    let read = async {
        let mut buffer = [0; 4096];
        while !seen.contains(what) {
            let count = session.stdout.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ended before {what}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(20), read).await;
    assert!(done.is_ok(), "never {what}: {seen}");
}

#[tokio::test]
async fn a_dropped_session_ends_its_command() {
    need_root!("a_dropped_session_ends_its_command");
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let exec = bed.sandbox.exec().unwrap();
    let session = exec
        .exec(&handle, line("trap '' HUP; sleep 4321 & wait"))
        .await
        .unwrap();
    until("the command runs", async || {
        run(&bed.sandbox, &handle, "pgrep -f 'sleep 4321'")
            .await
            .status
            == ExitStatus::Code(0)
    })
    .await;
    drop(session);
    until("the command is gone", async || {
        run(&bed.sandbox, &handle, "pgrep -x sleep").await.status == ExitStatus::Code(1)
    })
    .await;
}

#[tokio::test]
async fn nothing_private_of_the_host_is_seen() {
    need_root!("nothing_private_of_the_host_is_seen");
    let bed = Bed::new().await;
    let handle = bed.create(&spec()).await;
    let out = run(
        &bed.sandbox,
        &handle,
        "cat /etc/shadow /etc/gshadow; ls /root /home /work /boot /var/log; ls /etc/ssh; \
         echo x > /usr/x; echo x > /proc/sys/kernel/core_pattern; mount -t tmpfs x /mnt; \
         unshare -U true; cat /proc/1/maps; mknod /tmp/disk b 254 0; chroot / id -u; hostname",
    )
    .await;
    for refused in [
        "/etc/shadow: No such file",
        "/work': No such file",
        "/boot': No such file",
        "/etc/ssh': No such file",
        "/usr/x: Read-only",
        "core_pattern: Read-only",
        "mount: /mnt: permission denied",
        "unshare failed: Operation not permitted",
        "/proc/1/maps: Permission denied",
        "mknod: /tmp/disk: Operation not permitted",
    ] {
        assert!(out.stderr.contains(refused), "{refused} in\n{}", out.stderr);
    }
    assert_eq!(
        out.stdout.lines().filter(|line| *line == "0").count(),
        1,
        "{}",
        out.stdout
    );
    let shared = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"].map(|kind| {
        std::fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    });
    let own = run(&bed.sandbox, &handle, "readlink /proc/self/ns/*")
        .await
        .stdout;
    for namespace in shared {
        assert!(
            !own.contains(&namespace),
            "{namespace} is the host's: {own}"
        );
    }
}

#[tokio::test]
async fn limits_hold() {
    need_root!("limits_hold");
    let bed = Bed::new().await;
    let held = bed.sandbox.capabilities().enforces;
    assert!(held.disk, "{:?}", bed.sandbox.capabilities());
    let mut small = spec();
    small.resources.cpu_millicores = 250;
    let handle = bed.create(&small).await;

    let fill = "dd if=/dev/zero of=/tmp/fill bs=1M count=200 2>&1; rm -f /tmp/fill; \
                for d in /dev /run /dev/shm; do dd if=/dev/zero of=$d/fill bs=1M count=100; rm -f $d/fill; done 2>&1";
    let out = run(&bed.sandbox, &handle, fill).await;
    assert_eq!(
        out.stdout.matches("No space left").count(),
        4,
        "{}",
        out.stdout
    );

    if held.memory {
        let out = run(
            &bed.sandbox,
            &handle,
            "perl -e '$x = \"a\" x (400*1024*1024); print length $x'",
        )
        .await;
        assert_eq!(
            out.status,
            ExitStatus::Signal(9),
            "{}{}",
            out.stdout,
            out.stderr
        );
        running_since(&bed.sandbox, &handle).await;
    }
    if held.pids {
        let bomb = "perl -e 'for (1..500) { $p = fork; if (!defined $p) { print \"refused after $_\\n\"; exit } if (!$p) { close STDOUT; close STDERR; sleep 30; exit } }'";
        let out = run(&bed.sandbox, &handle, bomb).await;
        assert!(
            out.stdout.contains("refused after"),
            "{}{}",
            out.stdout,
            out.stderr
        );
        let _ = run(&bed.sandbox, &handle, "kill -9 -1").await;
        running_since(&bed.sandbox, &handle).await;
    }
    if held.cpu {
        let spin = "perl -e '$e = time + 3; 1 while time < $e; print((times)[0] + (times)[1])'";
        let out = run(&bed.sandbox, &handle, spin).await;
        let used: f64 = out.stdout.parse().unwrap();
        assert!(used < 1.6, "{used} cpu seconds in 3 at a quarter of a cpu");
    }
}

async fn running_since(sandbox: &Sandbox, handle: &Handle) -> Timestamp {
    match sandbox.observe(handle).await.unwrap() {
        Observed::Running { started_at, .. } => started_at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_is_logged_and_its_end_is_seen() {
    need_root!("a_command_is_logged_and_its_end_is_seen");
    let bed = Bed::new().await;
    let mut with_command = spec();
    with_command.command = [
        "sh",
        "-c",
        "echo out; echo err >&2; ls /proc/self/fd; cat /proc/self/oom_score_adj; sleep 0.2; exit 5",
    ]
    .map(str::to_owned)
    .to_vec();
    let handle = bed.create(&with_command).await;
    until("it has ended", async || {
        bed.sandbox.observe(&handle).await.unwrap() == Observed::Stopped { exit_code: Some(5) }
    })
    .await;
    let log = bed
        .sandbox
        .logs()
        .unwrap()
        .logs(&handle, 10_000)
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&log), "out\nerr\n0\n1\n2\n3\n300\n");
    let refused = bed
        .sandbox
        .exec()
        .unwrap()
        .exec(&handle, line("true"))
        .await
        .err();
    assert_eq!(refused, Some(BackendError::NotRunning));

    let mut noisy = spec();
    noisy.command = ["sh", "-c", "seq 1 700000; sleep 1000"]
        .map(str::to_owned)
        .to_vec();
    let handle = bed.create(&noisy).await;
    until("all is printed", async || {
        let log = bed
            .sandbox
            .logs()
            .unwrap()
            .logs(&handle, 100)
            .await
            .unwrap();
        log.ends_with(b"\n700000\n")
    })
    .await;
    let log = bed
        .sandbox
        .logs()
        .unwrap()
        .logs(&handle, usize::MAX)
        .await
        .unwrap();
    assert!(log.len() < 3 * 1024 * 1024, "{} bytes kept", log.len());

    let mut wrong = spec();
    wrong.command = vec!["/no/such/program".to_owned()];
    let refused = bed.sandbox.create(&key(), &wrong).await.unwrap_err();
    assert!(matches!(refused, BackendError::Permanent(_)), "{refused}");
    assert_eq!(bed.sandbox.list_owned().await.unwrap().len(), 2);
}

#[tokio::test]
async fn stop_asks_then_kills_and_keeps_the_disk() {
    need_root!("stop_asks_then_kills_and_keeps_the_disk");
    let bed = Bed::new().await;
    let mut polite = spec();
    polite.command = [
        "sh",
        "-c",
        "trap 'echo bye; exit 9' TERM; while :; do sleep 0.05; done",
    ]
    .map(str::to_owned)
    .to_vec();
    let handle = bed.create(&polite).await;
    run(&bed.sandbox, &handle, "echo kept > /home/file").await;
    bed.sandbox
        .stop(&handle, Duration::from_secs(20))
        .await
        .unwrap();
    let stopped = bed.sandbox.observe(&handle).await.unwrap();
    assert_eq!(stopped, Observed::Stopped { exit_code: Some(9) });
    bed.sandbox
        .stop(&handle, Duration::from_secs(1))
        .await
        .unwrap();
    bed.sandbox.start(&handle).await.unwrap();
    bed.sandbox.start(&handle).await.unwrap();
    assert_eq!(
        run(&bed.sandbox, &handle, "cat /home/file").await.stdout,
        "kept\n"
    );

    let mut deaf = spec();
    deaf.command = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
        .map(str::to_owned)
        .to_vec();
    let handle = bed.create(&deaf).await;
    let began = Instant::now();
    bed.sandbox
        .stop(&handle, Duration::from_millis(700))
        .await
        .unwrap();
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(began.elapsed() < Duration::from_secs(10));
    let stopped = bed.sandbox.observe(&handle).await.unwrap();
    assert_eq!(stopped, Observed::Stopped { exit_code: None });
}

#[tokio::test]
async fn a_paused_workload_gets_no_cpu() {
    need_root!("a_paused_workload_gets_no_cpu");
    let bed = Bed::new().await;
    let mut ticking = spec();
    ticking.command = ["sh", "-c", "while :; do echo tick; sleep 0.02; done"]
        .map(str::to_owned)
        .to_vec();
    let handle = bed.create(&ticking).await;
    let Some(pause) = bed.sandbox.pause() else {
        skip!("no freezer");
    };
    let ticks = async || {
        bed.sandbox
            .logs()
            .unwrap()
            .logs(&handle, usize::MAX)
            .await
            .unwrap()
            .len()
    };
    until("it ticks", async || ticks().await > 20).await;
    let since = running_since(&bed.sandbox, &handle).await;
    // The kernel may take its time, and then it is asked again.
    let paused = async || pause.pause(&handle).await.is_ok();
    until("it is paused", paused).await;
    until("it is paused again", paused).await;
    let frozen = Observed::Running {
        started_at: since,
        paused: true,
    };
    assert_eq!(bed.sandbox.observe(&handle).await.unwrap(), frozen);
    // What it said before may still be on its way into the log.
    until("it says nothing any more", async || {
        let before = ticks().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        ticks().await == before
    })
    .await;
    let before = ticks().await;
    pause.resume(&handle).await.unwrap();
    until("it ticks again", async || ticks().await > before).await;
    until("it is paused once more", paused).await;
    bed.sandbox
        .stop(&handle, Duration::from_millis(200))
        .await
        .unwrap();
    assert!(matches!(
        bed.sandbox.observe(&handle).await.unwrap(),
        Observed::Stopped { .. }
    ));
}

#[tokio::test]
async fn a_new_daemon_adopts_what_runs() {
    need_root!("a_new_daemon_adopts_what_runs");
    let bed = Bed::new().await;
    let key = key();
    let handle = bed.sandbox.create(&key, &spec()).await.unwrap();
    let since = running_since(&bed.sandbox, &handle).await;
    let second = Sandbox::open(config(bed.dir.path(), NetworkChoice::Loopback))
        .await
        .unwrap();
    assert_eq!(running_since(&second, &handle).await, since);
    assert_eq!(second.list_owned().await.unwrap()[0].handle, handle);
    assert_eq!(second.create(&key, &spec()).await.unwrap(), handle);
    assert_eq!(running_since(&second, &handle).await, since);
    assert_eq!(run(&second, &handle, "echo in").await.stdout, "in\n");
}

#[tokio::test]
async fn a_create_that_is_dropped_leaves_nothing_after_destroy() {
    need_root!("a_create_that_is_dropped_leaves_nothing_after_destroy");
    let bed = Bed::new().await;
    for delay in [0, 5, 15, 30, 50, 80, 120] {
        let key = key();
        let spec = spec();
        let create = bed.sandbox.create(&key, &spec);
        let _ = tokio::time::timeout(Duration::from_millis(delay), create).await;
        for owned in bed.sandbox.list_owned().await.unwrap() {
            bed.sandbox.destroy(&owned.handle).await.unwrap();
        }
        assert!(bed.sandbox.list_owned().await.unwrap().is_empty());
        let slots = std::fs::read_dir(bed.dir.path().join("slots"))
            .unwrap()
            .count();
        assert_eq!(slots, 0, "after {delay} ms");
    }
    // The kernel takes a mount namespace apart after its last process.
    until("all is let go", async || {
        mounts_and_groups(bed.dir.path()).is_empty()
    })
    .await;
}

/// Loop devices and control groups of a state directory.
fn mounts_and_groups(root: &Path) -> Vec<String> {
    let instance: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join("instance.json")).unwrap()).unwrap();
    let id = instance["id"].as_str().unwrap();
    let mut left = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let dir = hierarchy.unwrap().path().join(format!("satlet-{id}"));
        if dir.exists() {
            left.push(dir.display().to_string());
        }
    }
    for device in std::fs::read_dir("/sys/block").unwrap() {
        let file = device.unwrap().path().join("loop/backing_file");
        if let Ok(text) = std::fs::read_to_string(file)
            && text.contains(&root.display().to_string())
        {
            left.push(text);
        }
    }
    left
}

#[tokio::test]
async fn creates_run_side_by_side() {
    need_root!("creates_run_side_by_side");
    let bed = Bed::new().await;
    let spec = spec();
    let keys: Vec<_> = (0..6).map(|_| key()).collect();
    let made = futures_all(keys.iter().map(|key| bed.sandbox.create(key, &spec))).await;
    let ids: std::collections::BTreeSet<_> = futures_all(made.iter().map(|handle| async {
        run(
            &bed.sandbox,
            handle.as_ref().unwrap(),
            "cut -c 1-22 /proc/self/uid_map",
        )
        .await
        .stdout
    }))
    .await
    .into_iter()
    .collect();
    assert_eq!(ids.len(), keys.len(), "each has ids of its own: {ids:?}");
}

async fn futures_all<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in waiting.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().map(Option::unwrap).collect()
}

/// A host that is "out there": a network namespace two hops away, with an
/// address that is nobody's LAN, and a server that says hello on every
/// connection.
pub(super) struct Outside {
    namespace: String,
    pub(super) address: String,
    server: Option<std::process::Child>,
}

fn ip(args: &str) -> bool {
    std::process::Command::new("ip")
        .args(args.split(' '))
        .status()
        .is_ok_and(|status| status.success())
}

impl Outside {
    pub(super) fn new() -> Self {
        let tag: u16 = rand::random();
        let (a, b) = (tag >> 8, tag & 0xff);
        let namespace = format!("slt{tag:04x}");
        let address = format!("45.67.{a}.{b}");
        let (near, far) = (
            format!("198.19.{a}.{}", (b & 0xfc) + 1),
            format!("198.19.{a}.{}", (b & 0xfc) + 2),
        );
        assert!(ip(&format!("netns add {namespace}")));
        let mut outside = Self {
            namespace: namespace.clone(),
            address: address.clone(),
            server: None,
        };
        for step in [
            format!("link add {namespace} type veth peer name eth0 netns {namespace}"),
            format!("addr add {near}/30 dev {namespace}"),
            format!("link set {namespace} up"),
            format!("-n {namespace} addr add {far}/30 dev eth0"),
            format!("-n {namespace} link set eth0 up"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} addr add {address}/32 dev lo"),
            format!("route add {address}/32 via {far}"),
        ] {
            assert!(ip(&step), "{step}");
        }
        let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 9, LocalPort => 8080, ReuseAddr => 1) or die; \
                      while (my $c = $s->accept) { print $c 'hello ' . $c->peerhost . \"\\n\"; close $c }";
        let server = std::process::Command::new("ip")
            .args(["netns", "exec", &namespace, "perl", "-e", script])
            .spawn()
            .unwrap();
        outside.server = Some(server);
        outside
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        ip(&format!("link delete {}", self.namespace));
        ip(&format!("netns delete {}", self.namespace));
    }
}

fn fetch(address: &str, port: u16) -> String {
    format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{port} && cat <&3'")
}

#[tokio::test]
async fn rules_that_somebody_flushed_are_put_back() {
    need_root!("rules_that_somebody_flushed_are_put_back");
    let bed = Bed::with(NetworkChoice::default()).await;
    if !bed.sandbox.capabilities().outgoing_network {
        skip!("{:?}", bed.sandbox.capabilities().notes);
    }
    let handle = bed.create(&spec()).await;
    let route = run(&bed.sandbox, &handle, "ip -4 route").await.stdout;
    let gateway = route.split_whitespace().nth(2).unwrap().to_owned();
    let host = |program: &str, args: &[&str]| {
        let out = std::process::Command::new(program).args(args).output();
        let out = out.unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
        )
    };
    // The host's end of this tenant's pair is called slINSTANCE-SLOT.
    let (_, links) = host("ip", &["-o", "-4", "addr", "show", "to", &gateway]);
    let link = links.split_whitespace().nth(1).unwrap();
    let instance = link.trim_start_matches("sl").split('-').next().unwrap();
    let table = format!("satlet_{instance}");
    let is_there = || host("nft", &["list", "table", "inet", &table]).0;
    assert!(is_there());
    assert!(host("nft", &["delete", "table", "inet", &table]).0);
    assert!(!is_there());
    bed.sandbox.tidy().await.unwrap();
    assert!(is_there());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_out_leads_nowhere_near() {
    need_root!("the_way_out_leads_nowhere_near");
    let outside = Outside::new();
    let bed = Bed::with(NetworkChoice::Outgoing {
        resolvers: vec!["1.1.1.1".parse().unwrap()],
    })
    .await;
    if !bed.sandbox.capabilities().outgoing_network {
        skip!(
            "the_way_out_leads_nowhere_near",
            "{:?}",
            bed.sandbox.capabilities().notes
        );
    }
    let handle = bed.create(&spec()).await;
    let neighbour = bed.create(&spec()).await;

    let mut greeting = String::new();
    until("the way out works", async || {
        greeting = run(&bed.sandbox, &handle, &fetch(&outside.address, 8080))
            .await
            .stdout;
        greeting.starts_with("hello 198.19.")
    })
    .await;

    // Services of the host, on every address it has.
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"the host\n").await;
        }
    });
    let gateway = run(
        &bed.sandbox,
        &handle,
        "ip -4 route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'",
    )
    .await
    .stdout;
    let mut closed: Vec<String> = [
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "172.17.0.1",
        "100.100.100.200",
        gateway.trim(),
    ]
    .map(str::to_owned)
    .to_vec();
    let own = std::process::Command::new("hostname")
        .arg("-I")
        .output()
        .unwrap();
    closed.extend(
        String::from_utf8_lossy(&own.stdout)
            .split_whitespace()
            .filter(|a| a.contains('.'))
            .map(str::to_owned),
    );
    let all: String = closed
        .iter()
        .map(|address| format!("({} | sed 's/^/{address} /') & ", fetch(address, port)))
        .collect();
    let out = run(&bed.sandbox, &handle, &format!("{all} wait")).await;
    assert_eq!(out.stdout, "", "reached of {closed:?}");

    // A neighbour's server.
    let serve = "perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(Listen => 9, LocalPort => 7070) or die; while (my $c = $s->accept) { print $c \"neighbour\\n\" }'";
    let server = bed
        .sandbox
        .exec()
        .unwrap()
        .exec(&neighbour, line(serve))
        .await
        .unwrap();
    let dial = bed.sandbox.dial().unwrap();
    let mut said = String::new();
    until("the neighbour serves", async || {
        match dial.dial(&neighbour, "localhost", 7070).await {
            Ok(mut stream) => {
                let mut bytes = [0; 10];
                stream.read_exact(&mut bytes).await.unwrap();
                said = String::from_utf8_lossy(&bytes).into_owned();
                true
            }
            Err(_) => false,
        }
    })
    .await;
    assert_eq!(said, "neighbour\n");
    let address = run(
        &bed.sandbox,
        &neighbour,
        "ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'",
    )
    .await
    .stdout;
    let out = run(&bed.sandbox, &handle, &fetch(address.trim(), 7070)).await;
    assert_eq!(out.stdout, "", "the neighbour at {address} was reached");
    // The neighbour's loopback is not this one's, and a port nobody listens on
    // is refused.
    assert!(matches!(
        dial.dial(&handle, "localhost", 7070).await.err(),
        Some(BackendError::Permanent(_))
    ));
    drop(server);

    let tables = || {
        let out = std::process::Command::new("nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let instance: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bed.dir.path().join("instance.json")).unwrap())
            .unwrap();
    let table = format!("satlet_{}", instance["id"].as_str().unwrap());
    assert!(tables().contains(&table));
    bed.sandbox.destroy(&handle).await.unwrap();
    assert!(tables().contains(&table));
    bed.sandbox.destroy(&neighbour).await.unwrap();
    assert!(!tables().contains(&table));
}

#[tokio::test]
async fn loopback_is_all_there_is_without_a_way_out() {
    need_root!("loopback_is_all_there_is_without_a_way_out");
    let bed = Bed::new().await;
    assert!(!bed.sandbox.capabilities().outgoing_network);
    let handle = bed.create(&spec()).await;
    let out = run(
        &bed.sandbox,
        &handle,
        "ip -o link | cut -d: -f2; ip -4 route",
    )
    .await;
    assert_eq!(out.stdout.trim(), "lo");
}

/// Names the helper in a run of another user.
const HELPER: &str = "SATLET_TEST_HELPER";

fn helper() -> PathBuf {
    std::env::var_os(HELPER).map_or(env!("CARGO_BIN_EXE_satletd").into(), PathBuf::from)
}

/// Runs one test of this file again in a process of its own, as `user`.
fn again(test: &str, user: Option<&str>, root: &Path) -> std::process::Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match user {
        None => std::process::Command::new(program),
        Some(user) => {
            // What was built may lie where another user cannot go.
            let here = root.join("program");
            let helper = root.join("satletd");
            std::fs::copy(program, &here).unwrap();
            std::fs::copy(env!("CARGO_BIN_EXE_satletd"), &helper).unwrap();
            let mut command = std::process::Command::new("setpriv");
            command
                .args(["--reuid", user, "--regid", user, "--clear-groups", "--"])
                .arg(here)
                .env(HELPER, helper)
                .current_dir(root);
            command
        }
    };
    command
        .args(["--exact", test, "--nocapture"])
        .env("SATLET_TEST_ROOT", root)
        .env("HOME", root);
    command
}

/// The body of a test that runs in a process of its own; `None` in the run
/// that is not for it.
fn given_root() -> Option<PathBuf> {
    std::env::var_os("SATLET_TEST_ROOT").map(PathBuf::from)
}

#[tokio::test]
async fn a_killed_daemon_leaves_the_workload_running() {
    need_root!("a_killed_daemon_leaves_the_workload_running");
    let bed = Bed::new().await;
    let mut child = again(
        "real::sandbox::a_daemon_for_another_test",
        None,
        bed.dir.path(),
    )
    .spawn()
    .unwrap();
    let mut handle = None;
    until("the other daemon has made one", async || {
        handle = bed.sandbox.list_owned().await.unwrap().into_iter().next();
        match &handle {
            Some(owned) => bed
                .sandbox
                .observe(&owned.handle)
                .await
                .unwrap()
                .is_running(),
            None => false,
        }
    })
    .await;
    let handle = handle.unwrap().handle;
    let since = running_since(&bed.sandbox, &handle).await;
    until("it prints", async || {
        !bed.sandbox
            .logs()
            .unwrap()
            .logs(&handle, 100)
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    let size = async || {
        bed.sandbox
            .logs()
            .unwrap()
            .logs(&handle, usize::MAX)
            .await
            .unwrap()
            .len()
    };
    let before = size().await;
    until("it prints on", async || size().await > before + 20).await;
    assert_eq!(running_since(&bed.sandbox, &handle).await, since);
    assert_eq!(run(&bed.sandbox, &handle, "echo in").await.stdout, "in\n");
}

trait Running {
    fn is_running(&self) -> bool;
}

impl Running for Observed {
    fn is_running(&self) -> bool {
        matches!(self, Observed::Running { .. })
    }
}

#[tokio::test]
async fn a_daemon_for_another_test() {
    let Some(root) = given_root() else { return };
    let sandbox = Sandbox::open(config(&root, NetworkChoice::Loopback))
        .await
        .unwrap();
    let mut ticking = spec();
    ticking.command = ["sh", "-c", "while :; do echo tick; sleep 0.02; done"]
        .map(str::to_owned)
        .to_vec();
    sandbox.create(&key(), &ticking).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_ordinary_user_can_run_it() {
    if !is_root() {
        rootless(tempfile::tempdir().unwrap().path()).await;
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    nix::unistd::chown(dir.path(), Some(1000.into()), Some(1000.into())).unwrap();
    let out = again(
        "real::sandbox::an_ordinary_user_for_another_test",
        Some("1000"),
        dir.path(),
    )
    .output()
    .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
}

#[tokio::test]
async fn an_ordinary_user_for_another_test() {
    let Some(root) = given_root() else { return };
    rootless(&root).await;
}

/// An image with a command that says who and where it is.
fn image_spec(dir: &Path) -> Option<WorkloadSpec> {
    let image = crate::support::oci::OciImage::with_shell()?
        .file(
            "etc/passwd",
            b"root:x:0:0::/root:/bin/sh\nworker:x:77:78::/work:/bin/sh\n",
            0o644,
        )
        .file("data/file", b"of the image\n", 0o644)
        .env(&["FROM=image", "COLOUR=red"])
        .workdir("/made/here")
        .user("worker")
        .cmd(&["sh", "-c", "id -u; pwd; echo $FROM $COLOUR; sleep 1000"]);
    let layout = dir.join("layout");
    image.write_dir(&layout);
    let mut spec = spec();
    spec.image = Image::Layout(layout);
    Some(spec)
}

async fn image_runs(sandbox: &Sandbox, spec: &WorkloadSpec) {
    let handle = sandbox.create(&key(), spec).await.unwrap();
    let logged = async || {
        let log = sandbox.logs().unwrap().logs(&handle, 1000).await.unwrap();
        String::from_utf8_lossy(&log).into_owned()
    };
    until("it has said it", async || {
        logged().await.lines().count() >= 3
    })
    .await;
    assert_eq!(logged().await, "77\n/made/here\nimage blue\n");
    let out = run(
        sandbox,
        &handle,
        "id -u; cat /data/file; echo mine > /data/file; ls -ln /data/file; ls -ld /usr/games; echo $FROM",
    )
    .await;
    assert!(
        out.stdout.starts_with("0\nof the image\n"),
        "{}{}",
        out.stdout,
        out.stderr
    );
    assert!(
        out.stdout.contains(" 0 0 ") || out.stdout.contains(" 0        0 "),
        "owned by the tenant's root: {}",
        out.stdout
    );
    assert!(out.stdout.ends_with("image\n"), "{}", out.stdout);
    assert!(
        out.stderr.contains("/usr/games"),
        "the host's /usr is not there: {}",
        out.stderr
    );
    sandbox
        .stop(&handle, Duration::from_millis(300))
        .await
        .unwrap();
    sandbox.start(&handle).await.unwrap();
    assert_eq!(
        run(sandbox, &handle, "cat /data/file").await.stdout,
        "mine\n"
    );
    let other = sandbox.create(&key(), spec).await.unwrap();
    assert_eq!(
        run(sandbox, &other, "cat /data/file").await.stdout,
        "of the image\n"
    );
}

#[tokio::test]
async fn an_image_runs_as_it_says_and_is_never_changed() {
    need_root!("an_image_runs_as_it_says_and_is_never_changed");
    let bed = Bed::new().await;
    let Some(spec) = image_spec(bed.dir.path()) else {
        skip!("no shell for an image");
    };
    image_runs(&bed.sandbox, &spec).await;
    assert!(bed.sandbox.prune_images().await.unwrap().is_empty());
}

async fn rootless(root: &Path) {
    let sandbox = Sandbox::open(config(root, NetworkChoice::default()))
        .await
        .unwrap();
    let sandbox = Guard(sandbox);
    let can = sandbox.capabilities();
    assert!(!can.outgoing_network);
    assert!(!can.enforces.disk);
    assert!(!can.notes.is_empty());
    if let Err(err) = sandbox.probe().await {
        skip!("an_ordinary_user_can_run_it", "{err}");
    }
    let refused = sandbox.create(&key(), &spec()).await.unwrap_err();
    assert!(
        matches!(refused, BackendError::Permanent(_)),
        "a disk limit was asked for: {refused}"
    );
    let mut with_command = spec();
    with_command.resources = held(can.enforces, with_command.resources);
    with_command.command = ["sh", "-c", "echo up; sleep 1000"]
        .map(str::to_owned)
        .to_vec();
    let handle = sandbox.create(&key(), &with_command).await.unwrap();
    let since = running_since(&sandbox, &handle).await;
    let out = run(
        &sandbox,
        &handle,
        "id -u; echo kept > /home/file; cat /etc/shadow; ls /proc | grep -c '^[0-9]'; ip -o link | wc -l; umask 777; mkdir /home/shut; exit 4",
    )
    .await;
    assert_eq!(out.stdout, "0\n6\n1\n", "{}", out.stderr);
    assert_eq!(out.status, ExitStatus::Code(4));
    let request = ExecRequest {
        tty: Some(TtySize { cols: 80, rows: 24 }),
        ..line("tty; stty size")
    };
    let session = sandbox
        .exec()
        .unwrap()
        .exec(&handle, request)
        .await
        .unwrap();
    assert_eq!(finish(session, b"").await.stdout, "/dev/pts/0\r\n24 80\r\n");
    assert_eq!(running_since(&sandbox, &handle).await, since);
    sandbox
        .stop(&handle, Duration::from_millis(500))
        .await
        .unwrap();
    assert!(!sandbox.observe(&handle).await.unwrap().is_running());
    sandbox.start(&handle).await.unwrap();
    assert_eq!(
        run(&sandbox, &handle, "cat /home/file").await.stdout,
        "kept\n"
    );
    sandbox.destroy(&handle).await.unwrap();
    assert_eq!(sandbox.observe(&handle).await.unwrap(), Observed::Absent);
    assert_eq!(std::fs::read_dir(root.join("leases")).unwrap().count(), 0);
}

/// Of what is asked, what the host can hold.
fn held(holds: satlet::compute::Enforced, ask: Resources) -> Resources {
    let keep = |holds: bool, value: u32| if holds { value } else { 0 };
    Resources {
        cpu_millicores: keep(holds.cpu, ask.cpu_millicores),
        memory_mib: keep(holds.memory, ask.memory_mib),
        disk_mib: keep(holds.disk, ask.disk_mib),
        pids: keep(holds.pids, ask.pids),
    }
}
