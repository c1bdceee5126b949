//! Refunds, as they come and as they are taken in.

use super::super::records::Whence;
use super::*;

#[tokio::test]
async fn a_refund_in_an_error_is_received_once() {
    let world = World::new(|_, _| vec![]);
    let refund = refund_of(&world.mint, 5);
    let error =
        WireError::new(Code::ProvisioningFailed, "it broke", "").with_refund(Some(refund.clone()));
    world
        .stage
        .act(move |_, _| vec![Outcome::Error(error.clone())]);
    let client = world.client(LONG);
    let error = world.spawn(&client).await.unwrap_err();
    assert_eq!((error.kind.exit_code(), error.money), (5, Money::Taken));
    assert_eq!(error.refunded_msat, sat(5));
    assert_eq!(world.balance().await, sat(99));
    // The same refund comes again as a notice.
    let notice = Notice {
        satlet: 1,
        notice_id: "n1".to_owned(),
        lease: lease_id(),
        event: "refund".to_owned(),
        message: String::new(),
        expires_at: None,
        refund: Some(refund),
        receipt: None,
    };
    world.stage.say(key(7), &Message::Notice(notice)).await;
    let client = world.client(LONG);
    client.settle(&quiet).await.unwrap();
    assert_eq!(world.balance().await, sat(99));
    let refunds = client.records().refunds().unwrap();
    assert_eq!(refunds.len(), 1);
    assert_eq!(refunds[0].1.standing, RefundStanding::Received);
    assert_eq!(world.mint.total_redeem_calls(), 1);
}

#[tokio::test]
async fn a_refund_in_a_notice_is_received_if_we_know_the_provider() {
    let world = World::new(|_, _| vec![leased()]);
    let client = world.client(LONG);
    let leased = world.spawn(&client).await.unwrap();
    let notice = |refund: Refund| {
        Message::Notice(Notice {
            satlet: 1,
            notice_id: refund.refund_id.clone(),
            lease: lease_id(),
            event: "refund".to_owned(),
            message: String::new(),
            expires_at: None,
            refund: Some(refund),
            receipt: None,
        })
    };
    let strange = Refund {
        refund_id: "r0".to_owned(),
        ..refund_of(&world.mint, 3)
    };
    world.stage.say(key(66), &notice(strange)).await;
    let owed = refund_of(&world.mint, 9);
    world.stage.say(key(7), &notice(owed)).await;
    // The notice is read before the answer, which comes after it.
    world.stage.act(|_, _| vec![done(Answer::Status(status()))]);
    client.status(&leased.lease, &quiet).await.unwrap();
    client.settle(&quiet).await.unwrap();
    assert_eq!(world.balance().await, sat(100 - 6 + 9));
    assert_eq!(client.records().refunds().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refund_of_a_mint_that_is_down_is_received_later() {
    let world = World::new(|_, _| vec![]);
    let refund = refund_of(&world.mint, 5);
    let mint = world.mint.clone();
    world.stage.act(move |_, _| {
        mint.set_down(true);
        let error = WireError::new(Code::ProvisioningFailed, "it broke", "");
        vec![Outcome::Error(error.with_refund(Some(refund.clone())))]
    });
    world.spawn(&world.client(LONG)).await.unwrap_err();
    assert_eq!(world.balance().await, sat(94));
    world.mint.set_down(false);
    world.client(LONG).settle(&quiet).await.unwrap();
    assert_eq!(world.balance().await, sat(99));
}

#[tokio::test]
async fn a_mint_that_is_down_is_asked_once_for_all_that_it_owes() {
    let mut world = World::new(|_, _| vec![]);
    let other = FakeMint::new("https://other.example");
    world.wallet = FakeWallet::new([world.mint.clone(), other.clone()]);
    let client = world.client_with(ClientOptions {
        settings: Some(Settings {
            mints: [&world.mint, &other].map(|mint| mint.url().0).to_vec(),
            ..Settings::default()
        }),
        ..ClientOptions::default()
    });
    let owe = |mint: &FakeMint, n: u64| {
        let refund = Refund {
            refund_id: format!("r{n}"),
            ..refund_of(mint, n)
        };
        let records = client.records();
        records
            .note_refund(&key(7), &refund, &Whence::default())
            .unwrap();
    };
    for n in [1, 2, 4] {
        owe(&world.mint, n);
    }
    owe(&other, 3);
    world.mint.set_down(true);
    world.wallet.calls();
    assert_eq!(client.receive_refunds().await.unwrap(), sat(3));
    let failed = world.wallet.calls();
    let failed = failed.iter().filter(|(_, call)| call.failed.is_some());
    assert_eq!(failed.count(), 1);
    world.mint.set_down(false);
    assert_eq!(client.receive_refunds().await.unwrap(), sat(7));
    assert_eq!(world.balance().await, sat(7));
}
