//! A message may come twice: by its relay and from what was left undone at a
//! start, or in another gift wrap. A crash in the middle loses no answer.

use std::time::Duration;

use satlet::core::ids::{EventId, PublicKey};
use satlet::core::money::Msat;
use satlet::ledger::{self, INBOX};
use satlet::protocol::reply::Answer;
use satlet::relay::{Channel, Incoming};

use crate::support::shop::{Shop, body, key, new_id, spawn, until};

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

fn message(owner: PublicKey, body: String, shop: &Shop) -> Incoming {
    Incoming {
        channel: Channel::GiftWrap,
        rumor: EventId::from_bytes(rand::random()),
        wrap: None,
        sender: owner,
        written_at: shop.ctx().now(),
        received_at: shop.ctx().now(),
        relay: "ws://relay.test".to_owned(),
        body,
    }
}

fn is_done(shop: &Shop, message: &Incoming) -> bool {
    let key = ledger::event_key(&message.rumor);
    let row = shop.ctx().ledger().read(|r| r.get(&INBOX, &key)).unwrap();
    row.unwrap().done
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_dispatched_twice_is_not_lost_in_a_crash() {
    let mut shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    let request = message(
        me,
        body(id, spawn(shop.mint.token(Msat::new(10_000)))),
        &shop,
    );
    shop.mint.set_delay(Duration::from_secs(20));
    assert!(shop.wrapped_anew(&request).await);
    // Among what was left undone at the start, and by its relay.
    shop.dispatch(request.clone()).await;
    pass(1).await;
    shop.dispatch(request.clone()).await;
    pass(1).await;
    assert!(!is_done(&shop, &request), "its answer is not there yet");
    shop.crash().await;
    shop.mint.set_delay(Duration::ZERO);
    shop.start().await;
    let answer = shop.answer(me, id).await;
    assert!(matches!(answer, Ok(Answer::Spawn(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_wrapped_anew_is_found_again_after_a_crash() {
    let mut shop = Shop::open().await;
    let (me, id) = (key(1), new_id());
    let text = body(id, spawn(shop.mint.token(Msat::new(10_000))));
    let first = message(me, text.clone(), &shop);
    let second = message(me, text, &shop);
    shop.mint.set_delay(Duration::from_secs(20));
    for request in [&first, &second] {
        assert!(shop.wrapped_anew(request).await);
        shop.dispatch(request.clone()).await;
        pass(1).await;
    }
    assert!(is_done(&shop, &second), "the first one is being handled");
    // It is handled again: whoever is in the way relies on it now.
    assert!(shop.wrapped_anew(&second).await);
    assert!(!is_done(&shop, &second));
    shop.crash().await;
    shop.mint.set_delay(Duration::ZERO);
    shop.start().await;
    shop.answer(me, id).await.unwrap();
    until("both are dealt with", || {
        is_done(&shop, &first) && is_done(&shop, &second)
    })
    .await;
    assert_eq!(shop.engine.workloads().len(), 1);
}
