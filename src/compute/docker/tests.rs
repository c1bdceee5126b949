use std::net::Ipv4Addr;

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, CreateImageInfo, ProgressDetail,
    SystemInfo, SystemVersion,
};

use super::engine::Trouble;
use super::facts::{self, Here};
use super::images::{Progress, Ready, pull_error};
use super::names::Instance;
use super::networks::Range;
use super::observe::found;
use super::spec::{self, Wiring};
use crate::compute::{BackendError, Image, Observed, WorkloadSpec};
use crate::core::capacity::Resources;
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::time::Timestamp;

fn instance() -> Instance {
    Instance::parse("abc123").unwrap()
}

fn key() -> LeaseId {
    "abcdefghijkl".parse().unwrap()
}

fn spec(command: &[&str]) -> WorkloadSpec {
    WorkloadSpec {
        owner: PublicKey::from_bytes([7; 32]),
        image: Image::Reference("docker.io/library/debian:12".to_owned()),
        resources: Resources {
            cpu_millicores: 1500,
            memory_mib: 32,
            disk_mib: 500,
            pids: 0,
        },
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![("A".to_owned(), "b=c".to_owned())],
        expires_at: Timestamp::from_secs(1_900_000_000),
        note: r#"{"a note": "é"}"#.to_owned(),
    }
}

fn ready(has_command: bool) -> Ready {
    Ready {
        id: "sha256:01".to_owned(),
        has_command,
        has_volumes: false,
    }
}

fn own() -> Wiring {
    Wiring::Own {
        network: "satlet-abc123-abcdefghijkl".to_owned(),
        resolvers: vec![Ipv4Addr::new(9, 9, 9, 9)],
    }
}

#[test]
fn a_container_is_what_was_sold() {
    let body = spec::container(&instance(), &key(), &spec(&[]), &ready(true), &own(), true);
    let host = body.host_config.unwrap();
    assert_eq!(host.nano_cpus, Some(1_500_000_000));
    assert_eq!(host.memory, Some(32 << 20));
    assert_eq!(host.memory_swap, host.memory);
    // No number was promised, and there is a bound all the same.
    assert!(host.pids_limit.unwrap() > 0);
    assert_eq!(host.storage_opt.unwrap()["size"], "500m");
    // /dev/shm is memory, and never more than there is.
    assert_eq!(host.shm_size, host.memory);
    assert_eq!(host.dns.unwrap(), ["9.9.9.9"]);
    assert_eq!(body.image.as_deref(), Some("sha256:01"));
    assert_eq!(body.env.unwrap(), ["A=b=c"]);
    let labels = instance().read(&body.labels.unwrap()).unwrap();
    assert_eq!(labels.lease, key());
    assert_eq!(labels.expires_at, Timestamp::from_secs(1_900_000_000));
    assert_eq!(labels.note, spec(&[]).note);
}

#[test]
fn a_disk_without_quota_is_not_asked_for() {
    let body = spec::container(&instance(), &key(), &spec(&[]), &ready(true), &own(), false);
    assert_eq!(body.host_config.unwrap().storage_opt, None);
}

#[test]
fn a_command_takes_the_place_of_the_image_s() {
    let made = |command: &[&str], has_command| {
        let (spec, ready) = (spec(command), ready(has_command));
        spec::container(&instance(), &key(), &spec, &ready, &Wiring::Loopback, false)
    };
    assert_eq!(
        made(&["/app", "x"], true).entrypoint.unwrap(),
        ["/app", "x"]
    );
    assert_eq!(made(&[], true).entrypoint, None);
    // An image without a command stays up.
    assert_eq!(made(&[], false).entrypoint.unwrap()[0], "/bin/sh");
    let host = made(&[], true).host_config.unwrap();
    assert_eq!(host.network_mode.as_deref(), Some("none"));
}

#[test]
fn without_name_servers_the_host_s_are_not_taken() {
    let wiring = Wiring::Own {
        network: "x".to_owned(),
        resolvers: Vec::new(),
    };
    let body = spec::container(
        &instance(),
        &key(),
        &spec(&[]),
        &ready(true),
        &wiring,
        false,
    );
    assert_eq!(body.host_config.unwrap().dns.unwrap(), ["127.0.0.1"]);
}

#[test]
fn names_lead_back_to_places_and_fit_the_kernel() {
    let bridge = instance().bridge(4095);
    assert!(bridge.len() <= 15);
    assert_eq!(instance().slot(&bridge), Some(4095));
    assert_eq!(instance().slot("sdother-0001"), None);
    assert_eq!(Instance::parse("../etc"), None);
}

#[test]
fn labels_of_another_installation_are_not_ours() {
    let labels = instance().labels(&key(), &spec(&[]));
    assert!(instance().read(&labels).is_some());
    assert!(Instance::parse("zzz999").unwrap().read(&labels).is_none());
}

#[test]
fn ranges_are_private_and_whole() {
    let range = Range::parse("10.123.0.0/16").unwrap();
    assert_eq!(range, Range::default());
    assert_eq!(range.count(), 4096);
    for wrong in [
        "10.123.0.1/16",
        "11.0.0.0/16",
        "10.0.0.0/8",
        "10.1.2.0/28",
        "10.0.0.0",
        "x/16",
    ] {
        assert_eq!(Range::parse(wrong), None, "{wrong}");
    }
}

fn inspect(running: bool, paused: bool, started: &str, code: i64) -> ContainerInspectResponse {
    ContainerInspectResponse {
        id: Some("0123".to_owned()),
        state: Some(ContainerState {
            running: Some(running),
            paused: Some(paused),
            started_at: Some(started.to_owned()),
            exit_code: Some(code),
            pid: Some(if running { 42 } else { 0 }),
            ..ContainerState::default()
        }),
        config: Some(ContainerConfig {
            env: Some(vec!["A=b=c".to_owned(), "odd".to_owned()]),
            ..ContainerConfig::default()
        }),
        ..ContainerInspectResponse::default()
    }
}

#[test]
fn a_look_is_one_of_three_or_an_error() {
    let started = "2026-01-02T03:04:05.678901234Z";
    let running = found(inspect(true, true, started, 0)).unwrap();
    assert_eq!(
        running.observed,
        Observed::Running {
            started_at: Timestamp::from_secs(1_767_323_045),
            paused: true
        }
    );
    assert_eq!(running.pid, Some(42));
    assert_eq!(running.env, [("A".to_owned(), "b=c".to_owned())]);
    let stopped = found(inspect(false, false, started, 137)).unwrap();
    let code = |exit_code| Observed::Stopped { exit_code };
    assert_eq!(stopped.observed, code(Some(137)));
    assert_eq!(stopped.pid, None);
    // Created and never started: it has not returned 0.
    let never = found(inspect(false, false, "0001-01-01T00:00:00Z", 0)).unwrap();
    assert_eq!(never.observed, code(None));
    assert!(found(ContainerInspectResponse::default()).is_err());
}

fn says(status_code: u16, message: &str) -> Trouble {
    let message = message.to_owned();
    bollard::errors::Error::DockerResponseServerError {
        status_code,
        message,
    }
    .into()
}

#[test]
fn only_the_engine_s_own_404_means_that_it_has_none() {
    let none = says(404, "No such container: satlet-abc123-x");
    assert!(matches!(none, Trouble::NotFound(_)));
    assert!(matches!(
        says(404, "network x not found"),
        Trouble::NotFound(_)
    ));
    for other in ["page not found", "404 page not found", "", "<html>"] {
        assert!(matches!(says(404, other), Trouble::Refused(_)), "{other}");
    }
}

#[test]
fn failures_have_their_class() {
    let timeout = Trouble::Unknown("no answer".to_owned());
    assert!(matches!(
        timeout.clone().doing("x"),
        BackendError::OutcomeUnknown(_)
    ));
    assert!(matches!(timeout.asking("x"), BackendError::Retry(_)));
    let away = Trouble::Unreachable("refused".to_owned());
    assert!(matches!(away.doing("x"), BackendError::Retry(_)));
    assert!(matches!(
        says(400, "bad").doing("x"),
        BackendError::Permanent(_)
    ));
    let full = says(500, "write: no space left on device");
    assert!(matches!(full.doing("x"), BackendError::NoCapacity(_)));
    assert!(matches!(
        says(500, "odd").doing("x"),
        BackendError::Retry(_)
    ));
    // What a stranger's image makes the engine say stays on one line.
    let text = says(400, "a\nb\u{1b}[31m").doing("x").to_string();
    assert!(!text.contains(['\n', '\u{1b}']), "{text}");
}

#[test]
fn a_registry_s_no_is_told_from_its_silence() {
    let no = pull_error(
        "x:1",
        says(500, "manifest for x:1 not found: manifest unknown"),
    );
    assert!(matches!(no, BackendError::Image(_)), "{no:?}");
    let silent = pull_error("x:1", says(500, "dial tcp: i/o timeout"));
    assert!(matches!(silent, BackendError::Retry(_)), "{silent:?}");
    let away = pull_error("x:1", Trouble::Unreachable("refused".to_owned()));
    assert!(matches!(away, BackendError::Retry(_)), "{away:?}");
}

#[test]
fn a_pull_s_size_is_known_before_it_is_here() {
    let step = |layer: &str, status: &str, current, total| CreateImageInfo {
        id: Some(layer.to_owned()),
        status: Some(status.to_owned()),
        progress_detail: Some(ProgressDetail { current, total }),
        ..CreateImageInfo::default()
    };
    let mut progress = Progress::default();
    progress.add(step("a", "Downloading", Some(10), Some(100)));
    progress.add(step("b", "Downloading", Some(5), None));
    progress.add(step("a", "Downloading", Some(20), Some(100)));
    progress.add(step("a", "Extracting", Some(1), Some(999)));
    progress.add(CreateImageInfo::default());
    assert_eq!((progress.here(), progress.total()), (25, 105));
}

fn version(api: &str) -> SystemVersion {
    SystemVersion {
        api_version: Some(api.to_owned()),
        ..SystemVersion::default()
    }
}

fn info(seccomp: &str) -> SystemInfo {
    SystemInfo {
        os_type: Some("linux".to_owned()),
        security_options: Some(vec![seccomp.to_owned()]),
        cpu_cfs_quota: Some(true),
        memory_limit: Some(true),
        swap_limit: Some(false),
        pids_limit: Some(true),
        driver: Some("overlay2".to_owned()),
        driver_status: Some(vec![vec![
            "Backing Filesystem".to_owned(),
            "extfs".to_owned(),
        ]]),
        ..SystemInfo::default()
    }
}

#[test]
fn an_engine_that_is_old_or_unfiltered_is_refused() {
    let good = info("name=seccomp,profile=default");
    assert_eq!(facts::check(&version("1.41"), &good), Ok(()));
    assert_eq!(facts::check(&version("1.51"), &good), Ok(()));
    assert!(facts::check(&version("1.40"), &good).is_err());
    assert!(facts::check(&version(""), &good).is_err());
    for bad in ["name=seccomp,profile=unconfined", "name=apparmor"] {
        assert!(facts::check(&version("1.41"), &info(bad)).is_err(), "{bad}");
    }
}

#[test]
fn what_does_not_hold_is_said_and_not_offered() {
    let here = Here {
        wall: false,
        root: true,
        network: true,
        quota: false,
    };
    let can = facts::capabilities(&info("name=seccomp"), here);
    // Memory without swap is no limit.
    assert!(can.enforces.cpu && can.enforces.pids && !can.enforces.memory && !can.enforces.disk);
    assert!(!can.outgoing_network && !can.host_image);
    for part in ["overlay2 on extfs", "swapaccount=1", "the wall around them"] {
        assert!(can.notes.iter().any(|note| note.contains(part)), "{part}");
    }
    let walled = Here { wall: true, ..here };
    assert!(facts::capabilities(&info("name=seccomp"), walled).outgoing_network);
}
