//! A lease that is paid at two mints gives back to each what lies there.

use satlet::demo::mint::{MintOptions, TestMint};
use satlet::provider::settings::MintSetting;

use super::*;
use crate::support::world::{Asker, House, Purse, World};

#[tokio::test(flavor = "multi_thread")]
async fn each_mint_gives_back_what_lies_there_and_no_purse_is_short() {
    let world = World::start(1).await;
    let other = TestMint::start(MintOptions::default()).await.unwrap();
    let mut house = House::build(&world, 1);
    house.settings.mints.push(MintSetting {
        url: other.url().0,
        requests_per_minute: 6000,
        ..MintSetting::default()
    });
    house.start().await;
    let asker = Asker::start(&world).await;
    let (to, here) = (house.key(), world.purse(1000).await);
    let there = Purse::at(world.dir.path(), other.url(), 1000).await;
    let mut refunds = Vec::new();
    for (first, second) in [(&here, &there), (&there, &here)] {
        let asked = asker.ask(&to, spawn(first.token(300).await)).await;
        let Ok(Answer::Spawn(sold)) = asked else {
            panic!("{asked:?}")
        };
        let lease = sold.status.lease;
        let more = topup(&lease, second.token(200).await);
        assert!(asker.ask(&to, more).await.is_ok());
        let asked = asker.ask(&to, stop(&lease)).await;
        let Ok(Answer::Stop(stopped)) = asked else {
            panic!("{asked:?}")
        };
        assert!(stopped.refund.is_some());
        let Ok(Answer::Status(seen)) = asker.ask(&to, status(&lease)).await else {
            panic!()
        };
        let mut faces: Vec<(String, u64)> = seen
            .refunds
            .iter()
            .map(|refund| (refund.mint.clone(), refund.amount_msat.whole_sat()))
            .collect();
        faces.sort_by_key(|(_, face)| *face);
        let (of_first, of_second) = if std::ptr::eq(first, &here) {
            (world.mint.url().0, other.url().0)
        } else {
            (other.url().0, world.mint.url().0)
        };
        assert_eq!(faces.len(), 2, "{faces:?}");
        assert_eq!((&faces[0].0, &faces[1].0), (&of_second, &of_first));
        assert!((190..200).contains(&faces[0].1), "{faces:?}");
        assert!((270..300).contains(&faces[1].1), "{faces:?}");
        refunds.extend(seen.refunds);
        let short = solvency::watch(house.provider().ctx()).await.unwrap();
        assert_eq!(short, [], "each purse has what its refunds need");
    }
    for refund in refunds {
        let purse = if refund.mint == other.url().0 {
            &there
        } else {
            &here
        };
        purse.take(&refund.token).await;
    }
    let money = queries::money(house.ctx()).await.unwrap();
    for purse in &money.purses {
        assert!(
            purse.short_msat.is_zero() && purse.unexplained_msat.is_zero(),
            "{purse:?}"
        );
    }
    house.stop().await;
}
