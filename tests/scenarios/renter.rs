//! Renting from a provider of the older kind: what is paid, what is believed,
//! what comes back. The provider is `support::elder`, with all its traps.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use satlet::consumer::home::Settings;
use satlet::consumer::money::agree;
use satlet::consumer::paygress::{Terms, access};
use satlet::consumer::records::{KnownLease, Standing};
use satlet::consumer::{Client, ClientError, ClientOptions, Pay, SpawnOptions, Spawned, quiet};
use satlet::core::money::Msat;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::demo::relay::TestRelay;
use satlet::protocol::error::Money;
use satlet::protocol::reply::LeaseState;
use satlet::protocol::request::Wanted;
use satlet::relay::convert::now;
use satlet::wallet::cdk_wallet::CdkWallet;
use tempfile::TempDir;

use crate::support::elder::{Elder, Manner, RATE};
use crate::support::world::{LONG, until};

/// How long a reply that never comes is waited for.
const SHORT: Duration = Duration::from_secs(3);

struct World {
    home: TempDir,
    relay: TestRelay,
    mint: TestMint,
    elder: Elder,
}

impl World {
    /// A provider with this manner, and a home with so many sat.
    async fn start(manner: Manner, sat: u64) -> Self {
        let relay = TestRelay::start().await.unwrap();
        let mint = TestMint::start(MintOptions::default()).await.unwrap();
        let elder = Elder::start(&relay.url(), &mint.url().0).await;
        elder.behave(manner);
        elder.offer("OldOak").await;
        let world = Self {
            home: tempfile::tempdir().unwrap(),
            relay,
            mint,
            elder,
        };
        let client = world.client(LONG);
        let session = client.wallet().await.unwrap();
        let wallet: &CdkWallet = session.cdk().unwrap();
        world.mint.fund(wallet, sat).await.unwrap();
        world
    }

    /// A new process, as it were.
    fn client(&self, timeout: Duration) -> Client {
        client(self.home.path(), &self.relay, &self.mint, timeout)
    }

    async fn balance(&self) -> u64 {
        balance(&self.client(LONG)).await
    }
}

fn client(home: &Path, relay: &TestRelay, mint: &TestMint, timeout: Duration) -> Client {
    let settings = Settings {
        mints: vec![mint.url().0],
        ..Settings::default()
    };
    let options = ClientOptions {
        relays: vec![relay.url()],
        timeout: Some(timeout),
        settings: Some(settings),
        ..ClientOptions::default()
    };
    Client::open(home, options).unwrap()
}

async fn balance(client: &Client) -> u64 {
    let session = client.wallet().await.unwrap();
    let balances = session.wallet().balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap().get()
}

async fn rent_as(client: &Client, wanted: Wanted, pay: Pay) -> Result<KnownLease, ClientError> {
    let provider = client.find_provider("oldoak").await?;
    let options = SpawnOptions {
        wanted,
        pay,
        ..SpawnOptions::default()
    };
    let yes = |_: &Terms| Ok(());
    match client.rent(&provider, options, &yes, &quiet).await? {
        Spawned::Leased(leased) => Ok(leased.lease),
        Spawned::Detached(id) => panic!("detached: {id}"),
    }
}

async fn rent(client: &Client) -> Result<KnownLease, ClientError> {
    rent_as(client, Wanted::default(), Pay::Seconds(600)).await
}

/// Whether the end is when it should be, give or take what a test takes.
fn ends_in(lease: &KnownLease, seconds: u64) -> bool {
    let left = lease.status.expires_at.unwrap().secs_since(now());
    left <= seconds + 60 && left + 120 > seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_rented_looked_at_and_prolonged() {
    let world = World::start(Manner::default(), 200).await;
    let client = world.client(LONG);
    let big = Wanted {
        tier: Some("big-box".parse().unwrap()),
        ..Wanted::default()
    };
    let lease = rent_as(&client, big, Pay::Seconds(600)).await.unwrap();
    assert!(ends_in(&lease, 600), "{lease:?}");
    assert_eq!(lease.status.gives.memory_mib, 4096);
    let way = lease.status.access.as_ref().unwrap();
    assert_eq!(
        (way.host.as_str(), way.port, way.user.as_str()),
        ("203.0.113.9", 31_007, "root")
    );

    // The password is in a file of its own, for nobody else, and in no record.
    let file = access::password_file(client.home(), &lease);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let password = access::password(client.home(), &lease).unwrap().unwrap();
    assert_eq!(password, world.elder.password());
    let shown = format!("{lease:?}{}", serde_json::to_string(&lease).unwrap());
    assert!(!shown.contains(&password));

    let looked = client.status(&lease, &quiet).await.unwrap().lease;
    assert_eq!(looked.status.state, LeaseState::Active);
    let before = looked.status.expires_at;
    let added = client
        .topup(&looked, Pay::Seconds(300), &agree, &quiet)
        .await
        .unwrap();
    assert!((300..330).contains(&added.added_seconds), "{added:?}");
    assert!(Some(added.expires_at) > before);
    let known = client.find_lease(lease.status.lease.as_str()).unwrap();
    assert_eq!(known.status.expires_at, Some(added.expires_at));

    // What the dialect has not is refused, and says what to do.
    for error in [
        client.stop(&known, &quiet).await.unwrap_err(),
        client.logs(&known, None, &quiet).await.unwrap_err(),
    ] {
        assert_eq!(
            (error.code.as_str(), error.kind.exit_code()),
            ("not_in_dialect", 4)
        );
        assert!(!error.suggestion.is_empty());
    }
    // The lease's key is not the home's, and one key did all of it.
    let heard = world.elder.heard();
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().all(|(key, _)| *key == heard[0].0));
    assert_ne!(heard[0].0, client.public_key().to_hex());
    assert!(client.records().open_requests().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_get_each_their_own_reply() {
    let world = World::start(Manner::default(), 300).await;
    let (one, other) = (world.client(LONG), world.client(LONG));
    let small = rent_as(&one, Wanted::default(), Pay::Seconds(300));
    let big = Wanted {
        tier: Some("big-box".parse().unwrap()),
        ..Wanted::default()
    };
    let big = rent_as(&other, big, Pay::Seconds(900));
    let (small, big) = tokio::join!(small, big);
    let (small, big) = (small.unwrap(), big.unwrap());
    assert_eq!(small.status.gives.memory_mib, 1024);
    assert_eq!(big.status.gives.memory_mib, 4096);
    assert!(
        ends_in(&small, 300) && ends_in(&big, 900),
        "{small:?} {big:?}"
    );
    let pods: Vec<_> = [&small, &big]
        .map(|one| one.paygress.clone().unwrap())
        .into();
    assert_ne!(pods[0].pod, pods[1].pod);
    assert_ne!(pods[0].key_index, pods[1].key_index);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_strange_and_repeated_replies_are_not_taken_for_the_answer() {
    let noisy = Manner {
        chatters: true,
        repeats: true,
        ..Manner::default()
    };
    let world = World::start(noisy.clone(), 300).await;
    let client = world.client(LONG);
    let lease = rent(&client).await.unwrap();
    assert_eq!(lease.paygress.as_ref().unwrap().pod, "container-1000");
    let first = client
        .topup(&lease, Pay::Seconds(120), &agree, &quiet)
        .await
        .unwrap();
    // All that was ever said lies on the relay, and comes live once more.
    world.elder.say_it_all_again().await;
    let lease = client.find_lease(lease.status.lease.as_str()).unwrap();
    let second = client
        .topup(&lease, Pay::Seconds(240), &agree, &quiet)
        .await
        .unwrap();
    assert!(second.added_seconds >= 240 && second.expires_at > first.expires_at);
    let looked = client.status(&lease, &quiet).await.unwrap().lease;
    assert_eq!(looked.status.expires_at, Some(second.expires_at));

    // A provider that says nothing new is not answered for by its old words.
    world.elder.behave(Manner {
        mute: true,
        ..noisy
    });
    let short = world.client(SHORT);
    let error = short.status(&lease, &quiet).await.unwrap_err();
    assert_eq!(error.kind.exit_code(), 6, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_by_gift_wrap_and_from_other_clocks_are_read() {
    for (wraps, clock) in [(true, 0), (false, -30), (false, 30)] {
        let manner = Manner {
            wraps,
            clock,
            ..Manner::default()
        };
        let world = World::start(manner, 100).await;
        let client = world.client(LONG);
        let lease = rent(&client).await.unwrap();
        let looked = client.status(&lease, &quiet).await.unwrap().lease;
        assert!(ends_in(&looked, 600), "{wraps} {clock}: {looked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_never_answers_gets_nothing() {
    let deaf = Manner {
        deaf: true,
        ..Manner::default()
    };
    let world = World::start(deaf, 100).await;
    let before = world.balance().await;
    let error = rent(&world.client(SHORT)).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("no_answer", Money::Untouched)
    );
    assert!(error.refunded_msat >= Msat::new(600 * RATE), "{error:?}");
    let after = world.balance().await;
    assert!(after + 6_000 >= before, "{before} -> {after}");
    assert_eq!(world.elder.earned().await, 0);
    assert!(
        world
            .client(SHORT)
            .records()
            .open_requests()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_made_good_by_the_lease_s_own_key() {
    let mute = Manner {
        mute: true,
        ..Manner::default()
    };
    let world = World::start(mute, 200).await;
    let before = world.balance().await;
    let error = rent(&world.client(SHORT)).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("paid_no_answer", Money::Taken)
    );
    assert_eq!(error.kind.exit_code(), 5);
    let spent = before - world.balance().await;
    assert!(spent >= world.elder.earned().await && spent > 0);
    let id = error.request_id.unwrap();
    let saved = world.client(SHORT).records().request(&id).unwrap().unwrap();
    assert_eq!(
        (saved.standing, saved.note.as_str()),
        (Standing::Pending, "paid, no answer")
    );

    // Later it talks again, and knows whose workload it is.
    world.elder.behave(Manner::default());
    let client = world.client(LONG);
    let left = client.leftover(id, SHORT, &quiet).await.unwrap().unwrap();
    let lease = left.result.unwrap().lease.unwrap();
    assert!(ends_in(&lease, 600), "{lease:?}");
    assert_eq!(lease.paygress.as_ref().unwrap().pod, "container-1000");
    let password = access::password(client.home(), &lease).unwrap().unwrap();
    assert_eq!(password, world.elder.password());
    assert!(client.records().open_requests().unwrap().is_empty());
    client
        .topup(&lease, Pay::Seconds(60), &agree, &quiet)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_topup_is_found_by_the_later_end() {
    let world = World::start(Manner::default(), 200).await;
    let lease = rent(&world.client(LONG)).await.unwrap();
    world.elder.behave(Manner {
        mute: true,
        ..Manner::default()
    });
    let short = world.client(SHORT);
    let failed = short.topup(&lease, Pay::Seconds(100), &agree, &quiet).await;
    let error = failed.unwrap_err();
    assert_eq!(error.code, "paid_no_answer");
    // Until that is decided there is no other: replies name no request.
    let again = short.topup(&lease, Pay::Seconds(100), &agree, &quiet).await;
    let again = again.unwrap_err();
    assert_eq!(
        (again.code.as_str(), again.money),
        ("request_open", Money::Untouched)
    );

    world.elder.behave(Manner::default());
    let client = world.client(LONG);
    let id = error.request_id.unwrap();
    let left = client.leftover(id, SHORT, &quiet).await.unwrap().unwrap();
    let found = left.result.unwrap().lease.unwrap();
    assert!(ends_in(&found, 700), "{found:?}");
    assert!(found.status.expires_at > lease.status.expires_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_was_taken_for_nothing_is_said_and_booked() {
    let manner = Manner {
        fails: Some("backend_error"),
        ..Manner::default()
    };
    let world = World::start(manner, 100).await;
    let before = world.balance().await;
    let client = world.client(LONG);
    let error = rent(&client).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("backend_error", Money::Taken)
    );
    assert_eq!(error.kind.exit_code(), 5);
    assert!(
        error.message.contains("it went wrong") && error.message.contains("lost"),
        "{error}"
    );
    let lost = client.records().lost_requests().unwrap();
    assert_eq!(lost.len(), 1);
    let face = lost[0].paid.as_ref().unwrap().face.get();
    assert!(
        lost[0].note.starts_with("spent, nothing received"),
        "{}",
        lost[0].note
    );
    let after = balance(&client).await;
    assert!(
        after + face <= before && after + face + 6_000 >= before,
        "{before} {face} {after}"
    );
    assert!(client.records().open_requests().unwrap().is_empty());
    assert!(client.leases().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_took_nothing_leaves_the_money() {
    let manner = Manner {
        refuses: Some("template_unsupported"),
        ..Manner::default()
    };
    let world = World::start(manner, 100).await;
    let before = world.balance().await;
    let client = world.client(LONG);
    let error = rent(&client).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("template_unsupported", Money::Untouched)
    );
    assert_eq!(error.kind.exit_code(), 4);
    assert!(balance(&client).await + 6_000 >= before);
    assert!(client.records().lost_requests().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_in_an_error_s_details_is_received() {
    let manner = Manner {
        fails: Some("backend_error"),
        refunds: true,
        ..Manner::default()
    };
    let world = World::start(manner, 100).await;
    let before = world.balance().await;
    let client = world.client(LONG);
    let error = rent(&client).await.unwrap_err();
    assert_eq!(error.code, "backend_error");
    assert!(error.refunded_msat >= Msat::new(20_000), "{error:?}");
    let after = balance(&client).await;
    assert!(after + 10_000 >= before, "{before} -> {after}");
    assert!(client.records().lost_requests().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_box_than_bought_is_taken_but_said() {
    let manner = Manner {
        cheats: true,
        own_password: Some("itsOwnPassword99".to_owned()),
        ..Manner::default()
    };
    let world = World::start(manner, 100).await;
    let client = world.client(SHORT);
    let provider = client.find_provider("oldoak").await.unwrap();
    let said = Mutex::new(Vec::new());
    let progress = |text: &str| said.lock().unwrap().push(text.to_owned());
    let yes = |_: &Terms| Ok(());
    let options = SpawnOptions::default();
    let spawned = client
        .rent(&provider, options, &yes, &progress)
        .await
        .unwrap();
    let Spawned::Leased(leased) = spawned else {
        panic!("{spawned:?}");
    };
    assert_eq!(leased.lease.status.gives.memory_mib, 512);
    let said = said.lock().unwrap().join("\n");
    assert!(said.contains("512 MiB") && said.contains("1024"), "{said}");
    let password = access::password(client.home(), &leased.lease).unwrap();
    assert_eq!(password.as_deref(), Some("itsOwnPassword99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_paid_for_what_cannot_be_had() {
    let world = World::start(Manner::default(), 100).await;
    let before = world.balance().await;
    let client = world.client(LONG);
    let with = |change: fn(&mut Wanted)| {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        wanted
    };
    let minute = || Pay::Seconds(60);
    for (wanted, pay, code) in [
        (Wanted::default(), Pay::Seconds(59), "amount_too_small"),
        (
            Wanted::default(),
            Pay::Amount(Msat::new(60 * RATE - 1)),
            "amount_too_small",
        ),
        (
            with(|w| w.tier = Some("huge".parse().unwrap())),
            minute(),
            "unknown_tier",
        ),
        (
            with(|w| w.template = Some("mine".parse().unwrap())),
            minute(),
            "unknown_template",
        ),
        (
            with(|w| w.command = vec!["sh".to_owned()]),
            minute(),
            "not_in_dialect",
        ),
        (
            with(|w| w.ssh_keys = vec!["ssh-ed25519 A".to_owned()]),
            minute(),
            "not_in_dialect",
        ),
    ] {
        let error = rent_as(&client, wanted, pay).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.money), (code, Money::Untouched));
    }
    let provider = client.find_provider("oldoak").await.unwrap();
    let no = |terms: &Terms| {
        assert!(terms.statement().join(" ").contains("no refund"));
        Err(ClientError::usage("no", "no", ""))
    };
    let options = SpawnOptions::default();
    let error = client
        .rent(&provider, options, &no, &quiet)
        .await
        .unwrap_err();
    assert_eq!(error.code, "no");
    let error = client
        .quote(&provider, Wanted::default(), None, &quiet)
        .await;
    assert_eq!(error.unwrap_err().code, "not_in_dialect");
    assert_eq!(balance(&client).await, before);
    assert!(world.elder.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_a_fresh_heartbeat_is_not_paid() {
    let world = World::start(Manner::default(), 100).await;
    let offline = Elder::start(&world.relay.url(), &world.mint.url().0).await;
    // A heartbeat from the future says nothing of now.
    offline.behave(Manner {
        clock: 250,
        ..Manner::default()
    });
    offline.offer("FarAway").await;
    let client = world.client(LONG);
    let provider = client.find_provider("faraway").await.unwrap();
    assert!(!provider.online);
    let yes = |_: &Terms| Ok(());
    let options = SpawnOptions::default();
    let error = client
        .rent(&provider, options, &yes, &quiet)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("provider_offline", Money::Untouched)
    );
    assert!(client.find_provider("oldoak").await.unwrap().online);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_spawn_is_picked_up_and_a_pasted_token_is_not_lost() {
    let world = World::start(Manner::default(), 200).await;
    let client = world.client(LONG);
    let provider = client.find_provider("oldoak").await.unwrap();
    let given = client
        .give(&world.mint.url(), Msat::from_sat(40).unwrap())
        .await
        .unwrap();
    let options = SpawnOptions {
        pay: Pay::Token(given.paid.token.clone()),
        detach: true,
        ..SpawnOptions::default()
    };
    let yes = |_: &Terms| Ok(());
    let spawned = client.rent(&provider, options, &yes, &quiet).await.unwrap();
    let Spawned::Detached(id) = spawned else {
        panic!("{spawned:?}");
    };
    until("it is heard", || !world.elder.heard().is_empty()).await;
    let left = client.leftover(id, LONG, &quiet).await.unwrap().unwrap();
    assert!(left.result.unwrap().lease.is_some());

    // Pasted, and nobody answers: it is in the wallet now, out of reach.
    world.elder.behave(Manner {
        deaf: true,
        ..Manner::default()
    });
    let client = world.client(SHORT);
    let given = client
        .give(&world.mint.url(), Msat::from_sat(40).unwrap())
        .await
        .unwrap();
    let before = balance(&client).await;
    let error = rent_as(&client, Wanted::default(), Pay::Token(given.paid.token))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.token.is_none()),
        ("no_answer", true)
    );
    assert!(balance(&client).await > before + 30_000);
}
