//! An unmodified client of the dialect in use at the real `satletd`: over a
//! relay, with ecash, and by the stock OpenSSH client into the sandbox.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::old_client::{OldClient, PasswordSsh};
use crate::support::openssh::{missing, out};
use crate::support::world::{Daemon, LONG, World, no_sandbox};

/// How long such clients wait for a spawn.
const PATIENCE: Duration = Duration::from_secs(120);

/// Serves such clients, on ports around one that is free; what they ask for by
/// default is this image.
pub(super) fn serve(config: &mut Value, image: &str) {
    let listen: std::net::SocketAddr = config["gateway"]["listen"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let range = loop {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let first = free.local_addr().unwrap().port();
        let Some(last) = first.checked_add(99) else {
            continue;
        };
        if !(first..=last).contains(&listen.port()) {
            break format!("{first}-{last}");
        }
    };
    config["paygress"] = json!({
        "enabled": true, "ports": range, "images": { "ubuntu:22.04": image },
    });
}

fn spawn(token: &str, password: &str) -> Value {
    json!({
        "cashu_token": token, "pod_spec_id": "small", "pod_image": "ubuntu:22.04",
        "ssh_username": "user", "ssh_password": password,
    })
}

/// The port of a workload that was sold.
fn port(access: &Value) -> u64 {
    access["node_port"]
        .as_u64()
        .unwrap_or_else(|| panic!("no workload: {access}"))
}

async fn refused(ssh: &PasswordSsh, port: u64, password: &str) {
    let output = ssh.run(port, password, "echo in").await;
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Permission denied"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_client_rents_enters_extends_and_is_kept_out_afterwards() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    if let Some(tool) = missing(&["ssh"]) {
        skip!("{tool} (OpenSSH client) is not installed");
    }
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |config| serve(config, "host"));
    daemon.start().await;
    let purse = world.purse(500).await;
    let mut alice = OldClient::new(world.urls());
    let bob = OldClient::new(world.urls());
    let provider = alice.discover().await;
    let (hers, his) = ("alicesPassword1", "bobsPassword123");
    let (first, second) = (
        spawn(&purse.token(60).await, hers),
        spawn(&purse.token(60).await, his),
    );
    let (first, second) = tokio::join!(
        alice.ask(&provider, &first, PATIENCE),
        bob.ask(&provider, &second, PATIENCE)
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    let (at, other) = (port(&first), port(&second));
    assert_ne!((at, &first["pod_npub"]), (other, &second["pod_npub"]));

    // In by what the reply says, and by nothing else.
    let ssh = PasswordSsh::new();
    let line = "echo kept > /root/mark; id -u; exit 7";
    let ran = ssh.run(at, hers, line).await;
    assert_eq!(
        (ran.status.code(), out(&ran).as_str()),
        (Some(7), "0\n"),
        "{ran:?}"
    );
    assert!(
        ssh.run(other, his, "test ! -e /root/mark")
            .await
            .status
            .success()
    );
    refused(&ssh, at, "notThePassword").await;
    refused(&ssh, at, his).await;
    refused(&ssh, other, hers).await;
    let main = daemon.gateway_port();
    refused(&ssh, main, hers).await;

    // The reply to the spawn lies at the relay and is younger than a minute.
    alice.ahead = 45;
    let how = json!({"pod_id": first["pod_npub"]});
    let told = alice.ask(&provider, &how, PATIENCE).await.unwrap();
    assert_eq!(told["status"], "Running", "{told}");
    assert_eq!(told["ssh_port"].as_u64(), Some(at));
    alice.ahead = 90;
    let more = json!({"pod_npub": first["pod_npub"], "cashu_token": purse.token(10).await});
    let told = alice.ask(&provider, &more, PATIENCE).await.unwrap();
    assert_eq!(told["success"], true, "{told}");
    // The mint keeps a sat of ten.
    assert_eq!(told["extended_duration_seconds"], 90);

    // A daemon that is killed finds the port and the password again.
    daemon.kill();
    daemon.start().await;
    let ran = ssh.run(at, hers, "cat /root/mark").await;
    assert_eq!(out(&ran), "kept\n", "{ran:?}");

    // A short one ends, and nobody listens at its port any more.
    let carol = OldClient::new(world.urls());
    let short = spawn(&purse.token(2).await, "carolsPassword");
    let short = carol.ask(&provider, &short, PATIENCE).await.unwrap();
    let closed = port(&short);
    assert!(![at, other].contains(&closed));
    let deadline = tokio::time::Instant::now() + LONG;
    let address = ("127.0.0.1", u16::try_from(closed).unwrap());
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "its port stays open"
        );
        // Slower than the gateway's limit of connections.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(ssh.run(at, hers, "true").await.status.success());
    assert!(!daemon.log().contains(hers), "a password is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_client_takes_no_old_reply_for_a_new_one_and_keeps_a_refused_token() {
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |config| {
        config["backend"] = json!({ "kind": "fake" });
        serve(config, "host");
    });
    daemon.start().await;
    let purse = world.purse(100).await;
    let mut alice = OldClient::new(world.urls());
    let provider = alice.discover().await;
    let token = purse.token(50).await;
    let mut huge = spawn(&token, "alicesPassword1");
    huge["pod_spec_id"] = "huge".into();
    let told = alice.ask(&provider, &huge, PATIENCE).await.unwrap();
    assert_eq!(told["error_type"], "spec_unavailable", "{told}");
    assert!(purse.is_unspent(&token).await);
    // Each of these comes within a minute of the reply to the one before, which
    // the relay still has.
    alice.ahead = 50;
    let bought = spawn(&token, "alicesPassword1");
    let access = alice.ask(&provider, &bought, PATIENCE).await.unwrap();
    port(&access);
    alice.ahead = 100;
    let how = json!({"pod_id": access["pod_npub"]});
    let told = alice.ask(&provider, &how, PATIENCE).await.unwrap();
    assert_eq!(told["status"], "Running", "{told}");
    alice.ahead = 150;
    let none = json!({"pod_id": "container-9999"});
    let told = alice.ask(&provider, &none, PATIENCE).await.unwrap();
    assert_eq!(told["error_type"], "not_found", "{told}");
}
