//! Files that are lost under the real programs, at mints that nobody here wrote
//! and on the sandbox.

use satlet::wallet::MintUrl;
use serde_json::Value;

use crate::scenarios::lost::wallet::comes_back;
use crate::support::openssh::out;
use crate::support::servers::Nutshell;
use crate::support::world::{Daemon, Person, World, no_sandbox, one_document};

const NAME: &str = "BoldAmberHeron";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nutshell_gives_back_what_a_seed_owns_and_no_token_that_is_out() {
    let program = match Nutshell::program() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let mint = Nutshell::start(program).await;
    comes_back(&MintUrl(mint.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_s_wallet_comes_back_but_for_what_was_given_away() {
    let world = World::start(1).await;
    let alice = Person::new(&world, "alice", 500).await;
    let bob = Person::new(&world, "bob", 0).await;
    let given = alice.token(100).await;
    let had = alice.balance().await;
    std::fs::remove_dir_all(alice.home.join("wallet")).unwrap();
    assert_eq!(alice.balance().await, had);
    // All the rest, in parts: none of it is what was given away.
    let mut left = had / 1000;
    while left > 20 {
        bob.json(&["wallet", "receive", &alice.token(left / 2).await])
            .await;
        left = alice.balance().await / 1000;
    }
    let before = bob.balance().await;
    bob.json(&["wallet", "receive", &given]).await;
    assert!(bob.balance().await > before + 97_000);

    // A file that is damaged is not written over.
    let file = alice.home.join("wallet/wallet.redb");
    std::fs::write(&file, [7; 9000]).unwrap();
    let refused = alice.run(&["wallet", "balance"]).await;
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        told.contains("wallet.redb") && told.contains("aside"),
        "{told}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), [7; 9000]);
}

fn unexplained(daemon: &Daemon) -> u64 {
    let money = one_document(&daemon.ask(&["money", "--json"]));
    let purses = money["purses"].as_array().unwrap().iter();
    purses
        .map(|p| p["unexplained_msat"].as_u64().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_the_ledger_and_the_wallet() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |_| {});
    daemon.start().await;
    let alice = Person::new(&world, "alice", 1000).await;
    let sold = alice.json(&["spawn", NAME, "--for", "30m"]).await;
    let lease = sold["lease"].as_str().unwrap().to_owned();
    let marked = alice
        .run(&["exec", &lease, "--", "echo kept > /root/mark"])
        .await;
    assert!(marked.status.success(), "{marked:?}");
    assert_eq!(unexplained(&daemon), 0);

    daemon.kill();
    std::fs::remove_file(daemon.dir().join("data/ledger.redb")).unwrap();
    daemon.start().await;
    let back = alice.run(&["exec", &lease, "--", "cat /root/mark"]).await;
    assert_eq!(out(&back), "kept\n", "{back:?}");
    let status = alice.json(&["status", &lease]).await;
    assert_eq!(status["state"], "active", "{status}");
    assert_eq!(status["access"], sold["access"]);
    let ends = |lease: &Value| lease["expires_at"].as_u64().unwrap();
    assert!(ends(&status).abs_diff(ends(&sold)) <= 1, "{status}");
    let owned = daemon.sandbox().await;
    let owned = satlet::compute::Backend::list_owned(&owned).await.unwrap();
    assert_eq!(owned.len(), 1, "nothing was made twice");
    assert!(daemon.log().contains("rebuilt from its labels"));

    daemon.kill();
    std::fs::remove_dir_all(daemon.dir().join("data/wallet")).unwrap();
    daemon.start().await;
    let stopped = alice.json(&["stop", &lease]).await;
    let refund = stopped["refund_msat"].as_u64().unwrap();
    assert!(refund > 150_000, "{stopped}");
    let again = alice.json(&["spawn", NAME, "--for", "10m"]).await;
    assert_ne!(again["lease"], sold["lease"]);
    assert!(daemon.log().contains("restored from its seed"));
}
