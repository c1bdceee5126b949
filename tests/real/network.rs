//! The whole walk on programs that nobody here wrote: nostr-rs-relay, Nutshell,
//! the stock OpenSSH client, and what workloads run on.

use bollard::query_parameters::ListContainersOptions;
use satlet::compute::Backend;
use serde_json::{Value, json};

use crate::support::local_gateway::{make_key, noise};
use crate::support::openssh::{Stock, finish, missing, out};
use crate::support::servers::{Docker, Nutshell, Outside};
use crate::support::world::{Daemon, LONG, Person, no_sandbox};

const NAME: &str = "BoldAmberHeron";

/// What workloads run on.
pub(super) enum Machines {
    Sandbox,
    Docker(Docker),
}

impl Machines {
    /// The sandbox, or why it cannot be had.
    pub(super) async fn sandbox() -> Result<Self, String> {
        match no_sandbox().await {
            None => Ok(Self::Sandbox),
            Some(why) => Err(why),
        }
    }

    /// Docker with an image to run, or why it cannot be had.
    pub(super) async fn docker() -> Result<Self, String> {
        let docker = Docker::find()?;
        docker.import_busybox().await?;
        Ok(Self::Docker(docker))
    }

    /// Puts it into a provider's configuration.
    pub(super) fn configure(&self, config: &mut Value) {
        if let Self::Docker(docker) = self {
            config["backend"] = json!({ "kind": "docker", "socket": docker.socket() });
            config["images"] = json!({
                "default": Docker::BUSYBOX, "allow": [Docker::BUSYBOX],
            });
        }
    }

    /// Its image, as requests name it.
    pub(super) fn image(&self) -> &'static str {
        match self {
            Self::Sandbox => "host",
            Self::Docker(_) => Docker::BUSYBOX,
        }
    }

    /// How many workloads of this lease there are, asked of what runs them.
    pub(super) async fn count(&self, daemon: &Daemon, lease: &str) -> usize {
        match self {
            Self::Sandbox => {
                let owned = daemon.sandbox().await.list_owned().await.unwrap();
                let of = owned.iter().map(|one| one.labels.lease.as_str());
                of.filter(|name| *name == lease).count()
            }
            Self::Docker(docker) => {
                let all = ListContainersOptions {
                    all: true,
                    ..Default::default()
                };
                let there = docker.api().list_containers(Some(all)).await.unwrap();
                let labels = there.into_iter().filter_map(|one| one.labels);
                labels
                    .filter(|labels| labels.values().any(|value| value == lease))
                    .count()
            }
        }
    }
}

fn msat(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no amount: {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_rented_on_real_servers() {
    match Machines::sandbox().await {
        Ok(machines) => walk("a_box_is_rented_on_real_servers", machines).await,
        Err(why) => skip!("{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_rented_on_real_servers() {
    match Machines::docker().await {
        Ok(machines) => walk("a_container_is_rented_on_real_servers", machines).await,
        Err(why) => skip!("{why}"),
    }
}

async fn walk(name: &str, machines: Machines) {
    if let Some(tool) = missing(&["ssh", "scp"]) {
        skip!(name, "{tool} (OpenSSH client) is not installed");
    }
    let outside = match Outside::start().await {
        Ok(outside) => outside,
        Err(why) => skip!(name, "{why}"),
    };
    let mut daemon = Daemon::build(&outside, |config| machines.configure(config));
    daemon.start().await;
    let me = Person::new(&outside, "me", 500).await;
    assert_eq!(me.balance().await, 500_000);

    listed(&me).await;
    let quote = me.json(&["quote", NAME, "--for", "10m"]).await;
    let fee = &quote["mints"][0]["input_fee_ppk"];
    assert_eq!(fee, Nutshell::FEE_PPK, "{quote}");

    let main = ["sh", "-c", "echo up; while :; do sleep 1; done"];
    let args = [&["spawn", NAME, "--for", "10m", "--"][..], &main].concat();
    let sold = me.json(&args).await;
    assert_eq!(sold["state"], "active", "{sold}");
    let lease = sold["lease"].as_str().unwrap();
    assert_eq!(machines.count(&daemon, lease).await, 1);
    enter(&outside, &me, &sold["access"]).await;

    let added = me.json(&["topup", lease, "--for", "60s"]).await;
    assert_eq!(added["added_seconds"], 60, "{added}");
    let status = me.json(&["status", lease]).await;
    assert_eq!(status["state"], "active");
    assert_eq!(status["expires_at"], added["expires_at"]);
    assert_eq!(status["access"], sold["access"]);

    let before = me.balance().await;
    let stopped = me.json(&["stop", lease]).await;
    assert_eq!(machines.count(&daemon, lease).await, 0, "{stopped}");
    let stock = Stock::new(&sold["access"], &me.home.join("ssh/id_ed25519"));
    let closed = stock.run("true").await;
    assert_eq!(closed.status.code(), Some(255), "{closed:?}");
    let received = msat(&stopped["received_msat"]);
    assert!(received > 500_000 / 10, "most of it comes back: {stopped}");
    assert_eq!(me.balance().await, before + received);
    adds_up(&sold, &added, &stopped);
}

/// Looks until the offer is there, since the first heartbeat may be under way.
async fn listed(me: &Person) {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let listed = me.json(&["list"]).await;
        let provider = &listed["providers"][0];
        if provider["online"] == true {
            assert_eq!(provider["name"], NAME, "{listed}");
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{listed}");
    }
}

/// The mint keeps a tenth of a sat for each proof, rounded up to a sat, and
/// every other millisatoshi is told.
fn adds_up(sold: &Value, added: &Value, stopped: &Value) {
    let paid = msat(&sold["paid_msat"]) + msat(&added["paid_msat"]);
    let fees = msat(&sold["mint_fee_msat"]) + msat(&added["mint_fee_msat"]);
    assert!(
        fees >= 2_000 && fees.is_multiple_of(1_000),
        "{sold} {added}"
    );
    let parts = [
        fees,
        msat(&stopped["refund_fee_msat"]),
        msat(&stopped["served_msat"]),
        msat(&stopped["refund_msat"]),
        msat(&stopped["credit_msat"]),
    ];
    assert_eq!(paid, parts.iter().sum::<u64>(), "{sold} {added} {stopped}");
    // What the consumer's own swap of the refund costs.
    let fee = msat(&stopped["refund_msat"]) - msat(&stopped["received_msat"]);
    assert!((1_000..=3_000).contains(&fee), "{stopped}");
}

/// Exit codes and files pass; another host key than the published one does not.
async fn enter(outside: &Outside, me: &Person, access: &Value) {
    let key = me.home.join("ssh/id_ed25519");
    let stock = Stock::new(access, &key);
    let ran = stock.run("echo in; echo aside >&2; exit 7").await;
    assert_eq!((ran.status.code(), out(&ran).as_str()), (Some(7), "in\n"));
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "aside\n");

    let mut lied = access.clone();
    lied["host_key"] = make_key(&outside.path("lie")).into();
    let refused = Stock::new(&lied, &key).run("true").await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("Host key verification failed"), "{told}");

    let (local, back) = (outside.path("a file"), outside.path("back"));
    let data = noise(300_000);
    std::fs::write(&local, &data).unwrap();
    let there = format!("{}:/root/there", stock.there());
    let mut put = stock.command("scp");
    put.arg(&local).arg(&there);
    let mut fetch = stock.command("scp");
    fetch.arg(&there).arg(&back);
    for copy in [put, fetch] {
        let copied = finish(copy).await;
        assert!(copied.status.success(), "{copied:?}");
    }
    assert!(
        std::fs::read(&back).unwrap() == data,
        "it came back changed"
    );
    let size = stock.run("wc -c < /root/there").await;
    assert_eq!(out(&size).trim(), "300000", "{size:?}");
}
