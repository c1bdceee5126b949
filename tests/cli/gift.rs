//! A first lease for nothing, from a real `satletd` by `satlet`.

use std::time::Instant;

use serde_json::json;

use crate::support::world::{Daemon, LONG, Person, World, one_document};

const NAME: &str = "boldamber";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_ecash_is_given_a_lease_from_what_others_paid() {
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |config| {
        config["backend"] = json!({ "kind": "fake" });
        // The most that can be given, so that a moment's rent is enough.
        config["pool"] = json!({ "share_percent": 100 });
        config["tiers"][0]["min"] = json!("1s");
    });
    daemon.start().await;
    let rich = Person::new(&world, "rich", 200).await;
    let poor = Person::new(&world, "poor", 0).await;

    let refused = poor.run(&["--json", "spawn", NAME, "--gift"]).await;
    assert!(!refused.status.success());
    assert_eq!(one_document(&refused)["error"]["code"], "no_gift");

    let sold = rich.json(&["spawn", NAME, "--for", "100s"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    rich.json(&["stop", sold["lease"].as_str().unwrap()]).await;
    let deadline = Instant::now() + LONG;
    let seconds = loop {
        let quote = poor.json(&["quote", NAME]).await;
        if let Some(seconds) = quote["gift_seconds"].as_u64() {
            break seconds;
        }
        assert!(Instant::now() < deadline, "nothing is given: {quote}");
    };

    let given = poor.json(&["spawn", NAME, "--gift"]).await;
    assert_eq!(given["gift_seconds"], json!(seconds), "{given}");
    assert_eq!(
        (&given["paid_msat"], &given["token_msat"]),
        (&json!(0), &json!(0))
    );
    let lease = given["lease"].as_str().unwrap();
    let stopped = poor.json(&["stop", lease]).await;
    assert_eq!(stopped["refund_msat"], json!(0), "{stopped}");
    assert_eq!(stopped["received_msat"], json!(0));
    assert_eq!(poor.balance().await, 0, "time, and no money");
    let receipt = poor.json(&["receipt", lease]).await;
    let text = serde_json::to_vec(&receipt).unwrap();
    let checked = poor.json_with(&["receipt", "verify", "-"], &text).await;
    assert!(checked.to_string().contains("given_msat"), "{checked}");

    let money = daemon.ask(&["money", "--json"]);
    let pool = &one_document(&money)["pool"];
    assert_eq!(pool["given_msat"], json!(seconds * 100), "{pool}");
    let of = |name: &str| pool[name].as_u64().unwrap();
    assert_eq!(
        of("credited_msat") + of("returned_msat"),
        of("balance_msat") + of("given_msat")
    );
    let shown = String::from_utf8(daemon.ask(&["money"]).stdout).unwrap();
    assert!(shown.contains("The pool (100 per cent)"), "{shown}");
}
