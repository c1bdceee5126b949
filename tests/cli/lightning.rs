//! Renting without any ecash: `satlet spawn --lightning`, from the invoice on.

use satlet::demo::mint::MintOptions;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::world::{Daemon, LONG, Person, World, no_sandbox, one_document};

const NAME: &str = "boldamber";

/// A provider: on the sandbox where that can be, else on the fake.
async fn provider(world: &World) -> Daemon {
    let fake = no_sandbox().await.is_some();
    let mut daemon = Daemon::build(world, |config| {
        if fake {
            config["backend"] = json!({ "kind": "fake" });
        }
    });
    daemon.start().await;
    daemon
}

/// The invoice among lines of standard error.
fn event(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == "invoice").then_some(value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_and_more_time_are_bought_by_lightning_and_the_rest_comes_back_as_ecash() {
    let world = World::start(1).await;
    let _daemon = provider(&world).await;
    let me = Person::new(&world, "renter", 0).await;
    let quote = me.json(&["quote", NAME, "--for", "10m"]).await;
    assert_eq!(quote["lightning"]["mint"], world.mint.url().0.as_str());
    let args = ["--json", "spawn", NAME, "--lightning", "--for", "10m"];
    let done = me.run(&args).await;
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8(done.stderr.clone()).unwrap();
    let invoice = said.lines().find_map(event).expect(&said);
    assert_eq!(invoice["amount_msat"], quote["price_msat"]);
    let sold = one_document(&done);
    assert_eq!(sold["state"], "active");
    assert_eq!(sold["paid_msat"], quote["price_msat"]);
    assert_eq!(sold["request_id"], invoice["request_id"]);
    let lease = sold["lease"].as_str().unwrap();

    let added = me
        .json(&["topup", lease, "--lightning", "--for", "1m"])
        .await;
    assert_eq!(added["added_seconds"], 60);
    let receipt = me.json(&["receipt", lease]).await;
    assert!(receipt["content"].is_string(), "{receipt}");
    let stopped = me.json(&["stop", lease]).await;
    let received = stopped["received_msat"].as_u64().unwrap();
    assert!(received > 60_000, "{stopped}");
    assert_eq!(me.balance().await, received);
    let open = me.json(&["ls"]).await;
    assert_eq!(open["requests"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paid_while_the_provider_is_down_and_the_renter_gone_is_a_lease() {
    let by_hand = MintOptions {
        by_hand: true,
        ..MintOptions::default()
    };
    let world = World::with_mint(1, by_hand).await;
    let mut daemon = provider(&world).await;
    let me = Person::new(&world, "renter", 0).await;
    let mut satlet = me.launch(&["--json", "spawn", NAME, "--lightning", "--for", "10m"]);
    let mut lines = BufReader::new(satlet.stderr.take().unwrap()).lines();
    let invoice = loop {
        let line = tokio::time::timeout(LONG, lines.next_line()).await;
        let line = line
            .expect("no invoice")
            .unwrap()
            .expect("satlet has ended");
        if let Some(invoice) = event(&line) {
            break invoice;
        }
    };
    // Ctrl-C.
    satlet.kill().await.unwrap();
    let id = invoice["request_id"].as_str().unwrap();
    let open = me.json(&["--timeout", "2s", "ls"]).await;
    assert_eq!(open["requests"][0]["request_id"], id, "{open}");
    assert_eq!(open["requests"][0]["invoice"]["bolt11"], invoice["bolt11"]);

    daemon.kill();
    let bolt11 = invoice["bolt11"].as_str().unwrap();
    world.mint.pay(bolt11).await.unwrap();
    daemon.start().await;
    let sold = me.json(&["status", id]).await;
    assert_eq!(sold["state"], "active", "{sold}");
    let all = me.json(&["ls"]).await;
    assert_eq!(all["leases"][0]["lease"], sold["lease"]);
    assert_eq!(all["requests"], json!([]));
    let stopped = me.json(&["stop", sold["lease"].as_str().unwrap()]).await;
    assert!(
        stopped["received_msat"].as_u64().unwrap() > 50_000,
        "{stopped}"
    );
}
