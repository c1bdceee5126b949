//! Clients that somebody else could have written, on nostr-rs-relay and
//! Nutshell: one of the dialect satlet/1, written from `specs/` alone, and one
//! of the dialect that is in use on the network.

use std::process::Output;

use nostr_sdk::Keys;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::network::Machines;
use super::paygress::serve;
use crate::support::clients::Clients;
use crate::support::local_gateway::make_key;
use crate::support::openssh::{Stock, by_password, missing, out};
use crate::support::servers::{Nutshell, Outside};
use crate::support::world::{Daemon, LONG, Person, one_document};

/// What all of these tests need, or why it is not there.
async fn parts(
    machines: impl Future<Output = Result<Machines, String>>,
) -> Result<(Clients, Machines, Outside), String> {
    if let Some(tool) = missing(&["ssh"]) {
        return Err(format!("{tool} (OpenSSH client) is not installed"));
    }
    Ok((Clients::find()?, machines.await?, Outside::start().await?))
}

fn int(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A client that prints a JSON object a step.
struct Steps {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Steps {
    fn start(mut command: tokio::process::Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What the next step brought.
    async fn next(&mut self, step: &str) -> Value {
        let line = tokio::time::timeout(LONG, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("it never comes to {step}"));
        let Some(line) = line.unwrap() else {
            let mut told = String::new();
            let mut stderr = self.child.stderr.take().unwrap();
            stderr.read_to_string(&mut told).await.unwrap();
            panic!("it ended before {step}: {told}");
        };
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["step"], step, "{value}");
        value
    }

    /// Lets it go on from where it waits for a line.
    async fn go_on(&mut self) {
        let mut stdin = self.child.stdin.take().unwrap();
        stdin.write_all(b"\n").await.unwrap();
    }

    /// It ends with success and prints nothing more.
    async fn end(mut self) {
        assert_eq!(self.lines.next_line().await.unwrap(), None);
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// The provider's public key, as clients name it.
fn key_of(daemon: &Daemon) -> String {
    let nsec = std::fs::read_to_string(daemon.dir().join("nsec")).unwrap();
    Keys::parse(nsec.trim()).unwrap().public_key().to_hex()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_written_from_the_specs_rents_and_gives_back() {
    match parts(Machines::sandbox()).await {
        Ok(parts) => rents_and_gives_back(parts).await,
        Err(why) => skip!("{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_written_from_the_specs_rents_a_container() {
    match parts(Machines::docker()).await {
        Ok(parts) => rents_and_gives_back(parts).await,
        Err(why) => skip!("{why}"),
    }
}

async fn rents_and_gives_back((clients, machines, outside): (Clients, Machines, Outside)) {
    let mut daemon = Daemon::build(&outside, |config| machines.configure(config));
    daemon.start().await;
    let key = outside.path("id_ed25519");
    let public = outside.path("id_ed25519.pub");
    std::fs::write(&public, make_key(&key)).unwrap();

    let (relay, mint) = (outside.relay.url(), outside.mint.url());
    let provider = key_of(&daemon);
    let args = [&relay, &mint, &provider, public.to_str().unwrap(), "600"];
    let mut client = Steps::start(clients.command("satlet1.mjs", &args));
    let offer = client.next("offer").await;
    assert_eq!(offer["hostname"], "BoldAmberHeron");
    let quote = client.next("quote").await;
    assert_eq!(quote["price_msat"], 60_000, "{quote}");
    assert_eq!(quote["mints"][0]["input_fee_ppk"], Nutshell::FEE_PPK);
    let funded = client.next("fund").await;
    assert_eq!(funded["balance_msat"], 160_000);
    let sold = client.next("spawn").await;
    assert_eq!(sold["state"], "active", "{sold}");
    assert_eq!(sold["paid_msat"], sold["face_msat"], "{sold}");
    let served_for = (int(&sold["paid_msat"]) - int(&sold["mint_fee_msat"])) / 100;
    assert!(served_for >= 600, "the fee is on top: {sold}");
    let lease = text(&sold["lease"]).to_owned();
    let status = client.next("status").await;
    assert_eq!(status["lease"], sold["lease"]);
    assert_eq!(status["access"], sold["access"]);

    assert_eq!(machines.count(&daemon, &lease).await, 1);
    let ran = Stock::new(&sold["access"], &key)
        .run("echo in; exit 5")
        .await;
    assert_eq!((ran.status.code(), out(&ran).as_str()), (Some(5), "in\n"));

    client.go_on().await;
    let stopped = client.next("stop").await;
    assert_eq!(machines.count(&daemon, &lease).await, 0);
    let refund = client.next("refund").await;
    client.end().await;
    let given = int(&stopped["refund"]["amount_msat"]);
    let parts = ["served_msat", "refund_fee_msat", "credit_msat"].map(|part| int(&stopped[part]));
    let all = int(&sold["mint_fee_msat"]) + given + parts.iter().sum::<u64>();
    assert_eq!(int(&sold["paid_msat"]), all, "{sold} {stopped}");
    // The swap of the refund costs a tenth of a sat for each proof.
    let received = int(&refund["received_msat"]);
    assert!(received < given && received + 2_000 >= given, "{refund}");
    // So does the client's own swap that made the token.
    let balance = int(&refund["balance_msat"]);
    let rest = 160_000 - int(&sold["paid_msat"]) + received;
    assert!(balance < rest && balance + 2_000 >= rest, "{refund}");
}

/// What an old-style client printed, which ended with this code.
fn one_json(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    one_document(output)
}

/// The password that a reply in the old dialect tells.
fn password(reply: &Value) -> String {
    let lines = reply["instructions"].as_array().unwrap();
    let mut told = lines.iter().filter_map(|line| {
        let (label, password) = text(line).split_once(':')?;
        label
            .to_lowercase()
            .contains("password")
            .then(|| password.trim().to_owned())
    });
    told.next_back()
        .unwrap_or_else(|| panic!("no password: {reply}"))
}

async fn login(reply: &Value, line: &str) -> Output {
    let (host, port) = (text(&reply["host_address"]), int(&reply["node_port"]));
    by_password(host, port, "root", &password(reply), line).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_style_client_rents_tops_up_and_asks() {
    match parts(Machines::sandbox()).await {
        Ok(parts) => rents_tops_up_and_asks(parts).await,
        Err(why) => skip!("{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_style_client_rents_a_container() {
    match parts(Machines::docker()).await {
        Ok(parts) => rents_tops_up_and_asks(parts).await,
        Err(why) => skip!("{why}"),
    }
}

async fn rents_tops_up_and_asks((clients, machines, outside): (Clients, Machines, Outside)) {
    let mut daemon = Daemon::build(&outside, |config| {
        machines.configure(config);
        serve(config, machines.image());
    });
    daemon.start().await;
    let payer = Person::new(&outside, "payer", 500).await;
    let secret = Keys::generate().secret_key().to_secret_hex();
    let relay = outside.relay.url();

    let listed = clients.paygress(&secret, &[&relay, "list"]).await;
    let listed = one_json(&listed, 0);
    assert_eq!(listed["offers"][0]["online"], true, "{listed}");
    assert_eq!(listed["offers"][0]["hostname"], "BoldAmberHeron");

    let token = payer.token(70).await;
    let spawn = [&relay, "spawn", "boldamberheron", &token, "small"];
    let sold = one_json(&clients.paygress(&secret, &spawn).await, 0);
    let pod = text(&sold["pod_npub"]);
    assert!(pod.starts_with("container-"), "{sold}");
    let ran = login(&sold, "id -u; exit 3").await;
    assert_eq!(
        (ran.status.code(), out(&ran).as_str()),
        (Some(3), "0\n"),
        "{ran:?}"
    );

    // Its clock goes on by more than a reply lasts: within that time such a
    // client takes an earlier reply for its own.
    let provider = key_of(&daemon);
    let asked = [&relay, "status", &provider, pod];
    let status = one_json(&clients.paygress_later(45, &secret, &asked).await, 0);
    assert_eq!(status["status"], "Running", "{status}");
    assert_eq!(status["ssh_port"], sold["node_port"]);
    let token = payer.token(20).await;
    let topup = [&relay, "topup", &provider, pod, &token];
    let added = one_json(&clients.paygress_later(90, &secret, &topup).await, 0);
    assert_eq!(added["success"], true, "{added}");
    assert!(
        (190..=200).contains(&int(&added["extended_duration_seconds"])),
        "{added}"
    );

    let stranger = Keys::generate().secret_key().to_secret_hex();
    let refused = one_json(&clients.paygress(&stranger, &asked).await, 2);
    assert_eq!(refused["error_type"], "not_found", "{refused}");
    // A token that was spent buys nothing.
    let again = one_json(&clients.paygress_later(135, &secret, &topup).await, 2);
    assert!(again["error_type"].is_string(), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_old_style_clients_at_once_each_get_their_own_lease() {
    let (clients, machines, outside) = match parts(Machines::sandbox()).await {
        Ok(parts) => parts,
        Err(why) => skip!("{why}"),
    };
    let mut daemon = Daemon::build(&outside, |config| {
        machines.configure(config);
        serve(config, machines.image());
        config["tiers"][0]["cpu_millicores"] = 100.into();
        config["tiers"][0]["memory"] = "64MiB".into();
    });
    daemon.start().await;
    let payer = Person::new(&outside, "payer", 1_000).await;
    let (relay, provider) = (outside.relay.url(), key_of(&daemon));
    let mut tokens = Vec::new();
    for _ in 0..10 {
        tokens.push(payer.token(40).await);
    }
    let spawn = async |token: &String| {
        let secret = Keys::generate().secret_key().to_secret_hex();
        let args = [&relay, "spawn", &provider, token];
        one_json(&clients.paygress(&secret, &args).await, 0)
    };
    let sold = futures::future::join_all(tokens.iter().map(spawn)).await;
    for field in ["pod_npub", "node_port"] {
        let mut all: Vec<_> = sold.iter().map(|one| one[field].to_string()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 10, "{field}: {sold:?}");
    }
    for (n, one) in sold.iter().enumerate() {
        let ran = login(one, &format!("echo {n} > /root/who; cat /root/who")).await;
        assert_eq!(out(&ran), format!("{n}\n"), "{ran:?}");
    }
    // Each is still its own after all others were written to.
    for (n, one) in sold.iter().enumerate() {
        let ran = login(one, "cat /root/who").await;
        assert_eq!(out(&ran), format!("{n}\n"), "{ran:?}");
    }
}
