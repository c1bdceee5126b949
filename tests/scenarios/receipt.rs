//! What a provider signs when a lease is over, on fakes with a paused clock.

use std::time::Duration;

use satlet::compute::BackendError;
use satlet::compute::fake::Op;
use satlet::core::ids::{LeaseId, PublicKey};
use satlet::core::lease::EndCause;
use satlet::core::money::Msat;
use satlet::core::receipt::{Ground, Receipt, RefundStage};
use satlet::protocol::error::Code;
use satlet::protocol::receipt::SignedReceipt;
use satlet::protocol::reply::Answer;
use satlet::protocol::request::{Ask, OfLease};
use satlet::relay::receipt::open;
use satlet::wallet::Unit;

use crate::support::shop::{Shop, key, spawn, stop, topup};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

fn ask(lease: &LeaseId) -> Ask {
    Ask::Receipt(OfLease {
        lease: lease.clone(),
    })
}

/// What a receipt of this shop says, once it was checked as a stranger would.
fn read(shop: &Shop, owner: PublicKey, signed: &SignedReceipt) -> Receipt {
    let receipt = open(signed).unwrap();
    assert_eq!(receipt.provider, shop.ctx().me());
    assert_eq!(receipt.owner, owner);
    receipt
}

async fn asked(shop: &Shop, owner: PublicKey, lease: &LeaseId) -> Receipt {
    match shop.ask(owner, ask(lease)).await {
        Ok(Answer::Receipt { receipt, .. }) => read(shop, owner, &receipt),
        other => panic!("no receipt: {other:?}"),
    }
}

/// The parts of what was paid, by what the owner has in hand.
fn adds_up(receipt: &Receipt, paid: Msat) {
    let b = receipt.books;
    assert_eq!(b.paid_msat, paid);
    let went = Msat::checked_sum([
        b.mint_fees_msat,
        b.served_msat,
        b.unserved_msat,
        b.owed_msat,
        b.refunded_msat,
        b.refund_fees_msat,
        b.credit_msat,
    ]);
    assert_eq!(paid.checked_add(b.absorbed_msat), went, "{receipt:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_brings_a_receipt_of_all_that_was_paid_and_given_back() {
    let shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    let me = key(1);
    let lease = shop.spawn(me, 101).await.status.lease;
    let token = shop.mint.token(sat(51));
    shop.ask(me, topup(&lease, token)).await.unwrap();
    pass(300).await;

    let so_far = asked(&shop, me, &lease).await;
    assert!(!so_far.is_final() && so_far.ended_at.is_none());
    assert!(so_far.served_seconds >= 300 && so_far.unserved_seconds > 1_000);
    adds_up(&so_far, sat(152));

    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
        panic!()
    };
    let receipt = read(&shop, me, answer.receipt.as_ref().expect("a receipt"));
    assert!(receipt.is_final());
    assert_eq!(receipt.cause, Some(EndCause::Stopped));
    adds_up(&receipt, sat(152));
    let faces: Vec<Msat> = receipt.payments.iter().map(|paid| paid.face_msat).collect();
    assert_eq!(faces, [sat(101), sat(51)]);
    let added: Vec<u64> = receipt.payments.iter().map(|p| p.added_seconds).collect();
    assert_eq!(added, [1_000, 500]);
    assert_eq!(receipt.served_seconds, answer.served_seconds);
    assert_eq!(receipt.books.credit_msat, answer.credit_msat);
    let refund = answer.refund.unwrap();
    let [line] = receipt.refunds.as_slice() else {
        panic!("{receipt:?}")
    };
    assert_eq!(line.refund_id, refund.refund_id);
    assert_eq!(line.face_msat, refund.amount_msat);
    assert_eq!(line.ground, Ground::OwnerChoice);
    assert!(!answer.receipt.unwrap().content.contains(&refund.token));

    // Whenever it is asked for again, the same is told.
    pass(100).await;
    assert_eq!(asked(&shop, me, &lease).await, receipt);
}

#[tokio::test(start_paused = true)]
async fn the_notice_that_a_lease_is_gone_brings_its_receipt() {
    let shop = Shop::open().await;
    let me = key(1);
    shop.spawn(me, 10).await;
    pass(120).await;
    let told = |event: &str| {
        let notices = shop.notices(me);
        let found = notices.into_iter().find(|notice| notice.event == event);
        let notice = found.unwrap_or_else(|| panic!("no notice {event}"));
        read(&shop, me, &notice.receipt.expect("a receipt"))
    };
    let expired = told("expired");
    assert_eq!((expired.served_seconds, expired.ended_at), (100, None));
    pass(shop.settings.timing.grace.as_secs() + 10).await;
    let receipt = told("destroyed");
    assert!(receipt.is_final());
    assert_eq!(receipt.cause, Some(EndCause::Expired));
    assert_eq!(receipt.served_seconds, 100);
    assert_eq!(receipt.books.served_msat, sat(10));
    assert!(receipt.refunds.is_empty());
    adds_up(&receipt, sat(10));
    assert!(
        shop.notices(me)
            .iter()
            .all(|notice| notice.event != "expiring" || notice.receipt.is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn what_never_came_up_is_accounted_for_in_the_refusal() {
    let shop = Shop::open().await;
    shop.mint.set_fee_ppk(100);
    shop.wallet.fund(&shop.mint.url(), &Unit::Sat, sat(50));
    let broken = BackendError::Permanent("no such thing".to_owned());
    shop.engine.fail_next(Op::Create, 1, broken);
    let me = key(1);
    let refused = shop.ask(me, spawn(shop.mint.token(sat(100)))).await;
    let error = refused.unwrap_err();
    assert_eq!(error.code, Code::ProvisioningFailed);
    let receipt = read(&shop, me, error.receipt.as_ref().expect("a receipt"));
    assert_eq!(receipt.cause, Some(EndCause::ProvisioningFailed));
    assert_eq!(receipt.started_at, None);
    assert_eq!(receipt.served_seconds, 0);
    assert_eq!(receipt.books.refunded_msat, sat(100), "all of it");
    assert_eq!(receipt.refunds[0].ground, Ground::ProviderFault);
    assert_eq!(receipt.refunds[0].state, RefundStage::Made);
    adds_up(&receipt, sat(100));
    pass(100).await;
    let later = asked(&shop, me, &receipt.lease).await;
    assert!(later.is_final());
    adds_up(&later, sat(100));
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_is_down_leaves_the_refund_owed_in_the_receipt() {
    let shop = Shop::open().await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    pass(300).await;
    shop.mint.set_down(true);
    let id = crate::support::shop::new_id();
    let body = crate::support::shop::body(id, stop(&lease));
    shop.deliver(me, body).await;
    pass(600).await;
    let Ok(Answer::Stop(answer)) = shop.answer(me, id).await else {
        panic!()
    };
    let receipt = read(&shop, me, answer.receipt.as_ref().expect("a receipt"));
    assert!(!receipt.is_final(), "{receipt:?}");
    assert!(receipt.books.owed_msat >= sat(69), "{receipt:?}");
    adds_up(&receipt, sat(100));
    shop.mint.set_down(false);
    pass(120).await;
    let notice = shop.notices(me).into_iter().find(|n| n.event == "refund");
    let notice = notice.expect("the refund, later");
    let receipt = read(&shop, me, &notice.receipt.expect("a receipt"));
    assert!(receipt.is_final());
    assert_eq!(
        receipt.books.refunded_msat,
        notice.refund.unwrap().amount_msat
    );
}

#[tokio::test(start_paused = true)]
async fn another_ones_receipt_is_as_good_as_none() {
    let shop = Shop::open().await;
    let lease = shop.spawn(key(1), 100).await.status.lease;
    let theirs = shop.ask(key(2), ask(&lease)).await.unwrap_err();
    let none = shop
        .ask(key(2), ask(&"aaaaaaaaaaaa".parse().unwrap()))
        .await;
    assert_eq!(theirs.code, Code::NotFound);
    assert_eq!(Err(theirs), none);
}

#[tokio::test(start_paused = true)]
async fn forty_top_ups_still_fit_a_message() {
    let shop = Shop::open_with(|s| s.requests.per_key_per_minute = 100_000).await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    for _ in 0..40 {
        let token = shop.mint.token(sat(2));
        shop.ask(me, topup(&lease, token)).await.unwrap();
    }
    let Ok(Answer::Stop(answer)) = shop.ask(me, stop(&lease)).await else {
        panic!()
    };
    let signed = answer.receipt.expect("a receipt");
    assert!(signed.content.len() < 8 * 1024, "{}", signed.content.len());
    let receipt = read(&shop, me, &signed);
    assert!(receipt.earlier_payments.count > 20);
    adds_up(&receipt, sat(180));
}
