//! The generosity pool: what is earned gives new keys a first lease. On fakes
//! with a paused clock.

use std::time::Duration;

use satlet::compute::BackendError;
use satlet::compute::fake::Op;
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::money::Msat;
use satlet::core::receipt::Receipt;
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::receipt::SignedReceipt;
use satlet::protocol::reply::{Answer, LeaseState, QuoteAnswer, SpawnAnswer, StopAnswer};
use satlet::protocol::request::{Ask, Funds, Quote, Spawn, Wanted};
use satlet::provider::control::PoolView;
use satlet::provider::{offer, queries};
use satlet::relay::receipt::open;

use crate::support::shop::{SSH_KEY, Shop, body, key, new_id, spawn, status, stop, topup, until};

const RATE: u64 = 100;

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

fn wanted(tier: Option<&str>) -> Wanted {
    Wanted {
        tier: tier.map(|tier| tier.parse().unwrap()),
        ssh_keys: vec![SSH_KEY.to_owned()],
        ..Wanted::default()
    }
}

fn gift_of(tier: Option<&str>) -> Ask {
    Ask::Spawn(Spawn {
        wanted: wanted(tier),
        funds: Funds::Gift,
        quote_id: None,
        refund_key: None,
    })
}

fn gift() -> Ask {
    gift_of(None)
}

/// A shop that gives a tenth of what it earns: 10 minutes at most.
async fn generous() -> Shop {
    let shop = Shop::open_with(|s| {
        s.pool.share_percent = 10;
        s.pool.per_key = sat(60);
        s.pool.new_per_day = sat(200);
    });
    shop.await
}

/// The same, after somebody paid for so many sat's worth of time and had it.
async fn earned(earned: u64) -> Shop {
    let shop = generous().await;
    serve(&shop, key(90), earned).await;
    shop
}

/// Sells so much to `owner` and serves all of it.
async fn serve(shop: &Shop, owner: PublicKey, worth: u64) {
    let lease = shop.spawn(owner, worth).await.status.lease;
    pass(worth * 1_000 / RATE + shop.settings.timing.grace.as_secs() + 30).await;
    assert!(shop.lease(&lease).has_ended());
}

async fn given(shop: &Shop, owner: PublicKey) -> SpawnAnswer {
    match shop.ask(owner, gift()).await {
        Ok(Answer::Spawn(answer)) => answer,
        other => panic!("no gift: {other:?}"),
    }
}

async fn refused(shop: &Shop, owner: PublicKey, ask: Ask) -> WireError {
    let error = shop.ask(owner, ask).await.unwrap_err();
    assert_eq!(error.money, Money::Untouched, "{error:?}");
    assert!(!error.suggestion.is_empty());
    error
}

async fn stopped(shop: &Shop, owner: PublicKey, lease: &LeaseId) -> StopAnswer {
    match shop.ask(owner, stop(lease)).await {
        Ok(Answer::Stop(answer)) => answer,
        other => panic!("not stopped: {other:?}"),
    }
}

async fn quoted(shop: &Shop, owner: PublicKey, tier: Option<&str>) -> QuoteAnswer {
    let (wanted, seconds) = (wanted(tier), None);
    match shop.ask(owner, Ask::Quote(Quote { wanted, seconds })).await {
        Ok(Answer::Quote(answer)) => answer,
        other => panic!("no quote: {other:?}"),
    }
}

async fn pool(shop: &Shop) -> PoolView {
    let money = queries::money(shop.ctx()).await.unwrap();
    let pool = money.pool.expect("a pool");
    let kept = pool.credited_msat.checked_add(pool.returned_msat);
    let spent = pool.balance_msat.checked_add(pool.given_msat);
    assert_eq!(kept, spent, "{pool:?}");
    pool
}

/// What it gave and did not get back.
async fn used(shop: &Shop) -> Msat {
    let pool = pool(shop).await;
    pool.given_msat.checked_sub(pool.returned_msat).unwrap()
}

fn read(shop: &Shop, signed: &SignedReceipt) -> Receipt {
    // Checks signature and sums.
    let receipt = open(signed).unwrap();
    assert_eq!(receipt.provider, shop.ctx().me());
    receipt
}

async fn balance(shop: &Shop) -> Msat {
    use satlet::wallet::Wallet;
    let balances = shop.wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_unless_the_operator_says_so() {
    let shop = Shop::open().await;
    serve(&shop, key(90), 1_000).await;
    let error = refused(&shop, key(1), gift()).await;
    assert_eq!(error.code, Code::NoGift);
    assert_eq!(error.message, "this provider gives nothing away");
    assert_eq!(quoted(&shop, key(1), None).await.gift_seconds, None);
    let offer = offer::current(shop.ctx()).await.unwrap();
    assert_eq!(offer.satlet.unwrap().pool, None);
    assert_eq!(queries::money(shop.ctx()).await.unwrap().pool, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_earned_gives_a_new_key_a_lease_and_what_it_leaves_is_given_again() {
    let shop = generous().await;
    let error = refused(&shop, key(1), gift()).await;
    assert_eq!(error.code, Code::NoGift);
    assert_eq!(error.message, "the pool is empty for now");
    serve(&shop, key(90), 1_000).await;
    let full = pool(&shop).await;
    assert_eq!(full.earned_msat, sat(1_000));
    assert_eq!(full.balance_msat, sat(100));
    let ours = offer::current(shop.ctx()).await.unwrap().satlet.unwrap();
    let told = ours.pool.expect("the offer says so");
    assert_eq!((told.tier.as_str(), told.max_seconds), ("small", 600));
    assert_eq!(quoted(&shop, key(1), None).await.gift_seconds, Some(600));
    assert_eq!(
        quoted(&shop, key(1), Some("large")).await.gift_seconds,
        None
    );

    let before = balance(&shop).await;
    let answer = given(&shop, key(1)).await;
    let lease = answer.status.lease.clone();
    assert_eq!(answer.status.state, LeaseState::Active);
    assert_eq!(answer.status.gift_seconds, Some(600));
    assert!(answer.status.access.is_some() && answer.status.remaining_seconds > 590);
    assert_eq!(
        (answer.paid_msat, answer.mint_fee_msat),
        (Msat::ZERO, Msat::ZERO)
    );
    let promised = pool(&shop).await;
    assert_eq!(promised.given_msat, sat(60));
    assert_eq!(
        (promised.balance_msat, promised.today_msat),
        (sat(40), sat(60))
    );
    let money = queries::money(shop.ctx()).await.unwrap();
    assert!(money.purses.iter().all(|purse| purse.float_msat.is_zero()));

    pass(100).await;
    let answer = stopped(&shop, key(1), &lease).await;
    assert_eq!((answer.refund, answer.credit_msat), (None, Msat::ZERO));
    let receipt = read(&shop, &answer.receipt.expect("a receipt"));
    assert!(receipt.is_final());
    assert_eq!(receipt.books.given_msat, sat(60));
    assert_eq!(receipt.books.served_msat, answer.served_msat);
    assert!(receipt.served_seconds >= 100 && receipt.served_seconds < 110);
    let after = pool(&shop).await;
    assert_eq!(used(&shop).await, answer.served_msat);
    assert_eq!(after.returned_msat, receipt.books.returned_msat);
    assert_eq!(after.today_msat, answer.served_msat);
    assert_eq!(after.earned_msat, sat(1_000), "a gift earns nothing");
    assert_eq!(balance(&shop).await, before, "and moves no money");
    let money = queries::money(shop.ctx()).await.unwrap();
    assert_eq!(money.served_msat, sat(1_000));
    // The next key has what this one left.
    assert_eq!(quoted(&shop, key(2), None).await.gift_seconds, Some(600));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_back_in_the_pool_and_no_money_was_taken() {
    let shop = earned(1_000).await;
    let broken = BackendError::Permanent("no such thing".to_owned());
    shop.engine.fail_next(Op::Create, 1, broken);
    let error = refused(&shop, key(1), gift()).await;
    assert_eq!(error.code, Code::ProvisioningFailed);
    assert_eq!((error.refund, error.receipt), (None, None));
    assert_eq!(used(&shop).await, Msat::ZERO);
    assert_eq!(pool(&shop).await.balance_msat, sat(100));
    // It was not the key's fault: it may ask again.
    given(&shop, key(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_gift_is_served_before_what_is_paid_and_the_paid_part_comes_back() {
    let shop = earned(1_000).await;
    let me = key(1);
    let lease = given(&shop, me).await.status.lease;
    let token = shop.mint.token(sat(50));
    shop.ask(me, topup(&lease, token)).await.unwrap();
    pass(300).await;
    let answer = stopped(&shop, me, &lease).await;
    assert_eq!(answer.refund.expect("what was paid").amount_msat, sat(50));
    let receipt = read(&shop, &answer.receipt.expect("a receipt"));
    assert_eq!(receipt.books.paid_msat, sat(50));
    assert_eq!(receipt.gift_seconds, 600);
    assert_eq!(used(&shop).await, receipt.books.served_msat);
    assert_eq!(pool(&shop).await.earned_msat, sat(1_000));

    // Another one stays for longer than what was given.
    let me = key(2);
    let lease = given(&shop, me).await.status.lease;
    let first = used(&shop).await;
    let token = shop.mint.token(sat(50));
    shop.ask(me, topup(&lease, token)).await.unwrap();
    pass(800).await;
    let answer = stopped(&shop, me, &lease).await;
    let back = answer.refund.expect("the rest").amount_msat;
    assert!(back >= sat(29) && back <= sat(30), "{back}");
    assert_eq!(used(&shop).await, first, "all of it was used");
    let paid = answer.served_msat.checked_sub(sat(60)).unwrap();
    let earned = pool(&shop).await.earned_msat;
    assert_eq!(Some(earned), sat(1_000).checked_add(paid));
}

#[tokio::test(start_paused = true)]
async fn a_gift_is_promised_once_and_kept_through_a_crash_at_any_point() {
    let mut shop = earned(1_000).await;
    let me = key(1);
    // It dies while the workload is being made.
    let id = new_id();
    let busy = BackendError::Retry("busy".to_owned());
    shop.engine.fail_next(Op::Create, 2, busy);
    shop.stored(me, body(id, gift())).await;
    let promised = |shop: &Shop| {
        let held = shop.ctx().ledger().held();
        held.iter().filter(|held| held.owner == me).count()
    };
    until("it is promised", || promised(&shop) == 1).await;
    shop.crash().await;
    shop.start().await;
    assert_eq!(pool(&shop).await.given_msat, sat(60));
    let Ok(Answer::Spawn(answer)) = shop.answer(me, id).await else {
        panic!()
    };
    // The same request, in another message, has the same answer.
    shop.deliver(me, body(id, gift())).await;
    let lease = answer.status.lease.clone();
    assert_eq!(shop.answer(me, id).await, Ok(Answer::Spawn(answer)));
    assert_eq!(pool(&shop).await.given_msat, sat(60));
    // And while it is being stopped: the host does not answer.
    pass(60).await;
    let down = BackendError::Retry("down".to_owned());
    shop.engine.fail_next(Op::Destroy, 3, down);
    let id = new_id();
    shop.stored(me, body(id, stop(&lease))).await;
    until("its end begins", || {
        !shop.lease(&lease).money.returned.is_zero()
    })
    .await;
    let back = used(&shop).await;
    shop.crash().await;
    shop.start().await;
    assert_eq!(used(&shop).await, back);
    let Ok(Answer::Stop(answer)) = shop.answer(me, id).await else {
        panic!()
    };
    assert_eq!(answer.served_msat, back);
    assert_eq!(used(&shop).await, back, "it is given back once");
    read(&shop, &answer.receipt.expect("a receipt"));
}

#[tokio::test(start_paused = true)]
async fn one_key_has_one_gift_and_all_new_keys_share_the_budget_of_a_day() {
    let shop = earned(8_000).await;
    let lease = given(&shop, key(1)).await.status.lease;
    let error = refused(&shop, key(1), gift()).await;
    assert!(error.message.contains("not over"), "{error:?}");
    // It runs to its end, and that was all for this month.
    pass(600 + shop.settings.timing.grace.as_secs() + 30).await;
    let error = refused(&shop, key(1), gift()).await;
    assert!(error.message.contains("until"), "{error:?}");
    assert!(shop.lease(&lease).has_ended());
    for n in 2..4 {
        given(&shop, key(n)).await;
    }
    // 60 each, and 20 are left of the day's 200.
    assert_eq!(given(&shop, key(4)).await.status.gift_seconds, Some(200));
    let error = refused(&shop, key(5), gift()).await;
    assert_eq!(error.code, Code::NoGift);
    assert!(error.message.contains("today"), "{error:?}");
    // Who has paid before is known, and does not stand in that line.
    pass(1_300).await;
    given(&shop, key(90)).await;
    pass(86_400).await;
    given(&shop, key(5)).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_cheapest_tier_is_given_and_not_beside_money() {
    let shop = earned(1_000).await;
    let error = refused(&shop, key(1), gift_of(Some("large"))).await;
    assert_eq!(error.code, Code::NoGift);
    assert!(error.suggestion.contains("small"), "{error:?}");
    assert_eq!(used(&shop).await, Msat::ZERO);
    let wanted = wanted(None);
    let no_keys = Ask::Spawn(Spawn {
        wanted: Wanted {
            ssh_keys: Vec::new(),
            ..wanted
        },
        funds: Funds::Gift,
        quote_id: None,
        refund_key: None,
    });
    assert_eq!(refused(&shop, key(1), no_keys).await.code, Code::BadSshKey);
    assert_eq!(given(&shop, key(1)).await.status.tier.as_str(), "small");
}

#[tokio::test(start_paused = true)]
async fn whoever_pays_is_served_though_gifts_fill_the_rest() {
    // Room for four of the small ones.
    let shop = earned(8_000).await;
    for n in 1..4 {
        given(&shop, key(n)).await;
    }
    let lease = shop.spawn(key(9), 100).await.status.lease;
    let error = refused(&shop, key(4), gift()).await;
    assert_eq!(error.code, Code::NoCapacity);
    let promised = pool(&shop).await.given_msat;
    assert_eq!(promised, sat(180), "what is refused is not promised");
    let Ok(Answer::Status(seen)) = shop.ask(key(9), status(&lease)).await else {
        panic!()
    };
    assert_eq!(seen.gift_seconds, None);
    let paid = shop.ask(key(9), spawn(shop.mint.token(sat(50)))).await;
    assert_eq!(paid.unwrap_err().code, Code::NoCapacity);
}

/// Every second of the gift and every workload, after a power cut at any moment.
#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_of_a_gift_loses_nothing_of_the_pool() {
    for cut in 0..10u64 {
        let mut shop = earned(1_000).await;
        let (me, id, end) = (key(1), new_id(), new_id());
        shop.engine.set_slow(Duration::from_millis(500));
        shop.stored(me, body(id, gift())).await;
        tokio::time::sleep(Duration::from_millis(cut * 150)).await;
        shop.crash().await;
        shop.start().await;
        let Ok(Answer::Spawn(answer)) = shop.answer(me, id).await else {
            panic!("cut {cut}")
        };
        assert_eq!(pool(&shop).await.given_msat, sat(60), "cut {cut}");
        assert_eq!(shop.engine.workloads().len(), 1, "cut {cut}");
        let lease = answer.status.lease;
        pass(30).await;
        shop.stored(me, body(end, stop(&lease))).await;
        tokio::time::sleep(Duration::from_millis(cut * 150)).await;
        shop.crash().await;
        shop.start().await;
        let Ok(Answer::Stop(answer)) = shop.answer(me, end).await else {
            panic!("cut {cut}")
        };
        assert_eq!((answer.refund, answer.credit_msat), (None, Msat::ZERO));
        assert!(answer.served_msat < sat(60), "cut {cut}");
        assert_eq!(used(&shop).await, answer.served_msat, "cut {cut}");
        assert!(shop.engine.workloads().is_empty(), "cut {cut}");
        // It is over for the key as well.
        assert!(quoted(&shop, me, None).await.gift_seconds.is_some());
    }
}
