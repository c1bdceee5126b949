//! Renting from a real `satletd` by `satlet`, from the token to the refund.

use serde_json::Value;

use crate::support::openssh::out;
use crate::support::record_skip;
use crate::support::world::{Daemon, LONG, Person, World, no_sandbox, one_document};

const NAME: &str = "boldamber";

fn msat(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no amount: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A provider: on the sandbox where that can be, else on the fake.
async fn provider(world: &World) -> Daemon {
    let fake = no_sandbox().await.is_some();
    let mut daemon = Daemon::build(world, |config| {
        if fake {
            config["backend"] = serde_json::json!({ "kind": "fake" });
        }
    });
    daemon.start().await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_rented_used_and_given_back() {
    let world = World::start(1).await;
    let _daemon = provider(&world).await;
    let me = Person::new(&world, "me", 500).await;
    let whole = me.balance().await;
    assert_eq!(whole, 500_000);

    let listed = me.json(&["list"]).await;
    assert_eq!(listed["providers"][0]["online"], true);
    let quote = me.json(&["quote", NAME, "--for", "10m"]).await;
    assert_eq!(msat(&quote["price_msat"]), 600 * 100);

    // The token comes by standard input, so that it is in no list of processes.
    let token = me.json(&["wallet", "send", "70"]).await;
    assert!(msat(&token["token_msat"]) >= 70_000);
    let line = format!("{}\n", text(&token["token"]));
    let args = [
        "spawn",
        NAME,
        "--token",
        "-",
        "--",
        "sh",
        "-c",
        "echo up; sleep 1000",
    ];
    let sold = me.json_with(&args, line.as_bytes()).await;
    assert_eq!(sold["state"], "active", "{sold}");
    let paid = msat(&sold["paid_msat"]);
    assert_eq!(sold["paid_msat"], token["token_msat"]);
    let seconds = (paid - msat(&sold["mint_fee_msat"])) / 100;
    let left = msat(&sold["remaining_seconds"]);
    assert!(
        left <= seconds && left + 30 > seconds,
        "{left} of {seconds}"
    );
    let lease = text(&sold["lease"]).to_owned();
    let short = &lease[..4];

    // The same token buys nothing twice, and the money of the first is told.
    let again = [&["--json"], args.as_slice()].concat();
    let again = me.run_with(&again, line.as_bytes()).await;
    assert!(!again.status.success(), "{again:?}");
    assert!(one_document(&again)["error"]["code"].is_string());

    let added = me.json(&["topup", short, "--for", "60s"]).await;
    assert_eq!(msat(&added["added_seconds"]), 60);
    let now = me.json(&["status", short]).await;
    assert_eq!(now["state"], "active");
    assert_eq!(now["expires_at"], added["expires_at"]);
    let leases = me.json(&["ls", "--refresh"]).await;
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1);
    assert_eq!(leases["leases"][0]["lease"], lease.as_str());
    assert!(
        leases["requests"].as_array().unwrap().is_empty(),
        "{leases}"
    );

    match no_sandbox().await {
        None => inside(&world, &me, short).await,
        Some(why) => record_skip(
            "a_lease_is_rented_used_and_given_back",
            &format!("exec, cp and logs: {why}"),
        ),
    }

    let so_far = me.json(&["receipt", short]).await;
    checked(&world, &me, &so_far, paid + msat(&added["paid_msat"])).await;
    let before = me.balance().await;
    let stopped = me.json(&["stop", short]).await;
    let received = msat(&stopped["received_msat"]);
    assert!(received > 0, "{stopped}");
    assert_eq!(
        me.balance().await,
        before + received,
        "the refund is in the wallet"
    );
    let all = paid + msat(&added["paid_msat"]);
    let fees = msat(&sold["mint_fee_msat"]) + msat(&added["mint_fee_msat"]);
    let parts = [
        fees,
        msat(&stopped["refund_fee_msat"]),
        msat(&stopped["served_msat"]),
        msat(&stopped["refund_msat"]),
        msat(&stopped["credit_msat"]),
    ];
    assert_eq!(all, parts.iter().sum::<u64>(), "{sold} {added} {stopped}");
    let receipt = me.json(&["receipt", short]).await;
    assert_eq!(stopped["receipt"], receipt["id"], "it came with the stop");
    checked(&world, &me, &receipt, all).await;
    let refunds = me.json(&["wallet", "refunds"]).await;
    assert_eq!(refunds["refunds"][0]["received_msat"], received);
    let history = me.json(&["wallet", "history"]).await;
    let tokens = history["tokens"].as_array().unwrap();
    let line = |purpose: &str| {
        let spent = |one: &&Value| one["state"] != "given-back" && one["purpose"] == purpose;
        tokens.iter().find(spent)
    };
    for (purpose, answer) in [("spawn", &sold), ("topup", &added)] {
        let line = line(purpose).unwrap();
        assert_eq!(line["state"], "spent", "{history}");
        assert_eq!(line["lease"], lease.as_str());
        assert_eq!(line["amount_msat"], answer["paid_msat"]);
        assert_eq!(line["fee_msat"], answer["mint_fee_msat"]);
    }
    let sent = line("send").unwrap();
    assert_eq!(
        (&sent["state"], &sent["lease"]),
        (&"spent".into(), &sold["lease"])
    );
    let refund = line("refund").unwrap();
    assert_eq!(
        (&refund["state"], &refund["lease"]),
        (&"received".into(), &sold["lease"])
    );
    assert_eq!(msat(&refund["net_msat"]), received);
    let over = me.json(&["ls"]).await;
    assert_eq!(over["leases"][0]["state"], "ended", "{over}");
    let closed = me.run(&["--json", "exec", short, "--", "true"]).await;
    assert!(!closed.status.success(), "{closed:?}");
    assert!(one_document(&closed)["error"]["code"].is_string());
}

/// A receipt holds for whoever has the file alone; one that was changed does not.
async fn checked(world: &World, me: &Person, receipt: &Value, paid: u64) {
    let file = world.dir.path().join("receipt.json");
    std::fs::write(&file, receipt.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let by = text(&receipt["pubkey"]);
    let verified = me.json(&["receipt", "verify", file, "--by", by]).await;
    assert_eq!(verified["valid"], true, "{verified}");
    assert_eq!(msat(&verified["receipt"]["books"]["paid_msat"]), paid);
    let content = text(&receipt["content"]);
    let more = content.replace(&format!("\"paid_msat\":{paid}"), "\"paid_msat\":1");
    assert_ne!(content, more);
    let mut bad = receipt.clone();
    bad["content"] = more.into();
    let bad = bad.to_string();
    let args = ["--json", "receipt", "verify", "-"];
    let refused = me.run_with(&args, bad.as_bytes()).await;
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert_eq!(one_document(&refused)["error"]["code"], "false_receipt");
}

/// What needs a workload that is one.
async fn inside(world: &World, me: &Person, lease: &str) {
    let end = tokio::time::Instant::now() + LONG;
    loop {
        let logs = me.json(&["logs", lease]).await;
        if logs["output"] == "up\n" {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{logs}");
    }
    let local = world.dir.path().join("a file");
    let data = crate::support::local_gateway::noise(200_000);
    std::fs::write(&local, &data).unwrap();
    let there = format!("{lease}:/root/there");
    let copied = me.json(&["cp", local.to_str().unwrap(), &there]).await;
    assert_eq!(copied["copied"], true);
    let sum = me.run(&["exec", lease, "--", "wc -c < /root/there"]).await;
    assert_eq!(out(&sum).trim(), "200000", "{sum:?}");
    for client in [&["cp"][..], &["cp", "--builtin"][..]] {
        let back = world.dir.path().join(format!("back{}", client.len()));
        let args = [client, &[&there, back.to_str().unwrap()]].concat();
        me.json(&args).await;
        assert!(std::fs::read(&back).unwrap() == data, "{client:?}");
    }
    let ran = me
        .run(&["--json", "exec", lease, "--", "echo hi; exit 4"])
        .await;
    assert_eq!(ran.status.code(), Some(4), "{ran:?}");
    let ran = one_document(&ran);
    assert_eq!(
        (&ran["stdout"], &ran["exit_code"]),
        (&"hi\n".into(), &4.into())
    );
    let fed = me
        .run_with(&["exec", lease, "--", "tr a-z A-Z"], b"fed\n")
        .await;
    assert_eq!(out(&fed), "FED\n", "{fed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_spawn_is_picked_up_by_its_request_id() {
    let world = World::start(1).await;
    let _daemon = provider(&world).await;
    let me = Person::new(&world, "me", 100).await;
    let sent = me.json(&["spawn", NAME, "--for", "60s", "--detach"]).await;
    let id = text(&sent["request_id"]);
    let lease = me.json(&["status", id]).await;
    assert_eq!(lease["state"], "active", "{lease}");
    let known = me.json(&["ls"]).await;
    assert_eq!(known["leases"][0]["lease"], lease["lease"]);
    assert!(known["requests"].as_array().unwrap().is_empty(), "{known}");
    let stopped = me.json(&["stop", text(&lease["lease"])]).await;
    assert!(msat(&stopped["received_msat"]) > 0, "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_the_wallet_as_it_was() {
    let world = World::start(1).await;
    let _daemon = provider(&world).await;
    let me = Person::new(&world, "me", 100).await;
    for (args, code) in [
        (&["spawn", NAME, "--tier", "huge"][..], "unknown_tier"),
        (
            &["spawn", NAME, "--template", "none"][..],
            "unknown_template",
        ),
        (
            &["spawn", NAME, "--image", "example.org/x:1"][..],
            "image_not_allowed",
        ),
        (
            &["spawn", NAME, "--for", "3d", "--yes"][..],
            "duration_too_long",
        ),
        (&["spawn", NAME, "--for", "1s"][..], "amount_too_small"),
    ] {
        let refused = me.run(&[&["--json"], args].concat()).await;
        let error = &one_document(&refused)["error"];
        assert!(!refused.status.success(), "{args:?}");
        assert_eq!(error["code"], code, "{args:?}: {error}");
        assert_eq!(error["money"], "untouched", "{error}");
        assert!(!text(&error["suggestion"]).is_empty(), "{error}");
    }
    assert_eq!(me.balance().await, 100_000);
}
