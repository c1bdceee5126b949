//! The ledger's file is lost; workloads run, and the wallet is there.

use std::time::Duration;

use satlet::compute::Observed;
use satlet::core::lease::Phase;
use satlet::core::money::Msat;
use satlet::ledger::{ENDED, FILE, LEASES, PAYMENTS};
use satlet::protocol::error::{Code, Money};
use satlet::protocol::reply::{Answer, LeaseState};
use satlet::provider::control::Withdrawal;
use satlet::provider::strays::{self, Suspects};
use satlet::provider::{payouts, queries, solvency};
use satlet::wallet::fake::{Fate, invoice};
use satlet::wallet::{Unit, Wallet};

use crate::support::shop::{MINT, Shop, body, key, new_id, spawn, status, stop, topup};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

/// As if the daemon had died and its ledger with it.
async fn lose_ledger(shop: &mut Shop) {
    shop.crash().await;
    std::fs::remove_file(shop.dir.path().join(FILE)).unwrap();
    shop.start().await;
}

async fn unexplained(shop: &Shop) -> Msat {
    let all = solvency::unexplained(shop.ctx()).await.unwrap();
    let purse = (MINT.to_owned(), "sat".to_owned());
    let there = all.get(&purse).copied().unwrap_or_default();
    let money = queries::money(shop.ctx()).await.unwrap();
    assert_eq!(money.purses[0].unexplained_msat, there);
    there
}

async fn balance(shop: &Shop) -> Msat {
    let all = shop.wallet.balances().await.unwrap();
    Msat::checked_sum(all.into_values()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn leases_are_rebuilt_from_their_workloads_and_end_at_their_time() {
    let mut shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    let me = key(1);
    let sold = shop.spawn(me, 101).await.status;
    assert_eq!(unexplained(&shop).await, Msat::ZERO);
    pass(400).await;
    lose_ledger(&mut shop).await;

    let Ok(Answer::Status(now)) = shop.ask(me, status(&sold.lease)).await else {
        panic!()
    };
    assert_eq!(now.state, LeaseState::Active);
    assert_eq!(now.expires_at, sold.expires_at);
    assert_eq!(now.tier, sold.tier);
    assert_eq!(
        now.access.unwrap().user,
        sold.access.unwrap().user,
        "its owner gets in as before"
    );
    let lease = shop.lease(&sold.lease);
    assert_eq!(lease.ssh_keys.len(), 1);
    assert_eq!(lease.tier.rate_msat_per_s, 100);
    let other = shop.ask(key(2), status(&sold.lease)).await;
    assert_eq!(other.unwrap_err().code, Code::NotFound);
    assert_eq!(shop.engine.workloads().len(), 1);

    // What is left is its owner's; what was earned before is explained by nothing.
    let left = lease.unserved_seconds(shop.ctx().now());
    let rest = balance(&shop).await.checked_sub(Msat::new(left * 100));
    assert_eq!(Some(unexplained(&shop).await), rest);
    let before = balance(&shop).await;
    let out = Withdrawal {
        to: invoice(sat(1), Fate::Pays),
        amount: None,
        mint: None,
        unit: None,
        max_fee_msat: None,
        unexplained: false,
    };
    let refused = payouts::withdraw(shop.ctx(), out).await.unwrap_err();
    assert!(refused.contains("explains"), "{refused}");
    assert_eq!(balance(&shop).await, before);
    let money = queries::money(shop.ctx()).await.unwrap();
    assert_eq!(money.purses[0].earned_msat, 0);

    pass(left + 5).await;
    assert!(matches!(shop.lease(&sold.lease).phase, Phase::Grace { .. }));
    pass(2_000).await;
    assert!(shop.engine.workloads().is_empty(), "destroyed at its end");
    assert!(shop.lease(&sold.lease).has_ended());
    assert_eq!(Some(unexplained(&shop).await), rest, "and no more");
    assert_eq!(
        queries::money(shop.ctx()).await.unwrap().purses[0].earned_msat,
        i64::try_from(left * 100).unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn a_top_up_is_noted_on_the_workload() {
    let mut shop = Shop::open().await;
    let me = key(1);
    let sold = shop.spawn(me, 100).await.status;
    let token = shop.mint.token(sat(200));
    assert!(shop.ask(me, topup(&sold.lease, token)).await.is_ok());
    let end = shop.lease(&sold.lease).expires_at;
    pass(shop.settings.timing.look.as_secs() + 5).await;
    let owned = shop.ctx().parts.backend.list_owned().await.unwrap();
    assert_eq!(Some(owned[0].labels.expires_at), end);
    lose_ledger(&mut shop).await;
    assert_eq!(shop.lease(&sold.lease).expires_at, end);
    // It is paid again, and stopped: what is left of both comes back.
    let token = shop.mint.token(sat(100));
    assert!(shop.ask(me, topup(&sold.lease, token)).await.is_ok());
    let left = shop.lease(&sold.lease).unserved_seconds(shop.ctx().now());
    let Ok(Answer::Stop(stopped)) = shop.ask(me, stop(&sold.lease)).await else {
        panic!()
    };
    let back = stopped.refund.unwrap().amount_msat;
    assert!(back.whole_sat() + 3 > left / 10, "{back} of {left} s");
    assert!(shop.engine.workloads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_relays_bring_again_buys_nothing_and_moves_nothing() {
    let mut shop = Shop::open().await;
    let me = key(1);
    let (first, again) = (new_id(), new_id());
    let token = shop.mint.token(sat(100));
    let asked = body(first, spawn(token.clone()));
    shop.deliver(me, asked.clone()).await;
    let Ok(Answer::Spawn(sold)) = shop.answer(me, first).await else {
        panic!()
    };
    let added = shop.mint.token(sat(50));
    let more = body(again, topup(&sold.status.lease, added));
    shop.deliver(me, more.clone()).await;
    assert!(shop.answer(me, again).await.is_ok());
    let had = balance(&shop).await;
    lose_ledger(&mut shop).await;

    shop.deliver(me, asked).await;
    let Ok(Answer::Spawn(told)) = shop.answer(me, first).await else {
        panic!()
    };
    assert_eq!(told.status.lease, sold.status.lease);
    assert_eq!(
        (told.paid_msat, told.mint_fee_msat),
        (sold.paid_msat, sold.mint_fee_msat)
    );
    shop.deliver(me, more).await;
    let refused = shop.answer(me, again).await.unwrap_err();
    assert_eq!(refused.code, Code::TokenSpent);
    assert_eq!(refused.money, Money::Untouched);
    // The same token with another request.
    let refused = shop.ask(me, spawn(token)).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.money),
        (Code::TokenSpent, Money::Untouched)
    );
    assert_eq!(shop.engine.workloads().len(), 1);
    assert_eq!(balance(&shop).await, had);
    let leases = |reader: &satlet::ledger::Reader| reader.all(&LEASES);
    assert_eq!(shop.ctx().ledger().read(leases).unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_owed_is_reported_and_tokens_that_are_out_are_left_alone() {
    let mut shop = Shop::open().await;
    let me = key(1);
    // The wallet made its tokens before the new ledger began.
    shop.wallet.set_time(shop.ctx().now());
    let gone = shop.spawn(me, 100).await.status.lease;
    pass(300).await;
    let Ok(Answer::Stop(stopped)) = shop.ask(me, stop(&gone)).await else {
        panic!()
    };
    let out = stopped.refund.unwrap();
    let runs = shop.spawn(me, 100).await.status.lease;
    let mint = satlet::wallet::MintUrl(MINT.to_owned());
    let older = shop.wallet.send(&mint, &Unit::Sat, sat(5), false).await;
    let older = older.unwrap();
    pass(10).await;
    lose_ledger(&mut shop).await;
    strays::look(shop.ctx(), &mut Suspects::default())
        .await
        .unwrap();
    pass(5).await;
    strays::look(shop.ctx(), &mut Suspects::default())
        .await
        .unwrap();
    assert!(!shop.mint.is_spent(&older.token), "it may be somebody's");
    assert!(!shop.mint.is_spent(&out.token), "it is its owner's");
    let ended = shop.ctx().ledger().read(|reader| reader.all(&ENDED));
    assert!(ended.unwrap().is_empty());
    assert_eq!(shop.lease(&runs).phase, Phase::Active);
    assert!(!unexplained(&shop).await.is_zero());
    let payments = shop.ctx().ledger().read(|reader| reader.all(&PAYMENTS));
    assert!(payments.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_runs_past_all_that_is_known_gets_the_grace_time() {
    let mut shop = Shop::open().await;
    let me = key(1);
    let sold = shop.spawn(me, 100).await.status;
    shop.crash().await;
    std::fs::remove_file(shop.dir.path().join(FILE)).unwrap();
    pass(1_500).await;
    shop.start().await;
    let lease = shop.lease(&sold.lease);
    assert_eq!(lease.phase, Phase::Active);
    let grace = shop.settings.timing.grace.as_secs();
    let left = lease.unserved_seconds(shop.ctx().now());
    assert!(left <= grace && left + 5 > grace, "{left} of {grace}");
    let running = shop.engine.workload(&sold.lease).unwrap().state;
    assert!(matches!(running, Observed::Running { .. }));
    pass(3 * grace).await;
    assert!(shop.engine.workloads().is_empty());
}
