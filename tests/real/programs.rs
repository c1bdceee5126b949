//! The suite's programs do what they say on a host that has no limits: a
//! probe that could never reach anything would prove nothing.

use std::process::Command;

use satlet::compute::conformance::{Program, debian_line};

use crate::support::host::{Service, is_root};
use crate::support::lan::Machine;

/// What it prints on this host.
fn run(program: &Program) -> String {
    let line = debian_line(program);
    let output = Command::new("sh").args(["-c", &line]).output().expect("sh");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn memory_and_disk_fillers_fill() {
    assert_eq!(run(&Program::FillMemory(8)), (8 << 20).to_string());
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let [one, other] = &dirs;
    let path = |dir: &tempfile::TempDir| dir.path().display().to_string();
    assert_eq!(run(&Program::FillDisk(path(one), 3)), (3 << 20).to_string());
    let both = vec![path(one), path(other)];
    assert_eq!(run(&Program::FillDisks(both, 3)), (6 << 20).to_string());
    for dir in &dirs {
        let left = std::fs::read_dir(dir.path()).expect("it is there").count();
        assert_eq!(left, 0);
    }
}

#[test]
fn many_processes_are_started() {
    assert_eq!(run(&Program::ForkMany(100)), "100");
}

#[test]
fn a_burner_burns() {
    let text = run(&Program::Spin(1));
    let seconds = |word: &str| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let used: f64 = text.split_whitespace().filter_map(seconds).sum();
    // One core's worth in a second at most from each of two; a busy machine gives less.
    assert!(used > 0.2 && used < 2.5, "{text}");
}

#[test]
fn lines_are_printed() {
    assert!(run(&Program::Lines(3)).ends_with("line 1\nline 2\nline 3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_reach_who_is_there() {
    let service = Service::start().await.expect("a service");
    let addresses = service.addresses();
    assert!(
        addresses.iter().any(|at| at.ip().is_loopback()),
        "{addresses:?}"
    );
    for address in &addresses {
        assert_eq!(run(&Program::Connect(*address)), "reached", "{address}");
    }
    drop(service);
    // The port is free now, and nobody listens.
    let gone = addresses.first().expect("an address");
    assert_eq!(run(&Program::Connect(*gone)), "unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_reached_from_the_host() {
    if !is_root() {
        skip!("needs root");
    }
    let machine = match Machine::start() {
        Ok(machine) => machine,
        Err(why) => {
            skip!("another_machine_is_reached_from_the_host", "{why}");
        }
    };
    for address in machine.near().into_iter().chain([machine.far()]) {
        assert_eq!(run(&Program::Connect(address)), "reached", "{address}");
    }
    // A connection stands before the listener has taken it.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while machine.touched() < 3 && std::time::Instant::now() < end {
        tokio::task::yield_now().await;
    }
    assert_eq!(machine.touched(), 3);
}

#[test]
fn a_listener_greets() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("its number").port()
    };
    let line = debian_line(&Program::Listen(port, "welcome".to_owned()));
    let mut listener = Command::new("sh").args(["-c", &line]).spawn().expect("sh");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut greeting = String::new();
    while greeting.is_empty() && std::time::Instant::now() < end {
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
            std::io::Read::read_to_string(&mut stream, &mut greeting).expect("a greeting");
        }
    }
    listener.kill().expect("it runs");
    listener.wait().expect("it ends");
    assert_eq!(greeting, "welcome");
}
