//! The gateway as the stock OpenSSH client sees it, with strict host key checking.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "in a test a panic is a finding, and a skip must be seen"
)]

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use satlet::gateway::{GatewayLimits, HostKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::support::local_gateway::{Bench, LEASE, make_key, noise, until};

const LONG: Duration = Duration::from_secs(60);

/// `None`, loudly, where there is no OpenSSH.
async fn bench(limits: GatewayLimits) -> Option<Bench> {
    for tool in ["ssh", "scp", "sftp"] {
        let there = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|folder| folder.join(tool).exists());
        if !there {
            eprintln!("SKIPPED gateway: {tool} (OpenSSH client) is not installed");
            return None;
        }
    }
    let bench = Bench::start(limits).await;
    let port = bench.gateway.local_addr().port();
    let line = format!("[127.0.0.1]:{port} {}\n", bench.gateway.host_key_openssh());
    std::fs::write(bench.dir.path().join("known_hosts"), line).unwrap();
    Some(bench)
}

impl Bench {
    fn options(&self, key: &str) -> Vec<String> {
        let known = self.dir.path().join("known_hosts");
        let key = self.dir.path().join(key);
        let mut options = vec!["-F".to_owned(), "/dev/null".to_owned()];
        for option in [
            format!("IdentityFile={}", key.display()),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("UserKnownHostsFile={}", known.display()),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "BatchMode=yes".to_owned(),
            "LogLevel=INFO".to_owned(),
            format!("Port={}", self.gateway.local_addr().port()),
        ] {
            options.extend(["-o".to_owned(), option]);
        }
        options
    }

    fn ssh_as(&self, user: &str, key: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command
            .args(self.options(key))
            .args(args.iter().take_while(|arg| arg.starts_with('-')))
            .arg(format!("{user}@127.0.0.1"))
            .args(args.iter().skip_while(|arg| arg.starts_with('-')))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn ssh(&self, args: &[&str]) -> Command {
        self.ssh_as(LEASE, "id", args)
    }

    async fn run(&self, args: &[&str]) -> Output {
        finish(self.ssh(args)).await
    }
}

async fn finish(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    tokio::time::timeout(LONG, output).await.unwrap().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_with_its_exit_code_and_both_outputs() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let ran = bench
        .run(&["echo to-out; echo to-err >&2; pwd; exit 7"])
        .await;
    assert_eq!(ran.status.code(), Some(7), "{}", err(&ran));
    let home = bench.home("").canonicalize().unwrap();
    assert_eq!(out(&ran), format!("to-out\n{}\n", home.display()));
    assert_eq!(err(&ran), "to-err\n");
    // A signal is no exit code: OpenSSH shows that as 255.
    let killed = bench.run(&["kill -TERM $$"]).await;
    assert_eq!(killed.status.code(), Some(255));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_data_goes_through_both_ways_unchanged() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let data = noise(100 * 1024 * 1024);
    let mut ssh = bench.ssh(&["cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    let sent = data.clone();
    let started = Instant::now();
    let writing = tokio::spawn(async move { stdin.write_all(&sent).await });
    let output = ssh.wait_with_output();
    let output = tokio::time::timeout(LONG, output).await.unwrap().unwrap();
    writing.await.unwrap().unwrap();
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        output.stdout == data,
        "{} bytes came back",
        output.stdout.len()
    );
    eprintln!("100 MiB both ways at once: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_does_not_hang_a_command_that_echoes() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let data = noise(48 * 1024 * 1024);
    let mut ssh = bench.ssh(&["cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    let sent = data.clone();
    let mut writing = tokio::spawn(async move { stdin.write_all(&sent).await });
    // Nobody reads the output: the input must come to a halt, not into memory.
    let stuck = tokio::time::timeout(Duration::from_secs(3), &mut writing).await;
    assert!(stuck.is_err(), "48 MiB were swallowed");
    let output = ssh.wait_with_output();
    let output = tokio::time::timeout(LONG, output).await.unwrap().unwrap();
    writing.await.unwrap().unwrap();
    assert!(
        output.stdout == data,
        "{} bytes came back",
        output.stdout.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_read_stops_its_client() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let mut ssh = bench
        .ssh(&["read line; echo got $line; read line; wc -c"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    let mut stdout = ssh.stdout.take().unwrap();
    let mut first = [0; 8];
    stdout.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"got one\n");

    let mut idle = bench
        .ssh(&["sleep 1000"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut flooded = idle.stdin.take().unwrap();
    let piece = vec![b'x'; 64 * 1024];
    let mut swallowed = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_secs(2), flooded.write_all(&piece)).await
    {
        written.unwrap();
        swallowed += piece.len();
        assert!(
            swallowed < 32 * 1024 * 1024,
            "the gateway swallows everything"
        );
    }
    assert!(idle.try_wait().unwrap().is_none(), "it was cut");

    stdin.write_all(b"two\nrest").await.unwrap();
    drop(stdin);
    let mut rest = String::new();
    let reading = stdout.read_to_string(&mut rest);
    tokio::time::timeout(LONG, reading).await.unwrap().unwrap();
    assert_eq!(rest.trim(), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_stops_the_command() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let mut ssh = bench.ssh(&["yes"]).spawn().unwrap();
    let seen = &bench.backend.seen;
    until("output", || seen.output.load(Ordering::SeqCst) > 0).await;
    let mut before = 0;
    // Still when two looks, half a second apart, see the same.
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = seen.output.load(Ordering::SeqCst);
        assert!(now < 64 * 1024 * 1024, "output goes into memory");
        if now == before {
            break;
        }
        before = now;
    }
    assert_eq!(seen.running.load(Ordering::SeqCst), 1);
    ssh.kill().await.unwrap();
    until("end of the command", || {
        seen.running.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_command_ends_with_its_reader() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let inside = bench.run(&["yes | head -n 3"]).await;
    assert_eq!(out(&inside), "y\ny\ny\n");
    // The stock client tells an OpenSSH server, and no other, that nobody reads
    // its output any more; here it ends with its own end.
    let mut ssh = bench.ssh(&["yes"]).spawn().unwrap();
    let mut some = [0; 4];
    let mut stdout = ssh.stdout.take().unwrap();
    stdout.read_exact(&mut some).await.unwrap();
    ssh.kill().await.unwrap();
    let running = || bench.backend.seen.running.load(Ordering::SeqCst);
    until("end of yes", || running() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_process_does_not_hold_the_session() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let started = Instant::now();
    let ran = bench.run(&["sleep 300 & echo started"]).await;
    assert_eq!(out(&ran), "started\n");
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_name_a_size_and_follows_the_window() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    // A terminal of our own, so that there is a window to change.
    let size = |rows, cols| nix::pty::Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = nix::pty::openpty(Some(&size(31, 97)), None).unwrap();
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    let script = "tty; stty size; echo $TERM; trap 'stty size; exit 3' WINCH; \
                  echo ready; while :; do sleep 0.1; done";
    let ssh = bench.ssh(&["-tt", script]);
    let mut command = Command::new("setsid");
    command
        .arg("-c")
        .arg(ssh.as_std().get_program())
        .args(ssh.as_std().get_args())
        .env("TERM", "xterm-256color")
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .kill_on_drop(true);
    let mut ssh = command.spawn().unwrap();
    let mut screen = tokio::fs::File::from_std(pty.master.try_clone().unwrap().into());
    let mut seen = String::new();
    read_until(&mut screen, &mut seen, "ready").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    assert!(seen.contains("31 97"), "{seen}");
    assert!(seen.contains("xterm-256color"), "{seen}");
    resize(&pty.master, size(50, 132));
    read_until(&mut screen, &mut seen, "50 132").await;
    let status = tokio::time::timeout(LONG, ssh.wait()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(3));
}

#[expect(unsafe_code, reason = "an ioctl")]
fn resize(master: &std::os::fd::OwnedFd, size: nix::pty::Winsize) {
    use std::os::fd::AsRawFd;
    nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, nix::pty::Winsize);
    // SAFETY: the descriptor is open and the structure is the one the call reads.
    unsafe { set_size(master.as_raw_fd(), &size) }.unwrap();
}

async fn read_until(screen: &mut tokio::fs::File, seen: &mut String, what: &str) {
    let mut buffer = [0; 1024];
    while !seen.contains(what) {
        let reading = screen.read(&mut buffer);
        let read = tokio::time::timeout(LONG, reading).await.expect(seen);
        let read = read.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_takes_lines_and_only_harmless_variables_come_along() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let mut ssh = bench.ssh(&[
        "-oSendEnv=LANG",
        "-oSendEnv=LC_ALL",
        "-oSetEnv=LD_PRELOAD=/x",
    ]);
    ssh.env("LANG", "xx_YY")
        .env("LC_ALL", "zz")
        .stdin(Stdio::piped());
    let mut ssh = ssh.spawn().unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    stdin
        .write_all(b"echo \"$LANG $LC_ALL [$LD_PRELOAD]\"; exit 4\n")
        .await
        .unwrap();
    let output = tokio::time::timeout(LONG, ssh.wait_with_output()).await;
    let output = output.unwrap().unwrap();
    assert!(out(&output).contains("xx_YY zz []"), "{}", out(&output));
    assert_eq!(output.status.code(), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_both_ways_with_scp_and_sftp() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let local = |name: &str| bench.dir.path().join(name);
    let remote = |name: &str| format!("{LEASE}@127.0.0.1:{name}");
    let scp = |args: &[&str]| {
        let mut scp = Command::new("scp");
        scp.args(bench.options("id")).args(args).kill_on_drop(true);
        scp
    };
    let data = noise(20 * 1024 * 1024 + 7);
    std::fs::write(local("up"), &data).unwrap();
    std::fs::set_permissions(local("up"), PermissionsExt::from_mode(0o751)).unwrap();
    let copied = finish(scp(&[
        "-p",
        local("up").to_str().unwrap(),
        &remote("there"),
    ]))
    .await;
    assert!(copied.status.success(), "{}", err(&copied));
    assert!(std::fs::read(bench.home("there")).unwrap() == data);
    let meta = std::fs::metadata(bench.home("there")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o751);
    let copied = finish(scp(&[
        "-p",
        &remote("there"),
        local("down").to_str().unwrap(),
    ]))
    .await;
    assert!(copied.status.success(), "{}", err(&copied));
    assert!(std::fs::read(local("down")).unwrap() == data);

    std::fs::create_dir_all(local("tree/a b")).unwrap();
    std::fs::write(local("tree/a b/c"), "deep").unwrap();
    let copied = finish(scp(&["-r", local("tree").to_str().unwrap(), &remote("~/")])).await;
    assert!(copied.status.success(), "{}", err(&copied));
    assert_eq!(std::fs::read(bench.home("tree/a b/c")).unwrap(), b"deep");

    let batch = local("batch");
    let script = format!(
        "mkdir d\ncd d\nput {} x\nrename x y\nchmod 600 y\nln -s y z\nls -la\npwd\nget z {}\nrm z\n-rmdir /nowhere\nrm y\ncd ..\nrmdir d\n",
        local("batch").display(),
        local("back").display()
    );
    std::fs::write(&batch, &script).unwrap();
    let mut sftp = Command::new("sftp");
    sftp.args(bench.options("id"))
        .arg("-b")
        .arg(&batch)
        .arg(format!("{LEASE}@127.0.0.1"));
    let done = finish(sftp).await;
    assert!(done.status.success(), "{}{}", out(&done), err(&done));
    assert!(out(&done).contains("-rw-------"), "{}", out(&done));
    assert_eq!(std::fs::read_to_string(local("back")).unwrap(), script);
    assert!(!bench.home("d").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_forwarded_into_the_workload_and_nowhere_else() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = inside.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.write_all(b" and goodbye").await.ok();
            });
        }
    });
    // -W is -L with standard input and output as the connection.
    let mut ssh = Command::new("ssh");
    ssh.args(bench.options("id"))
        .args(["-W", &format!("localhost:{port}")])
        .arg(format!("{LEASE}@127.0.0.1"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut ssh = ssh.spawn().unwrap();
    let data = noise(3 * 1024 * 1024);
    let mut stdin = ssh.stdin.take().unwrap();
    let sent = data.clone();
    tokio::spawn(async move { stdin.write_all(&sent).await });
    let output = tokio::time::timeout(LONG, ssh.wait_with_output()).await;
    let output = output.unwrap().unwrap();
    assert!(output.stdout == [&data[..], b" and goodbye"].concat());

    for target in ["192.0.2.1:22", "example.com:80", "169.254.169.254:80"] {
        let mut ssh = Command::new("ssh");
        ssh.args(bench.options("id"))
            .args(["-W", target])
            .arg(format!("{LEASE}@127.0.0.1"))
            .kill_on_drop(true);
        let refused = finish(ssh).await;
        assert!(!refused.status.success());
        assert!(err(&refused).contains("prohibited"), "{}", err(&refused));
    }
    // Remote forwarding is refused, and with it the session.
    let refused = bench
        .run(&["-oExitOnForwardFailure=yes", "-R0:localhost:1", "true"])
        .await;
    assert_eq!(refused.status.code(), Some(255));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_forward_serves_several_connections() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = inside.accept().await {
            stream.write_all(b"hello").await.ok();
        }
    });
    // A socket file instead of a port: no number to guess.
    let socket = bench.dir.path().join("forward");
    let forward = format!("-L{}:127.0.0.1:{port}", socket.display());
    let _ssh = bench.ssh(&["-N", &forward]).spawn().unwrap();
    until("the forward", || socket.exists()).await;
    for _ in 0..3 {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let mut text = String::new();
        let reading = stream.read_to_string(&mut text);
        tokio::time::timeout(LONG, reading).await.unwrap().unwrap();
        assert_eq!(text, "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_looks_the_same() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let mut answers = Vec::new();
    for (user, key) in [(LEASE, "other"), ("aaaaaaaaaaaa", "id"), ("root", "other")] {
        let refused = finish(bench.ssh_as(user, key, &["true"])).await;
        assert_eq!(refused.status.code(), Some(255));
        answers.push(err(&refused).replace(user, "USER"));
    }
    bench.doors.open.store(false, Ordering::SeqCst);
    let ended = bench.run(&["true"]).await;
    answers.push(err(&ended).replace(LEASE, "USER"));
    assert!(
        answers[0].contains("Permission denied (publickey)"),
        "{answers:?}"
    );
    assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
    assert_eq!(bench.backend.seen.started.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_another_host_key_goes_away() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let port = bench.gateway.local_addr().port();
    let other = HostKey::generate().openssh();
    let line = format!("[127.0.0.1]:{port} {other}\n");
    std::fs::write(bench.dir.path().join("known_hosts"), line).unwrap();
    let refused = bench.run(&["true"]).await;
    assert_eq!(refused.status.code(), Some(255));
    assert!(err(&refused).contains("Host key verification failed"));
    assert_eq!(bench.backend.seen.started.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_ends_its_sessions_with_a_line() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let seen = bench.backend.seen.clone();
    let told = bench
        .ssh(&["yes; sleep 1000"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let found = bench.ssh(&["sleep 1000"]).spawn().unwrap();
    until("both commands", || seen.running.load(Ordering::SeqCst) == 2).await;
    bench.gateway.close_lease(&LEASE.parse().unwrap());
    for ssh in [told, found] {
        let output = tokio::time::timeout(LONG, ssh.wait_with_output()).await;
        let output = output.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(255));
        let line = format!("lease {LEASE} has ended");
        assert!(err(&output).contains(&line), "{}", err(&output));
    }
    until("end of the commands", || {
        seen.running.load(Ordering::SeqCst) == 0
    })
    .await;

    // And without being told, by asking.
    let found = bench.ssh(&["sleep 1000"]).spawn().unwrap();
    until("the command", || seen.running.load(Ordering::SeqCst) == 1).await;
    bench.doors.open.store(false, Ordering::SeqCst);
    let output = tokio::time::timeout(LONG, found.wait_with_output()).await;
    assert!(err(&output.unwrap().unwrap()).contains("has ended"));
    until("no connection", || bench.gateway.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_cuts_a_client_that_does_not_move() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let seen = bench.backend.seen.clone();
    let mut ssh = bench.ssh(&["yes"]);
    let mut ssh = ssh.stdout(Stdio::null()).spawn().unwrap();
    until("output", || seen.output.load(Ordering::SeqCst) > 0).await;
    let pid = nix::unistd::Pid::from_raw(ssh.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let mut before = 0;
    // Until the sockets are full: two looks, half a second apart, see the same.
    while before != seen.output.load(Ordering::SeqCst) {
        before = seen.output.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bench.gateway.close_lease(&LEASE.parse().unwrap());
    until("end of yes", || seen.running.load(Ordering::SeqCst) == 0).await;
    until("no connection", || bench.gateway.connections() == 0).await;
    ssh.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_tries_too_many_keys_is_cut() {
    let limits = GatewayLimits {
        auth_attempts: 4,
        ..GatewayLimits::default()
    };
    let Some(bench) = bench(limits).await else {
        return;
    };
    let keys: Vec<String> = (0..4)
        .map(|i| {
            let path = bench.dir.path().join(format!("try{i}"));
            make_key(&path);
            format!("-oIdentityFile={}", path.display())
        })
        .collect();
    let few: Vec<&str> = keys.iter().map(String::as_str).take(2).collect();
    // Keys of the command line come first; the right one is the last.
    let tried = |keys: &[&str]| {
        let mut ssh = Command::new("ssh");
        ssh.args(keys)
            .args(bench.options("id"))
            .arg(format!("{LEASE}@127.0.0.1"))
            .arg("true")
            .kill_on_drop(true);
        finish(ssh)
    };
    assert!(tried(&few).await.status.success());
    let all: Vec<&str> = keys.iter().map(String::as_str).collect();
    let cut = tried(&all).await;
    assert_eq!(cut.status.code(), Some(255));
    assert!(err(&cut).contains("Too many"), "{}", err(&cut));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_is_told_and_is_quick() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let seen = bench.backend.seen.clone();
    let ssh = bench.ssh(&["sleep 1000"]).spawn().unwrap();
    until("the command", || seen.running.load(Ordering::SeqCst) == 1).await;
    let stopping = bench.gateway.shutdown();
    tokio::time::timeout(LONG, stopping).await.unwrap();
    let output = tokio::time::timeout(LONG, ssh.wait_with_output()).await;
    assert!(err(&output.unwrap().unwrap()).contains("restarting"));
    let address = bench.gateway.local_addr();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_refused_and_others_go_on() {
    let limits = GatewayLimits {
        max_connections_per_address: 2,
        ..GatewayLimits::default()
    };
    let Some(bench) = bench(limits).await else {
        return;
    };
    let seen = bench.backend.seen.clone();
    let mut first = bench.ssh(&["sleep 1000"]).spawn().unwrap();
    let _second = bench.ssh(&["sleep 1000"]).spawn().unwrap();
    until("both commands", || seen.running.load(Ordering::SeqCst) == 2).await;
    let third = bench.run(&["true"]).await;
    assert_eq!(third.status.code(), Some(255));
    assert_eq!(seen.started.load(Ordering::SeqCst), 2);
    first.kill().await.unwrap();
    until("a free place", || seen.running.load(Ordering::SeqCst) == 1).await;
    let deadline = Instant::now() + LONG;
    while !bench.run(&["true"]).await.status.success() {
        assert!(Instant::now() < deadline, "the place was never given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_nonsense_is_cut_after_the_login_timeout() {
    let limits = GatewayLimits {
        login_timeout: Duration::from_secs(1),
        ..GatewayLimits::default()
    };
    let Some(bench) = bench(limits).await else {
        return;
    };
    for greeting in [&b""[..], b"SSH-2.0-quiet\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
        let address = bench.gateway.local_addr();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after {greeting:?}");
    }
    assert!(bench.run(&["true"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_old_connections_are_ended() {
    let limits = GatewayLimits {
        idle_timeout: Duration::from_secs(2),
        ..GatewayLimits::default()
    };
    let Some(bench) = bench(limits).await else {
        return;
    };
    let busy = bench.run(&["for i in 1 2 3 4 5 6 7 8; do echo; sleep 0.5; done"]);
    let idle = bench.run(&["sleep 1000"]);
    let (busy, idle) = tokio::join!(busy, idle);
    assert_eq!(busy.status.code(), Some(0), "{}", err(&busy));
    assert_eq!(idle.status.code(), Some(255));
    assert!(err(&idle).contains("too long"), "{}", err(&idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sessions_at_once() {
    let Some(bench) = bench(GatewayLimits::default()).await else {
        return;
    };
    let sessions = (0..20).map(|i| {
        let line = format!("seq 1 2000 | tail -n 1; echo {i}; exit {i}");
        let ssh = bench.ssh(&[&line]);
        async move { (i, finish(ssh).await) }
    });
    for (i, output) in futures::future::join_all(sessions).await {
        assert_eq!(out(&output), format!("2000\n{i}\n"), "{}", err(&output));
        assert_eq!(output.status.code(), Some(i));
    }
}
