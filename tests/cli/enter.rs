//! `satlet ssh`, `exec` and `cp` into a lease, by the system's OpenSSH and by
//! the built-in client.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use satlet::consumer::home::Home;
use satlet::consumer::records::{KnownLease, Records};
use satlet::core::capacity::Resources;
use satlet::core::ids::PublicKey;
use satlet::core::money::Msat;
use satlet::gateway::GatewayLimits;
use satlet::protocol::reply::{Access, LeaseState, LeaseStatus};
use satlet::relay::convert::now;
use serde_json::Value;
use tokio::process::Command;

use crate::support::local_gateway::{Bench, LEASE, noise};

/// A gateway with one lease, and a home that knows it. The home's name has a
/// space, as names of homes may.
struct Stage {
    bench: Bench,
    home: PathBuf,
}

impl Stage {
    async fn start() -> Self {
        let bench = Bench::start(GatewayLimits::default()).await;
        let home = bench.dir.path().join("a home");
        let stage = Self { bench, home };
        stage.knows(&stage.bench.gateway.host_key_openssh(), "127.0.0.1");
        stage
    }

    /// Writes down that the lease is entered with this host key.
    fn knows(&self, host_key: &str, host: &str) {
        let home = Home::open(&self.home).unwrap();
        let status = LeaseStatus {
            lease: LEASE.parse().unwrap(),
            state: LeaseState::Active,
            why: "paid".to_owned(),
            tier: "small".parse().unwrap(),
            image: "host".to_owned(),
            rate_msat_per_s: 1,
            gives: Resources::default(),
            created_at: now(),
            started_at: Some(now()),
            expires_at: Some(now().plus_secs(600)),
            destroy_at: None,
            remaining_seconds: 600,
            credit_msat: Msat::ZERO,
            gift_seconds: None,
            access: Some(Access {
                host: host.to_owned(),
                port: self.bench.gateway.local_addr().port(),
                user: LEASE.to_owned(),
                host_key: host_key.to_owned(),
            }),
            refunds: Vec::new(),
        };
        let lease = KnownLease {
            provider: PublicKey::from_bytes([7; 32]),
            provider_name: "Alpha".to_owned(),
            relays: Vec::new(),
            mints: Vec::new(),
            lock: None,
            ssh_key: Some(self.bench.dir.path().join("id")),
            status,
            seen_at: now(),
            paygress: None,
        };
        Records::new(home.root()).save_lease(&lease).unwrap();
    }

    async fn satlet(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_satlet"))
            .args(args)
            .env("SATLET_HOME", &self.home)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap()
    }
}

fn has_openssh() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).exists());
    has("ssh") && has("scp")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn enters(with: &[&str]) {
    let stage = Stage::start().await;
    let call = |command: &str, rest: &[&str]| {
        let mut args = vec![command.to_owned()];
        args.extend(with.iter().chain(rest).map(|&arg| arg.to_owned()));
        args
    };
    let run = async |command: &str, rest: &[&str]| {
        let args = call(command, rest);
        stage
            .satlet(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    };

    let ran = run("exec", &["abcd", "--", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    assert_eq!(
        (text(&ran.stdout), text(&ran.stderr)),
        ("out\n".to_owned(), "err\n".to_owned())
    );

    // Several words arrive as they are, whatever is in them.
    let word = "a b'c \"$HOME\" *";
    let ran = run("exec", &["abcd", "--", "printf", "%s|", word, ""]).await;
    assert_eq!(text(&ran.stdout), format!("{word}||"), "{ran:?}");

    let ran = run("ssh", &["abcd", "--json", "--", "echo hi; exit 3"]).await;
    assert_eq!(ran.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(
        (json["exit_code"].as_i64(), json["stdout"].as_str()),
        (Some(3), Some("hi\n"))
    );

    let data = noise(300_000);
    let local = stage.bench.dir.path().join("local file");
    std::fs::write(&local, &data).unwrap();
    let ran = run("cp", &[local.to_str().unwrap(), "abcd:there"]).await;
    assert!(ran.status.success(), "{ran:?}");
    assert!(std::fs::read(stage.bench.home("there")).unwrap() == data);
    let back = stage.bench.dir.path().join("back");
    let ran = run("cp", &["--json", "abcd:there", back.to_str().unwrap()]).await;
    assert!(ran.status.success(), "{ran:?}");
    assert!(std::fs::read(&back).unwrap() == data);
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(json["copied"], true);

    std::fs::create_dir(stage.bench.home("tree")).unwrap();
    std::fs::write(stage.bench.home("tree/leaf"), "leaf").unwrap();
    let tree = stage.bench.dir.path().join("tree");
    let ran = run("cp", &["-r", "abcd:tree", tree.to_str().unwrap()]).await;
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(std::fs::read_to_string(tree.join("leaf")).unwrap(), "leaf");

    // Another host key than the provider published: nobody is let in between.
    let other = Bench::start(GatewayLimits::default()).await;
    stage.knows(&other.gateway.host_key_openssh(), "127.0.0.1");
    let ran = run("exec", &["abcd", "--", "echo in"]).await;
    assert!(!ran.status.success() && ran.stdout.is_empty(), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_built_in_client() {
    enters(&["--builtin"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_system_s_openssh() {
    if !has_openssh() {
        eprintln!("SKIPPED by_the_system_s_openssh: no OpenSSH client is installed");
        return;
    }
    enters(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_cannot_put_options_on_the_command_line() {
    let stage = Stage::start().await;
    let key = stage.bench.gateway.host_key_openssh();
    for (host, key) in [
        ("-oProxyCommand=touch /tmp/x", key.as_str()),
        ("a b", key.as_str()),
        ("127.0.0.1", "ssh-ed25519 AAAA\n* ssh-ed25519"),
        ("127.0.0.1", "ssh-ed25519"),
    ] {
        stage.knows(key, host);
        let ran = stage.satlet(&["ssh", "abcd", "--json"]).await;
        let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
        if key.contains('\n') {
            // Only the first two words are used.
            let known = stage.home.join("ssh/known_hosts").join(LEASE);
            assert_eq!(std::fs::read_to_string(known).unwrap().lines().count(), 1);
            continue;
        }
        assert_eq!(ran.status.code(), Some(4), "{host} {key}: {ran:?}");
        assert_eq!(json["error"]["code"], "bad_answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_as_json_shows_how_to_get_in() {
    let stage = Stage::start().await;
    let ran = stage.satlet(&["ssh", "abcd", "--json"]).await;
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(json["access"]["user"], LEASE);
    if has_openssh() {
        let words = json["command"].as_array().unwrap();
        assert!(
            words.iter().any(|word| word == "StrictHostKeyChecking=yes"),
            "{json}"
        );
        assert!(Path::new(words[0].as_str().unwrap()).is_absolute());
    }
}
