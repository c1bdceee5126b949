//! The life of a lease, on fakes with a paused clock.

use std::time::Duration;

use satlet::compute::fake::Op;
use satlet::compute::{BackendError, Observed};
use satlet::core::lease::Phase;
use satlet::core::money::Msat;
use satlet::protocol::error::{Code, Money};
use satlet::protocol::reply::{Answer, LeaseState};

use crate::support::shop::{Shop, body, key, new_id, spawn, status, stop, topup, until};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

/// Lets the shop's clock run.
async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

#[tokio::test(start_paused = true)]
async fn a_spawn_gives_what_was_paid_for_and_access() {
    let shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    let answer = shop.spawn(key(1), 101).await;
    assert_eq!(answer.paid_msat, sat(101));
    assert_eq!(answer.mint_fee_msat, sat(1));
    assert_eq!(answer.status.state, LeaseState::Active);
    assert_eq!(
        answer.status.remaining_seconds, 1000,
        "100 sat at 100 msat a second"
    );
    let access = answer.status.access.unwrap();
    assert_eq!(access.user, answer.status.lease.to_string());
    let workloads = shop.engine.workloads();
    assert_eq!(workloads.len(), 1);
    assert_eq!(workloads[0].key, answer.status.lease);
}

#[tokio::test(start_paused = true)]
async fn time_starts_when_access_works_not_when_money_arrives() {
    let shop = Shop::open().await;
    shop.engine.hang(Op::Create);
    let (me, id) = (key(1), new_id());
    shop.deliver(me, body(id, spawn(shop.mint.token(sat(100)))))
        .await;
    shop.engine.called(Op::Create, 1).await;
    pass(100).await;
    shop.engine.release();
    let Ok(Answer::Spawn(answer)) = shop.answer(me, id).await else {
        panic!()
    };
    assert_eq!(answer.status.remaining_seconds, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_stop_returns_what_was_not_served_to_the_msat() {
    let shop = Shop::open().await;
    let lease = shop.spawn(key(1), 100).await.status.lease;
    pass(300).await;
    let Ok(Answer::Stop(answer)) = shop.ask(key(1), stop(&lease)).await else {
        panic!()
    };
    let refund = answer.refund.expect("a refund");
    let back = Msat::checked_sum([
        answer.served_msat,
        refund.amount_msat,
        answer.refund_fee_msat,
        answer.credit_msat,
    ]);
    assert_eq!(
        back,
        Some(sat(100)),
        "paid = served + refunded + fees + credit"
    );
    assert!(
        (300..=302).contains(&answer.served_seconds),
        "{}",
        answer.served_seconds
    );
    assert!(
        shop.engine.workloads().is_empty(),
        "nothing is left on the host"
    );
    assert!(
        !shop.mint.is_spent(&refund.token),
        "the token can be redeemed"
    );
}

#[tokio::test(start_paused = true)]
async fn expiry_warns_then_stops_then_waits_then_destroys() {
    let shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    pass(405).await;
    let events = || {
        shop.notices(me)
            .into_iter()
            .map(|n| n.event)
            .collect::<Vec<_>>()
    };
    assert_eq!(events(), ["expiring"], "600 s before the end");
    pass(540).await;
    assert_eq!(events().len(), 2, "and 60 s before the end");
    pass(70).await;
    let Ok(Answer::Status(now)) = shop.ask(me, status(&lease)).await else {
        panic!()
    };
    assert_eq!(now.state, LeaseState::Grace);
    assert!(now.access.is_none() && now.destroy_at.is_some());
    let workload = shop.engine.workload(&lease).expect("its disk waits");
    assert!(matches!(workload.state, Observed::Stopped { .. }));
    pass(700).await;
    assert!(shop.engine.workloads().is_empty());
    assert!(shop.lease(&lease).has_ended());
    assert!(events().contains(&"destroyed".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_top_up_adds_time_and_one_in_grace_revives() {
    let shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 10).await.status.lease;
    let before = shop.lease(&lease).expires_at.unwrap();
    let token = shop.mint.token(sat(5));
    let Ok(Answer::Topup(answer)) = shop.ask(me, topup(&lease, token)).await else {
        panic!()
    };
    assert_eq!(answer.added_seconds, 50);
    assert_eq!(answer.expires_at, before.plus_secs(50));
    pass(160).await;
    assert!(matches!(shop.lease(&lease).phase, Phase::Grace { .. }));
    let token = shop.mint.token(sat(20));
    let Ok(Answer::Topup(answer)) = shop.ask(me, topup(&lease, token)).await else {
        panic!()
    };
    assert_eq!(answer.added_seconds, 200);
    let Ok(Answer::Status(now)) = shop.ask(me, status(&lease)).await else {
        panic!()
    };
    assert_eq!(now.state, LeaseState::Active);
    assert!(now.remaining_seconds > 195, "{}", now.remaining_seconds);
    assert!(matches!(
        shop.engine.workload(&lease).unwrap().state,
        Observed::Running { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_cannot_be_made_is_paid_back_in_full() {
    let shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    shop.wallet
        .fund(&shop.mint.url(), &satlet::wallet::Unit::Sat, sat(50));
    shop.engine.fail_next(
        Op::Create,
        1,
        BackendError::Permanent("no such thing".to_owned()),
    );
    let token = shop.mint.token(sat(100));
    let error = shop.ask(key(1), spawn(token)).await.unwrap_err();
    assert_eq!(error.code, Code::ProvisioningFailed);
    assert_eq!(error.money, Money::Taken);
    let refund = error.refund.expect("a token in the answer");
    assert_eq!(refund.amount_msat, sat(100), "our fault: the full face");
    assert!(!shop.mint.is_spent(&refund.token));
    assert!(shop.engine.workloads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_hangs_for_ever_is_paid_back_in_time() {
    let shop = Shop::open().await;
    shop.engine.hang(Op::Create);
    let (me, id) = (key(1), new_id());
    shop.deliver(me, body(id, spawn(shop.mint.token(sat(100)))))
        .await;
    shop.engine.called(Op::Create, 1).await;
    pass(shop.settings.timing.provision.as_secs() + 5).await;
    let error = shop.answer(me, id).await.unwrap_err();
    assert_eq!(error.code, Code::ProvisioningFailed);
    assert_eq!(error.refund.map(|r| r.amount_msat), Some(sat(100)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_breaks_off_a_spawn_that_hangs() {
    let shop = Shop::open().await;
    shop.engine.hang(Op::Create);
    let (me, id) = (key(1), new_id());
    shop.deliver(me, body(id, spawn(shop.mint.token(sat(100)))))
        .await;
    shop.engine.called(Op::Create, 1).await;
    let Ok(Answer::List { leases }) = shop.ask(me, satlet::protocol::request::Ask::List).await
    else {
        panic!()
    };
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&leases[0].lease)).await else {
        panic!()
    };
    assert_eq!(answer.served_msat, Msat::ZERO);
    assert_eq!(answer.refund.map(|r| r.amount_msat), Some(sat(100)));
    let spawned = shop.answer(me, id).await.unwrap_err();
    assert_eq!(spawned.code, Code::LeaseEnded);
}

#[tokio::test(start_paused = true)]
async fn status_is_answered_at_once_while_five_spawns_hang() {
    let shop = Shop::open_with(|s| s.capacity.total.cpu_millicores = 100_000).await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    shop.engine.hang(Op::Create);
    for _ in 0..5 {
        shop.deliver(key(2), body(new_id(), spawn(shop.mint.token(sat(100)))))
            .await;
    }
    shop.engine.called(Op::Create, 6).await;
    let asked = tokio::time::Instant::now();
    let Ok(Answer::Status(now)) = shop.ask(me, status(&lease)).await else {
        panic!()
    };
    assert_eq!(now.state, LeaseState::Active);
    assert!(
        asked.elapsed() < Duration::from_millis(100),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_spawn_again_gives_the_same_answer_and_nothing_else() {
    let mut shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    let token = shop.mint.token(sat(100));
    let text = body(id, spawn(token.clone()));
    for _ in 0..3 {
        shop.deliver(me, text.clone()).await;
    }
    let first = shop.answer(me, id).await.unwrap();
    shop.deliver(me, text.clone()).await;
    assert_eq!(shop.answer(me, id).await.unwrap(), first);
    shop.crash().await;
    shop.start().await;
    shop.deliver(me, text).await;
    assert_eq!(shop.answer(me, id).await.unwrap(), first);
    assert_eq!(shop.mint.total_redeem_calls(), 1);
    assert_eq!(shop.engine.count(Op::Create), 1);
    assert_eq!(shop.engine.workloads().len(), 1);
    // The same id for something else is not the same request.
    let other = shop.ask_as(me, id, spawn(shop.mint.token(sat(100)))).await;
    assert!(
        other.is_ok_and(|answer| answer == first),
        "the stored answer stays"
    );
}

#[tokio::test(start_paused = true)]
async fn another_ones_lease_is_as_good_as_none() {
    let shop = Shop::open().await;
    let lease = shop.spawn(key(1), 100).await.status.lease;
    let nobodys = "aaaaaaaaaaaa".parse().unwrap();
    let token = shop.mint.token(sat(10));
    for ask in [status, stop] {
        let theirs = shop.ask(key(2), ask(&lease)).await.unwrap_err();
        let none = shop.ask(key(2), ask(&nobodys)).await.unwrap_err();
        assert_eq!(theirs.code, Code::NotFound);
        assert_eq!(theirs, none, "nobody learns whether it exists");
    }
    let theirs = shop
        .ask(key(2), topup(&lease, token.clone()))
        .await
        .unwrap_err();
    assert_eq!(theirs.code, Code::NotFound);
    assert!(!shop.mint.is_spent(&token));
    let logs = satlet::protocol::request::Ask::Logs(satlet::protocol::request::Logs {
        lease: lease.clone(),
        max_bytes: None,
    });
    assert_eq!(
        shop.ask(key(2), logs).await.unwrap_err().code,
        Code::NotFound
    );
    assert_eq!(shop.lease(&lease).phase, Phase::Active);
}

#[tokio::test(start_paused = true)]
async fn a_restart_adopts_what_runs_and_ends_what_has_ended() {
    let mut shop = Shop::open().await;
    let short = shop.spawn(key(1), 10).await.status.lease;
    let long = shop.spawn(key(1), 1000).await.status.lease;
    let Observed::Running { started_at, .. } = shop.engine.workload(&long).unwrap().state else {
        panic!()
    };
    shop.crash().await;
    pass(2000).await;
    shop.start().await;
    until("the short one stops", || {
        !shop.lease(&short).is_open(shop.ctx().now())
    })
    .await;
    pass(shop.settings.timing.grace.as_secs() + 10).await;
    assert!(shop.lease(&short).has_ended());
    assert!(shop.engine.workload(&short).is_none());
    assert_eq!(shop.lease(&long).phase, Phase::Active);
    let state = shop.engine.workload(&long).unwrap().state;
    assert_eq!(
        state,
        Observed::Running {
            started_at,
            paused: false
        },
        "never touched"
    );
    assert_eq!(shop.engine.count_for(Op::Create, &long), 1);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_answer_changes_nothing() {
    let mut shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 1000).await.status.lease;
    shop.crash().await;
    shop.engine.set_down(true);
    shop.start().await;
    pass(300).await;
    assert_eq!(shop.lease(&lease).phase, Phase::Active);
    let Ok(Answer::Status(now)) = shop.ask(me, status(&lease)).await else {
        panic!()
    };
    assert_eq!(now.state, LeaseState::Active);
    shop.engine.set_down(false);
    pass(60).await;
    assert!(matches!(
        shop.engine.workload(&lease).unwrap().state,
        Observed::Running { .. }
    ));
    assert!(shop.lease(&lease).refunds.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_vanishes_is_noticed_and_the_rest_paid_back() {
    let shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 1000).await.status.lease;
    pass(100).await;
    shop.engine.vanish(&lease);
    pass(60).await;
    let lost = shop.lease(&lease);
    assert!(lost.has_ended(), "{:?}", lost.phase);
    let notice = shop
        .notices(me)
        .into_iter()
        .find(|n| n.event == "failed")
        .expect("a notice");
    let refund = notice.refund.expect("the unserved time");
    assert!(refund.amount_msat >= sat(980), "{}", refund.amount_msat);
}

#[tokio::test(start_paused = true)]
async fn a_mint_whose_answer_is_lost_is_asked_and_never_paid_twice() {
    let shop = Shop::open().await;
    shop.mint.lose_next_redeem();
    let answer = shop.spawn(key(1), 100).await;
    assert_eq!(answer.status.remaining_seconds, 1000);
    assert_eq!(shop.mint.total_redeem_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_of_redeeming_is_found_out_and_served() {
    let mut shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    shop.mint.set_delay(Duration::from_secs(5));
    shop.deliver(me, body(id, spawn(shop.mint.token(sat(100)))))
        .await;
    let ctx = std::sync::Arc::clone(shop.ctx());
    until("it redeems", || {
        let payments = ctx
            .ledger()
            .read(|r| r.all(&satlet::ledger::PAYMENTS))
            .unwrap();
        payments
            .iter()
            .any(|(_, p)| p.state == satlet::core::payment::PaymentState::Redeeming)
    })
    .await;
    drop(ctx);
    pass(1).await;
    shop.crash().await;
    shop.mint.set_delay(Duration::ZERO);
    shop.start().await;
    let outcome = shop.answer(me, id).await;
    assert!(shop.mint.total_redeem_calls() <= 1);
    match outcome {
        Ok(Answer::Spawn(answer)) => assert_eq!(answer.status.remaining_seconds, 1000),
        Err(error) => {
            assert_eq!(error.money, Money::Untouched, "{error:?}");
            assert!(shop.engine.workloads().is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_of_the_backend_makes_no_second_workload() {
    let shop = Shop::open().await;
    shop.engine.lose_reply(Op::Create, 1);
    shop.spawn(key(1), 100).await;
    assert_eq!(shop.engine.workloads().len(), 1);
}
