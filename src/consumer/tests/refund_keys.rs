//! Refunds that providers lock to a key of ours.

use super::*;
use crate::core::payment::lock::{Conditions, Kind as LockKind, LockKey};

fn refund_key(request: &Request) -> Option<LockKey> {
    match &request.ask {
        Ask::Spawn(ask) => ask.refund_key.clone(),
        Ask::Topup(ask) => ask.refund_key.clone(),
        Ask::Stop(ask) => ask.refund_key.clone(),
        other => panic!("{}", other.name()),
    }
}

/// A refund of 4 sat that is locked to `key` for an hour.
fn locked_refund(mint: &FakeMint, key: &LockKey) -> Refund {
    let lock = Conditions {
        kind: LockKind::P2pk,
        data: key.to_string(),
        extra_keys: Vec::new(),
        n_sigs: None,
        sig_all: false,
        locktime: Some(now().plus_secs(3600)),
        refund_keys: vec![format!("02{}", "ab".repeat(32))],
        n_sigs_refund: None,
    };
    Refund {
        token: mint.locked_token(sat(4), &lock),
        ..refund_of(mint, 4)
    }
}

/// A provider that locks refunds where it was given a key.
fn world() -> World {
    let world = World::new(|_, _| vec![]);
    let mint = world.mint.clone();
    world.stage.act(move |request, _| match &request.ask {
        Ask::Spawn(_) => vec![leased()],
        Ask::Stop(_) => vec![done(Answer::Stop(StopAnswer {
            lease: lease_id(),
            served_seconds: 20,
            served_msat: Msat::new(2_000),
            refund: Some(match refund_key(request) {
                Some(key) => locked_refund(&mint, &key),
                None => refund_of(&mint, 4),
            }),
            refund_fee_msat: Msat::ZERO,
            credit_msat: Msat::ZERO,
            receipt: None,
        }))],
        _ => vec![no(Code::NotFound, Money::Untouched)],
    });
    world
}

fn keys(world: &World) -> Vec<Option<LockKey>> {
    let sent = world.stage.sent.lock().unwrap();
    let requests = sent
        .iter()
        .map(|letter| serde_json::from_str::<Request>(&letter.body).unwrap());
    let money = requests.filter(|request| !request.ask.only_asks());
    money.map(|request| refund_key(&request)).collect()
}

#[tokio::test]
async fn refunds_are_locked_to_a_key_of_ours_and_redeemed_with_it() {
    let world = world();
    let client = world.client(LONG);
    let leased = world.spawn(&client).await.unwrap();
    let stopped = client.stop(&leased.lease, &quiet).await.unwrap();
    assert_eq!(stopped.received, sat(4));
    assert_eq!(world.balance().await, sat(98));
    let keys = keys(&world);
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(Option::is_some));
    assert_ne!(keys[0], keys[1], "each request has its own");
    // What is known of numbers is lost: the keys are found by the seed all the same.
    std::fs::remove_file(world.dir.path().join("refund-keys.json")).unwrap();
    let token = locked_refund(&world.mint, &keys[0].clone().unwrap()).token;
    let fresh = world.client(LONG);
    fresh.receive(&token).await.unwrap();
    assert_eq!(world.balance().await, sat(102));
    // One that is locked to somebody else is left alone, and said to be.
    let other: LockKey = format!("02{}", "ab".repeat(32)).parse().unwrap();
    let foreign = locked_refund(&world.mint, &other).token;
    fresh.receive(&foreign).await.unwrap_err();
    assert_eq!(world.balance().await, sat(102));
}

#[tokio::test]
async fn without_locks_no_key_is_sent() {
    let world = world();
    let client = world.client_with(ClientOptions {
        no_lock: true,
        ..ClientOptions::default()
    });
    let leased = world.spawn(&client).await.unwrap();
    let stopped = client.stop(&leased.lease, &quiet).await.unwrap();
    assert_eq!(stopped.received, sat(4));
    assert_eq!(keys(&world), [None, None]);
}

/// A lease that was bought elsewhere with the same identity: how tokens are locked
/// to its provider is asked for.
#[tokio::test]
async fn top_ups_of_leases_that_a_provider_tells_of_are_locked_too() {
    let world = world();
    let provider = FakeWallet::new([world.mint.clone()]);
    *world.stage.lock.lock().unwrap() = Some(LockTerms {
        key: provider.lock_key(),
        min_seconds: 480,
        hold_seconds: None,
    });
    world.stage.act(|request, _| match &request.ask {
        Ask::List => vec![done(Answer::List {
            leases: vec![status()],
        })],
        _ => vec![no(Code::NoCapacity, Money::Taken)],
    });
    let client = world.client(LONG);
    let mut alpha = client.find_provider("alpha").await.unwrap();
    if let Some(more) = alpha.offer.satlet.as_mut() {
        more.lock_key = Some(provider.lock_key());
    }
    client.list_remote(&alpha, &quiet).await.unwrap();
    let lease = client.find_lease("abc").unwrap();
    client
        .topup(&lease, Pay::Seconds(60), &agree, &quiet)
        .await
        .unwrap_err();
    let sent = world.stage.sent.lock().unwrap().last().cloned().unwrap();
    let request: Request = serde_json::from_str(&sent.body).unwrap();
    let info = provider.inspect(request.ask.token().unwrap()).unwrap();
    let lock = info.locks[0].as_ref().expect("it is locked");
    assert_eq!(lock.data, provider.lock_key().as_str());
}
