//! What becomes of refunds after they were made, and of tokens that nobody knows
//! of. On fakes with a paused clock.

use std::time::Duration;

use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::lease::{Lease, RefundState};
use satlet::core::money::Msat;
use satlet::core::time::Timestamp;
use satlet::ledger::TAKING;
use satlet::protocol::error::{Code, Money};
use satlet::protocol::reply::{Answer, LeaseStatus, Refund};
use satlet::provider::queries;
use satlet::provider::solvency::{self, Change};
use satlet::provider::strays::{self, Suspects};
use satlet::wallet::{Unit, Wallet, WalletError};

use crate::support::shop::{MINT, Shop, body, key, new_id, spawn, status, stop, topup, until};

mod real_mint;
mod two_mints;

const DAY: u64 = 24 * 3600;
/// How long these shops keep refunds.
const KEEP: u64 = 2 * 3600;

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

/// A shop at a mint with a fee.
async fn open() -> Shop {
    let shop = Shop::open_with(|s| s.refunds.keep = Duration::from_secs(KEEP)).await;
    shop.mint.set_fee_ppk(100);
    shop
}

/// A lease of 100 sat that was stopped at once, and its refund.
async fn refunded(shop: &Shop, me: PublicKey) -> (LeaseId, Refund) {
    let lease = shop.spawn(me, 100).await.status.lease;
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
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

fn is_made(shop: &Shop, lease: &LeaseId) -> bool {
    matches!(state(shop, lease), RefundState::Made { .. })
}

fn is_claimed(shop: &Shop, lease: &LeaseId) -> bool {
    matches!(state(shop, lease), RefundState::Claimed { .. })
}

fn is_taking(shop: &Shop, lease: &LeaseId) -> bool {
    matches!(state(shop, lease), RefundState::TakingBack { .. })
}

fn is_taken_back(shop: &Shop, lease: &LeaseId) -> bool {
    matches!(state(shop, lease), RefundState::TakenBack { .. })
}

async fn balance(shop: &Shop) -> Msat {
    let balances = shop.wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

/// What the wallet has to hold by the books of these leases: what came in and
/// did not go out.
fn by_the_books(leases: &[Lease]) -> Msat {
    let sum = |part: fn(&Lease) -> Msat| Msat::checked_sum(leases.iter().map(part)).unwrap();
    let came = sum(|l| l.money.paid);
    let went = sum(|l| {
        let b = l.money;
        Msat::checked_sum([b.mint_fees, b.refunded, b.refund_fees]).unwrap()
    });
    came.checked_sub(went).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_refund_is_delivered_until_its_owner_has_it_and_then_its_token_is_forgotten() {
    let shop = open().await;
    let me = key(1);
    let (lease, refund) = refunded(&shop, me).await;
    for _ in 0..3 {
        pass(1800).await;
        assert_eq!(
            seen(&shop, me, &lease).await.refunds,
            std::slice::from_ref(&refund)
        );
    }
    shop.mint.spend(&refund.token);
    pass(1200).await;
    assert!(is_claimed(&shop, &lease));
    assert_eq!(seen(&shop, me, &lease).await.refunds, []);
    let row = serde_json::to_string(&shop.lease(&lease)).unwrap();
    assert!(!row.contains(&refund.token), "the ledger has no use for it");
    let money = shop.lease(&lease).money;
    assert_eq!(money.refunded, refund.amount_msat);
    assert_eq!(balance(&shop).await, by_the_books(&[shop.lease(&lease)]));
    // It is not asked about for ever.
    let asked = shop.mint.checks();
    pass(2 * KEEP).await;
    assert_eq!(shop.mint.checks(), asked);
    assert!(is_claimed(&shop, &lease), "and is not taken back");
}

#[tokio::test(start_paused = true)]
async fn a_mint_is_asked_politely() {
    let shop = Shop::open_with(|s| s.requests.leases_per_key = 50).await;
    let (lease, _) = refunded(&shop, key(1)).await;
    let asked = shop.mint.checks();
    pass(2 * DAY).await;
    let one = shop.mint.checks() - asked;
    assert!((10..100).contains(&one), "{one} in two days");
    assert!(is_made(&shop, &lease));
    for n in 2..22 {
        refunded(&shop, key(n)).await;
    }
    for _ in 0..10 {
        let before = shop.mint.checks();
        pass(60).await;
        let more = shop.mint.checks() - before;
        assert!(more <= 12, "{more} in a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_took_in_time_is_its_owners_credit() {
    let shop = open().await;
    let me = key(1);
    let (lease, refund) = refunded(&shop, me).await;
    let before = shop.lease(&lease).money;
    let had = balance(&shop).await;
    pass(KEEP - 60).await;
    assert!(is_made(&shop, &lease), "not before the time is over");
    pass(KEEP).await;
    assert!(is_taken_back(&shop, &lease));
    assert!(shop.mint.is_spent(&refund.token));
    let money = shop.lease(&lease).money;
    let back = money.credit.checked_sub(before.credit).unwrap();
    assert_eq!(
        refund.amount_msat.checked_sub(back),
        Some(sat(1)),
        "less the mint's fee"
    );
    assert_eq!(
        money.served, before.served,
        "the provider has earned nothing"
    );
    assert_eq!(money.refunded, Msat::ZERO);
    assert_eq!(had.checked_add(back), Some(balance(&shop).await));
    assert_eq!(balance(&shop).await, by_the_books(&[shop.lease(&lease)]));
    let now = seen(&shop, me, &lease).await;
    assert_eq!((now.refunds, now.credit_msat), (vec![], money.credit));
    let payment = shop.wallet.inspect(&refund.token).unwrap().payment;
    assert_eq!(shop.mint.redeem_calls(payment), 1);
    let offer = satlet::provider::offer::current(shop.ctx()).await.unwrap();
    assert_eq!(offer.satlet.unwrap().limits.refund_keep_seconds, KEEP);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_of_taking_back_loses_nothing() {
    for cut in 0..16u64 {
        let mut shop = open().await;
        let (lease, refund) = refunded(&shop, key(1)).await;
        pass(KEEP - 120).await;
        shop.mint.set_delay(Duration::from_millis(700));
        let mut taking = false;
        // Until the round in which it is old enough.
        for _ in 0..4 * 3600 {
            pass(1).await;
            taking = is_taking(&shop, &lease);
            if taking {
                break;
            }
        }
        assert!(taking, "cut {cut}");
        tokio::time::sleep(Duration::from_millis(cut * 100)).await;
        shop.crash().await;
        shop.mint.set_delay(Duration::ZERO);
        shop.start().await;
        until("it is resolved", || !is_taking(&shop, &lease)).await;
        pass(KEEP).await;
        assert!(is_taken_back(&shop, &lease), "cut {cut}");
        assert!(shop.mint.is_spent(&refund.token));
        let over = shop.lease(&lease);
        assert!(over.balances(shop.ctx().now()));
        assert_eq!(balance(&shop).await, by_the_books(&[over]), "cut {cut}");
        let marks = shop.ctx().ledger().read(|r| r.count(&TAKING)).unwrap();
        assert_eq!(marks, 0);
    }
}

/// The mint had done it, and we died before we heard of it.
#[tokio::test(start_paused = true)]
async fn what_was_redeemed_before_a_power_cut_is_found_and_not_redeemed_again() {
    let mut shop = open().await;
    let (lease, refund) = refunded(&shop, key(1)).await;
    shop.mint.hold_next_redeem();
    until_secs(2 * KEEP, || shop.mint.is_spent(&refund.token)).await;
    assert!(is_taking(&shop, &lease));
    assert_eq!(seen(&shop, key(1), &lease).await.refunds, []);
    shop.crash().await;
    shop.start().await;
    until("it is booked", || is_taken_back(&shop, &lease)).await;
    let payment = shop.wallet.inspect(&refund.token).unwrap().payment;
    assert_eq!(shop.mint.redeem_calls(payment), 1);
    assert_eq!(balance(&shop).await, by_the_books(&[shop.lease(&lease)]));
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_while_it_is_asked_about_changes_nothing() {
    for cut in 0..8u64 {
        let mut shop = open().await;
        let (lease, refund) = refunded(&shop, key(1)).await;
        shop.mint.set_delay(Duration::from_millis(700));
        shop.mint.spend(&refund.token);
        pass(55).await;
        tokio::time::sleep(Duration::from_millis(cut * 900)).await;
        shop.crash().await;
        shop.mint.set_delay(Duration::ZERO);
        shop.start().await;
        until("it is claimed", || is_claimed(&shop, &lease)).await;
        assert_eq!(balance(&shop).await, by_the_books(&[shop.lease(&lease)]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_is_down_changes_nothing_until_it_is_back() {
    let shop = open().await;
    let (taken, one) = refunded(&shop, key(1)).await;
    let (left, _) = refunded(&shop, key(2)).await;
    shop.mint.spend(&one.token);
    shop.mint.set_down(true);
    pass(2 * KEEP).await;
    assert!(is_made(&shop, &taken) && is_made(&shop, &left));
    shop.mint.set_down(false);
    pass(120).await;
    assert!(
        is_claimed(&shop, &taken),
        "it is asked as soon as it answers"
    );
    assert!(is_taken_back(&shop, &left));
    let leases = [shop.lease(&taken), shop.lease(&left)];
    assert_eq!(balance(&shop).await, by_the_books(&leases));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_about_and_not_tried_again() {
    let shop = open().await;
    let (lease, refund) = refunded(&shop, key(1)).await;
    shop.mint.lose_next_redeem();
    shop.mint.unknown_for(5);
    pass(KEEP + 4 * 3600).await;
    assert!(is_taken_back(&shop, &lease));
    let payment = shop.wallet.inspect(&refund.token).unwrap().payment;
    assert_eq!(shop.mint.redeem_calls(payment), 1);
    assert_eq!(balance(&shop).await, by_the_books(&[shop.lease(&lease)]));
}

#[tokio::test(start_paused = true)]
async fn a_redemption_that_took_nothing_leaves_the_refund_to_its_owner() {
    let shop = open().await;
    let (lease, refund) = refunded(&shop, key(1)).await;
    shop.mint
        .fail_next_redeem(WalletError::Refused("not now".to_owned()));
    until_secs(2 * KEEP, || shop.mint.total_redeem_calls() > 1).await;
    pass(1).await;
    assert!(is_made(&shop, &lease));
    assert_eq!(seen(&shop, key(1), &lease).await.refunds, [refund]);
    pass(KEEP).await;
    assert!(is_taken_back(&shop, &lease), "later it is tried again");
}

/// Second by second, for at most so many.
async fn until_secs(most: u64, mut done: impl FnMut() -> bool) {
    for _ in 0..most {
        if done() {
            return;
        }
        pass(1).await;
    }
    panic!("never");
}

#[tokio::test(start_paused = true)]
async fn an_owner_who_is_faster_than_we_has_the_money() {
    let shop = open().await;
    let (lease, refund) = refunded(&shop, key(1)).await;
    shop.mint.set_delay(Duration::from_secs(3));
    until_secs(2 * KEEP, || is_taking(&shop, &lease)).await;
    shop.mint.spend(&refund.token);
    pass(60).await;
    assert!(is_claimed(&shop, &lease));
    assert_eq!(balance(&shop).await, by_the_books(&[shop.lease(&lease)]));
}

#[tokio::test(start_paused = true)]
async fn nobody_pays_with_a_refund_that_is_being_taken_back_and_the_other_way_round() {
    let shop = open().await;
    let me = key(1);
    let (lease, refund) = refunded(&shop, me).await;
    shop.mint.set_delay(Duration::from_secs(5));
    until_secs(2 * KEEP, || is_taking(&shop, &lease)).await;
    // In the middle of it, with the mint's answer on its way.
    shop.mint.lose_next_redeem();
    shop.mint.unknown_for(2);
    let error = shop.ask(me, spawn(refund.token.clone())).await.unwrap_err();
    assert_eq!(
        (error.code, error.money),
        (Code::TokenInUse, Money::Untouched)
    );
    pass(600).await;
    assert!(is_taken_back(&shop, &lease));
    assert_eq!(balance(&shop).await, by_the_books(&[shop.lease(&lease)]));

    // It is a payment, of which nobody knows what became, when it is old.
    let shop = open().await;
    let (lease, refund) = refunded(&shop, me).await;
    let other = shop.spawn(key(2), 1000).await.status.lease;
    shop.mint
        .fail_next_redeem(WalletError::OutcomeUnknown("no answer".to_owned()));
    shop.mint.unknown_for(u32::MAX);
    let id = new_id();
    shop.deliver(key(2), body(id, topup(&other, refund.token.clone())))
        .await;
    pass(KEEP + 4 * 3600).await;
    assert!(is_made(&shop, &lease), "it is not ours to take");
    assert!(!shop.mint.is_spent(&refund.token));
    shop.mint.unknown_for(0);
    pass(KEEP).await;
    assert!(is_taken_back(&shop, &lease), "the payment came to nothing");
    let leases = [shop.lease(&lease), shop.lease(&other)];
    assert_eq!(balance(&shop).await, by_the_books(&leases));
}

/// E9: the token was made, and we died before it was written down.
#[tokio::test(start_paused = true)]
async fn a_token_that_was_made_and_not_written_down_comes_back_and_the_refund_is_made_again() {
    let mut shop = open().await;
    let me = key(1);
    // Enough for making one twice.
    shop.wallet.fund(&shop.mint.url(), &Unit::Sat, sat(200));
    let (known, one) = refunded(&shop, key(2)).await;
    let lease = shop.spawn(me, 100).await.status.lease;
    let before = shop.wallet.pending_sends().await.unwrap();
    shop.mint.hold_next_send();
    let id = new_id();
    shop.stored(me, body(id, stop(&lease))).await;
    pass(2).await;
    let after = shop.wallet.pending_sends().await.unwrap();
    assert_eq!((before.len(), after.len()), (1, 2), "it was made");
    let stray = after.into_iter().find(|s| !before.contains(s)).unwrap();
    assert!(shop.lease(&lease).refund_to_make().is_some());
    let had = balance(&shop).await;
    shop.crash().await;
    shop.start().await;
    let Ok(Answer::Stop(answer)) = shop.answer(me, id).await else {
        panic!()
    };
    let refund = answer.refund.expect("made again");
    assert_ne!(refund.token, stray.token);
    assert!(shop.mint.is_spent(&stray.token), "taken back");
    assert!(!shop.mint.is_spent(&refund.token));
    assert!(!shop.mint.is_spent(&one.token), "the other was not touched");
    assert!(is_made(&shop, &known) && is_made(&shop, &lease));
    // What it cost beyond the books: the mint's fee of making it and of taking
    // it back.
    let leases = [shop.lease(&known), shop.lease(&lease)];
    let books = by_the_books(&leases).checked_add(sat(200)).unwrap();
    assert_eq!(books.checked_sub(balance(&shop).await), Some(sat(2)));
    let back = stray.face.checked_sub(sat(1)).unwrap();
    let out = refund.amount_msat.checked_add(sat(1)).unwrap();
    let now = had.checked_add(back).and_then(|had| had.checked_sub(out));
    assert_eq!(now, Some(balance(&shop).await));
    assert_eq!(shop.wallet.pending_sends().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_answer_was_lost_comes_back_before_another_is_made() {
    let shop = open().await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    // Too little for making it twice, and enough for the fees of the first.
    shop.wallet.fund(&shop.mint.url(), &Unit::Sat, sat(5));
    shop.mint.lose_next_send();
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
        panic!()
    };
    let refund = answer.refund.unwrap();
    let out = shop.wallet.pending_sends().await.unwrap();
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].token, refund.token);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_answer_was_lost_comes_back_while_we_run() {
    let shop = open().await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    // Enough for making it twice.
    shop.wallet.fund(&shop.mint.url(), &Unit::Sat, sat(200));
    shop.mint.lose_next_send();
    // It is taken back at once, and that answer is lost too.
    shop.mint.lose_next_redeem();
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
        panic!()
    };
    let refund = answer.refund.unwrap();
    let mut suspects = Suspects::default();
    for _ in 0..3 {
        strays::look(shop.ctx(), &mut suspects).await.unwrap();
    }
    let left = shop.wallet.pending_sends().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].token, refund.token, "what is known stays out");
    assert!(!shop.mint.is_spent(&refund.token));
    let books = by_the_books(&[shop.lease(&lease)]).checked_add(sat(200));
    let lost = books.unwrap().checked_sub(balance(&shop).await);
    assert_eq!(
        lost,
        Some(sat(2)),
        "the mint's fees of making and taking back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_being_made_is_nobodys_stray() {
    let shop = open().await;
    let (me, id) = (key(1), new_id());
    let lease = shop.spawn(me, 100).await.status.lease;
    // Made, and the answer is on its way.
    shop.mint.hold_next_send();
    shop.deliver(me, body(id, stop(&lease))).await;
    pass(2).await;
    assert_eq!(shop.wallet.pending_sends().await.unwrap().len(), 1);
    let token = shop.wallet.pending_sends().await.unwrap()[0].token.clone();
    let mut suspects = Suspects::default();
    for _ in 0..5 {
        strays::look(shop.ctx(), &mut suspects).await.unwrap();
        pass(5).await;
    }
    assert!(!shop.mint.is_spent(&token), "somebody waits for it");
    // Its money has left the wallet and is still owed: that is no shortfall.
    assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), []);
    // That one gives up; now it is a stray.
    shop.wallet.fund(&shop.mint.url(), &Unit::Sat, sat(200));
    pass(200).await;
    strays::look(shop.ctx(), &mut suspects).await.unwrap();
    assert!(shop.mint.is_spent(&token));
    let Ok(Answer::Stop(answer)) = shop.answer(me, id).await else {
        panic!()
    };
    assert!(answer.refund.is_some() || is_made(&shop, &lease));
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_ledger_is_left_alone() {
    let shop = open().await;
    shop.wallet.fund(&shop.mint.url(), &Unit::Sat, sat(200));
    shop.wallet.set_time(Timestamp::from_secs(1_000));
    let mint = shop.mint.url();
    let old = shop.wallet.send(&mint, &Unit::Sat, sat(50), false).await;
    let old = old.unwrap();
    let mut suspects = Suspects::default();
    strays::look(shop.ctx(), &mut suspects).await.unwrap();
    assert!(!shop.mint.is_spent(&old.token), "the ledger is empty");
    shop.spawn(key(1), 100).await;
    strays::look(shop.ctx(), &mut suspects).await.unwrap();
    assert!(!shop.mint.is_spent(&old.token), "the ledger is younger");
    shop.wallet.set_time(Timestamp::from_secs(u64::MAX));
    let new = shop.wallet.send(&mint, &Unit::Sat, sat(50), false).await;
    strays::look(shop.ctx(), &mut suspects).await.unwrap();
    assert!(shop.mint.is_spent(&new.unwrap().token));
}

#[tokio::test(start_paused = true)]
async fn a_shortfall_is_told_once_when_it_begins_and_once_when_it_ends() {
    let shop = open().await;
    let purse = (MINT.to_owned(), "sat".to_owned());
    assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), []);
    let lease = shop.spawn(key(1), 100).await.status.lease;
    assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), []);
    // Somebody takes money out that is not his.
    let mint = shop.mint.url();
    let out = shop.wallet.send(&mint, &Unit::Sat, sat(40), false).await;
    out.unwrap();
    let short = solvency::watch(shop.ctx()).await.unwrap();
    let missing = match &short[..] {
        [Change::Short(at, missing)] if *at == purse => *missing,
        other => panic!("{other:?}"),
    };
    assert!(missing > sat(38) && missing <= sat(41), "{missing}");
    let money = queries::money(shop.ctx()).await.unwrap();
    assert_eq!(money.purses.len(), 1);
    assert_eq!(money.purses[0].short_msat, missing);
    assert!(money.purses[0].short_since.is_some());
    assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), []);
    // Time is served, and what may have to go back is less.
    pass(500).await;
    let change = solvency::watch(shop.ctx()).await.unwrap();
    assert_eq!(change, [Change::Enough(purse)]);
    let money = queries::money(shop.ctx()).await.unwrap();
    assert_eq!(money.purses[0].short_since, None);
    assert!(!shop.lease(&lease).has_ended());
}

#[tokio::test(start_paused = true)]
async fn the_operators_view_adds_up() {
    let shop = open().await;
    let (_, refund) = refunded(&shop, key(1)).await;
    let lease = shop.spawn(key(2), 100).await.status.lease;
    pass(100).await;
    let money = queries::money(shop.ctx()).await.unwrap();
    let [purse] = &money.purses[..] else {
        panic!("{money:?}")
    };
    assert_eq!((purse.mint.as_str(), purse.unit.as_str()), (MINT, "sat"));
    assert_eq!(purse.balance_msat, balance(&shop).await);
    assert_eq!(purse.unclaimed_msat, refund.amount_msat);
    assert_eq!(purse.owed_msat, Msat::ZERO);
    let left = shop.lease(&lease).unserved_seconds(shop.ctx().now());
    assert_eq!(purse.unserved_msat, Msat::new(left * 100));
    let float = Msat::checked_sum([purse.owed_msat, purse.credit_msat, purse.unserved_msat]);
    assert_eq!(Some(purse.float_msat), float);
    // All that is in the wallet is either the owners' or ours.
    let earned = Msat::new(u64::try_from(purse.earned_msat).unwrap());
    let all = purse.float_msat.checked_add(earned);
    assert_eq!(all, Some(purse.balance_msat));
    assert!(purse.short_msat.is_zero() && purse.short_since.is_none());
    assert!(purse.mint_fees_msat >= sat(3), "{}", purse.mint_fees_msat);
}

#[tokio::test(start_paused = true)]
async fn credit_of_leases_that_are_over_pays_for_the_next_one() {
    let mut shop = open().await;
    let (me, other) = (key(1), key(2));
    let (lease, _) = refunded(&shop, me).await;
    pass(2 * KEEP).await;
    assert!(is_taken_back(&shop, &lease));
    let credit = shop.lease(&lease).money.credit;
    assert!(credit > sat(90), "{credit}");
    let plain = shop.spawn(other, 100).await.status.remaining_seconds;
    assert_eq!(shop.lease(&lease).money.credit, credit, "it is not theirs");
    // A payment that is not taken takes no credit either.
    shop.mint
        .fail_next_redeem(WalletError::Refused("not now".to_owned()));
    let token = shop.mint.token(sat(100));
    shop.ask(me, spawn(token)).await.unwrap_err();
    assert_eq!(shop.lease(&lease).money.credit, credit);

    let next = shop.spawn(me, 100).await.status;
    let more = next.remaining_seconds - plain;
    assert!(
        more.abs_diff(credit.get() / 100) <= 1,
        "{more} s for {credit}"
    );
    let (old, new) = (shop.lease(&lease), shop.lease(&next.lease));
    assert_eq!(old.money.credit, Msat::ZERO);
    assert_eq!((old.money.moved, new.money.brought), (credit, credit));
    let now = shop.ctx().now();
    assert!(old.balances(now) && new.balances(now));
    assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), []);
    shop.crash().await;
    shop.start().await;
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&next.lease)).await else {
        panic!()
    };
    let back = answer.refund.unwrap().amount_msat;
    assert!(back > sat(190), "it comes back as money: {back}");
    let third = shop.spawn(me, 10).await.status;
    assert!(third.remaining_seconds <= 100, "credit is used once");
}
