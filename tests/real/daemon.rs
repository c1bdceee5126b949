//! The real `satletd` on the sandbox, killed and started again, and who gets
//! into its workloads.

use std::path::Path;

use satlet::compute::sandbox::Sandbox;
use satlet::compute::{Backend, Handle, Observed};
use satlet::core::time::Timestamp;
use satlet::protocol::error::Code;
use satlet::protocol::request::Ask;
use satlet::relay::convert::now;
use serde_json::{Value, json};

use crate::support::local_gateway::make_key;
use crate::support::openssh::{Stock, missing, out};
use crate::support::world::{Asker, Daemon, Person, World, no_sandbox, one_document, until};

const NAME: &str = "BoldAmberHeron";

/// When the first process of a workload started, in the kernel's own ticks, as
/// it is seen inside.
const INIT_SINCE: &str = "sed 's/.*) //' /proc/1/stat | cut -d' ' -f20";

fn id_of(lease: &Value) -> String {
    lease["lease"].as_str().unwrap().to_owned()
}

fn own_key(person: &Person) -> std::path::PathBuf {
    person.home.join("ssh/id_ed25519")
}

async fn handle_of(sandbox: &Sandbox, lease: &str) -> Option<Handle> {
    let owned = sandbox.list_owned().await.unwrap();
    let found = owned
        .into_iter()
        .find(|one| one.labels.lease.as_str() == lease);
    found.map(|one| one.handle)
}

async fn since(sandbox: &Sandbox, handle: &Handle) -> Timestamp {
    match sandbox.observe(handle).await.unwrap() {
        Observed::Running { started_at, .. } => started_at,
        other => panic!("{other:?}"),
    }
}

async fn ticks(sandbox: &Sandbox, handle: &Handle) -> usize {
    let logs = sandbox.logs().unwrap().logs(handle, 1_000_000).await;
    logs.unwrap().len()
}

/// Looks until `done`, with a question that takes a while.
async fn until_asked(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + crate::support::world::LONG;
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_finds_its_workloads_again() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    if let Some(tool) = missing(&["ssh"]) {
        skip!("{tool} (OpenSSH client) is not installed");
    }
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |_| {});
    daemon.start().await;
    let alice = Person::new(&world, "alice", 500).await;
    let bob = Person::new(&world, "bob", 100).await;

    let main = "while :; do echo tick; sleep 0.1; done";
    let args = ["spawn", NAME, "--for", "20m", "--", "sh", "-c", main];
    let sold = alice.json(&args).await;
    let lease = id_of(&sold);
    let stock = Stock::new(&sold["access"], &own_key(&alice));
    let mark = format!("echo kept > /root/mark; {INIT_SINCE}");
    let marked = alice.run(&["exec", &lease, "--", &mark]).await;
    assert!(marked.status.success(), "{marked:?}");
    let init = out(&marked);
    assert!(init.trim().parse::<u64>().is_ok(), "{init:?}");
    let sandbox = daemon.sandbox().await;
    let handle = handle_of(&sandbox, &lease).await.unwrap();
    let started = since(&sandbox, &handle).await;

    // Bob's runs out while nobody looks.
    let short = bob.json(&["spawn", NAME, "--for", "15s"]).await;
    let ends = short["expires_at"].as_u64().unwrap();
    daemon.kill();
    let before = ticks(&sandbox, &handle).await;
    until_asked("it runs on", async || {
        ticks(&sandbox, &handle).await > before + 50
    })
    .await;
    until("bob's time is over", || now().as_secs() > ends + 1).await;
    assert_eq!(since(&sandbox, &handle).await, started);
    assert_eq!(sandbox.list_owned().await.unwrap().len(), 2);

    daemon.start().await;
    let back = stock.run(&format!("cat /root/mark; {INIT_SINCE}")).await;
    assert_eq!(out(&back), format!("kept\n{init}"), "{back:?}");
    let back = alice
        .run(&["exec", &lease, "--", "cat /root/mark; exit 9"])
        .await;
    assert_eq!(
        (back.status.code(), out(&back).as_str()),
        (Some(9), "kept\n")
    );
    let status = alice.json(&["status", &lease]).await;
    assert_eq!(status["state"], "active", "{status}");
    assert_eq!(status["access"], sold["access"], "the same way in");
    assert_eq!(status["expires_at"], sold["expires_at"]);

    until_asked("bob's is gone", async || {
        handle_of(&sandbox, &id_of(&short)).await.is_none()
    })
    .await;
    until_asked("bob is told", async || {
        bob.json(&["status", &id_of(&short)]).await["state"] == "ended"
    })
    .await;
    let owned = sandbox.list_owned().await.unwrap();
    assert_eq!(owned.len(), 1, "nothing is there twice");
    assert_eq!(since(&sandbox, &handle).await, started);

    let stopped = alice.json(&["stop", &lease]).await;
    assert!(stopped["refund_msat"].as_u64().unwrap() > 0, "{stopped}");
    assert!(sandbox.list_owned().await.unwrap().is_empty());
}

/// Kills come at these times after a relay has taken the spawn: before it is
/// read, while it is paid, while the workload is made, and after.
const KILLS: [u64; 8] = [0, 10, 25, 45, 70, 100, 150, 400];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_a_spawn_loses_no_money_and_makes_nothing_twice() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |_| {});
    let alice = Person::new(&world, "alice", 1_000).await;
    let whole = alice.balance().await;
    daemon.start().await;
    let (mut leases, mut locked) = (Vec::new(), 0);
    for after in KILLS {
        let sent = alice
            .json(&["spawn", NAME, "--for", "10m", "--detach"])
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(after)).await;
        daemon.kill();
        daemon.start().await;
        let id = sent["request_id"].as_str().unwrap();
        let answer = alice.run(&["--json", "status", id]).await;
        let said = one_document(&answer);
        // An error brings the money back or has not touched it.
        if answer.status.success() {
            assert_eq!(said["state"], "active", "{after} ms: {said}");
            leases.push(id_of(&said));
        } else {
            eprintln!("killed after {after} ms: {said}");
            assert_ne!(said["error"]["money"], "pending", "{after} ms: {said}");
            // What was not taken comes back after its locktime.
            locked += u64::from(said["error"]["money"] == "untouched") * 62_000;
        }
    }
    assert!(!leases.is_empty(), "at least one came through");
    let sandbox = daemon.sandbox().await;
    let owned = sandbox.list_owned().await.unwrap();
    let mut there: Vec<_> = owned
        .iter()
        .map(|one| one.labels.lease.to_string())
        .collect();
    there.sort();
    leases.sort();
    assert_eq!(there, leases, "one workload for each lease, and no other");
    for lease in &leases {
        let ran = alice.run(&["exec", lease, "--", "echo in"]).await;
        assert_eq!(out(&ran), "in\n", "{ran:?}");
        alice.json(&["stop", lease]).await;
    }
    assert!(sandbox.list_owned().await.unwrap().is_empty());
    // What is missing is served seconds and the mint's fees, a few sat a lease.
    let back = alice.balance().await;
    let spent = whole - back;
    let most = KILLS.len() as u64 * 15_000 + locked;
    assert!(spent < most, "{spent} msat are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_s_key_opens_a_lease() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    if let Some(tool) = missing(&["ssh"]) {
        skip!("{tool} (OpenSSH client) is not installed");
    }
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |_| {});
    daemon.start().await;
    let alice = Person::new(&world, "alice", 200).await;
    let bob = Person::new(&world, "bob", 200).await;
    let hers = alice.json(&["spawn", NAME, "--for", "10m"]).await;
    let his = bob.json(&["spawn", NAME, "--for", "10m"]).await;
    let stranger = world.dir.path().join("stranger");
    make_key(&stranger);

    let enter = async |access: &Value, key: &Path| {
        Stock::new(access, key)
            .run("cat /root/who || echo in")
            .await
    };
    let set = async |access: &Value, key: &Path, who: &str| {
        let line = format!("echo {who} > /root/who");
        let done = Stock::new(access, key).run(&line).await;
        assert!(done.status.success(), "{done:?}");
    };
    set(&hers["access"], &own_key(&alice), "alice").await;
    set(&his["access"], &own_key(&bob), "bob").await;
    let mut nobody = hers["access"].clone();
    nobody["user"] = "aaaaaaaaaaaa".into();
    let mut told = Vec::new();
    for (access, key) in [
        (&hers["access"], own_key(&bob)),
        (&his["access"], own_key(&alice)),
        (&hers["access"], stranger.clone()),
        (&nobody, own_key(&alice)),
    ] {
        let refused = enter(access, &key).await;
        assert_eq!(refused.status.code(), Some(255), "{refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("Permission denied"), "{text}");
        let user = access["user"].as_str().unwrap();
        told.push(text.replace(user, "LEASE"));
    }
    told.dedup();
    assert_eq!(
        told.len(),
        1,
        "nobody learns whether a lease exists: {told:?}"
    );
    assert_eq!(
        out(&enter(&hers["access"], &own_key(&alice)).await),
        "alice\n"
    );
    assert_eq!(out(&enter(&his["access"], &own_key(&bob)).await), "bob\n");

    // Another host key than the one that was published: the client does not go in.
    let mut lied = hers["access"].clone();
    lied["host_key"] = make_key(&world.dir.path().join("lie")).into();
    let refused = enter(&lied, &own_key(&alice)).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("Host key verification failed"), "{text}");

    // A lease of somebody else is not known to her satlet, nor to her key.
    let theirs = alice.run(&["--json", "status", &id_of(&his)]).await;
    assert_eq!(theirs.status.code(), Some(3), "{theirs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_data_is_refused_in_a_sentence() {
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |config| {
        config["backend"] = serde_json::json!({ "kind": "fake" });
    });
    daemon.start().await;
    let second = daemon.ask(&["run"]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("another satletd"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(
        daemon.ask(&["leases"]).status.success(),
        "the first one goes on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_read_again_while_it_runs_and_a_bad_file_changes_nothing() {
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |config| {
        config["backend"] = json!({ "kind": "fake" });
    });
    daemon.start().await;
    let asker = Asker::start(&world).await;
    let key = satlet::relay::convert::key_from(&asker.keys.public_key());
    let to = daemon.key();
    assert!(asker.ask(&to, Ask::List).await.is_ok());

    daemon.configure(|config| {
        config["requests"]["deny"] = json!([key.to_hex()]);
        config["hostname"] = json!("OtherName");
    });
    daemon.hang_up();
    until("it has read the file", || {
        daemon.log().contains("the configuration was read again")
    })
    .await;
    let refused = asker.ask(&to, Ask::List).await.unwrap_err();
    assert_eq!(refused.code, Code::NotAllowed);
    assert!(daemon.log().contains("/hostname"), "needs a restart");

    let good = daemon.configuration();
    daemon.write_configuration("{ \"requests\": { \"deny\": 7 }, \"tires\": [] }");
    daemon.hang_up();
    until("it says what is wrong", || {
        let log = daemon.log();
        log.contains("the old one holds") && log.contains("/requests/deny")
    })
    .await;
    assert!(daemon.log().contains("/tires"), "all that is wrong");
    let refused = asker.ask(&to, Ask::List).await.unwrap_err();
    assert_eq!(refused.code, Code::NotAllowed);

    daemon.write_configuration(&good);
    daemon.configure(|config| config["requests"]["deny"] = json!([]));
    let told = daemon.ask(&["reload"]);
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success(), "{told:?}");
    assert!(text.contains("taken over: /requests/deny"), "{text}");
    assert!(text.contains("needs a restart: /hostname"), "{text}");
    assert!(asker.ask(&to, Ask::List).await.is_ok());
}
