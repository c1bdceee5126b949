//! One request, one answer, whatever happens on the way: a whole provider in
//! this process over real relays and a real mint, on the fake backend.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use satlet::compute::fake::Op;
use satlet::core::money::Msat;
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::reply::{Answer, LeaseState, SpawnAnswer};
use satlet::protocol::request::{Ask, Logs};
use satlet::relay::Dropped;
use satlet::relay::convert::now;
use satlet::relay::wrap::BACKDATE_SECS;

use crate::support::shop::{self, spawn, status, stop, topup};
use crate::support::world::{Asker, House, LONG, World, request, rumor_id, until};

fn spawned(answer: Result<Answer, WireError>) -> SpawnAnswer {
    match answer {
        Ok(Answer::Spawn(answer)) => answer,
        other => panic!("no lease: {other:?}"),
    }
}

/// Two days ago: the furthest that stamps are set back (NIP-59).
fn long_ago() -> satlet::core::time::Timestamp {
    satlet::core::time::Timestamp::from_secs(now().as_secs() - BACKDATE_SECS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_that_comes_again_and_again_is_served_once() {
    let world = World::start(4).await;
    let mut house = House::build(&world, 3);
    house.start().await;
    let asker = Asker::start(&world).await;
    let token = world.purse(200).await.token(100).await;
    let (id, body) = request(spawn(token));
    let (to, all) = (house.key(), world.urls());
    let rumor = asker.rumor(&to, &body, now());
    let event = asker.wrap(&to, &rumor, now());

    // One gift wrap by three relays, and by a fourth that the provider does
    // not read yet.
    asker.publish(&event, &all).await;
    let sold = spawned(asker.reply(id).await);
    house.all_sent().await;
    let first = asker.replies_now(id);
    let rumors: HashSet<_> = first.iter().map(|got| got.rumor).collect();
    assert_eq!(rumors.len(), 1, "three relays, one answer");
    let mut answers = first.len();

    // The same message in another wrap; then written anew, with the same
    // request in it.
    let anew = asker.rumor(&to, &body, now().plus_secs(1));
    assert_ne!(rumor_id(&anew), rumor_id(&rumor));
    for rumor in [&rumor, &anew] {
        let again = asker.wrap(&to, rumor, now());
        asker.publish(&again, &all).await;
        let got = asker.replies(id, answers + 1).await;
        house.all_sent().await;
        answers = asker.replies_now(id).len().max(got.len());
    }

    // After a restart all relays hand over what they have once more, and the
    // fourth one for the first time.
    house.stop().await;
    house.settings.relays = all.clone();
    house.start().await;
    until("all four relays are read", || {
        let relays = house.provider().relays().status();
        relays.len() == 4 && relays.iter().all(|relay| relay.connected)
    })
    .await;
    let again = asker.wrap(&to, &rumor, long_ago());
    asker.publish(&again, &all).await;
    asker.replies(id, answers + 1).await;
    house.all_sent().await;

    let got = asker.replies_now(id);
    let texts: HashSet<_> = got.iter().map(|got| got.body.as_str()).collect();
    assert_eq!(texts.len(), 1, "one answer, byte for byte: {texts:?}");
    assert!(got.iter().all(|got| got.sender == to));
    assert_eq!(house.leases(), 1);
    assert_eq!(house.payments(), 1);
    assert_eq!(house.engine.count(Op::Create), 1);
    assert_eq!(house.engine.workloads().len(), 1);
    let net = sold.paid_msat.checked_sub(sold.mint_fee_msat).unwrap();
    assert_eq!(house.balance().await, net, "redeemed once");
    assert_eq!(sold.paid_msat, Msat::from_sat(100).unwrap());
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_while_the_provider_was_down_is_served_when_it_starts() {
    let world = World::start(2).await;
    let mut house = House::build(&world, 2);
    let asker = Asker::start(&world).await;
    let purse = world.purse(300).await;
    let mut leases = HashSet::new();
    // First it has never run; then it has, and knows when it saw its relays last.
    for urls in [world.urls(), vec![world.relays[1].url()]] {
        let (id, body) = request(spawn(purse.token(50).await));
        let rumor = asker.rumor(&house.key(), &body, now());
        let event = asker.wrap(&house.key(), &rumor, long_ago());
        asker.publish(&event, &urls).await;
        house.start().await;
        let sold = spawned(asker.reply(id).await);
        assert_eq!(sold.status.state, LeaseState::Active);
        leases.insert(sold.status.lease.clone());
        assert!(house.engine.workload(&sold.status.lease).is_some());
        house.stop().await;
    }
    // A status waits for it as well.
    let lease = leases.iter().next().unwrap();
    let (id, body) = request(status(lease));
    let rumor = asker.rumor(&house.key(), &body, now());
    let event = asker.wrap(&house.key(), &rumor, long_ago());
    asker.publish(&event, &world.urls()).await;
    house.start().await;
    let Ok(Answer::Status(now)) = asker.reply(id).await else {
        panic!("no status")
    };
    assert_eq!(now.state, LeaseState::Active);
    assert_eq!((leases.len(), house.leases()), (2, 2));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_does_not_wait_for_spawns_that_hang() {
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.settings.capacity.total.cpu_millicores = 100_000;
    house.start().await;
    let purse = world.purse(800).await;
    let asker = Asker::start(&world).await;
    let to = house.key();
    let sold = spawned(asker.ask(&to, spawn(purse.token(100).await)).await);
    let lease = sold.status.lease;

    house.engine.hang(Op::Create);
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let (id, body) = request(spawn(purse.token(100).await));
        asker.send(&to, &body).await;
        waiting.push(id);
    }
    let all_hang = house.engine.called(Op::Create, 6);
    tokio::time::timeout(LONG, all_hang).await.unwrap();
    let asked = Instant::now();
    let answer = asker.ask(&to, status(&lease)).await;
    let took = asked.elapsed();
    let Ok(Answer::Status(answer)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(answer.state, LeaseState::Active);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(waiting.iter().all(|id| asker.replies_now(*id).is_empty()));

    house.engine.release();
    for id in waiting {
        spawned(asker.reply(id).await);
    }
    assert_eq!(house.engine.workloads().len(), 6);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_seal_gets_no_lease_and_no_answer() {
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.start().await;
    let (victim, forger) = tokio::join!(Asker::start(&world), Asker::start(&world));
    let purse = world.purse(400).await;
    let to = house.key();
    let sold = spawned(victim.ask(&to, spawn(purse.token(100).await)).await);
    house.all_sent().await;
    let before = victim.everything().len();

    // The victim's messages in the forger's seals: one that buys, one that ends
    // what the victim has, and one that only asks.
    let token = purse.token(100).await;
    let mut forged = Vec::new();
    for ask in [
        spawn(token.clone()),
        stop(&sold.status.lease),
        status(&sold.status.lease),
    ] {
        let (id, body) = request(ask);
        let rumor = victim.rumor(&to, &body, now());
        let event = forger.wrap(&to, &rumor, now());
        forger.publish(&event, &world.urls()).await;
        forged.push(id);
    }
    until("all three were looked at and refused", || {
        house.provider().inbox().dropped(Dropped::ForgedAuthor) >= 3
    })
    .await;
    // Whatever the provider had to say would be said before this.
    for asker in [&victim, &forger] {
        let listed = asker.ask(&to, Ask::List).await;
        assert!(matches!(listed, Ok(Answer::List { .. })), "{listed:?}");
    }
    house.all_sent().await;
    for id in forged {
        assert!(victim.replies_now(id).is_empty() && forger.replies_now(id).is_empty());
    }
    assert_eq!(victim.everything().len(), before + 1);
    assert_eq!(forger.everything().len(), 1);
    assert_eq!((house.leases(), house.payments()), (1, 1));
    assert!(purse.is_unspent(&token).await, "nothing was taken");
    let Ok(Answer::Status(now)) = victim.ask(&to, status(&sold.status.lease)).await else {
        panic!("no status")
    };
    assert_eq!(now.state, LeaseState::Active);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_s_lease_is_as_good_as_none() {
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.start().await;
    let (owner, other) = tokio::join!(Asker::start(&world), Asker::start(&world));
    let purse = world.purse(400).await;
    let to = house.key();
    let sold = spawned(owner.ask(&to, spawn(purse.token(100).await)).await);
    let (lease, none) = (sold.status.lease, "aaaaaaaaaaaa".parse().unwrap());
    assert_ne!(lease, none);
    let token = purse.token(50).await;
    let logs = |lease: &satlet::core::ids::LeaseId| {
        Ask::Logs(Logs {
            lease: lease.clone(),
            max_bytes: None,
        })
    };
    let pay = |lease: &satlet::core::ids::LeaseId| topup(lease, token.clone());
    let asks: [&dyn Fn(&satlet::core::ids::LeaseId) -> Ask; 4] = [&status, &stop, &logs, &pay];
    for ask in asks {
        // The whole answer, as it came over the wire.
        let mut texts = Vec::new();
        for lease in [&lease, &none] {
            let id = shop::new_id();
            other.send(&to, &shop::body(id, ask(lease))).await;
            let error = other.reply(id).await.unwrap_err();
            assert_eq!(
                (&error.code, error.money),
                (&Code::NotFound, Money::Untouched)
            );
            let text = other.replies_now(id)[0].body.clone();
            let text = text.replace(&id.to_string(), "ID");
            texts.push(text.replace(lease.as_str(), "LEASE"));
        }
        assert_eq!(texts[0], texts[1], "nobody learns whether it exists");
    }
    assert!(purse.is_unspent(&token).await, "nothing was taken");
    let Ok(Answer::Status(now)) = owner.ask(&to, status(&lease)).await else {
        panic!("no status")
    };
    assert_eq!(now.state, LeaseState::Active);
    assert_eq!(now.expires_at, sold.status.expires_at);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_answer_at_start_changes_nothing() {
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.start().await;
    let asker = Asker::start(&world).await;
    let to = house.key();
    let token = world.purse(200).await.token(100).await;
    let lease = spawned(asker.ask(&to, spawn(token)).await).status.lease;
    let before = house.engine.workload(&lease).unwrap();
    house.stop().await;

    house.engine.set_down(true);
    house.settings.timing.sweep = Duration::from_millis(200);
    house.settings.timing.look = Duration::from_millis(200);
    let asked = house.engine.count(Op::Observe);
    house.start().await;
    let looked = house.engine.called(Op::Observe, asked + 3);
    tokio::time::timeout(LONG, looked).await.unwrap();
    for down in [true, false] {
        house.engine.set_down(down);
        let Ok(Answer::Status(now)) = asker.ask(&to, status(&lease)).await else {
            panic!("no status")
        };
        assert_eq!(now.state, LeaseState::Active, "down: {down}");
        assert!(now.refunds.is_empty(), "{:?}", now.refunds);
    }
    let after = house.engine.workload(&lease).unwrap();
    assert_eq!((after.serial, after.state), (before.serial, before.state));
    assert_eq!(house.engine.count(Op::Create), 1);
    house.stop().await;
}
