//! The same at cdk's mint, with the real wallet, over restarts.

use super::*;
use crate::support::world::{House, World, until as within};

/// A house with so much of its own in its wallet.
async fn funded(world: &World, sats: u64) -> House {
    let mut house = House::build(world, 1);
    house.settings.timing.mint = Duration::from_secs(5);
    house.fill(world.mint.url(), sats).await;
    house.start().await;
    house
}

/// From what was put into the wallet by hand.
fn filled(bolt11: &str) -> Withdrawal {
    Withdrawal {
        unexplained: true,
        ..to(bolt11)
    }
}

fn now(house: &House, bolt11: &str) -> Option<PayoutState> {
    let hash = read_invoice(bolt11).unwrap().hash;
    let found = house.ctx().ledger().read(|r| r.get(&PAYOUTS, &hash));
    found.unwrap().map(|payout| payout.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn invoices_are_paid_or_not_over_restarts_and_every_satoshi_is_accounted_for() {
    let world = World::start(1).await;
    let mut house = funded(&world, 2000).await;
    let before = house.balance().await;
    let (mut amounts, mut fees) = (0, 0);
    let cases = [
        (300, Fate::Pays, true),
        (200, Fate::PendsAndPays, true),
        (100, Fate::PendsAndFails, false),
        (150, Fate::Fails, false),
    ];
    for (much, fate, arrives) in cases {
        let bolt11 = invoice(sat(much), fate);
        let begun = payouts::withdraw(house.ctx(), filled(&bolt11))
            .await
            .unwrap();
        house.stop().await;
        house.start().await;
        let over = || {
            now(&house, &bolt11).is_some_and(|state| match state {
                PayoutState::Paid { .. } => arrives,
                PayoutState::Failed { .. } => !arrives,
                _ => false,
            })
        };
        within(&format!("{fate:?}: {begun:?}"), over).await;
        if let Some(PayoutState::Paid { fee, .. }) = now(&house, &bolt11) {
            amounts += much;
            fees += fee.get();
        }
    }
    let money = queries::money(house.ctx()).await.unwrap();
    assert_eq!(money.purses[0].withdrawn_msat, sat(amounts));
    assert_eq!(money.purses[0].payout_fees_msat, Msat::new(fees));
    let gone = before.checked_sub(house.balance().await).unwrap();
    // Besides, each payment may have cost a swap.
    let known = sat(amounts).get() + fees;
    assert!((known..=known + 8_000).contains(&gone.get()), "{gone}");
    // What is left is real: all of it can be paid out.
    let stuck = invoice(sat(100), Fate::Pends);
    let stuck = payouts::withdraw(house.ctx(), filled(&stuck))
        .await
        .unwrap();
    assert!(
        ["pending", "melting"].contains(&stuck.state.as_str()),
        "{stuck:?}"
    );
    house.stop().await;
    house.start().await;
    let money = queries::money(house.ctx()).await.unwrap();
    assert!(money.purses[0].leaving_msat >= sat(100));
    // While it hangs, the rest is there for refunds.
    let left = house.balance().await.checked_sub(sat(5)).unwrap();
    let wallet = &house.ctx().parts.wallet;
    let sent = wallet.send(&world.mint.url(), &Unit::Sat, left, true).await;
    world.purse(1).await.take(&sent.unwrap().token).await;
}
