//! Refunds that are locked to a key which their owner gave. On fakes with a paused
//! clock.

use std::time::Duration;

use satlet::compute::BackendError;
use satlet::compute::fake::Op;
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::lease::{Lease, RefundState};
use satlet::core::money::Msat;
use satlet::core::payment::lock::{Lock, accept};
use satlet::protocol::error::{Code, Money};
use satlet::protocol::reply::{Answer, LeaseStatus, Refund};
use satlet::provider::solvency;
use satlet::wallet::fake::FakeWallet;
use satlet::wallet::{Wallet, WalletError};

use crate::support::shop::{Shop, key, refund_to, spawn, status, stop, topup, until};

/// How long these shops keep refunds.
const KEEP: u64 = 2 * 3600;

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

/// A shop at a mint with a fee, and a consumer's wallet there.
async fn open() -> (Shop, FakeWallet) {
    let shop = Shop::open_with(|s| s.refunds.keep = Duration::from_secs(KEEP)).await;
    shop.mint.set_fee_ppk(100);
    shop.mint.set_now(shop.ctx().now());
    let mine = FakeWallet::new([shop.mint.clone()]);
    (shop, mine)
}

/// Time passes, at the mint too.
async fn pass(shop: &Shop, secs: u64) {
    for _ in 0..secs.div_ceil(30) {
        tokio::time::sleep(Duration::from_secs(30)).await;
        shop.mint.set_now(shop.ctx().now());
    }
}

/// A lease of 100 sat that was stopped at once with a key for its refund.
async fn refunded(shop: &Shop, mine: &FakeWallet, me: PublicKey) -> (LeaseId, Refund) {
    let lease = shop.spawn(me, 100).await.status.lease;
    let key = mine.claim_key(0).unwrap();
    let Ok(Answer::Stop(answer)) = shop.ask(me, refund_to(&key, stop(&lease))).await else {
        panic!()
    };
    (lease, answer.refund.expect("a refund"))
}

async fn seen(shop: &Shop, me: PublicKey, lease: &LeaseId) -> LeaseStatus {
    match shop.ask(me, status(lease)).await {
        Ok(Answer::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

fn state(shop: &Shop, lease: &LeaseId) -> RefundState {
    shop.lease(lease).refunds[0].state.clone()
}

async fn balance(wallet: &FakeWallet) -> Msat {
    let balances = wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

/// What the wallet has to hold by the books: what came in and did not go out.
fn by_the_books(lease: &Lease) -> Msat {
    let b = lease.money;
    let went = Msat::checked_sum([b.mint_fees, b.refunded, b.refund_fees]).unwrap();
    b.paid.checked_sub(went).unwrap()
}

#[tokio::test(start_paused = true)]
async fn only_its_owner_can_redeem_it_and_after_the_locktime_we_can() {
    let (shop, mine) = open().await;
    let me = key(1);
    let (lease, refund) = refunded(&shop, &mine, me).await;
    let info = mine.inspect(&refund.token).unwrap();
    let to = mine.claim_key(0).unwrap();
    let lock = accept(&info.locks, &[to], shop.ctx().now(), Duration::ZERO);
    let until = shop.ctx().now().plus_secs(KEEP);
    assert_eq!(lock, Ok(Some(Lock { until: Some(until) })));
    let thief = FakeWallet::new([shop.mint.clone()]);
    let tries = [
        thief.redeem(info.payment, &refund.token).await,
        thief.claim(info.payment, &refund.token, 0).await,
        shop.wallet.redeem(info.payment, &refund.token).await,
        mine.redeem(info.payment, &refund.token).await,
    ];
    for tried in tries {
        assert!(matches!(tried, Err(WalletError::Refused(_))), "{tried:?}");
    }
    let got = mine.claim(info.payment, &refund.token, 0).await.unwrap();
    assert_eq!(balance(&mine).await, got.net);
    pass(&shop, 1200).await;
    assert!(matches!(state(&shop, &lease), RefundState::Claimed { .. }));
    let over = shop.lease(&lease);
    assert!(over.balances(shop.ctx().now()));
    assert_eq!(balance(&shop.wallet).await, by_the_books(&over));
    // 100 sat, a sat for each of four swaps: ours, the refund's, the lock's, theirs.
    assert!(got.net >= sat(94), "{got:?}");

    let (left, refund) = refunded(&shop, &mine, me).await;
    pass(&shop, KEEP - 60).await;
    assert!(matches!(state(&shop, &left), RefundState::Made { .. }));
    let shown = seen(&shop, me, &left).await.refunds;
    assert_eq!(shown, std::slice::from_ref(&refund));
    pass(&shop, KEEP).await;
    assert!(matches!(state(&shop, &left), RefundState::TakenBack { .. }));
    assert!(shop.mint.is_spent(&refund.token));
    let late = mine.claim(info.payment, &refund.token, 0).await;
    assert_eq!(late, Err(WalletError::Spent));
    let (one, two) = (shop.lease(&lease), shop.lease(&left));
    assert!(two.balances(shop.ctx().now()));
    assert!(two.money.credit >= sat(90), "its owner's: {:?}", two.money);
    let sum = by_the_books(&one).checked_add(by_the_books(&two)).unwrap();
    assert_eq!(balance(&shop.wallet).await, sum);
}

/// The newest key counts, wherever it came.
#[tokio::test(start_paused = true)]
async fn a_key_may_come_with_the_spawn_or_a_top_up() {
    for with_topup in [false, true] {
        let (shop, mine) = open().await;
        let (first, second) = (mine.claim_key(0).unwrap(), mine.claim_key(1).unwrap());
        let ask = refund_to(&first, spawn(shop.mint.token(sat(100))));
        let Ok(Answer::Spawn(sold)) = shop.ask(key(1), ask).await else {
            panic!()
        };
        let lease = sold.status.lease;
        if with_topup {
            let more = topup(&lease, shop.mint.token(sat(20)));
            shop.ask(key(1), refund_to(&second, more)).await.unwrap();
        }
        let Ok(Answer::Stop(stopped)) = shop.ask(key(1), stop(&lease)).await else {
            panic!()
        };
        let token = stopped.refund.unwrap().token;
        let payment = mine.inspect(&token).unwrap().payment;
        let (old, new) = (
            mine.claim(payment, &token, 0).await,
            mine.claim(payment, &token, 1).await,
        );
        assert_eq!((old.is_ok(), new.is_ok()), (!with_topup, with_topup));
    }
}

/// Our fault: its owner loses nothing by the lock.
#[tokio::test(start_paused = true)]
async fn what_we_could_not_give_comes_back_whole() {
    let (shop, mine) = open().await;
    // Money of ours to bear fees with.
    shop.wallet
        .fund(&shop.mint.url(), &satlet::wallet::Unit::Sat, sat(50));
    shop.engine.fail_next(
        Op::Create,
        1,
        BackendError::Permanent("no such thing".to_owned()),
    );
    let ask = refund_to(
        &mine.claim_key(0).unwrap(),
        spawn(shop.mint.token(sat(100))),
    );
    let error = shop.ask(key(1), ask).await.unwrap_err();
    assert_eq!(
        (error.code, error.money),
        (Code::ProvisioningFailed, Money::Taken)
    );
    let refund = error.refund.unwrap();
    assert_eq!(refund.amount_msat, sat(100));
    let payment = mine.inspect(&refund.token).unwrap().payment;
    mine.claim(payment, &refund.token, 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mint_without_locks_gives_unlocked_refunds_and_no_key_is_needed() {
    let (shop, mine) = open().await;
    shop.mint.set_locks(false);
    let (_, refund) = refunded(&shop, &mine, key(1)).await;
    let info = mine.inspect(&refund.token).unwrap();
    assert!(info.locks.iter().all(Option::is_none));
    mine.redeem(info.payment, &refund.token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_none_is_refused_with_everything_as_it_was() {
    let (shop, _) = open().await;
    let lease = shop.spawn(key(1), 100).await.status.lease;
    // No point has this x.
    let bad = format!("02{}", "f".repeat(64)).parse().unwrap();
    let (token, more) = (shop.mint.token(sat(100)), shop.mint.token(sat(10)));
    for ask in [
        spawn(token.clone()),
        topup(&lease, more.clone()),
        stop(&lease),
    ] {
        let error = shop.ask(key(1), refund_to(&bad, ask)).await.unwrap_err();
        assert!(error.message.contains("refund_key"), "{error:?}");
        let told = (error.code, error.money);
        assert_eq!(told, (Code::InvalidRequest, Money::Untouched));
    }
    assert!(!shop.mint.is_spent(&token) && !shop.mint.is_spent(&more));
    let state = seen(&shop, key(1), &lease).await.state;
    assert_eq!(state, satlet::protocol::reply::LeaseState::Active);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_while_it_is_locked_gives_the_same_token() {
    let (shop, mine) = open().await;
    shop.mint.lose_next_lock();
    let (lease, refund) = refunded(&shop, &mine, key(1)).await;
    let payment = mine.inspect(&refund.token).unwrap().payment;
    mine.claim(payment, &refund.token, 0).await.unwrap();
    let over = shop.lease(&lease);
    assert_eq!(balance(&shop.wallet).await, by_the_books(&over));
    assert_eq!(over.refunds.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_of_making_it_loses_nothing() {
    let mut seen_locking = false;
    for cut in 0..40u64 {
        let (mut shop, mine) = open().await;
        let me = key(1);
        let lease = shop.spawn(me, 100).await.status.lease;
        shop.mint.set_delay(Duration::from_millis(700));
        let to = mine.claim_key(0).unwrap();
        let id = crate::support::shop::new_id();
        let body = crate::support::shop::body(id, refund_to(&to, stop(&lease)));
        shop.stored(me, body).await;
        tokio::time::sleep(Duration::from_millis(cut * 100)).await;
        let refunds = shop.lease(&lease).refunds;
        let locking =
            |r: &satlet::core::lease::Refund| matches!(r.state, RefundState::Locking { .. });
        let midway = refunds.iter().any(locking);
        seen_locking |= midway;
        shop.crash().await;
        if midway {
            // What is being locked is owed, and gone from the wallet: no shortfall.
            shop.start().await;
            assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), [], "cut {cut}");
            shop.crash().await;
        }
        shop.mint.set_delay(Duration::ZERO);
        shop.start().await;
        let Ok(Answer::Stop(stopped)) = shop.answer(me, id).await else {
            panic!("cut {cut}")
        };
        let token = stopped.refund.unwrap().token;
        until("it is over", || shop.lease(&lease).has_ended()).await;
        let payment = mine.inspect(&token).unwrap().payment;
        mine.claim(payment, &token, 0).await.unwrap();
        let over = shop.lease(&lease);
        assert!(over.balances(shop.ctx().now()), "cut {cut}: {over:?}");
        // A plain token that was made and not written down was taken back, for
        // two fees of the mint.
        let books = by_the_books(&over);
        let has = balance(&shop.wallet).await;
        let lost = books.checked_sub(has).unwrap();
        assert!(lost <= sat(2), "cut {cut}: {books} {has}");
        shop.wallet.recover().await.unwrap();
        assert!(shop.wallet.pending_sends().await.unwrap().is_empty());
    }
    assert!(seen_locking, "it was cut off in the middle");
}

/// The mint refuses to lock it, for certain and for long.
#[tokio::test(start_paused = true)]
async fn what_a_mint_does_not_lock_is_given_unlocked_in_the_end() {
    let (shop, mine) = open().await;
    let lease = shop.spawn(key(1), 100).await.status.lease;
    shop.mint.refuse_locks(true);
    let to = mine.claim_key(0).unwrap();
    let id = crate::support::shop::new_id();
    let body = crate::support::shop::body(id, refund_to(&to, stop(&lease)));
    shop.deliver(key(1), body).await;
    pass(&shop, 1200).await;
    let refund = seen(&shop, key(1), &lease).await.refunds.remove(0);
    let info = mine.inspect(&refund.token).unwrap();
    assert!(info.locks.iter().all(Option::is_none));
    mine.redeem(info.payment, &refund.token).await.unwrap();
    let over = shop.lease(&lease);
    assert_eq!(balance(&shop.wallet).await, by_the_books(&over));
}
