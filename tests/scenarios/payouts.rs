//! Money that leaves over Lightning. On fakes; where a server of Lightning
//! addresses is asked, in real time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use satlet::core::money::Msat;
use satlet::core::payout::PayoutState;
use satlet::ledger::{ENDED, PAYOUTS};
use satlet::protocol::reply::Answer;
use satlet::provider::control::{Amount, PayoutView, Withdrawal};
use satlet::provider::settings::SweepPolicy;
use satlet::provider::{payouts, queries, solvency};
use satlet::wallet::fake::{Fate, invoice, stale_invoice};
use satlet::wallet::{Unit, Wallet, read_invoice};

use crate::support::lightning::Server;
use crate::support::shop::{Shop, key, served, spawn, stop, until};

mod real_mint;

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

fn to(to: &str) -> Withdrawal {
    Withdrawal {
        to: to.to_owned(),
        amount: None,
        mint: None,
        unit: None,
        max_fee_msat: None,
        unexplained: false,
    }
}

/// A shop that has earned so much, at a mint with a fee.
async fn rich(sats: u64) -> Shop {
    let shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    earn(&shop, sats).await;
    shop
}

/// A lease that is over, for so much, and the money for it.
async fn earn(shop: &Shop, sats: u64) {
    let (now, tier) = (shop.ctx().now(), shop.settings.tiers[0].clone());
    let mint = shop.mint.url();
    let lease = served(tier, &mint, sat(sats), now);
    let put = shop
        .ctx()
        .ledger()
        .write(move |tx| tx.put(&ENDED, lease.id.as_str(), &lease));
    put.await.unwrap();
    shop.wallet.fund(&mint, &Unit::Sat, sat(sats));
}

async fn pay(shop: &Shop, bolt11: &str) -> Result<PayoutView, String> {
    payouts::withdraw(shop.ctx(), to(bolt11)).await
}

async fn balance(shop: &Shop) -> Msat {
    let balances = shop.wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

fn state(shop: &Shop, bolt11: &str) -> String {
    let hash = read_invoice(bolt11).unwrap().hash;
    let found = shop.ctx().ledger().read(|r| r.get(&PAYOUTS, &hash));
    found.unwrap().unwrap().state.name().to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_invoice_is_paid_once_and_shown_with_what_it_cost() {
    let shop = rich(1000).await;
    let bolt11 = invoice(sat(400), Fate::Pays);
    let paid = pay(&shop, &bolt11).await.unwrap();
    assert_eq!((paid.state.as_str(), paid.amount_msat), ("paid", sat(400)));
    // One for Lightning and one for the mint; one of the reserve came back.
    assert_eq!(paid.fee_msat, Some(sat(2)));
    assert_eq!(balance(&shop).await, sat(598));
    for again in [
        bolt11.clone(),
        format!("LIGHTNING:{}", bolt11.to_uppercase()),
    ] {
        assert_eq!(pay(&shop, &again).await.unwrap(), paid);
    }
    assert_eq!(shop.mint.paid(&bolt11), 1);
    assert_eq!(balance(&shop).await, sat(598));
    let money = queries::money(shop.ctx()).await.unwrap();
    let purse = &money.purses[0];
    assert_eq!(purse.withdrawn_msat, sat(400));
    assert_eq!(purse.payout_fees_msat, sat(2));
    assert_eq!(purse.leaving_msat, Msat::ZERO);
    assert_eq!(money.payouts, [paid]);
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_consumers_stays() {
    let shop = rich(100).await;
    let me = key(1);
    let lease = shop.spawn(me, 500).await.status.lease;
    let before = balance(&shop).await;
    // 100 are ours, less 5 for the fees of refunds; 499 or 500 are the lease's.
    for much in [93, 100, 500, 599] {
        let bolt11 = invoice(sat(much), Fate::Pays);
        let refused = pay(&shop, &bolt11).await.unwrap_err();
        assert!(refused.contains("kept for refunds"), "{much}: {refused}");
        assert_eq!(shop.mint.paid(&bolt11), 0);
    }
    assert_eq!(balance(&shop).await, before);
    assert!(queries::money(shop.ctx()).await.unwrap().payouts.is_empty());
    let bolt11 = invoice(sat(80), Fate::Pays);
    assert_eq!(pay(&shop, &bolt11).await.unwrap().state, "paid");
    // The refund is there in full.
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
        panic!()
    };
    assert!(answer.refund.unwrap().amount_msat > sat(480));
    assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn money_that_is_on_its_way_into_the_books_is_not_ours_yet() {
    let shop = rich(0).await;
    shop.mint.hold_next_redeem();
    let token = shop.mint.token(sat(500));
    let asked = crate::support::shop::body(crate::support::shop::new_id(), spawn(token));
    shop.stored(key(1), asked).await;
    let has = async || balance(&shop).await;
    while has().await.is_zero() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let bolt11 = invoice(sat(100), Fate::Pays);
    let refused = pay(&shop, &bolt11).await.unwrap_err();
    assert!(refused.contains("0 sat may leave"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_payment_under_way_is_asked_about_over_restarts_until_it_is_paid() {
    let mut shop = rich(1000).await;
    let bolt11 = invoice(sat(400), Fate::Pends);
    let begun = pay(&shop, &bolt11).await.unwrap();
    assert_eq!(begun.state, "pending");
    let held = balance(&shop).await;
    // Nothing else leaves meanwhile, and nobody is told that money is missing.
    let other = invoice(sat(10), Fate::Pays);
    let refused = pay(&shop, &other).await.unwrap_err();
    assert!(refused.contains("still open"), "{refused}");
    assert_eq!(solvency::watch(shop.ctx()).await.unwrap(), []);
    for _ in 0..3 {
        shop.crash().await;
        shop.start().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(state(&shop, &bolt11), "pending");
        assert_eq!(pay(&shop, &bolt11).await.unwrap().state, "pending");
        assert_eq!(balance(&shop).await, held);
        let money = queries::money(shop.ctx()).await.unwrap();
        assert_eq!(money.purses[0].leaving_msat, sat(403));
    }
    shop.crash().await;
    shop.mint.settle(true);
    shop.start().await;
    until("it is paid", || state(&shop, &bolt11) == "paid").await;
    assert_eq!(shop.mint.paid(&bolt11), 1);
    assert_eq!(balance(&shop).await, sat(598));
    assert_eq!(pay(&shop, &other).await.unwrap().state, "paid");
}

#[tokio::test(start_paused = true)]
async fn a_payment_under_way_that_fails_gives_the_money_back_and_may_be_tried_again() {
    let mut shop = rich(1000).await;
    let bolt11 = invoice(sat(400), Fate::Pends);
    assert_eq!(pay(&shop, &bolt11).await.unwrap().state, "pending");
    shop.crash().await;
    shop.mint.settle(false);
    shop.start().await;
    until("it failed", || state(&shop, &bolt11) == "failed").await;
    assert_eq!(balance(&shop).await, sat(1000));
    assert_eq!(shop.mint.paid(&bolt11), 0);
    let again = pay(&shop, &bolt11).await.unwrap();
    assert_eq!(again.state, "pending", "its invoice says so");
    shop.mint.settle(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(state(&shop, &bolt11), "paid");
    assert_eq!(balance(&shop).await, sat(598));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_out_by_asking() {
    let shop = rich(1000).await;
    let bolt11 = invoice(sat(100), Fate::Pays);
    shop.mint.lose_next_melt();
    let lost = pay(&shop, &bolt11).await.unwrap();
    assert_eq!(lost.state, "unknown");
    until("it is paid", || state(&shop, &bolt11) == "paid").await;
    assert_eq!(shop.mint.paid(&bolt11), 1);
    assert_eq!(balance(&shop).await, sat(898));
    // One that never arrived is not believed to have failed at once: it may be
    // on its way.
    let bolt11 = invoice(sat(100), Fate::Pays);
    shop.mint.drop_next_melt();
    assert_eq!(pay(&shop, &bolt11).await.unwrap().state, "unknown");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(state(&shop, &bolt11), "unknown");
    until("it failed", || state(&shop, &bolt11) == "failed").await;
    assert_eq!(balance(&shop).await, sat(898));
    assert_eq!(shop.mint.paid(&bolt11), 0);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_while_it_pays_finds_out_and_pays_no_more() {
    let mut shop = rich(1000).await;
    let bolt11 = invoice(sat(400), Fate::Pays);
    shop.mint.hold_next_melt();
    let waits = pay(&shop, &bolt11).await.unwrap();
    assert_eq!(waits.state, "melting");
    assert_eq!(pay(&shop, &bolt11).await.unwrap().state, "melting");
    shop.crash().await;
    shop.start().await;
    until("it is paid", || state(&shop, &bolt11) == "paid").await;
    assert_eq!(shop.mint.paid(&bolt11), 1);
    assert_eq!(balance(&shop).await, sat(598));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_paid_is_refused_with_a_reason() {
    let shop = rich(1000).await;
    for (asked, wanted) in [
        (to("lnbc1rubbish"), "not a Lightning invoice"),
        (to("me@"), "not a Lightning address"),
        (to("me@127.0.0.1:1"), "say how much"),
    ] {
        let refused = payouts::withdraw(shop.ctx(), asked).await.unwrap_err();
        assert!(refused.contains(wanted), "{refused}");
    }
    let bolt11 = invoice(sat(100), Fate::Pays);
    let dear = Withdrawal {
        max_fee_msat: Some(sat(2)),
        ..to(&bolt11)
    };
    let refused = payouts::withdraw(shop.ctx(), dear).await.unwrap_err();
    assert!(
        refused.contains("3 sat, and 2 sat are allowed"),
        "{refused}"
    );
    let amount = Withdrawal {
        amount: Some(Amount::Msat(sat(5))),
        ..to(&bolt11)
    };
    assert!(payouts::withdraw(shop.ctx(), amount).await.is_err());
    let elsewhere = Withdrawal {
        mint: Some("https://other.test".to_owned()),
        ..to(&bolt11)
    };
    assert!(payouts::withdraw(shop.ctx(), elsewhere).await.is_err());
    shop.mint.set_down(true);
    assert!(
        pay(&shop, &bolt11)
            .await
            .unwrap_err()
            .contains("does not answer")
    );
    shop.mint.set_down(false);
    let stale = stale_invoice(sat(100));
    assert!(pay(&shop, &stale).await.unwrap_err().contains("expired"));
    assert_eq!(
        (shop.mint.paid(&bolt11), balance(&shop).await),
        (0, sat(1000))
    );
    let fails = invoice(sat(100), Fate::Fails);
    let failed = pay(&shop, &fails).await.unwrap();
    assert_eq!((failed.state.as_str(), failed.fee_msat), ("failed", None));
    assert_eq!(balance(&shop).await, sat(1000));
}

fn policy(server: &Server, above: u64, keep: u64) -> SweepPolicy {
    SweepPolicy {
        to: Some(server.address.parse().unwrap()),
        above: sat(above),
        keep: sat(keep),
        every: Duration::from_secs(1),
        max_fee_percent: 2,
    }
}

fn payouts_of(shop: &Shop) -> Vec<satlet::core::payout::Payout> {
    let mut all = shop.ctx().ledger().read(satlet::ledger::payouts).unwrap();
    all.sort_by_key(|payout| payout.begun);
    all
}

async fn within(what: &str, done: impl FnMut() -> bool) {
    crate::support::world::until(what, done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_above_the_threshold_is_swept_and_the_float_stays() {
    let server = Server::start(Fate::Pays).await;
    let sweep = policy(&server, 300, 100);
    let mut shop = Shop::open_with(|settings| settings.sweep = sweep).await;
    shop.mint.set_fee_ppk(100);
    shop.spawn(key(1), 500).await;
    assert_eq!(shop.ctx().settings().timing.mint, Duration::from_secs(30));
    // Ours are 390 sat, of which 100 are kept: below the threshold.
    earn(&shop, 390).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!((server.asked(), payouts_of(&shop)), (0, Vec::new()));
    earn(&shop, 1000).await;
    within("it is swept", || {
        let swept = payouts_of(&shop);
        swept
            .first()
            .is_some_and(|one| matches!(one.state, PayoutState::Paid { .. }))
    })
    .await;
    let money = queries::money(shop.ctx()).await.unwrap();
    let purse = &money.purses[0];
    assert!(purse.withdrawn_msat > sat(1200), "{purse:?}");
    let stays = purse.float_msat.checked_add(sat(100)).unwrap();
    assert!(purse.balance_msat >= stays, "{purse:?}");
    // What is left is below the threshold: it is asked for nothing more.
    let asked = server.asked();
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(server.asked(), asked);
    assert_eq!(payouts_of(&shop).len(), 1);
    for bolt11 in server.invoices() {
        assert!(shop.mint.paid(&bolt11) <= 1);
    }
    // By hand, all that may leave: the float stays too.
    let all = Withdrawal {
        amount: Some(Amount::All),
        ..to(&server.address)
    };
    let paid = payouts::withdraw(shop.ctx(), all).await.unwrap();
    assert_eq!(paid.state, "paid");
    assert_eq!(paid.to.as_deref(), Some(server.address.as_str()));
    let money = queries::money(shop.ctx()).await.unwrap();
    assert!(money.purses[0].balance_msat >= money.purses[0].float_msat);
    assert!(money.purses[0].balance_msat < sat(530), "{money:?}");
    shop.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_sweep_is_under_way_no_other_invoice_is_asked_for() {
    let server = Server::start(Fate::Pends).await;
    let sweep = policy(&server, 100, 0);
    let mut shop = Shop::open_with(|settings| settings.sweep = sweep).await;
    earn(&shop, 1000).await;
    within("it is under way", || {
        payouts_of(&shop)
            .first()
            .is_some_and(|one| one.state == PayoutState::Pending)
    })
    .await;
    let asked = server.asked();
    earn(&shop, 1000).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    shop.crash().await;
    shop.start().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(server.asked(), asked, "one at a time");
    assert_eq!(payouts_of(&shop).len(), 1);
    shop.mint.settle(true);
    // Once it is paid, the rest follows.
    within("the next one", || payouts_of(&shop).len() == 2).await;
    let first = &payouts_of(&shop)[0];
    assert!(matches!(first.state, PayoutState::Paid { .. }));
    assert_eq!(shop.mint.paid(&first.bolt11), 1);
    shop.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_another_amount_gets_nothing() {
    let server = Server::start(Fate::Pays).await;
    let shop = rich(1000).await;
    let five = || Withdrawal {
        amount: Some(Amount::Msat(sat(5))),
        ..to(&server.address)
    };
    server.lie.store(1000, Ordering::SeqCst);
    let refused = payouts::withdraw(shop.ctx(), five()).await.unwrap_err();
    assert!(refused.contains("6 sat, not 5 sat"), "{refused}");
    let nobody = Withdrawal {
        amount: Some(Amount::Msat(sat(5))),
        ..to(&server.address.replace("me@", "nobody@"))
    };
    let refused = payouts::withdraw(shop.ctx(), nobody).await.unwrap_err();
    assert!(refused.contains("nobody of that name"), "{refused}");
    let small = Withdrawal {
        amount: Some(Amount::Msat(Msat::new(10))),
        unit: Some("msat".to_owned()),
        ..to(&server.address)
    };
    assert!(payouts::withdraw(shop.ctx(), small).await.is_err());
    assert_eq!(payouts_of(&shop), []);
    assert_eq!(balance(&shop).await, sat(1000));
    server.lie.store(0, Ordering::SeqCst);
    let paid = payouts::withdraw(shop.ctx(), five()).await.unwrap();
    assert_eq!((paid.state.as_str(), paid.amount_msat), ("paid", sat(5)));
}
