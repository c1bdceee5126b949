//! The same at a real mint, with the real wallet, over real restarts.

use satlet::core::lease::Lease;
use satlet::ledger::find_lease;
use satlet::provider::refunds::{self, Asked};

use super::*;
use crate::support::world::{Asker, House, World, until as within};

/// What this mint keeps of so many proofs (NUT-02).
fn input_fee(ys: &[String]) -> Msat {
    sat((ys.len() as u64 * 100).div_ceil(1000))
}

fn kept(house: &House, id: &LeaseId) -> Lease {
    let found = house.ctx().ledger().read(|reader| find_lease(reader, id));
    found.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn strays_come_back_at_the_start_and_refunds_are_claimed_or_taken_back() {
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.start().await;
    let asker = Asker::start(&world).await;
    let (to, purse) = (house.key(), world.purse(1000).await);
    let mut leases = Vec::new();
    for _ in 0..2 {
        let asked = asker.ask(&to, spawn(purse.token(200).await)).await;
        let Ok(Answer::Spawn(answer)) = asked else {
            panic!("{asked:?}")
        };
        leases.push(answer.status.lease);
    }
    let mut refunds = Vec::new();
    for lease in &leases {
        let asked = asker.ask(&to, stop(lease)).await;
        let Ok(Answer::Stop(answer)) = asked else {
            panic!("{asked:?}")
        };
        refunds.push(answer.refund.unwrap());
    }
    let third = asker.ask(&to, spawn(purse.token(200).await)).await;
    assert!(third.is_ok(), "{third:?}");

    // As if we had died before it was written down.
    let (mint, wallet) = (world.mint.url(), &house.ctx().parts.wallet);
    let stray = wallet.send(&mint, &Unit::Sat, sat(100), false).await;
    let stray = stray.unwrap();
    assert_eq!(wallet.pending_sends().await.unwrap().len(), 3);
    house.stop().await;
    house.start().await;
    // Requests are served before; refunds are not made before.
    house.ctx().opening.wallet().await;
    let wallet = &house.ctx().parts.wallet;
    assert_eq!(wallet.pending_sends().await.unwrap().len(), 2);
    assert!(!purse.is_unspent(&stray.token).await, "taken back");
    for refund in &refunds {
        assert!(
            purse.is_unspent(&refund.token).await,
            "known, so left alone"
        );
    }

    purse.take(&refunds[0].token).await;
    let mut asked = Asked::default();
    refunds::round(house.provider().ctx(), &mut asked)
        .await
        .unwrap();
    let state = |house: &House, n: usize| kept(house, &leases[n]).refunds[0].state.clone();
    assert!(matches!(state(&house, 0), RefundState::Claimed { .. }));
    assert!(matches!(state(&house, 1), RefundState::Made { .. }));

    house.stop().await;
    house.settings.refunds.keep = Duration::ZERO;
    house.start().await;
    within("it is taken back", || {
        matches!(state(&house, 1), RefundState::TakenBack { .. })
    })
    .await;
    assert!(!purse.is_unspent(&refunds[1].token).await);
    let credit = kept(&house, &leases[1]).money.credit;
    let info = house.ctx().parts.wallet.inspect(&refunds[1].token).unwrap();
    let back = info.face.checked_sub(input_fee(&info.ys));
    assert_eq!(Some(credit), back, "less the mint's fee, and nothing else");

    // All that is missing is what the stray cost: making it and taking it back.
    let Ok(Answer::Spawn(third)) = third else {
        panic!()
    };
    let all: Vec<_> = leases.iter().chain([&third.status.lease]).collect();
    let rows: Vec<_> = all.iter().map(|id| kept(&house, id)).collect();
    let lost = by_the_books(&rows).checked_sub(house.balance().await);
    assert_eq!(lost, stray.fee.checked_add(input_fee(&stray.ys)));
    house.stop().await;
}
