//! Room that is held for tokens which are locked to a hash: nothing is taken before
//! the preimage is given, and then once. On fakes with a paused clock.

use std::time::Duration;

use satlet::core::ids::{LeaseId, RequestId};
use satlet::core::lease::EndCause;
use satlet::core::money::Msat;
use satlet::core::payment::hash_lock::Preimage;
use satlet::core::payment::lock::{Conditions, Kind};
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::reply::{Answer, HoldAnswer, SpawnAnswer};
use satlet::protocol::request::{Ask, Claim, Release};
use satlet::wallet::{Wallet, WalletError};

use crate::support::shop::{Shop, body, key, new_id, spawn, until};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

fn preimage(n: u8) -> Preimage {
    Preimage::from_bytes([0x40 + n; 32])
}

/// A lock to the hash of `preimage(n)` that the shop takes, just so.
fn lock(shop: &Shop, n: u8) -> Conditions {
    let timing = &shop.settings.timing;
    let margin = timing.lock_margin() + timing.hold;
    Conditions {
        kind: Kind::Htlc,
        data: preimage(n).hash().to_string(),
        extra_keys: vec![shop.wallet.lock_key().to_string()],
        n_sigs: None,
        sig_all: false,
        locktime: Some(shop.ctx().now().plus(margin)),
        refund_keys: vec![format!("02{}", "ab".repeat(32))],
        n_sigs_refund: None,
    }
}

fn token(shop: &Shop, n: u8) -> String {
    shop.mint.locked_token(sat(100), &lock(shop, n))
}

fn hold(token: String) -> Ask {
    match spawn(token) {
        Ask::Spawn(wanted) => Ask::Hold(wanted),
        other => other,
    }
}

fn claim(hold: &LeaseId, n: u8) -> Ask {
    Ask::Claim(Claim {
        hold: hold.clone(),
        preimage: preimage(n),
    })
}

fn release(hold: &LeaseId) -> Ask {
    Ask::Release(Release { hold: hold.clone() })
}

async fn held(shop: &Shop, owner: u8, token: &str) -> HoldAnswer {
    match shop.ask(key(owner), hold(token.to_owned())).await {
        Ok(Answer::Hold(held)) => held,
        other => panic!("not held: {other:?}"),
    }
}

async fn claimed(shop: &Shop, id: RequestId, hold: &LeaseId, n: u8) -> SpawnAnswer {
    match shop.ask_as(key(1), id, claim(hold, n)).await {
        Ok(Answer::Spawn(sold)) => sold,
        other => panic!("not claimed: {other:?}"),
    }
}

fn untouched(error: &WireError, code: &Code) {
    assert_eq!((&error.code, error.money), (code, Money::Untouched));
    assert!(error.refund.is_none());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_before_the_preimage_and_then_once() {
    let shop = Shop::open().await;
    let token = token(&shop, 1);
    let held = held(&shop, 1, &token).await;
    let now = shop.ctx().now();
    assert_eq!(held.until, now.plus(shop.settings.timing.hold));
    assert_eq!((held.net_msat, held.seconds), (sat(100), 1000));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(shop.mint.total_redeem_calls(), 0);
    assert!(shop.engine.workloads().is_empty());
    // And nothing could be.
    let info = shop.wallet.inspect(&token).unwrap();
    for tried in [
        shop.wallet.redeem(info.payment, &token).await,
        shop.wallet
            .redeem_hashed(info.payment, &token, &preimage(2))
            .await,
    ] {
        assert!(matches!(tried, Err(WalletError::Refused(_))), "{tried:?}");
    }
    let before = shop.mint.total_redeem_calls();
    let id = new_id();
    let sold = claimed(&shop, id, &held.hold, 1).await;
    assert_eq!(sold.status.lease, held.hold, "the lease has the hold's id");
    assert_eq!(
        (sold.paid_msat, sold.status.remaining_seconds),
        (sat(100), 1000)
    );
    let again = claimed(&shop, id, &held.hold, 1).await;
    assert_eq!(again, sold, "the same answer");
    let other = shop.ask(key(1), claim(&held.hold, 1)).await.unwrap_err();
    untouched(&other, &Code::TokenInUse);
    let late = shop.ask(key(1), release(&held.hold)).await.unwrap_err();
    untouched(&late, &Code::TokenInUse);
    assert_eq!(shop.mint.total_redeem_calls(), before + 1);
    let lease = shop.lease(&held.hold);
    assert!(lease.balances(shop.ctx().now()), "{lease:?}");
    let rows = serde_json::to_string(&lease).unwrap();
    assert!(!rows.contains(preimage(1).as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_nobody_claims_ends_and_takes_nothing() {
    let shop = Shop::open_with(|s| s.requests.holds_per_key = 4).await;
    let mut tokens = Vec::new();
    let mut holds = Vec::new();
    for n in 1..5 {
        let mut lock = lock(&shop, n);
        lock.locktime = lock.locktime.map(|until| until.plus_secs(3600));
        tokens.push(shop.mint.locked_token(sat(100), &lock));
        holds.push(held(&shop, 1, tokens.last().unwrap()).await);
    }
    let full = shop.ask(key(2), hold(token(&shop, 9))).await.unwrap_err();
    untouched(&full, &Code::NoCapacity);
    // The last one a moment before its end, another is released.
    let left = shop.settings.timing.hold - Duration::from_secs(2);
    tokio::time::sleep(left).await;
    claimed(&shop, new_id(), &holds[3].hold, 4).await;
    let freed = shop.ask(key(1), release(&holds[0].hold)).await;
    assert!(matches!(freed, Ok(Answer::Release { .. })), "{freed:?}");
    held(&shop, 2, &token(&shop, 9)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    for (n, hold) in holds.iter().enumerate().take(3) {
        let over = shop.lease(&hold.hold);
        assert!(over.has_ended() && over.cause == Some(EndCause::NotPaid));
        let n = u8::try_from(n + 1).unwrap();
        let late = shop.ask(key(1), claim(&hold.hold, n)).await.unwrap_err();
        untouched(&late, &Code::HoldOver);
        let again = shop.ask(key(1), release(&hold.hold)).await;
        assert!(again.is_ok(), "it is over: {again:?}");
    }
    let spent: Vec<bool> = tokens.iter().map(|t| shop.mint.is_spent(t)).collect();
    assert_eq!(spent, [false, false, false, true]);
    // What was held and not taken may be brought again.
    held(&shop, 1, &tokens[1]).await;
}

#[tokio::test(start_paused = true)]
async fn only_its_owner_claims_it_and_only_with_the_right_preimage() {
    let shop = Shop::open().await;
    let token = token(&shop, 1);
    let held = held(&shop, 1, &token).await;
    for ask in [claim(&held.hold, 1), release(&held.hold)] {
        let stranger = shop.ask(key(2), ask).await.unwrap_err();
        untouched(&stranger, &Code::NotFound);
    }
    let wrong = shop.ask(key(1), claim(&held.hold, 2)).await.unwrap_err();
    untouched(&wrong, &Code::BadPreimage);
    assert!(!shop.mint.is_spent(&token));
    claimed(&shop, new_id(), &held.hold, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_has_few_holds_and_there_may_be_none() {
    let shop = Shop::open().await;
    held(&shop, 1, &token(&shop, 1)).await;
    held(&shop, 1, &token(&shop, 2)).await;
    let third = shop.ask(key(1), hold(token(&shop, 3))).await.unwrap_err();
    untouched(&third, &Code::NoCapacity);
    held(&shop, 2, &token(&shop, 3)).await;
    let shop = Shop::open_with(|s| s.requests.holds_per_key = 0).await;
    let none = shop.ask(key(1), hold(token(&shop, 1))).await.unwrap_err();
    untouched(&none, &Code::NoCapacity);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_relied_on_is_not_held_for() {
    let shop = Shop::open().await;
    type Change = fn(&mut Conditions);
    let cases: [(&str, Change); 5] = [
        ("another key", |c| {
            c.extra_keys = vec![format!("03{}", "cd".repeat(32))]
        }),
        ("no key", |c| c.extra_keys.clear()),
        ("without a locktime", |c| c.locktime = None),
        ("no refund key", |c| c.refund_keys.clear()),
        ("or later", |c| {
            let early = c.locktime.unwrap().minus(Duration::from_secs(1));
            c.locktime = Some(early);
        }),
    ];
    for (why, change) in cases {
        let mut lock = lock(&shop, 1);
        change(&mut lock);
        let token = shop.mint.locked_token(sat(100), &lock);
        let error = shop.ask(key(1), hold(token)).await.unwrap_err();
        untouched(&error, &Code::BadLock);
        assert!(error.message.contains(why), "{why}: {error:?}");
    }
    let plain = shop.mint.token(sat(100));
    let error = shop.ask(key(1), hold(plain)).await.unwrap_err();
    untouched(&error, &Code::BadLock);
    // A spawn takes nothing that it could not redeem.
    let error = shop.ask(key(1), spawn(token(&shop, 1))).await.unwrap_err();
    untouched(&error, &Code::BadLock);
    let gone = token(&shop, 1);
    shop.mint.spend(&gone);
    let error = shop.ask(key(1), hold(gone)).await.unwrap_err();
    untouched(&error, &Code::TokenSpent);
}

/// Whenever the daemon dies: one answer to each request, and the token is spent if
/// and only if there is a lease or a refund for it.
#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_leaves_all_or_nothing() {
    let mut ends = [0, 0];
    for cut in 0..24u64 {
        let mut shop = Shop::open().await;
        let token = token(&shop, 1);
        shop.mint.set_delay(Duration::from_millis(300));
        let (first, second) = (new_id(), new_id());
        shop.stored(key(1), body(first, hold(token.clone()))).await;
        let early = cut < 12;
        if early {
            tokio::time::sleep(Duration::from_millis(cut * 100)).await;
            shop.crash().await;
            shop.start().await;
        }
        let Ok(Answer::Hold(held)) = shop.answer(key(1), first).await else {
            panic!("cut {cut}")
        };
        assert_eq!(shop.mint.total_redeem_calls(), 0, "cut {cut}");
        shop.stored(key(1), body(second, claim(&held.hold, 1)))
            .await;
        if !early {
            tokio::time::sleep(Duration::from_millis((cut - 12) * 100)).await;
            shop.crash().await;
            // Too late for the hold, or in time.
            if cut % 3 == 0 {
                tokio::time::sleep(shop.settings.timing.hold).await;
            }
            shop.start().await;
        }
        shop.mint.set_delay(Duration::ZERO);
        let answer = shop.answer(key(1), second).await;
        let sold = matches!(answer, Ok(Answer::Spawn(_)));
        if let Err(error) = &answer {
            assert_eq!(error.money, Money::Untouched, "cut {cut}: {error:?}");
        }
        assert_eq!(shop.mint.is_spent(&token), sold, "cut {cut}: {answer:?}");
        ends[usize::from(sold)] += 1;
        until("its room is as it says", || {
            sold != shop.lease(&held.hold).has_ended()
        })
        .await;
        assert!(
            shop.lease(&held.hold).balances(shop.ctx().now()),
            "cut {cut}"
        );
        let info = shop.wallet.inspect(&token).unwrap();
        assert!(shop.mint.redeem_calls(info.payment) <= 1);
    }
    assert!(ends[1] > 12, "{ends:?}");
}
