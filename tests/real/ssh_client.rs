//! The built-in SSH client against the gateway.
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use satlet::consumer::ssh::{
    CopyPath, Forward, Input, SshClient, SshError, SshKey, SshTarget, Tty, copy, output, run,
};
use satlet::gateway::{GatewayLimits, HostKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::local_backend::PANIC;
use crate::support::local_gateway::{Bench, LEASE, noise, until};

const LONG: Duration = Duration::from_secs(60);

async fn bench() -> Bench {
    Bench::start(GatewayLimits::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gives_its_code_and_both_outputs() {
    let bench = bench().await;
    let target = bench.target();
    let ran = output(&target, "cat; echo err >&2; exit 9", b"typed").await;
    assert_eq!(ran.unwrap(), (9, b"typed".to_vec(), b"err\n".to_vec()));
    let killed = output(&target, "kill -KILL $$", b"").await.unwrap();
    assert_eq!(killed.0, 128 + 9);
    let data = noise(8 * 1024 * 1024);
    let echoed = tokio::time::timeout(LONG, output(&target, "cat", &data)).await;
    let (code, out, _) = echoed.unwrap().unwrap();
    assert_eq!(code, 0);
    assert!(out == data, "{} bytes came back", out.len());
    let much = output(&target, "head -c 20000000 /dev/zero", b"")
        .await
        .unwrap();
    assert_eq!((much.0, much.1.len()), (0, 16 * 1024 * 1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_published_host_key_is_accepted() {
    let bench = bench().await;
    let mut target = bench.target();
    target.host_key = HostKey::generate().openssh();
    let refused = output(&target, "true", b"").await.unwrap_err();
    assert!(matches!(refused, SshError::WrongHostKey), "{refused}");
    target.host_key = "ssh-ed25519 nonsense".to_owned();
    let refused = output(&target, "true", b"").await.unwrap_err();
    assert!(matches!(refused, SshError::BadHostKey), "{refused}");
    target.host_key = format!("{} with a comment", bench.gateway.host_key_openssh());
    assert_eq!(output(&target, "true", b"").await.unwrap().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_an_unknown_lease_and_nobody_there_are_told_apart_from_success() {
    let bench = bench().await;
    let mut target = bench.target();
    target.key = SshKey::File(bench.dir.path().join("other"));
    let refused = output(&target, "true", b"").await.unwrap_err();
    assert!(matches!(refused, SshError::Refused), "{refused}");
    let mut target = bench.target();
    target.user = "aaaaaaaaaaaa".to_owned();
    let refused = output(&target, "true", b"").await.unwrap_err();
    assert!(matches!(refused, SshError::Refused), "{refused}");
    let mut target = bench.target();
    target.key = SshKey::File(PathBuf::from("/nowhere"));
    let refused = output(&target, "true", b"").await.unwrap_err();
    assert!(matches!(refused, SshError::BadKey(_)), "{refused}");
    bench.gateway.shutdown().await;
    let refused = output(&bench.target(), "true", b"").await.unwrap_err();
    assert!(matches!(refused, SshError::Connect { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_resized() {
    let bench = bench().await;
    let client = SshClient::connect(&bench.target()).await.unwrap();
    let (resize, size) = tokio::sync::watch::channel((97, 31));
    let tty = Tty {
        term: "vt100".to_owned(),
        size,
    };
    let (mut screen, out) = tokio::io::duplex(64 * 1024);
    let script = "stty size; echo $TERM; trap 'stty size; exit 3' WINCH; \
                  echo ready; while :; do sleep 0.1; done";
    let input = Input::bytes(Vec::new());
    let running = client.exec(Some(script), Some(tty), input, out, tokio::io::sink());
    let watching = async {
        let mut seen = String::new();
        let mut buffer = [0; 1024];
        while !seen.contains("ready") {
            let read = screen.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        resize.send((132, 50)).unwrap();
        screen.read_to_string(&mut seen).await.unwrap();
        seen
    };
    let both = async { tokio::join!(running, watching) };
    let (code, seen) = tokio::time::timeout(LONG, both).await.unwrap();
    assert_eq!(code.unwrap(), 3);
    for part in ["31 97", "vt100", "50 132"] {
        assert!(seen.contains(part), "no {part} in {seen}");
    }
}

/// Where [`on_this_terminal`] finds its gateway: port, host key, key file.
const ASIDE: &str = "SATLET_TEST_GATEWAY";

/// Not a test of its own: what [`a_person_at_a_terminal_has_a_shell`] runs in a
/// process that has the terminal.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn on_this_terminal() {
    let Ok(aside) = std::env::var(ASIDE) else {
        return;
    };
    let parts: Vec<&str> = aside.split('|').collect();
    let target = SshTarget {
        host: "127.0.0.1".to_owned(),
        port: parts[0].parse().unwrap(),
        user: LEASE.to_owned(),
        host_key: parts[1].to_owned(),
        key: SshKey::File(parts[2].into()),
    };
    let code = run(&target, None, true).await.unwrap();
    std::process::exit(code);
}

/// What is shown on a terminal. A thread that nobody waits for reads it: a read
/// of a terminal ends when something is shown, and a test may have failed before.
fn screen(master: std::os::fd::OwnedFd) -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    let (shown, screen) = tokio::sync::mpsc::channel(64);
    let mut master = std::fs::File::from(master);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = std::io::Read::read(&mut master, &mut buffer) {
            if shown.blocking_send(buffer[..read].to_vec()).is_err() {
                break;
            }
        }
    });
    screen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_a_terminal_has_a_shell() {
    let bench = bench().await;
    let size = nix::pty::Winsize {
        ws_row: 33,
        ws_col: 99,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    let before = nix::sys::termios::tcgetattr(&pty.slave).unwrap();
    let slave = || std::process::Stdio::from(pty.slave.try_clone().unwrap());
    let target = bench.target();
    let key = bench.dir.path().join("id");
    let aside = format!("{}|{}|{}", target.port, target.host_key, key.display());
    let mut person = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "real::ssh_client::on_this_terminal"])
        .args(["--ignored", "--nocapture"])
        .env(ASIDE, aside)
        .env("TERM", "vt220")
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut screen = screen(pty.master.try_clone().unwrap());
    let mut typing = tokio::fs::File::from_std(pty.master.try_clone().unwrap().into());
    let mut seen = String::new();
    let script = [
        ("$ ", "echo $TERM.$(stty size)\r"),
        ("vt220.33 99", "while read x; do echo got-$x; done\rhello\r"),
        // Raw: a control character is the business of the shell over there,
        // not the end of this process.
        ("got-hello", "\x03"),
        ("$ ", "exit 6\r"),
    ];
    for (awaited, typed) in script {
        seen.clear();
        while !seen.contains(awaited) {
            let shown = tokio::time::timeout(LONG / 2, screen.recv()).await;
            let Ok(Some(shown)) = shown else {
                panic!("no {awaited:?} in {seen:?}");
            };
            seen.push_str(&String::from_utf8_lossy(&shown));
        }
        typing.write_all(typed.as_bytes()).await.unwrap();
        typing.flush().await.unwrap();
    }
    let status = tokio::time::timeout(LONG, person.wait()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(6), "{seen}");
    let after = nix::sys::termios::tcgetattr(&pty.slave).unwrap();
    assert_eq!(after.local_flags, before.local_flags, "still raw");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_ends_the_command() {
    let bench = bench().await;
    let client = SshClient::connect(&bench.target()).await.unwrap();
    let (mut reader, out) = tokio::io::duplex(64);
    let input = Input::bytes(Vec::new());
    let running = client.exec(Some("yes"), None, input, out, tokio::io::sink());
    let reading = async move {
        let mut some = [0; 4];
        reader.read_exact(&mut some).await.unwrap();
    };
    let both = async { tokio::join!(running, reading) };
    let (code, ()) = tokio::time::timeout(LONG, both).await.unwrap();
    assert_eq!(code.unwrap(), 128 + 13);
    let seen = bench.backend.seen.clone();
    until("end of yes", || seen.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_session_is_the_end_of_that_session_alone() {
    let bench = bench().await;
    let client = SshClient::connect(&bench.target()).await.unwrap();
    let ran = async |line: &str| {
        let (input, mut out) = (Input::bytes(Vec::new()), Vec::new());
        let running = client.exec(Some(line), None, input, &mut out, tokio::io::sink());
        let code = tokio::time::timeout(LONG, running).await.unwrap();
        (code, out)
    };
    let other = ran("read line; echo still here");
    let (panicked, (code, out)) = tokio::join!(ran(PANIC), other);
    assert!(panicked.0.is_err());
    assert_eq!((code.unwrap(), &out[..]), (0, &b"still here\n"[..]));
    assert_eq!(ran("exit 5").await.0.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_is_an_error_with_its_line() {
    let bench = bench().await;
    let target = bench.target();
    let client = SshClient::connect(&target).await.unwrap();
    let mut err = Vec::new();
    let input = Input::bytes(Vec::new());
    let running = client.exec(Some("sleep 1000"), None, input, tokio::io::sink(), &mut err);
    let closing = async {
        let seen = bench.backend.seen.clone();
        until("the command", || seen.running.load(Ordering::SeqCst) == 1).await;
        bench.gateway.close_lease(&LEASE.parse().unwrap());
    };
    let both = async { tokio::join!(running, closing) };
    let (code, ()) = tokio::time::timeout(LONG, both).await.unwrap();
    assert!(code.is_err());
    let line = format!("lease {LEASE} has ended");
    assert!(String::from_utf8(err).unwrap().contains(&line));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_directories_are_copied_both_ways() {
    let bench = bench().await;
    let target = bench.target();
    let local = |name: &str| bench.dir.path().join(name);
    let remote = |name: &str| CopyPath::Remote(name.to_owned());
    let data = noise(5 * 1024 * 1024 + 3);
    std::fs::write(local("up"), &data).unwrap();
    std::fs::set_permissions(local("up"), PermissionsExt::from_mode(0o750)).unwrap();
    let up = CopyPath::Local(local("up"));
    let bytes = copy(&target, up.clone(), remote("~/there"), false).await;
    assert_eq!(bytes.unwrap(), data.len() as u64);
    assert!(std::fs::read(bench.home("there")).unwrap() == data);
    // Into a directory, under its own name.
    copy(&target, up.clone(), remote("."), false).await.unwrap();
    assert!(std::fs::read(bench.home("up")).unwrap() == data);
    let down = CopyPath::Local(local("down"));
    let bytes = copy(&target, remote("there"), down, false).await;
    assert_eq!(bytes.unwrap(), data.len() as u64);
    assert!(std::fs::read(local("down")).unwrap() == data);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(bench.home("there")), 0o750);
    assert_eq!(mode(local("down")), 0o750);

    std::fs::create_dir_all(local("tree/a b/c")).unwrap();
    std::fs::write(local("tree/a b/file"), "deep").unwrap();
    std::fs::write(local("tree/empty"), "").unwrap();
    let tree = CopyPath::Local(local("tree"));
    let refused = copy(&target, tree.clone(), remote("tree"), false).await;
    assert!(matches!(refused, Err(SshError::Copy { .. })));
    let bytes = copy(&target, tree, remote("tree"), true).await.unwrap();
    assert_eq!(bytes, 4);
    std::os::unix::fs::symlink("..", bench.home("tree/loop")).unwrap();
    std::os::unix::fs::symlink("empty", bench.home("tree/link")).unwrap();
    let back = CopyPath::Local(local("back"));
    copy(&target, remote("tree"), back, true).await.unwrap();
    assert_eq!(std::fs::read(local("back/a b/file")).unwrap(), b"deep");
    assert!(local("back/a b/c").is_dir());
    assert_eq!(std::fs::read(local("back/link")).unwrap(), b"");
    assert!(!local("back/loop").exists());

    let gone = copy(&target, remote("gone"), up.clone(), false).await;
    assert!(matches!(gone, Err(SshError::Copy { .. })));
    let both_here = copy(&target, up.clone(), up, false).await;
    assert!(matches!(both_here, Err(SshError::Copy { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_carries_several_connections_until_it_is_dropped() {
    let bench = bench().await;
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = inside.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    let any = "127.0.0.1:0".parse().unwrap();
    let target = bench.target();
    let forward = Forward::open(&target, any, "localhost", port);
    let forward = forward.await.unwrap();
    let address = forward.local_addr();
    let talk = || async move {
        let data = noise(1024 * 1024);
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sent = data.clone();
        tokio::spawn(async move { write.write_all(&sent).await });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.unwrap();
        assert!(back == data);
    };
    let all = futures::future::join_all((0..4).map(|_| talk()));
    tokio::time::timeout(LONG, all).await.unwrap();
    drop(forward);
    until("no connection", || bench.gateway.connections() == 0).await;
}
