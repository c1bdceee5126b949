//! Clients of the dialect in use at a provider: what each is told, in one reply,
//! and what became of the money. Written from what such clients do, which is
//! little: they take the first message for the answer.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use satlet::compute::BackendError;
use satlet::compute::fake::Op;
use satlet::core::ids::{EventId, PublicKey};
use satlet::core::lease::Phase;
use satlet::core::money::Msat;
use satlet::core::payment::lock::{Conditions, Kind};
use satlet::core::time::Timestamp;
use satlet::gateway::{Doors, Ports};
use satlet::ledger::{CONTAINERS, OutboxRow, container_key};
use satlet::protocol::request::Ask;
use satlet::provider::doors::LedgerDoors;
use satlet::provider::settings::{PaygressSetting, Settings};
use satlet::provider::stores::Stores;
use satlet::relay::{Channel, Incoming, OutboxStore};
use satlet::wallet::fake::FakeMint;
use satlet::wallet::{Wallet, WalletError};
use serde_json::{Value, json};

use crate::support::shop::{Shop, key, until};

const PASSWORD: &str = "k3ZpQ9vTt1LmXe7B";

const HOUR: Duration = Duration::from_secs(3600);

async fn shop() -> Shop {
    shop_with(|_| {}).await
}

async fn shop_with(change: impl FnOnce(&mut Settings)) -> Shop {
    Shop::open_with(|settings| {
        settings.capacity.total.cpu_millicores = 100_000;
        settings.capacity.total.memory_mib = 100_000;
        settings.paygress = Some(PaygressSetting {
            ports: 31_000..=31_099,
            images: [("ubuntu:22.04".to_owned(), "host".to_owned())].into(),
        });
        change(settings);
    })
    .await
}

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

/// A spawn as the existing command line sends it.
fn spawn(token: &str) -> Value {
    json!({
        "cashu_token": token, "pod_spec_id": "small", "pod_image": "ubuntu:22.04",
        "ssh_username": "user", "ssh_password": PASSWORD,
    })
}

fn topup(name: &str, token: &str) -> Value {
    json!({ "pod_npub": name, "cashu_token": token })
}

fn status(name: &str) -> Value {
    json!({ "pod_id": name })
}

/// What `ask` changed in `one`.
fn with(mut one: Value, name: &str, value: impl Into<Value>) -> Value {
    one[name] = value.into();
    one
}

fn said(row: &OutboxRow) -> Value {
    serde_json::from_str(&row.body).unwrap()
}

/// One client: a key, and how many messages came to it so far.
struct Client<'a> {
    shop: &'a Shop,
    key: PublicKey,
    heard: usize,
}

impl<'a> Client<'a> {
    fn new(shop: &'a Shop, n: u8) -> Self {
        let key = key(n);
        let heard = shop.letters(key).len();
        Self { shop, key, heard }
    }

    async fn send(&self, body: &Value) -> EventId {
        let now = self.shop.ctx().now();
        let text = body.to_string();
        self.shop.bring(self.key, &text, Channel::Nip04, now).await
    }

    /// Sends and waits for the next message, which is the reply; there is never
    /// more than one.
    async fn ask(&mut self, body: Value) -> Value {
        said(&self.ask_row(body).await)
    }

    async fn ask_row(&mut self, body: Value) -> OutboxRow {
        let before = self.shop.letters(self.key);
        self.send(&body).await;
        let mut found = Vec::new();
        until("the request is answered", || {
            found = self.shop.letters(self.key);
            found.len() > self.heard
        })
        .await;
        self.heard += 1;
        assert_eq!(found.len(), self.heard, "one reply: {found:?}");
        for row in before {
            let at = found.iter().position(|other| *other == row);
            found.remove(at.expect("what was sent stays"));
        }
        found.remove(0)
    }

    async fn buy(&mut self, amount: u64) -> Value {
        let token = self.shop.mint.token(sat(amount));
        let access = self.ask(spawn(&token)).await;
        assert!(access["node_port"].is_u64(), "no workload: {access}");
        access
    }

    /// Nothing came since the last reply, and nothing comes for a while.
    async fn hears_nothing(&self) {
        tokio::time::sleep(Duration::from_secs(300)).await;
        let rows = self.shop.letters(self.key);
        let texts: Vec<_> = rows.iter().map(|row| &row.body).collect();
        assert_eq!(rows.len(), self.heard, "{texts:?}");
    }
}

/// Who gets in with `password` at `port`.
async fn enters(shop: &Shop, port: u64, password: &str) -> Option<String> {
    let doors = LedgerDoors(shop.ctx().clone());
    let port = u16::try_from(port).unwrap();
    let door = doors.open_port(port, "root", password).await;
    assert!(doors.open_port(port, "user", password).await.is_none());
    door.map(|door| door.lease.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_sold_shown_extended_and_ends() {
    let shop = shop().await;
    let mut alice = Client::new(&shop, 1);
    let token = shop.mint.token(sat(100));
    let row = alice.ask_row(spawn(&token)).await;
    let access = said(&row);
    // 100 sat at 100 msat a second.
    let now = shop.ctx().now().as_secs();
    let end = chrono::DateTime::parse_from_rfc3339(access["expires_at"].as_str().unwrap());
    assert_eq!(end.unwrap().timestamp() as u64, now + 1000);
    assert!(access["expires_at"].as_str().unwrap().ends_with("+00:00"));
    let port = access["node_port"].as_u64().unwrap();
    assert_eq!(access["pod_npub"], "container-1000");
    assert_eq!(access["host_address"], "127.0.0.1");
    assert_eq!(access["cpu_millicores"], 250);
    assert_eq!(access["memory_mb"], 128);
    let lines: Vec<&str> = access["instructions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(lines[1], "Username: root");
    assert_eq!(lines[2], format!("Password: {PASSWORD}"));
    assert_eq!(lines[5], format!("ssh -p {port} root@127.0.0.1"));
    assert_eq!(shop.ports.listening(), [u16::try_from(port).unwrap()]);
    assert!(enters(&shop, port, PASSWORD).await.is_some());
    assert_eq!(enters(&shop, port, "k3ZpQ9vTt1LmXe7C").await, None);

    for name in ["container-1000", "1000"] {
        let told = alice.ask(status(name)).await;
        assert_eq!(told["pod_id"], "1000");
        assert_eq!(told["status"], "Running");
        assert_eq!(told["ssh_port"].as_u64(), Some(port));
        assert_eq!(told["ssh_host"], "127.0.0.1");
        assert_eq!(told["ssh_username"], "root");
        assert!(told["time_remaining_seconds"].as_u64().unwrap() > 990);
    }
    for name in ["container-1000", "1000"] {
        let token = shop.mint.token(sat(30));
        let told = alice.ask(topup(name, &token)).await;
        assert_eq!(told["success"], true, "{told}");
        assert_eq!(told["pod_npub"], name);
        assert_eq!(told["extended_duration_seconds"], 300);
        assert!(told["new_expires_at"].as_str().unwrap().ends_with("+00:00"));
    }

    // Its time passes: nobody is warned, nobody is told.
    tokio::time::sleep(Duration::from_secs(1650)).await;
    let told = alice.ask(status("1000")).await;
    assert_eq!(told["status"], "Expired", "{told}");
    assert_eq!(told["time_remaining_seconds"], 0);
    assert_eq!(enters(&shop, port, PASSWORD).await, None);
    tokio::time::sleep(HOUR).await;
    alice.hears_nothing().await;
    assert!(shop.ports.listening().is_empty(), "the port is closed");
    assert!(shop.engine.workloads().is_empty());
    let late = alice.ask(topup("1000", &shop.mint.token(sat(30)))).await;
    assert_eq!(late["error_type"], "lease_expired", "{late}");
    assert_eq!(late["details"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_takes_no_money() {
    let shop = shop().await;
    let mut alice = Client::new(&shop, 1);
    let token = shop.mint.token(sat(100));
    let spent = shop.mint.token(sat(100));
    shop.mint.spend(&spent);
    let dollars = shop.mint.token_in("usd", 100);
    let lock = Conditions {
        kind: Kind::P2pk,
        data: shop.wallet.lock_key().to_string(),
        extra_keys: Vec::new(),
        n_sigs: None,
        sig_all: false,
        locktime: None,
        refund_keys: Vec::new(),
        n_sigs_refund: None,
    };
    let locked = shop.mint.locked_token(sat(100), &lock);
    let (small, huge) = (shop.mint.token(sat(5)), shop.mint.token(sat(100_000)));
    let key = json!({"algorithm": "luks2-aes-xts", "key_b64": "pV8q1c0k2m3o4q5s6u7w8y9A0B1C2D3E4F5G6H7I8J0"});
    let short = json!({"algorithm": "luks2-aes-xts", "key_b64": "pV8q"});
    let standby = json!({"mode": "warm-standby", "standby_providers": []});
    let good = || spawn(&token);
    for (body, error, word) in [
        (spawn("cashuBgarbage"), "invalid_token", "token"),
        // Good in our own dialect; such clients know nothing of it.
        (spawn(&locked), "invalid_token", "locked"),
        (
            spawn(&FakeMint::new("https://other.test").token(sat(100))),
            "non_whitelisted_mint",
            "https://mint.test",
        ),
        (spawn(&dollars), "unsupported_unit", "sat"),
        (spawn(&spent), "token_already_spent", "another"),
        (spawn(&small), "insufficient_payment", "60 s cost"),
        (spawn(&huge), "invalid_request", "at most"),
        (
            with(good(), "pod_spec_id", "basic"),
            "spec_unavailable",
            "small, large",
        ),
        (
            with(good(), "pod_spec_id", "No Name"),
            "spec_unavailable",
            "small",
        ),
        (
            with(good(), "template_slug", "openclaw"),
            "unknown_template",
            "web",
        ),
        (
            with(good(), "template_slug", "No Name"),
            "unknown_template",
            "template",
        ),
        (
            with(good(), "pod_image", "ghcr.example/x:1"),
            "invalid_request",
            "allowed",
        ),
        (
            with(good(), "replication", standby),
            "not_addressed",
            "standby",
        ),
        (
            with(good(), "volume_encryption", key),
            "invalid_volume_encryption",
            "no encrypted",
        ),
        (
            with(good(), "volume_encryption", short),
            "invalid_volume_encryption",
            "32 bytes",
        ),
        (topup("container-1000", &token), "not_found", "no workload"),
        (
            topup("standby-slot-x", &token),
            "invalid_pod_id",
            "container-",
        ),
        (status("container-1000"), "not_found", "no workload"),
        (status("nonsense"), "not_found", "no workload"),
        (json!({"cashu_token": token}), "invalid_request", "pod_id"),
    ] {
        let reply = alice.ask(body.clone()).await;
        assert_eq!(reply["error_type"], error, "{body} {reply}");
        assert_eq!(reply["details"], Value::Null, "{reply}");
        let message = reply["message"].as_str().unwrap();
        assert!(message.contains(word), "{error}: {message}");
        assert!(!message.contains(&token[..20]), "{message}");
    }
    assert_eq!(shop.mint.total_redeem_calls(), 0, "nothing was redeemed");
    assert!(!shop.mint.is_spent(&token));
    assert!(shop.engine.workloads().is_empty());
    alice.hears_nothing().await;
    assert!(shop.ports.listening().is_empty(), "no port is left open");
    // And the same token buys.
    let access = alice.ask(good()).await;
    assert!(access["node_port"].is_u64(), "{access}");
}

#[tokio::test(start_paused = true)]
async fn what_the_mint_or_the_host_refuses_takes_no_money() {
    let shop = shop().await;
    let mut alice = Client::new(&shop, 1);
    let token = shop.mint.token(sat(100));
    shop.mint.set_down(true);
    let down = alice.ask(spawn(&token)).await;
    assert_eq!(down["error_type"], "mint_network_error", "{down}");
    shop.mint.set_down(false);
    shop.engine.set_down(true);
    let down = alice.ask(spawn(&token)).await;
    assert_eq!(down["error_type"], "provisioning_error", "{down}");
    shop.engine.set_down(false);
    let image = satlet::compute::Image::Reference("docker.io/library/gone:1".to_owned());
    shop.engine.lose_image(image);
    let gone = alice.ask(with(spawn(&token), "pod_image", "gone:1")).await;
    assert_eq!(gone["error_type"], "backend_error", "{gone}");
    assert_eq!(gone["details"], Value::Null);
    let refused = WalletError::Refused("not now".to_owned());
    shop.mint.fail_next_redeem(refused);
    let refused = alice.ask(spawn(&token)).await;
    assert_eq!(refused["error_type"], "mint_error", "{refused}");
    assert!(!shop.mint.is_spent(&token));
    alice.hears_nothing().await;
    assert!(shop.ports.listening().is_empty());
    alice.ask(spawn(&token)).await["node_port"]
        .as_u64()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_named_is_the_first_tier_and_weak_passwords_are_replaced() {
    let shop = shop().await;
    let mut alice = Client::new(&shop, 1);
    let ask = with(
        spawn(&shop.mint.token(sat(100))),
        "pod_spec_id",
        Value::Null,
    );
    let ask = with(ask, "ssh_password", "hunter2");
    let ask = with(ask, "replication", json!({"mode": "checkpointed"}));
    let access = alice.ask(ask).await;
    assert_eq!(access["pod_spec_name"], "small", "{access}");
    let line = access["instructions"][2].as_str().unwrap();
    let chosen = line.strip_prefix("Password: ").unwrap();
    assert_eq!(chosen.len(), 16);
    assert!(chosen.bytes().all(|b| b.is_ascii_alphanumeric()));
    let port = access["node_port"].as_u64().unwrap();
    assert!(enters(&shop, port, chosen).await.is_some());
    assert_eq!(enters(&shop, port, "hunter2").await, None);
    let ask = with(spawn(&shop.mint.token(sat(100))), "template_slug", "web");
    let access = alice.ask(ask).await;
    assert!(access["node_port"].is_u64(), "{access}");
}

#[tokio::test(start_paused = true)]
async fn ten_clients_at_once_get_ten_workloads() {
    let shop = shop_with(|s| {
        let small = &mut s.tiers[0].resources;
        (small.cpu_millicores, small.memory_mib, small.disk_mib) = (50, 16, 4);
    })
    .await;
    let mut waiting = Vec::new();
    for n in 21..=30 {
        let password = format!("password{n:08}");
        let ask = spawn(&shop.mint.token(sat(100)));
        let client = Client::new(&shop, n);
        client
            .send(&with(ask, "ssh_password", password.clone()))
            .await;
        waiting.push((client, password));
    }
    let (mut names, mut ports, mut leases) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (client, password) in &waiting {
        let mut found = Vec::new();
        until("it is answered", || {
            found = shop.letters(client.key);
            !found.is_empty()
        })
        .await;
        assert_eq!(found.len(), 1);
        let access = said(&found[0]);
        let port = access["node_port"].as_u64().unwrap();
        let line = format!("Password: {password}");
        assert_eq!(access["instructions"][2], line);
        leases.insert(enters(&shop, port, password).await.unwrap());
        names.insert(access["pod_npub"].to_string());
        ports.insert(port);
    }
    assert_eq!((names.len(), ports.len(), leases.len()), (10, 10, 10));
    for port in &ports {
        let mut opened = 0;
        for (_, password) in &waiting {
            opened += usize::from(enters(&shop, *port, password).await.is_some());
        }
        assert_eq!(opened, 1, "one password opens a port");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_numbers_ports_and_passwords() {
    let mut shop = shop().await;
    let mut alice = Client::new(&shop, 1);
    let access = alice.buy(100).await;
    let port = access["node_port"].as_u64().unwrap();
    let lease = enters(&shop, port, PASSWORD).await.unwrap();
    shop.crash().await;
    shop.start().await;
    assert_eq!(shop.ports.listening(), [u16::try_from(port).unwrap()]);
    assert_eq!(enters(&shop, port, PASSWORD).await, Some(lease));
    let mut alice = Client::new(&shop, 1);
    let told = alice.ask(status("container-1000")).await;
    assert_eq!(told["ssh_port"].as_u64(), Some(port), "{told}");
    let next = alice.buy(100).await;
    assert_eq!(next["pod_npub"], "container-1001");
    assert_ne!(next["node_port"].as_u64(), Some(port));
}

#[tokio::test(start_paused = true)]
async fn somebody_else_s_workload_is_as_good_as_none() {
    let shop = shop().await;
    Client::new(&shop, 1).buy(100).await;
    let mut bob = Client::new(&shop, 2);
    let token = shop.mint.token(sat(50));
    let (hers, none) = (
        bob.ask(status("container-1000")).await,
        bob.ask(status("container-1001")).await,
    );
    assert_eq!(hers, none);
    assert_eq!(hers["error_type"], "not_found");
    let (hers, none) = (
        bob.ask(topup("1000", &token)).await,
        bob.ask(topup("1001", &token)).await,
    );
    assert_eq!(hers, none);
    assert_eq!(hers["error_type"], "not_found");
    assert!(!shop.mint.is_spent(&token));
}

#[tokio::test(start_paused = true)]
async fn numbers_are_not_given_out_again_and_ports_as_late_as_possible() {
    let shop = shop_with(|s| {
        s.paygress.as_mut().unwrap().ports = 31_000..=31_002;
        s.timing.grace = Duration::from_secs(1);
    })
    .await;
    let mut alice = Client::new(&shop, 1);
    let mut ports = Vec::new();
    for n in 1000..1006 {
        let access = alice.buy(10).await;
        assert_eq!(access["pod_npub"], format!("container-{n}"));
        ports.push(access["node_port"].as_u64().unwrap());
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert!(shop.ports.listening().is_empty());
    }
    assert_eq!(ports, [31_000, 31_001, 31_002, 31_000, 31_001, 31_002]);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_cannot_be_had_is_never_sold() {
    let shop = shop_with(|s| s.paygress.as_mut().unwrap().ports = 31_000..=31_002).await;
    shop.ports.occupy(31_000);
    let mut alice = Client::new(&shop, 1);
    assert_eq!(alice.buy(100).await["node_port"], 31_001);
    assert_eq!(alice.buy(100).await["node_port"], 31_002);
    let token = shop.mint.token(sat(100));
    let none = alice.ask(spawn(&token)).await;
    assert_eq!(none["error_type"], "provisioning_error", "{none}");
    assert!(!shop.mint.is_spent(&token));
    assert_eq!(shop.ports.listening(), [31_001, 31_002]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_up_in_time_is_paid_back_while_the_client_listens() {
    let shop = shop().await;
    shop.engine.hang(Op::Create);
    let alice = Client::new(&shop, 1);
    let token = shop.mint.token(sat(100));
    let asked = shop.ctx().now();
    alice.send(&spawn(&token)).await;
    tokio::time::sleep(Duration::from_secs(95)).await;
    assert!(shop.letters(alice.key).is_empty(), "no word meanwhile");
    until("it is answered", || !shop.letters(alice.key).is_empty()).await;
    let took = shop.ctx().now().secs_since(asked);
    assert!(took < 120, "the client is gone after {took} s");
    let reply = said(&shop.letters(alice.key)[0]);
    assert_eq!(reply["error_type"], "backend_error", "{reply}");
    let refund = reply["details"].as_str().unwrap();
    assert!(!shop.mint.is_spent(refund));
    assert!(shop.mint.is_spent(&token));
    shop.engine.release();
    tokio::time::sleep(HOUR).await;
    assert_eq!(shop.letters(alice.key).len(), 1, "one reply");
    assert!(shop.engine.workloads().is_empty());
    assert!(shop.ports.listening().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_cannot_be_made_is_paid_back_at_once() {
    let shop = shop().await;
    let no = BackendError::Permanent("no such thing".to_owned());
    shop.engine.fail_next(Op::Create, 1, no);
    let mut alice = Client::new(&shop, 1);
    let reply = alice.ask(spawn(&shop.mint.token(sat(100)))).await;
    assert_eq!(reply["error_type"], "backend_error", "{reply}");
    let refund = reply["details"].as_str().unwrap();
    assert!(!shop.mint.is_spent(refund), "{reply}");
    // Until somebody takes it, it is told again.
    let again = alice.ask(status("1000")).await;
    assert_eq!(again["error_type"], "lease_expired");
    assert_eq!(again["details"], refund);
    shop.mint.spend(refund);
    let over = alice.ask(status("1000")).await;
    assert_eq!(over["status"], "Expired", "{over}");
    alice.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_waits_for_is_not_sent_and_its_refund_is_told_later() {
    let mut shop = shop().await;
    shop.engine.hang(Op::Create);
    let alice = Client::new(&shop, 1);
    alice.send(&spawn(&shop.mint.token(sat(100)))).await;
    until("it is paid", || shop.engine.count(Op::Create) > 0).await;
    shop.crash().await;
    shop.engine.release();
    tokio::time::sleep(HOUR).await;
    shop.start().await;
    let ended = || {
        let row = shop
            .ctx()
            .ledger()
            .read(|r| r.get(&CONTAINERS, &container_key(1000)));
        let lease = shop.lease(&row.unwrap().unwrap().lease);
        lease.has_ended() && lease.refund_to_make().is_none()
    };
    until("it is given up", ended).await;
    let mut alice = Client::new(&shop, 1);
    assert_eq!(alice.heard, 0, "nobody listens");
    alice.hears_nothing().await;
    let told = alice.ask(status("container-1000")).await;
    assert_eq!(told["error_type"], "lease_expired", "{told}");
    let refund = told["details"].as_str().unwrap().to_owned();
    assert!(!shop.mint.is_spent(&refund));
    // Also where they do not know the number, which the lost reply would have said.
    let told = alice.ask(status("whatever")).await;
    assert_eq!(told["error_type"], "not_found");
    assert_eq!(told["details"], refund);
    let told = alice.ask(topup("1000", &shop.mint.token(sat(100)))).await;
    assert_eq!(
        (&told["error_type"], &told["details"]),
        (&json!("lease_expired"), &json!(refund))
    );
    let mut bob = Client::new(&shop, 2);
    assert_eq!(bob.ask(status("1000")).await["details"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_old_buys_nothing() {
    let shop = shop().await;
    let token = shop.mint.token(sat(100));
    let ago = |secs: u64| shop.ctx().now().minus(Duration::from_secs(secs));
    for (body, secs) in [
        (spawn(&token), 91),
        (topup("1000", &token), 61),
        (status("1000"), 31),
        (spawn(&token), 86_400),
    ] {
        for channel in [Channel::Nip04, Channel::GiftWrap] {
            let text = body.to_string();
            shop.bring(key(1), &text, channel, ago(secs)).await;
        }
    }
    shop.ask(key(2), Ask::List).await.unwrap();
    assert!(shop.letters(key(1)).is_empty());
    assert_eq!(shop.mint.total_redeem_calls(), 0);
    assert!(shop.engine.workloads().is_empty());
    let text = spawn(&token).to_string();
    shop.bring(key(1), &text, Channel::Nip04, ago(80)).await;
    until("it is served", || !shop.letters(key(1)).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn replies_are_stamped_for_the_client_s_clock_and_expire() {
    let shop = shop().await;
    let now = shop.ctx().now();
    for (n, written, stamp) in [
        (1, now, now),
        (2, now.plus_secs(60), now.plus_secs(60)),
        (3, now.minus(Duration::from_secs(20)), now),
    ] {
        let text = status("1000").to_string();
        shop.bring(key(n), &text, Channel::Nip04, written).await;
        until("it is answered", || !shop.letters(key(n)).is_empty()).await;
        let row = &shop.letters(key(n))[0];
        assert_eq!(row.channel, Channel::Nip04);
        assert!(row.written_at >= stamp && row.written_at <= stamp.plus_secs(2));
        assert_eq!(row.expires_at, row.written_at.plus_secs(40));
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_goes_the_way_the_request_came() {
    let shop = shop().await;
    let now = shop.ctx().now();
    let text = spawn(&shop.mint.token(sat(100))).to_string();
    shop.bring(key(1), &text, Channel::GiftWrap, now).await;
    until("it is answered", || !shop.letters(key(1)).is_empty()).await;
    let row = &shop.letters(key(1))[0];
    assert_eq!(row.channel, Channel::GiftWrap);
    assert!(said(row)["node_port"].is_u64());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_told_so_by_nip04_alone_and_nobody_answers_replies() {
    let shop = shop().await;
    let mut alice = Client::new(&shop, 1);
    let now = shop.ctx().now();
    let secret = json!({"token": "cashuBsecret"});
    let mine = json!({"satlet": 1, "type": "list", "request_id": uuid::Uuid::new_v4()});
    for body in [&secret, &mine] {
        let told = alice.ask(body.clone()).await;
        assert_eq!(told["error_type"], "invalid_request");
        assert!(!told.to_string().contains("secret"));
    }
    shop.bring(alice.key, &secret.to_string(), Channel::GiftWrap, now)
        .await;
    shop.bring(alice.key, "hello", Channel::GiftWrap, now).await;
    // A status reply has all that a status request needs.
    let replies = [
        json!({"error_type": "invalid_request", "message": "no", "details": null}),
        json!({"pod_id": "1007", "status": "Running", "expires_at": "2026-09-21T14:13:20+00:00",
            "time_remaining_seconds": 812, "cpu_millicores": 1000, "memory_mb": 1024,
            "ssh_host": "203.0.113.9", "ssh_port": 31007, "ssh_username": "root"}),
    ];
    for body in replies {
        for channel in [Channel::Nip04, Channel::GiftWrap] {
            shop.bring(alice.key, &body.to_string(), channel, now).await;
        }
    }
    alice.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_does_not_serve_them_ignores_them() {
    let shop = Shop::open().await;
    let text = spawn(&shop.mint.token(sat(100))).to_string();
    let now = shop.ctx().now();
    for channel in [Channel::Nip04, Channel::GiftWrap] {
        shop.bring(key(1), &text, channel, now).await;
    }
    shop.ask(key(2), Ask::List).await.unwrap();
    assert!(shop.letters(key(1)).is_empty());
    assert_eq!(shop.mint.total_redeem_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_same_event_again_is_no_second_request() {
    let shop = shop().await;
    let now = shop.ctx().now();
    let message = Incoming {
        channel: Channel::Nip04,
        rumor: EventId::from_bytes([5; 32]),
        wrap: None,
        sender: key(1),
        written_at: now,
        received_at: now,
        relay: "ws://relay.test".to_owned(),
        body: spawn(&shop.mint.token(sat(100))).to_string(),
    };
    for _ in 0..3 {
        shop.dispatch(message.clone()).await;
    }
    until("it is answered", || !shop.letters(key(1)).is_empty()).await;
    shop.dispatch(message.clone()).await;
    tokio::time::sleep(HOUR / 6).await;
    shop.dispatch(message).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(shop.letters(key(1)).len(), 1);
    assert_eq!(shop.mint.total_redeem_calls(), 1);
    assert_eq!(shop.engine.workloads().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_goes_silent_is_told_once_and_late_money_goes_back() {
    let shop = shop().await;
    let alice = Client::new(&shop, 1);
    let token = shop.mint.token(sat(100));
    shop.mint.lose_next_redeem();
    shop.mint.unknown_for(20);
    let asked = shop.ctx().now();
    alice.send(&spawn(&token)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(shop.letters(alice.key).is_empty(), "no word meanwhile");
    until("it is answered", || !shop.letters(alice.key).is_empty()).await;
    assert!(shop.ctx().now().secs_since(asked) < 120);
    let told = said(&shop.letters(alice.key)[0]);
    assert_eq!(told["error_type"], "token_pending", "{told}");
    tokio::time::sleep(HOUR).await;
    assert_eq!(shop.letters(alice.key).len(), 1, "one reply");
    assert!(shop.mint.is_spent(&token), "the mint had taken it");
    assert_eq!(
        shop.engine.count(Op::Create),
        0,
        "nobody would hear how to get in"
    );
    let mut alice = Client::new(&shop, 1);
    let back = alice.ask(status("whatever")).await;
    assert!(!shop.mint.is_spent(back["details"].as_str().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_no_relay_takes_ends_the_lease_and_pays_back() {
    let shop = shop().await;
    let mut alice = Client::new(&shop, 1);
    alice.buy(100).await;
    let stores = Stores::new(shop.ctx().clone());
    let waiting = stores
        .due(Timestamp::from_secs(u64::MAX), 10, &HashSet::new())
        .await
        .unwrap();
    stores
        .given_up(&waiting[0].id, shop.ctx().now())
        .await
        .unwrap();
    drop(stores);
    until("it ends", || shop.engine.workloads().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let row = shop
        .ctx()
        .ledger()
        .read(|r| r.get(&CONTAINERS, &container_key(1000)));
    let lease = shop.lease(&row.unwrap().unwrap().lease);
    assert!(matches!(lease.phase, Phase::Ended { .. }), "{lease:?}");
    let mut alice = Client::new(&shop, 1);
    let back = alice.ask(status("whatever")).await;
    assert!(!shop.mint.is_spent(back["details"].as_str().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn the_offer_names_both_dialects() {
    let dialects = async |shop: &Shop| {
        let offer = satlet::provider::offer::current(shop.ctx()).await.unwrap();
        offer.satlet.unwrap().dialects
    };
    assert_eq!(dialects(&shop().await).await, ["satlet/1", "paygress/1"]);
    assert_eq!(dialects(&Shop::open().await).await, ["satlet/1"]);
}
