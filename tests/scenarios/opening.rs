//! A daemon that starts while a mint does not answer: who asks is served, who pays
//! waits for the mint that they pay at, and what is owed waits for the wallet.

use std::time::{Duration, Instant};

use futures::FutureExt;
use satlet::core::lease::RefundState;
use satlet::core::money::Msat;
use satlet::protocol::reply::{Answer, LeaseState};
use satlet::provider::settings::MintSetting;

use crate::support::proxy::Proxy;
use crate::support::shop::{self, Shop, body, key, new_id, spawn, status, stop};
use crate::support::world::{Asker, House, LONG, World};

/// How long a mint may take to tell what it offers.
const TIME: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_mint_that_hangs_at_the_start_keeps_nobody_waiting_who_asks_or_pays_elsewhere() {
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    let asker = Asker::start(&world).await;
    let (to, purse) = (house.key(), world.purse(400).await);
    let sold = async |token: String| match asker.ask(&to, spawn(token)).await {
        Ok(Answer::Spawn(sold)) => sold.status.lease,
        other => panic!("no lease: {other:?}"),
    };
    house.start().await;
    let lease = sold(purse.token(100).await).await;
    house.stop().await;

    let hung = Proxy::start(world.mint.addr()).await;
    hung.set_delay(LONG);
    house.settings.mints.push(MintSetting {
        url: hung.url(),
        ..MintSetting::default()
    });
    let began = Instant::now();
    house.start().await;
    let Ok(Answer::Status(now)) = asker.ask(&to, status(&lease)).await else {
        panic!("no status")
    };
    assert_eq!(now.state, LeaseState::Active);
    assert_ne!(sold(purse.token(100).await).await, lease);
    assert!(hung.seen_below("/v1/") > 0, "it was asked");
    let told = house.ctx().opening.mint(&hung.url()).now_or_never();
    // After its time nobody waits for it in any case.
    if began.elapsed() < TIME {
        assert_eq!(told, None, "nobody has waited for it");
    }
    house.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_moves_money_waits_until_the_wallet_is_in_order() {
    let mut shop = Shop::open().await;
    let lease = shop.spawn(key(1), 100).await.status.lease;
    let token = || shop.mint.token(Msat::from_sat(100).unwrap());
    let (cut_off, paid, ended) = (new_id(), new_id(), new_id());
    let (first, second) = (token(), token());
    shop.mint.hold_next_redeem();
    shop.deliver(key(3), body(cut_off, spawn(first))).await;
    shop::until("it is being redeemed", || {
        shop.mint.total_redeem_calls() == 2
    })
    .await;
    shop.crash().await;

    shop.slow = true;
    shop.start().await;
    shop.deliver(key(2), body(paid, spawn(second.clone())))
        .await;
    shop.deliver(key(1), body(ended, stop(&lease))).await;
    // Nothing but questions is answered, for however long.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        shop.ask(key(1), status(&lease)).await.unwrap();
    }
    assert_eq!(shop.mint.total_redeem_calls(), 2);
    assert!(!shop.mint.is_spent(&second));
    let answered = |owner, id| shop.answer_now(key(owner), id).is_some();
    assert!(!answered(3, cut_off) && !answered(2, paid));
    let refund = || shop.lease(&lease).refunds[0].state.clone();
    assert!(matches!(refund(), RefundState::Owed));

    // At that mint what an earlier run began comes first; then who pays is served.
    let (opening, mint) = (&shop.ctx().opening, shop.mint.url().0);
    opening.queued();
    opening.told(&mint);
    for (owner, id) in [(3, cut_off), (2, paid)] {
        let Ok(Answer::Spawn(_)) = shop.answer(key(owner), id).await else {
            panic!("no lease")
        };
    }
    assert!(matches!(refund(), RefundState::Owed));
    opening.wallet_is_ready();
    shop::until("the refund is made", || {
        matches!(refund(), RefundState::Made { .. })
    })
    .await;
}
