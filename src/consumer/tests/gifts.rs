//! A first lease for nothing.

use super::*;
use crate::protocol::error::Money;
use crate::protocol::offer::PoolTerms;

async fn ask(world: &World, timeout: Duration, pool: bool) -> Result<Spawned, ClientError> {
    let client = world.client(timeout);
    let mut provider = client.find_provider("alpha").await.unwrap();
    let ours = provider.offer.satlet.as_mut().unwrap();
    ours.pool = pool.then(|| PoolTerms {
        tier: "small".parse().unwrap(),
        max_seconds: 600,
    });
    let options = SpawnOptions {
        gift: true,
        ..SpawnOptions::default()
    };
    client.spawn(&provider, options, &agree, &quiet).await
}

#[tokio::test]
async fn a_gift_is_not_asked_for_where_the_offer_has_none() {
    let world = World::new(|_, _| vec![leased()]);
    let error = ask(&world, LONG, false).await.unwrap_err();
    assert_eq!(
        (error.kind.exit_code(), error.code.as_str()),
        (4, "no_gift")
    );
    assert!(world.stage.spawns().is_empty());
    assert_eq!(world.balance().await, sat(100));
}

#[tokio::test]
async fn a_gift_is_asked_for_without_money_and_again_when_its_answer_is_lost() {
    let world = World::new(|_, _| vec![]);
    let error = ask(&world, Duration::from_millis(200), true).await;
    let error = error.unwrap_err();
    assert_eq!(error.money, Money::Untouched, "{error:?}");
    world.stage.act(|_, _| vec![leased()]);
    let id = error.request_id.unwrap();
    let left = world.client(LONG).leftover(id, LONG, &quiet).await;
    let settled = left.unwrap().unwrap().result.unwrap();
    assert_eq!(settled.lease.unwrap().status.lease, lease_id());
    let spawns = world.stage.spawns();
    assert!(spawns.len() > 1);
    for letter in &spawns {
        assert_eq!(letter.body, spawns[0].body, "the same request");
    }
    let body: serde_json::Value = serde_json::from_str(&spawns[0].body).unwrap();
    assert_eq!(body["gift"], true);
    assert_eq!(body["tier"], "small", "the one that is given");
    assert!(body.get("token").is_none(), "{body}");
    assert!(body["expires_at"].is_u64(), "too late it is not wanted");
    assert_eq!(world.balance().await, sat(100));
}

#[tokio::test]
async fn a_gift_that_is_refused_is_over() {
    let world = World::new(|_, _| {
        let error = WireError::new(Code::NoGift, "used up", "try again tomorrow");
        vec![Outcome::Error(error)]
    });
    let error = ask(&world, LONG, true).await.unwrap_err();
    assert_eq!(
        (error.kind.exit_code(), error.code.as_str()),
        (4, "no_gift")
    );
    let open = world.client(LONG).records().open_requests().unwrap();
    assert!(open.is_empty(), "{open:?}");
}
