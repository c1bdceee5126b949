use std::path::{Path, PathBuf};

use super::facts::{BackendFacts, DirFacts};
use super::network::{MintAnswer, nuts};
use super::*;
use crate::compute::{Capabilities, Enforced, Health, Inventory};
use crate::config;
use crate::core::capacity::Resources;
use crate::core::time::Timestamp;
use crate::provider::settings::Settings;

const NOW: u64 = 1_790_000_000;

fn settings() -> Settings {
    let example = include_str!("../../provider.example.json");
    let mut settings = config::parse(example, Path::new("/")).unwrap().settings;
    // Two stand for all.
    settings.tiers.truncate(2);
    settings
}

fn mint() -> MintAnswer {
    MintAnswer {
        units: vec!["sat".to_owned()],
        input_fee_ppk: Some(100),
        nuts: vec![4, 5, 7, 9, 10, 11, 12, 14],
        time: Some(NOW - 1),
    }
}

/// A host on which nothing is to be found fault with.
fn facts() -> Facts {
    Facts {
        backend: Ok(BackendFacts {
            name: "sandbox".parse().unwrap(),
            capabilities: Capabilities {
                isolation: "shared-kernel".to_owned(),
                oci_images: true,
                host_image: true,
                enforces: Enforced {
                    cpu: true,
                    memory: true,
                    pids: true,
                    disk: true,
                },
                outgoing_network: true,
                notes: Vec::new(),
            },
            health: Ok(Health {
                engine: "libcontainer 0.7".to_owned(),
            }),
            inventory: Ok(Inventory {
                total: Resources {
                    cpu_millicores: 4000,
                    memory_mib: 16_384,
                    disk_mib: 204_800,
                    pids: 0,
                },
            }),
        }),
        uid: 0,
        data_dir: DirFacts {
            path: PathBuf::from("/var/lib/satlet"),
            mode_and_owner: Some((0o700, 0)),
            writable: Ok(()),
            free_mib: Some(150_000),
        },
        now: Timestamp::from_secs(NOW),
        open_files: Some(1_048_576),
        listen: Ok(()),
        running: None,
        relays: vec![
            ("wss://a".to_owned(), Ok(())),
            ("wss://b".to_owned(), Ok(())),
        ],
        mints: vec![("https://mint.example.org".to_owned(), Ok(mint()))],
        missing_layouts: Vec::new(),
    }
}

fn worst(settings: &Settings, facts: &Facts) -> Vec<String> {
    let all = findings(settings, facts);
    for finding in &all {
        assert!(!finding.message.is_empty());
        assert_eq!(
            finding.level == Level::Note,
            finding.fix.is_empty(),
            "{finding:?}"
        );
    }
    all.into_iter()
        .filter(|finding| finding.level != Level::Note)
        .map(|f| format!("{:?} {}: {} {}", f.level, f.about, f.message, f.fix))
        .collect()
}

#[test]
fn a_good_host_has_notes_only() {
    assert_eq!(worst(&settings(), &facts()), Vec::<String>::new());
    let notes: Vec<String> = findings(&settings(), &facts())
        .into_iter()
        .map(|finding| finding.message)
        .collect();
    assert!(
        notes
            .iter()
            .any(|note| note.contains("fee 100 ppk; NUTs 4, 5, 7, 9, 10, 11, 12, 14")),
        "{notes:?}"
    );
}

/// One fact changed: what is said about it.
#[test]
fn each_fault_is_named_once_with_its_weight() {
    type Change = fn(&mut Facts, &mut Settings);
    let cases: [(&str, Change, &[&str]); 25] = [
        (
            "nothing to run for existing clients",
            |_, s| {
                s.paygress.as_mut().unwrap().images.clear();
                s.images.allow = vec!["host".into(), "debian12".into()];
            },
            &["Warning paygress: Existing clients ask for ubuntu:22.04"],
        ),
        (
            "no backend",
            |f, _| f.backend = Err("no namespaces".into()),
            &["Error backend: The backend cannot be opened: no namespaces."],
        ),
        (
            "engine down",
            |f, _| f.backend.as_mut().unwrap().health = Err("refused".into()),
            &["Error backend: sandbox takes no work: refused."],
        ),
        (
            "something missing",
            |f, _| f.backend.as_mut().unwrap().capabilities.notes = vec!["No nft.".into()],
            &["Warning backend: No nft."],
        ),
        (
            "no disk limit",
            |f, _| f.backend.as_mut().unwrap().capabilities.enforces.disk = false,
            &[
                "Warning limits: Tier small is not sold: this host cannot enforce: disk.",
                "Warning limits: Tier large is not sold",
                "Error tiers: No tier can be sold",
            ],
        ),
        (
            "no disk limit, sold anyway",
            |f, s| {
                f.backend.as_mut().unwrap().capabilities.enforces.disk = false;
                s.sell_unenforced = true;
            },
            &[
                "Warning limits: Tier small is sold although",
                "Warning limits: Tier large is sold although",
            ],
        ),
        (
            "a tier without disk",
            |f, s| {
                f.backend.as_mut().unwrap().capabilities.enforces.disk = false;
                s.tiers[0].resources.disk_mib = 0;
            },
            &["Warning limits: Tier large is not sold"],
        ),
        (
            "inventory unknown",
            |f, _| f.backend.as_mut().unwrap().inventory = Err("late".into()),
            &["Warning capacity: What the host has cannot be found out: late."],
        ),
        (
            "more cpu than there is",
            |_, s| s.capacity.total.cpu_millicores = 4001,
            &["Warning capacity: 4001 millicores are sold"],
        ),
        (
            "more memory than there is",
            |_, s| s.capacity.total.memory_mib = 17_408,
            &["Error capacity: 17GiB of memory are sold, and the host has 16GiB."],
        ),
        (
            "nearly all memory",
            |_, s| s.capacity.total.memory_mib = 16_000,
            &["Warning capacity: 16000MiB of memory are sold: less than a tenth"],
        ),
        (
            "no pulls",
            |f, _| f.backend.as_mut().unwrap().capabilities.oci_images = false,
            &["Warning images: \"docker.io/library/*\" is allowed"],
        ),
        (
            "layout missing",
            |f, _| f.missing_layouts = vec![("debian12".into(), "/x.tar".into())],
            &["Warning images: The layout debian12 is not there: /x.tar."],
        ),
        (
            "data dir of another",
            |f, _| f.data_dir.mode_and_owner = Some((0o700, 1000)),
            &["Error data_dir: /var/lib/satlet belongs to user 1000"],
        ),
        (
            "data dir open",
            |f, _| f.data_dir.mode_and_owner = Some((0o755, 0)),
            &["Error data_dir: /var/lib/satlet is open to others (mode 755)"],
        ),
        (
            "data dir read-only",
            |f, _| f.data_dir.writable = Err("read-only".into()),
            &["Error data_dir: Nothing can be written in /var/lib/satlet: read-only."],
        ),
        (
            "disk full",
            |f, _| f.data_dir.free_mib = Some(10),
            &["Error disk: Only 10MiB are free"],
        ),
        (
            "disk short",
            |f, _| f.data_dir.free_mib = Some(50_000),
            &["Warning disk: 50000MiB are free at /var/lib/satlet, and 100GiB are sold."],
        ),
        (
            "clock of 1970",
            |f, _| f.now = Timestamp::from_secs(100),
            &["Error clock: The clock says 1970-01-01T00:01:40Z."],
        ),
        (
            "clock a minute off",
            |f, _| f.now = Timestamp::from_secs(NOW + 60),
            &["Warning clock: The clock is 61 s apart"],
        ),
        (
            "clock hours off",
            |f, _| f.now = Timestamp::from_secs(NOW - 7200),
            &["Error clock: The clock is 7199 s apart"],
        ),
        (
            "few files",
            |f, _| f.open_files = Some(1024),
            &["Warning files: 1024 files may be open at once, and 2560 may be needed."],
        ),
        (
            "port taken",
            |f, _| f.listen = Err("in use".into()),
            &["Error gateway: 0.0.0.0:2222 cannot be listened on: in use."],
        ),
        (
            "port taken by our own daemon",
            |f, _| {
                f.listen = Err("in use".into());
                f.running = Some(7);
            },
            &[],
        ),
        (
            "listens on loopback",
            |_, s| s.gateway.listen = "127.0.0.1:2222".parse().unwrap(),
            &["Warning gateway: The gateway listens on 127.0.0.1 only."],
        ),
    ];
    for (name, change, wanted) in cases {
        let (mut facts, mut settings) = (facts(), settings());
        change(&mut facts, &mut settings);
        let found = worst(&settings, &facts);
        assert_eq!(found.len(), wanted.len(), "{name}: {found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.starts_with(wanted), "{name}: {found}");
        }
    }
}

#[test]
fn a_public_host_that_leads_nowhere_is_found() {
    for (host, wanted) in [
        ("localhost", true),
        ("127.0.0.1", true),
        ("0.0.0.0", true),
        ("::1", true),
        ("192.168.1.5", true),
        ("fd00::1", true),
        ("203.0.113.9", false),
        ("box.example.org", false),
        ("2001:db8::1", false),
    ] {
        let mut settings = settings();
        settings.gateway.public_host = host.to_owned();
        assert_eq!(!worst(&settings, &facts()).is_empty(), wanted, "{host}");
    }
}

#[test]
fn one_relay_or_mint_of_several_is_a_warning_and_all_of_them_an_error() {
    let down = || Err("refused".to_owned());
    let mut one = facts();
    one.relays[0].1 = down();
    one.mints
        .push(("https://b".to_owned(), Err("refused".to_owned())));
    let found = worst(&settings(), &one);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|f| f.starts_with("Warning")), "{found:?}");

    let mut all = facts();
    all.relays.iter_mut().for_each(|relay| relay.1 = down());
    all.mints[0].1 = Err("refused".to_owned());
    let found = worst(&settings(), &all);
    let errors: Vec<_> = found.iter().filter(|f| f.starts_with("Error")).collect();
    assert_eq!(errors.len(), 2, "{found:?}");
    assert!(errors[0].contains("No relay") && errors[1].contains("No mint"));
}

#[test]
fn what_a_mint_lacks_is_named() {
    let mut facts = facts();
    facts.mints[0].1 = Ok(MintAnswer {
        units: vec!["usd".to_owned()],
        nuts: vec![4, 5],
        ..mint()
    });
    let found = worst(&settings(), &facts).join("\n");
    for wanted in [
        "neither sat nor msat",
        "NUT-07",
        "NUT-09",
        "No mint can be used",
    ] {
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
}

#[test]
fn one_mint_with_a_wrong_clock_is_not_us() {
    let mut facts = facts();
    for name in ["b", "c"] {
        facts.mints.push((format!("https://{name}"), Ok(mint())));
    }
    facts.mints[0].1.as_mut().unwrap().time = Some(5);
    assert_eq!(worst(&settings(), &facts), Vec::<String>::new());
}

#[test]
fn nuts_that_are_switched_off_are_not_counted() {
    let told = serde_json::json!({
        "4": {"methods": [], "disabled": false}, "5": {"methods": [], "disabled": true},
        "7": {"supported": true}, "9": {"supported": false}, "17": {"supported": []}
    });
    assert_eq!(nuts(&told), [4, 7, 17]);
}

#[tokio::test]
async fn facts_are_gathered_without_a_network_and_without_a_backend() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.data_dir = dir.path().join("not").join("yet");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    settings.gateway.listen = taken.local_addr().unwrap();
    let missing = crate::compute::BackendError::Permanent("none".to_owned());
    let facts = gather(&settings, Err(missing), Timestamp::from_secs(NOW), false).await;
    assert_eq!(facts.data_dir.mode_and_owner, None);
    assert_eq!(facts.data_dir.writable, Ok(()));
    assert!(facts.data_dir.free_mib.is_some_and(|free| free > 0));
    assert!(facts.listen.is_err());
    assert!(facts.relays.is_empty() && facts.running.is_none());
    assert!(
        !dir.path().join("not").exists(),
        "a look has made something"
    );
}

#[tokio::test]
async fn a_relay_and_a_mint_that_refuse_are_said_to() {
    let mut settings = settings();
    // Bound and dropped: nobody listens there now.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    settings.relays = vec![format!("ws://127.0.0.1:{port}")];
    settings.mints[0].url = format!("http://127.0.0.1:{port}");
    let missing = crate::compute::BackendError::Permanent("none".to_owned());
    let facts = gather(&settings, Err(missing), Timestamp::from_secs(NOW), true).await;
    assert!(facts.relays[0].1.is_err(), "{:?}", facts.relays);
    assert!(facts.mints[0].1.is_err(), "{:?}", facts.mints);
}
