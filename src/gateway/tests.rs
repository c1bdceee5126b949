use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::input::{Input, Meter};
use super::limits::{Full, Gate};
use super::*;

#[test]
fn the_host_key_is_made_once_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let made = HostKey::load_or_create(&path).unwrap();
    let again = HostKey::load_or_create(&path).unwrap();
    assert_eq!(made.openssh(), again.openssh());
    assert!(made.openssh().starts_with("ssh-ed25519 AAAA"));
    assert_eq!(made.openssh().split(' ').count(), 2, "no comment");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(!format!("{made:?}").contains("AAAA"));
}

#[test]
fn a_host_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    HostKey::load_or_create(&path).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o602] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let refused = HostKey::load_or_create(&path).unwrap_err();
        assert!(
            matches!(refused, GatewayError::HostKeyExposed(_)),
            "{mode:o}"
        );
    }
}

#[test]
fn a_file_that_is_no_host_key_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "precious").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let refused = HostKey::load_or_create(&path).unwrap_err();
    assert!(matches!(refused, GatewayError::HostKeyMalformed(_)));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn many_that_make_the_host_key_at_once_get_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let load = || HostKey::load_or_create(&path).unwrap().openssh();
    let keys: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0]));
}

fn gate() -> Gate {
    Gate::new(GatewayLimits {
        max_connections: 3,
        max_connections_per_address: 2,
        connects_per_minute: 5,
        ..GatewayLimits::default()
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn places_are_counted_by_address_and_in_all_and_given_back() {
    let (gate, now) = (gate(), Instant::now());
    let first = gate.enter(ip("192.0.2.1"), now).unwrap();
    let _second = gate.enter(ip("::ffff:192.0.2.1"), now).unwrap();
    let full = |text| gate.enter(ip(text), now).err();
    assert_eq!(full("192.0.2.1"), Some(Full::Address));
    let _third = gate.enter(ip("2001:db8::1"), now).unwrap();
    assert_eq!(full("2001:db8:1::1"), Some(Full::All));
    drop(first);
    assert_eq!(full("192.0.2.1"), None);
}

#[test]
fn an_ipv6_network_counts_as_one_address() {
    let (gate, now) = (gate(), Instant::now());
    let _places: Vec<_> = ["2001:db8::1", "2001:db8::ffff:2"]
        .into_iter()
        .map(|text| gate.enter(ip(text), now).ok().unwrap())
        .collect();
    let full = gate.enter(ip("2001:db8::3"), now).err();
    assert_eq!(full, Some(Full::Address));
}

#[test]
fn connects_in_a_minute_are_limited() {
    let (gate, now) = (gate(), Instant::now());
    for _ in 0..5 {
        gate.enter(ip("192.0.2.1"), now).ok().unwrap();
    }
    assert_eq!(gate.enter(ip("192.0.2.1"), now).err(), Some(Full::Rate));
    assert!(gate.enter(ip("192.0.2.2"), now).is_ok());
    let later = now + Duration::from_secs(61);
    assert!(gate.enter(ip("192.0.2.1"), later).is_ok());
}

#[test]
fn wrong_passwords_in_a_minute_are_limited_by_address() {
    let gate = Gate::new(GatewayLimits {
        passwords_per_minute: 2,
        ..GatewayLimits::default()
    });
    let (now, guesser) = (Instant::now(), ip("192.0.2.1"));
    let _places = [guesser, ip("192.0.2.2")].map(|ip| gate.enter(ip, now).ok().unwrap());
    for _ in 0..2 {
        assert!(gate.may_guess(guesser, now));
        gate.guessed_wrong(guesser, now);
    }
    assert!(!gate.may_guess(ip("::ffff:192.0.2.1"), now));
    assert!(gate.may_guess(ip("192.0.2.2"), now));
    assert!(gate.may_guess(guesser, now + Duration::from_secs(61)));
}

#[test]
fn only_the_loopback_of_the_workload_can_be_forwarded_to() {
    let dialled = |host| forward::loopback(host);
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "[::1]",
    ] {
        assert!(dialled(host).is_some(), "{host}");
    }
    assert_eq!(dialled("0.0.0.0").as_deref(), Some("127.0.0.1"));
    assert_eq!(dialled("::").as_deref(), Some("::1"));
    assert_eq!(dialled("::ffff:127.0.0.1").as_deref(), Some("127.0.0.1"));
    for host in [
        "",
        "example.com",
        "10.0.0.1",
        "169.254.169.254",
        "localhost.example.com",
        "127.1",
        "::ffff:10.0.0.1",
    ] {
        assert_eq!(dialled(host), None, "{host}");
    }
}

#[tokio::test]
async fn queued_input_is_counted_until_it_is_written() {
    let all = Arc::default();
    let meter = Arc::new(Meter::new(Arc::clone(&all)));
    let input = Input::new(meter.clone());
    let piece = vec![1; 64 * 1024];
    let mut pushed = 0;
    while !meter.stalled() {
        input.push(&piece).unwrap();
        pushed += piece.len();
    }
    assert!(
        pushed <= 1024 * 1024,
        "{pushed} before it counts as stalled"
    );
    let mut sink = Vec::new();
    input.end();
    input.drain(&mut sink).await;
    assert_eq!(sink.len(), pushed);
    assert!(!meter.stalled());
    assert_eq!(all.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn input_without_end_is_an_overflow_and_a_closed_queue_takes_nothing() {
    let all = Arc::default();
    let input = Input::new(Arc::new(Meter::new(Arc::clone(&all))));
    let piece = vec![1; 1024 * 1024];
    let fits = (0..1024).take_while(|_| input.push(&piece).is_ok()).count();
    assert!((8..64).contains(&fits), "{fits} MiB were taken");
    input.close();
    input.push(&piece).unwrap();
    assert_eq!(all.load(std::sync::atomic::Ordering::Relaxed), 0);
}
