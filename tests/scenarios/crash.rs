//! What goes wrong, and wherever: no msat is lost, every workload has an end and
//! every request its answer. On fakes with a paused clock.

use std::time::Duration;

use satlet::compute::BackendError;
use satlet::compute::fake::Op;
use satlet::core::ids::{PublicKey, RequestId};
use satlet::core::lease::{Lease, Phase};
use satlet::core::money::Msat;
use satlet::ledger::{self, ENDED, OUTBOX, PAYMENTS, PROOFS, REQUESTS};
use satlet::protocol::error::{Code, Money};
use satlet::protocol::reply::{Answer, Message, Outcome};
use satlet::protocol::request::Ask;
use satlet::provider::stores::Stores;
use satlet::provider::upkeep;
use satlet::relay::OutboxStore;
use satlet::wallet::WalletError;

use crate::support::shop::{Shop, body, key, new_id, spawn, status, stop, topup, until};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

/// The one answer, as stored; what was said meanwhile is none.
fn last_word(shop: &Shop, owner: PublicKey, id: RequestId) -> Option<Outcome> {
    let key = ledger::request_key(&owner, id);
    let row = shop.ctx().ledger().read(|r| r.get(&REQUESTS, &key));
    let text = row.unwrap()?.answer?;
    match serde_json::from_str(&text).unwrap() {
        Message::Reply(reply) => Some(reply.outcome),
        Message::Notice(_) => None,
    }
}

async fn answered(shop: &Shop, owner: PublicKey, id: RequestId) -> Outcome {
    let mut found = None;
    until("the last word", || {
        found = last_word(shop, owner, id);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Where the money of a lease that is over went.
fn assert_accounted(lease: &Lease) {
    let b = lease.money;
    let left = b.paid.checked_add(b.absorbed);
    let right = Msat::checked_sum([
        b.mint_fees,
        b.served,
        b.owed,
        b.refunded,
        b.refund_fees,
        b.credit,
    ]);
    assert_eq!(left, right, "{b:?}");
    assert!(lease.has_ended(), "{:?}", lease.phase);
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_in_time_though_a_top_ups_mint_has_gone_silent() {
    let shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    let lease = shop.spawn(me, 10).await.status.lease;
    shop.mint.lose_next_redeem();
    shop.mint.unknown_for(u32::MAX);
    let token = shop.mint.token(sat(50));
    shop.deliver(me, body(id, topup(&lease, token))).await;
    pass(110).await;
    assert!(!shop.lease(&lease).is_open(shop.ctx().now()));
    pass(shop.settings.timing.grace.as_secs() + 60).await;
    assert!(shop.lease(&lease).has_ended(), "{:?}", shop.lease(&lease));
    assert!(shop.engine.workloads().is_empty(), "nothing runs unpaid");
    // The mint comes back: it had taken the money, which goes back whole.
    shop.mint.unknown_for(0);
    let Outcome::Error(error) = answered(&shop, me, id).await else {
        panic!()
    };
    assert_eq!(error.code, Code::LeaseEnded);
    assert_eq!(error.money, Money::Taken);
    assert_eq!(error.refund.unwrap().amount_msat, sat(50));
    assert_accounted(&shop.lease(&lease));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_obeyed_though_a_top_ups_mint_has_gone_silent() {
    let shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    shop.mint.lose_next_redeem();
    shop.mint.unknown_for(u32::MAX);
    let token = shop.mint.token(sat(50));
    shop.deliver(me, body(new_id(), topup(&lease, token))).await;
    pass(5).await;
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
        panic!()
    };
    assert!(answer.refund.unwrap().amount_msat >= sat(98));
    assert!(shop.engine.workloads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_answered_though_its_refund_takes_longer_and_that_comes_by_notice() {
    let shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    let lease = shop.spawn(me, 100).await.status.lease;
    pass(10).await;
    shop.mint.set_down(true);
    let asked = tokio::time::Instant::now();
    shop.deliver(me, body(id, stop(&lease))).await;
    until("it is down", || shop.engine.workloads().is_empty()).await;
    let answer = loop {
        if let Some(answer) = last_word(&shop, me, id) {
            break answer;
        }
        assert!(
            asked.elapsed() < Duration::from_secs(150),
            "in bounded time"
        );
        pass(1).await;
    };
    let Outcome::Result(answer) = answer else {
        panic!()
    };
    let Answer::Stop(answer) = *answer else {
        panic!()
    };
    assert!(answer.refund.is_none());
    assert!(answer.served_msat > Msat::ZERO && answer.served_msat < sat(2));
    shop.mint.set_down(false);
    pass(60).await;
    let notice = shop.notices(me).into_iter().find(|n| n.event == "refund");
    let refund = notice.expect("a notice").refund.expect("with the money");
    assert!(refund.amount_msat >= sat(98));
    let Ok(Answer::Status(now)) = shop.ask(me, status(&lease)).await else {
        panic!()
    };
    assert_eq!(now.refunds, [refund], "and the status has it too");
    assert_accounted(&shop.lease(&lease));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_down_holds_up_no_refund() {
    let shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    let lease = shop.spawn(me, 100).await.status.lease;
    shop.engine.set_down(true);
    shop.deliver(me, body(id, stop(&lease))).await;
    pass(90).await;
    let Some(Outcome::Result(answer)) = last_word(&shop, me, id) else {
        panic!("no answer in bounded time")
    };
    let Answer::Stop(answer) = *answer else {
        panic!()
    };
    assert!(answer.refund.unwrap().amount_msat >= sat(98));
    assert_eq!(shop.engine.workloads().len(), 1, "it is not forgotten");
    shop.engine.set_down(false);
    pass(60).await;
    assert!(shop.engine.workloads().is_empty());
    assert_accounted(&shop.lease(&lease));
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_cannot_be_stopped_is_destroyed_in_the_end() {
    let shop = Shop::open().await;
    let lease = shop.spawn(key(1), 10).await.status.lease;
    let stuck = BackendError::Permanent("it cannot be stopped".to_owned());
    shop.engine.fail_next(Op::Stop, 10_000, stuck);
    pass(110 + shop.settings.timing.grace.as_secs() + 60).await;
    assert!(shop.engine.workloads().is_empty());
    assert!(shop.lease(&lease).has_ended());
}

#[tokio::test(start_paused = true)]
async fn a_payment_that_stays_unknown_is_called_pending_and_answered_when_it_is_known() {
    let mut shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    shop.mint.lose_next_redeem();
    shop.mint.unknown_for(u32::MAX);
    let text = body(id, spawn(shop.mint.token(sat(100))));
    shop.deliver(me, text.clone()).await;
    pass(shop.settings.timing.provision.as_secs() + 90).await;
    let pending = || {
        let sent = shop.sent().into_iter();
        sent.filter(|(_, text)| text.contains("payment_pending"))
            .count()
    };
    assert_eq!(pending(), 1, "told once");
    assert!(last_word(&shop, me, id).is_none(), "that is no last word");
    let leases = shop
        .ctx()
        .ledger()
        .read(|r| r.all(&ledger::LEASES))
        .unwrap();
    assert_eq!(leases[0].1.phase, Phase::Reserved, "room is held");
    shop.crash().await;
    shop.start().await;
    shop.deliver(me, text.clone()).await;
    pass(60).await;
    shop.mint.unknown_for(0);
    let Outcome::Result(answer) = answered(&shop, me, id).await else {
        panic!()
    };
    let Answer::Spawn(answer) = *answer else {
        panic!()
    };
    assert_eq!(answer.status.remaining_seconds, 1000);
    assert_eq!(shop.mint.total_redeem_calls(), 1);
    let left = shop.sent();
    let about = left
        .iter()
        .filter(|(_, text)| text.contains(&id.to_string()));
    assert_eq!(about.count(), 1, "only the last word is sent from here on");
}

#[tokio::test(start_paused = true)]
async fn room_is_not_held_for_ever_for_a_mint_that_has_gone_silent() {
    let shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    shop.mint.lose_next_redeem();
    shop.mint.unknown_for(u32::MAX);
    shop.deliver(me, body(id, spawn(shop.mint.token(sat(100)))))
        .await;
    pass(3600).await;
    let leases = shop.ctx().ledger().read(|r| r.all(&ledger::LEASES));
    assert!(leases.unwrap().iter().all(|(_, lease)| lease.has_ended()));
    assert!(
        last_word(&shop, me, id).is_none(),
        "not known is not settled"
    );
    shop.mint.unknown_for(0);
    let Outcome::Error(error) = answered(&shop, me, id).await else {
        panic!()
    };
    assert_eq!(error.money, Money::Taken);
    assert_eq!(error.refund.unwrap().amount_msat, sat(100));
    assert!(shop.engine.workloads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_top_ups_at_once_in_the_grace_time_both_become_time() {
    let shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 10).await.status.lease;
    pass(150).await;
    assert!(matches!(shop.lease(&lease).phase, Phase::Grace { .. }));
    shop.engine.hang(Op::Start);
    let ids = [new_id(), new_id()];
    for id in ids {
        let token = shop.mint.token(sat(20));
        shop.deliver(me, body(id, topup(&lease, token))).await;
    }
    pass(5).await;
    shop.engine.release();
    for id in ids {
        let Outcome::Result(answer) = answered(&shop, me, id).await else {
            panic!()
        };
        let Answer::Topup(answer) = *answer else {
            panic!()
        };
        assert_eq!(answer.added_seconds, 200);
    }
    let left = shop.lease(&lease).unserved_seconds(shop.ctx().now());
    assert!((360..=400).contains(&left), "{left}");
}

#[tokio::test(start_paused = true)]
async fn a_top_up_while_the_workload_comes_up_is_time() {
    let shop = Shop::open().await;
    let (me, id, more) = (key(1), new_id(), new_id());
    shop.engine.hang(Op::Create);
    shop.deliver(me, body(id, spawn(shop.mint.token(sat(100)))))
        .await;
    shop.engine.called(Op::Create, 1).await;
    let Ok(Answer::List { leases }) = shop.ask(me, Ask::List).await else {
        panic!()
    };
    let ask = topup(&leases[0].lease, shop.mint.token(sat(50)));
    shop.deliver(me, body(more, ask)).await;
    pass(2).await;
    shop.engine.release();
    let Outcome::Result(answer) = answered(&shop, me, more).await else {
        panic!("refused")
    };
    let Answer::Topup(answer) = *answer else {
        panic!()
    };
    assert_eq!(answer.added_seconds, 500);
    assert!(shop.lease(&leases[0].lease).sold_seconds == 1500);
}

#[tokio::test(start_paused = true)]
async fn a_top_up_beside_a_stop_is_refused_untouched_or_paid_back() {
    for head_start in [0, 1, 4, 7, 12, 20] {
        let shop = Shop::open().await;
        let (me, more, end) = (key(1), new_id(), new_id());
        let lease = shop.spawn(me, 100).await.status.lease;
        shop.mint.set_delay(Duration::from_secs(3));
        let token = shop.mint.token(sat(50));
        shop.deliver(me, body(more, topup(&lease, token.clone())))
            .await;
        pass(head_start).await;
        shop.deliver(me, body(end, stop(&lease))).await;
        let outcome = answered(&shop, me, more).await;
        answered(&shop, me, end).await;
        let over = shop.lease(&lease);
        assert_accounted(&over);
        match outcome {
            Outcome::Error(error) if error.money == Money::Untouched => {
                assert!(!shop.mint.is_spent(&token), "{error:?}");
                assert_eq!(over.money.paid, sat(100));
            }
            _ => assert_eq!(over.money.paid, sat(150)),
        }
        assert!(over.money.owed.is_zero());
        // Whatever was made is within the consumer's reach.
        let told: String = shop.sent().into_iter().map(|(_, text)| text).collect();
        for refund in &over.refunds {
            assert!(
                told.contains(&refund.id),
                "{} after {head_start} s",
                refund.id
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_taken_is_never_called_untouched_for_asking_too_often() {
    let shop = Shop::open_with(|s| s.requests.per_key_per_minute = 2).await;
    let (me, id) = (key(1), new_id());
    shop.engine.hang(Op::Create);
    let token = shop.mint.token(sat(100));
    let text = body(id, spawn(token.clone()));
    for _ in 0..6 {
        shop.deliver(me, text.clone()).await;
        pass(1).await;
    }
    assert!(shop.mint.is_spent(&token));
    let sent = shop.sent();
    assert!(
        !sent.iter().any(|(_, text)| text.contains("untouched")),
        "{sent:?}"
    );
    shop.engine.release();
    assert!(matches!(answered(&shop, me, id).await, Outcome::Result(_)));
}

#[tokio::test(start_paused = true)]
async fn a_young_purse_pays_back_what_it_has_and_the_rest_later() {
    let shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    let no = BackendError::Permanent("no such thing".to_owned());
    shop.engine.fail_next(Op::Create, 1, no);
    let (me, id) = (key(1), new_id());
    shop.deliver(me, body(id, spawn(shop.mint.token(sat(100)))))
        .await;
    let Outcome::Error(error) = answered(&shop, me, id).await else {
        panic!()
    };
    assert_eq!(error.code, Code::ProvisioningFailed);
    let part = error.refund.expect("what there is").amount_msat;
    assert!(part >= sat(97) && part < sat(100), "{part}");
    // Somebody else pays, and the rest can be made.
    shop.spawn(key(2), 100).await;
    pass(60).await;
    let notices = shop.notices(me);
    let rest = notices.iter().filter_map(|n| n.refund.as_ref());
    let all = Msat::checked_sum(rest.map(|r| r.amount_msat).chain([part]));
    assert_eq!(
        all,
        Some(sat(100)),
        "the whole face comes back: {notices:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_pays_one_lease_and_one_that_was_not_taken_can_be_brought_again() {
    let shop = Shop::open().await;
    let token = shop.mint.token(sat(100));
    let ids = [new_id(), new_id()];
    for (n, id) in (1..).zip(ids) {
        shop.deliver(key(n), body(id, spawn(token.clone()))).await;
    }
    let mut got = Vec::new();
    for (n, id) in (1..).zip(ids) {
        got.push(answered(&shop, key(n), id).await);
    }
    let leases = got.iter().filter(|o| matches!(o, Outcome::Result(_)));
    assert_eq!(leases.count(), 1);
    let refused = got.iter().find_map(|outcome| match outcome {
        Outcome::Error(error) => Some(error.code.clone()),
        Outcome::Result(_) => None,
    });
    assert_eq!(refused, Some(Code::TokenInUse));
    assert_eq!(shop.mint.total_redeem_calls(), 1);
    // Refused by the mint with nothing taken: the same token, and another lease.
    let again = shop.mint.token(sat(100));
    shop.mint
        .fail_next_redeem(WalletError::Refused("not now".to_owned()));
    let error = shop.ask(key(3), spawn(again.clone())).await.unwrap_err();
    assert_eq!(
        (error.code, error.money),
        (Code::MintRefused, Money::Untouched)
    );
    assert!(shop.ask(key(4), spawn(again)).await.is_ok());
}

/// Every msat and every workload, after a power cut at any moment.
#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_of_a_spawn_and_a_stop_loses_nothing() {
    for cut in 0..14u64 {
        let mut shop = Shop::open().await;
        let (me, id, end) = (key(1), new_id(), new_id());
        shop.mint.set_delay(Duration::from_millis(700));
        shop.engine.set_slow(Duration::from_millis(500));
        let token = shop.mint.token(sat(100));
        shop.stored(me, body(id, spawn(token.clone()))).await;
        tokio::time::sleep(Duration::from_millis(cut * 300)).await;
        shop.crash().await;
        shop.start().await;
        let outcome = answered(&shop, me, id).await;
        assert!(shop.mint.total_redeem_calls() <= 1, "cut {cut}");
        let Outcome::Result(answer) = outcome else {
            assert!(!shop.mint.is_spent(&token), "cut {cut}");
            assert!(shop.engine.workloads().is_empty());
            continue;
        };
        let Answer::Spawn(answer) = *answer else {
            panic!()
        };
        assert_eq!(shop.engine.workloads().len(), 1, "cut {cut}");
        let lease = answer.status.lease;
        shop.stored(me, body(end, stop(&lease))).await;
        tokio::time::sleep(Duration::from_millis(cut * 200)).await;
        shop.crash().await;
        shop.start().await;
        let Outcome::Result(answer) = answered(&shop, me, end).await else {
            panic!("cut {cut}")
        };
        let Answer::Stop(answer) = *answer else {
            panic!()
        };
        let refund = answer.refund.expect("a refund");
        let back = Msat::checked_sum([
            answer.served_msat,
            refund.amount_msat,
            answer.refund_fee_msat,
            answer.credit_msat,
        ]);
        assert_eq!(back, Some(sat(100)), "cut {cut}");
        assert!(!shop.mint.is_spent(&refund.token));
        assert_accounted(&shop.lease(&lease));
        assert!(shop.engine.workloads().is_empty(), "cut {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_moved_no_money_is_forgotten_after_a_week_and_the_rest_is_kept() {
    let shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 10).await.status.lease;
    shop.mint
        .fail_next_redeem(WalletError::Refused("not now".to_owned()));
    shop.ask(me, spawn(shop.mint.token(sat(10))))
        .await
        .unwrap_err();
    shop.ask(me, status(&lease)).await.unwrap();
    let counts = || {
        let ledger = shop.ctx().ledger();
        ledger
            .read(|r| {
                Ok([
                    r.count(&ENDED)?,
                    r.count(&PAYMENTS)?,
                    r.count(&REQUESTS)?,
                    r.count(&PROOFS)?,
                ])
            })
            .unwrap()
    };
    pass(3600).await;
    upkeep::forget(shop.ctx()).await.unwrap();
    assert_eq!(counts(), [2, 2, 3, 4]);
    pass(8 * 24 * 3600).await;
    upkeep::forget(shop.ctx()).await.unwrap();
    upkeep::forget(shop.ctx()).await.unwrap();
    assert_eq!(counts(), [1, 1, 1, 2], "what was paid is kept");
    assert!(shop.lease(&lease).has_ended());
}

#[tokio::test(start_paused = true)]
async fn an_answer_asked_for_by_another_relay_while_it_is_sent_is_sent_there_too() {
    let shop = Shop::open().await;
    shop.spawn(key(1), 100).await;
    let store = Stores::new(std::sync::Arc::clone(shop.ctx()));
    let now = shop.ctx().now();
    let sending = store
        .due(now, 10, &Default::default())
        .await
        .unwrap()
        .remove(0);
    let waiting = || shop.ctx().ledger().read(|r| r.all(&OUTBOX)).unwrap();
    let (name, mut row) = waiting().remove(0);
    row.relays.push("ws://other.test".to_owned());
    let ledger = shop.ctx().ledger();
    ledger
        .write(move |tx| tx.put(&OUTBOX, &name, &row))
        .await
        .unwrap();
    store
        .confirmed(&sending.id, "ws://relay.test", now)
        .await
        .unwrap();
    assert_eq!(waiting().len(), 1, "the new one is still to be sent");
    let again = store
        .due(now, 10, &Default::default())
        .await
        .unwrap()
        .remove(0);
    store
        .confirmed(&again.id, "ws://other.test", now)
        .await
        .unwrap();
    assert!(waiting().is_empty());
}

#[test]
fn nothing_that_holds_a_token_shows_it() {
    let ask = spawn("cashuBsecret".to_owned());
    let lease = "aaaaaaaaaaaa".parse().unwrap();
    let more = topup(&lease, "cashuBsecret".to_owned());
    let shown = format!("{ask:?}{more:?}");
    assert!(!shown.contains("secret"), "{shown}");
}
