//! Receipts that come are checked, kept and shown.

use nostr_sdk::Keys;

use super::*;
use crate::core::ids::PaymentId;
use crate::core::receipt::Receipt;
use crate::core::receipt::tests::Sample;
use crate::protocol::receipt::SignedReceipt;
use crate::relay::convert::key_from;
use crate::relay::receipt::sign;

const AT: Timestamp = Timestamp::from_secs(1_790_000_040);

/// A receipt of our lease by `provider`, for `owner`.
fn signed(provider: &Keys, owner: PublicKey, made: &Sample) -> SignedReceipt {
    signed_of(provider, owner, made, None)
}

/// The same with our payment in it.
fn signed_of(
    provider: &Keys,
    owner: PublicKey,
    made: &Sample,
    payment: Option<PaymentId>,
) -> SignedReceipt {
    let mut receipt = Receipt {
        provider: key_from(&provider.public_key()),
        owner,
        lease: lease_id(),
        ..made.receipt(40)
    };
    if let Some(payment) = payment {
        receipt.payments[0].payment = payment;
    }
    sign(provider, &receipt, AT).unwrap()
}

/// The id of the payment that the one spawn of this world made.
fn payment(world: &World) -> PaymentId {
    let spawns = world.stage.spawns();
    let request: Request = serde_json::from_str(&spawns[0].body).unwrap();
    let token = request.ask.token().unwrap().to_owned();
    world.wallet.inspect(&token).unwrap().payment
}

/// One that only its signature tells from a true one.
fn tampered(mut signed: SignedReceipt) -> SignedReceipt {
    signed.content = signed.content.replace("stopped", "expired");
    signed
}

fn stopped(receipt: Option<SignedReceipt>) -> Outcome {
    done(Answer::Stop(StopAnswer {
        lease: lease_id(),
        served_seconds: 30,
        served_msat: sat(3),
        refund: None,
        refund_fee_msat: Msat::ZERO,
        credit_msat: Msat::ZERO,
        receipt: receipt.map(Box::new),
    }))
}

/// A world with a lease in it, and the provider's key.
async fn rented() -> (World, Keys, Client) {
    let keys = Keys::generate();
    let world = World::of(key_from(&keys.public_key()), |_, _| vec![leased()]);
    let client = world.client(LONG);
    world.spawn(&client).await.unwrap();
    (world, keys, client)
}

#[tokio::test]
async fn the_receipt_of_a_stop_is_kept_and_not_asked_for_again() {
    let (world, keys, client) = rented().await;
    let (me, paid) = (client.public_key(), payment(&world));
    let receipt = signed_of(&keys, me, &Sample::stopped(), Some(paid));
    let sent = receipt.clone();
    world
        .stage
        .act(move |_, _| vec![stopped(Some(sent.clone()))]);
    let lease = client.find_lease("abc").unwrap();
    client.stop(&lease, &quiet).await.unwrap();
    // It is final: the next process shows it, and asks nobody.
    let asked = world.stage.sent.lock().unwrap().len();
    let client = world.client(SHORT);
    let kept = client.receipt(&lease, &quiet).await.unwrap();
    assert_eq!(kept.signed, receipt);
    assert_eq!(kept.receipt.served_seconds, 30);
    assert_eq!(world.stage.sent.lock().unwrap().len(), asked);
}

#[tokio::test]
async fn a_false_receipt_is_not_kept_and_the_stop_is_still_a_stop() {
    let (world, keys, client) = rented().await;
    let other = Keys::generate();
    let me = client.public_key();
    let lease = client.find_lease("abc").unwrap();
    let of = |owner| signed(&keys, owner, &Sample::stopped());
    for bad in [
        tampered(of(me)),
        of(key(5)),
        signed(&other, me, &Sample::stopped()),
    ] {
        let sent = bad.clone();
        world.stage.act(move |request, _| {
            vec![match &request.ask {
                Ask::Receipt(ask) => done(Answer::Receipt {
                    lease: ask.lease.clone(),
                    receipt: sent.clone(),
                }),
                _ => stopped(Some(sent.clone())),
            }]
        });
        client.stop(&lease, &quiet).await.unwrap();
        let kept = client.kept_receipt(&lease.provider, &lease_id()).unwrap();
        assert_eq!(kept, None, "{bad:?}");
        let error = client.receipt(&lease, &quiet).await.unwrap_err();
        assert!(
            ["false_receipt", "bad_answer"].contains(&error.code.as_str()),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_receipt_of_the_wrong_form_does_not_cost_the_refund_beside_it() {
    let (world, _keys, client) = rented().await;
    let refund = refund_of(&world.mint, 4);
    let answer = StopAnswer {
        lease: lease_id(),
        served_seconds: 30,
        served_msat: sat(3),
        refund: Some(refund),
        refund_fee_msat: Msat::ZERO,
        credit_msat: Msat::ZERO,
        receipt: None,
    };
    let mut text = serde_json::to_value(&answer).unwrap();
    text["receipt"] = serde_json::json!({ "id": 7 });
    let read: StopAnswer = serde_json::from_value(text).unwrap();
    assert_eq!(read, answer);
    world
        .stage
        .act(move |_, _| vec![done(Answer::Stop(read.clone()))]);
    let lease = client.find_lease("abc").unwrap();
    let stopped = client.stop(&lease, &quiet).await.unwrap();
    assert_eq!(stopped.received, sat(4));
}

#[tokio::test]
async fn receipts_in_notices_are_kept_of_our_leases_alone() {
    let (world, keys, client) = rented().await;
    let receipt = signed(&keys, client.public_key(), &Sample::stopped());
    let notice = |receipt: &SignedReceipt, lease: &str| {
        Message::Notice(Notice {
            satlet: 1,
            notice_id: lease.to_owned(),
            lease: lease.parse().unwrap(),
            event: "destroyed".to_owned(),
            message: String::new(),
            expires_at: None,
            refund: None,
            receipt: Some(Box::new(receipt.clone())),
        })
    };
    let provider = world.stage.provider;
    let unknown = Receipt {
        provider,
        owner: client.public_key(),
        lease: "aaaaaaaaaaaa".parse().unwrap(),
        ..Sample::stopped().receipt(40)
    };
    let unknown = sign(&keys, &unknown, AT).unwrap();
    world
        .stage
        .say(provider, &notice(&unknown, "aaaaaaaaaaaa"))
        .await;
    world
        .stage
        .say(key(66), &notice(&receipt, "abcdefghijkl"))
        .await;
    world
        .stage
        .say(provider, &notice(&receipt, "abcdefghijkl"))
        .await;
    // The notices are read before the answer, which comes after them.
    world.stage.act(|_, _| vec![done(Answer::Status(status()))]);
    let lease = client.find_lease("abc").unwrap();
    client.status(&lease, &quiet).await.unwrap();
    assert_eq!(client.records().receipts().unwrap(), [receipt]);
}

#[tokio::test]
async fn an_older_receipt_does_not_replace_a_newer_one() {
    let (world, keys, client) = rented().await;
    let (me, provider) = (client.public_key(), world.stage.provider);
    let paid = payment(&world);
    let at = |secs: u64| {
        let mut made = Sample::new(10_000, 1_000);
        made.on(5, crate::core::lease::Event::Up);
        let mut receipt = Receipt {
            provider,
            owner: me,
            lease: lease_id(),
            ..made.receipt(secs)
        };
        receipt.payments[0].payment = paid;
        sign(&keys, &receipt, Timestamp::from_secs(1_790_000_000 + secs)).unwrap()
    };
    let lease = client.find_lease("abc").unwrap();
    for secs in [30, 20] {
        let receipt = at(secs);
        world.stage.act(move |_, _| {
            vec![done(Answer::Receipt {
                lease: lease_id(),
                receipt: receipt.clone(),
            })]
        });
        let asked = client.receipt(&lease, &quiet).await.unwrap();
        assert_eq!(
            asked.receipt.served_seconds,
            secs - 5,
            "it is shown as asked"
        );
    }
    let kept = client
        .kept_receipt(&provider, &lease_id())
        .unwrap()
        .unwrap();
    assert_eq!(kept.receipt.served_seconds, 25);
}

#[tokio::test]
async fn the_receipt_of_what_never_came_up_is_found_by_its_lease() {
    let keys = Keys::generate();
    let world = World::of(key_from(&keys.public_key()), |_, _| vec![]);
    let client = world.client(LONG);
    let receipt = signed(&keys, client.public_key(), &Sample::failed());
    let mut error = WireError::new(Code::ProvisioningFailed, "it broke", "")
        .with_refund(Some(refund_of(&world.mint, 6)));
    error.receipt = Some(Box::new(receipt.clone()));
    world
        .stage
        .act(move |_, _| vec![Outcome::Error(error.clone())]);
    let refused = world.spawn(&client).await.unwrap_err();
    assert_eq!(refused.refunded_msat, sat(6));
    let kept = client.kept_receipts("abcd").unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].signed, receipt);
}

#[tokio::test]
async fn a_receipt_that_lacks_a_payment_of_ours_is_said_to() {
    let (world, keys, client) = rented().await;
    let (me, paid) = (client.public_key(), payment(&world));
    let lease = client.find_lease("abc").unwrap();
    for (listed, good) in [(None, false), (Some(paid), true)] {
        let receipt = signed_of(&keys, me, &Sample::stopped(), listed);
        let sent = receipt.clone();
        world
            .stage
            .act(move |_, _| vec![stopped(Some(sent.clone()))]);
        client.stop(&lease, &quiet).await.unwrap();
        match client.receipt(&lease, &quiet).await {
            Ok(kept) => assert!(good && kept.signed == receipt),
            Err(error) => {
                assert!(!good, "{error:?}");
                assert_eq!(error.code, "incomplete_receipt");
                assert!(error.message.contains("6 sat"), "{}", error.message);
                // It is evidence.
                assert_eq!(client.records().receipts().unwrap(), [receipt]);
            }
        }
    }
}
