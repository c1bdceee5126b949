//! Tokens that are locked to the provider: which are taken, and that the others
//! are refused with the money untouched and the mint not asked.

use std::time::Duration;

use satlet::core::money::Msat;
use satlet::core::payment::lock::{Conditions, Kind};
use satlet::core::time::Timestamp;
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::reply::{Answer, LockTerms};
use satlet::protocol::request::{Ask, Quote, Wanted};
use satlet::wallet::Wallet;

use crate::support::shop::{Shop, key, spawn, topup};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

/// How the shop's quote says that tokens may be locked.
async fn terms(shop: &Shop) -> LockTerms {
    let quote = Quote {
        wanted: Wanted::default(),
        seconds: None,
    };
    match shop.ask(key(1), Ask::Quote(quote)).await {
        Ok(Answer::Quote(quote)) => quote.lock.expect("tokens may be locked"),
        other => panic!("no quote: {other:?}"),
    }
}

/// A lock as the terms have it, with a locktime so far ahead.
fn lock(shop: &Shop, terms: &LockTerms, seconds: u64) -> Conditions {
    Conditions {
        kind: Kind::P2pk,
        data: terms.key.to_string(),
        extra_keys: Vec::new(),
        n_sigs: None,
        sig_all: false,
        locktime: Some(shop.ctx().now().plus_secs(seconds)),
        refund_keys: vec![format!("02{}", "ab".repeat(32))],
        n_sigs_refund: None,
    }
}

/// The refusal of a token, in whichever request; its owner still has the money.
async fn refused(shop: &Shop, token: String, ask: Ask) -> WireError {
    let (checks, redeems) = (shop.mint.checks(), shop.mint.total_redeem_calls());
    // Were the mint asked, the answer would be that it is down.
    shop.mint.set_down(true);
    let error = shop.ask(key(1), ask).await.expect_err("refused");
    shop.mint.set_down(false);
    assert_eq!(error.code, Code::BadLock, "{error:?}");
    assert_eq!((error.money, &error.refund), (Money::Untouched, &None));
    assert_eq!(shop.mint.checks(), checks, "the mint was not asked");
    assert_eq!(shop.mint.total_redeem_calls(), redeems);
    assert!(!shop.mint.is_spent(&token));
    error
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_locked_to_the_provider_buys() {
    let shop = Shop::open().await;
    let terms = terms(&shop).await;
    assert_eq!(terms.key, shop.wallet.lock_key(), "the wallet's key");
    assert!(
        Duration::from_secs(terms.min_seconds) > shop.settings.timing.provision,
        "what is begun in time is over before the locktime"
    );
    let lock = lock(&shop, &terms, terms.min_seconds);
    let token = shop.mint.locked_token(sat(100), &lock);
    let answer = shop.ask(key(1), spawn(token.clone())).await;
    let Ok(Answer::Spawn(sold)) = answer else {
        panic!("{answer:?}");
    };
    assert!(shop.mint.is_spent(&token));
    assert_eq!(sold.paid_msat, sat(100));
    let more = shop.mint.locked_token(sat(10), &lock);
    let added = shop.ask(key(1), topup(&sold.status.lease, more)).await;
    assert!(matches!(added, Ok(Answer::Topup(_))), "{added:?}");
    let lease = shop.lease(&sold.status.lease);
    assert!(lease.balances(shop.ctx().now()), "{lease:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_cannot_be_relied_on_is_refused_untouched() {
    let shop = Shop::open().await;
    let sold = shop.spawn(key(1), 100).await;
    let terms = terms(&shop).await;
    type Change = fn(&mut Conditions);
    let cases: [(&str, Change); 7] = [
        ("another key", |c| c.data = format!("03{}", "cd".repeat(32))),
        ("a hash", |c| c.kind = Kind::Htlc),
        ("more than one key", |c| c.extra_keys = vec![c.data.clone()]),
        ("2 signatures", |c| c.n_sigs = Some(2)),
        ("SIG_ALL", |c| c.sig_all = true),
        ("no refund key", |c| c.refund_keys.clear()),
        ("or later", |c| {
            let early = c.locktime.unwrap().as_secs() - 1;
            c.locktime = Some(Timestamp::from_secs(early));
        }),
    ];
    for (why, change) in cases {
        let mut lock = lock(&shop, &terms, terms.min_seconds);
        change(&mut lock);
        let token = shop.mint.locked_token(sat(100), &lock);
        let more = topup(&sold.status.lease, token.clone());
        for ask in [spawn(token.clone()), more] {
            let error = refused(&shop, token.clone(), ask).await;
            assert!(error.message.contains(why), "{error:?}");
            let useful = error.suggestion.contains(terms.key.as_str())
                && error.suggestion.contains(&terms.min_seconds.to_string());
            assert!(useful, "{error:?}");
        }
    }
}

/// The daemon was away while the locktime came near.
#[tokio::test(start_paused = true)]
async fn what_is_near_its_locktime_is_not_redeemed_any_more() {
    let mut shop = Shop::open().await;
    let terms = terms(&shop).await;
    let lock = lock(&shop, &terms, terms.min_seconds);
    let token = shop.mint.locked_token(sat(100), &lock);
    // It dies while it asks the mint what the token is worth.
    shop.mint.set_delay(Duration::from_secs(3600));
    let id = crate::support::shop::new_id();
    let body = crate::support::shop::body(id, spawn(token.clone()));
    shop.stored(key(1), body).await;
    shop.crash().await;
    shop.mint.set_delay(Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;
    shop.start().await;
    let error = shop.answer(key(1), id).await.unwrap_err();
    assert_eq!((error.code, error.money), (Code::BadLock, Money::Untouched));
    assert!(!shop.mint.is_spent(&token));
    assert_eq!(shop.mint.total_redeem_calls(), 0);
}
