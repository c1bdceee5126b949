//! What became of every token.

use super::super::history::{Entry, State, Way};
use super::*;

/// What the next process finds: purpose, state, amount, fee.
fn found(world: &World) -> Vec<(String, State, Msat, Option<Msat>)> {
    let all = world.client(SHORT).history().unwrap();
    let mut lines: Vec<_> = all
        .into_iter()
        .map(|one| (one.purpose, one.state, one.amount_msat, one.fee_msat))
        .collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines
}

fn only(world: &World) -> Entry {
    let mut all = world.client(SHORT).history().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[tokio::test]
async fn money_that_bought_time_is_spent_for_its_lease_with_the_fee_that_was_told() {
    let world = World::new(|request, _| {
        vec![done(match &request.ask {
            Ask::Topup(ask) => Answer::Topup(TopupAnswer {
                lease: ask.lease.clone(),
                added_seconds: 100,
                expires_at: now().plus_secs(1_000),
                paid_msat: sat(10),
                mint_fee_msat: sat(2),
                credit_msat: Msat::ZERO,
            }),
            _ => Answer::Spawn(SpawnAnswer {
                status: status(),
                paid_msat: PRICE,
                mint_fee_msat: sat(1),
            }),
        })]
    });
    let client = world.client(LONG);
    let leased = world.spawn(&client).await.unwrap();
    let pay = Pay::Seconds(100);
    client
        .topup(&leased.lease, pay, &agree, &quiet)
        .await
        .unwrap();
    assert_eq!(
        found(&world),
        [
            ("spawn".to_owned(), State::Spent, sat(6), Some(sat(1))),
            ("topup".to_owned(), State::Spent, sat(10), Some(sat(2))),
        ]
    );
    let all = client.history().unwrap();
    assert!(all.iter().all(|one| one.lease == Some(lease_id())));
    assert!(
        all.iter()
            .all(|one| one.way == Way::Out && one.at.is_some())
    );
    let spawn = all.iter().find(|one| one.purpose == "spawn").unwrap();
    assert_eq!(spawn.request_id, Some(leased.request_id));
    assert_eq!(spawn.provider, Some(key(7)));
}

#[tokio::test]
async fn money_that_was_taken_and_its_refund_are_two_lines() {
    let world = World::new(|_, _| vec![]);
    let refund = refund_of(&world.mint, 5);
    world.mint.set_fee_ppk(100);
    world.stage.act(move |_, _| {
        let error = WireError::new(Code::ProvisioningFailed, "it broke", "");
        vec![Outcome::Error(error.with_refund(Some(refund.clone())))]
    });
    let client = world.client(LONG);
    let error = world.spawn(&client).await.unwrap_err();
    let all = client.history().unwrap();
    let out = all.iter().find(|one| one.way == Way::Out).unwrap();
    assert_eq!((out.state, out.fee_msat), (State::Refused, None));
    let back = all.iter().find(|one| one.way == Way::In).unwrap();
    assert_eq!((back.state, back.amount_msat), (State::Received, sat(5)));
    assert_eq!(back.net_msat, Some(sat(4)));
    assert_eq!(back.fee_msat, Some(sat(1)));
    assert_eq!(back.request_id, error.request_id);
    assert_eq!(back.request_id, out.request_id);
    assert_eq!(all.len(), 2);
}

#[tokio::test]
async fn an_untouched_token_is_taken_back_for_what_the_mint_leaves() {
    let world = World::new(|_, _| vec![no(Code::NoCapacity, Money::Untouched)]);
    let client = world.client(LONG);
    let before = world.balance().await;
    world.spawn(&client).await.unwrap_err();
    let one = only(&world);
    assert_eq!(one.state, State::TakenBack);
    assert_eq!(one.net_msat.unwrap(), one.amount_msat);
    assert_eq!(one.fee_msat, Some(Msat::ZERO));
    assert_eq!(one.lease, None, "there was none");
    assert_eq!(world.balance().await, before);
}

#[tokio::test]
async fn a_pasted_token_is_given_back() {
    let world = World::new(|_, _| vec![no(Code::NoCapacity, Money::Untouched)]);
    let token = world.mint.token(sat(10));
    let client = world.client(LONG);
    let pay = Pay::Token(token.clone());
    world.spawn_with(&client, pay).await.unwrap_err();
    let one = only(&world);
    assert_eq!((one.state, one.amount_msat), (State::GivenBack, sat(10)));
    assert!(!format!("{one:?}").contains(&token), "no money is shown");
}

#[tokio::test]
async fn what_is_still_out_is_out_until_it_is_decided() {
    let world = World::new(|_, _| vec![]);
    world.spawn(&world.client(SHORT)).await.unwrap_err();
    assert_eq!(only(&world).state, State::Out);
    world
        .stage
        .act(|_, _| vec![no(Code::PaymentPending, Money::Pending)]);
    world.client(SHORT).settle(&quiet).await.unwrap();
    assert_eq!(only(&world).state, State::Pending);
    let mint = world.mint.clone();
    mint.set_down(true);
    world
        .stage
        .act(|_, _| vec![no(Code::MintDown, Money::Untouched)]);
    world.client(LONG).settle(&quiet).await.unwrap();
    assert_eq!(only(&world).state, State::ComingBack);
    mint.set_down(false);
    world.client(LONG).settle(&quiet).await.unwrap();
    assert_eq!(only(&world).state, State::TakenBack);
}

#[tokio::test]
async fn what_went_and_came_by_hand_is_there_too() {
    let world = World::new(|_, _| vec![]);
    world.mint.set_fee_ppk(100);
    let client = world.client(LONG);
    client.give(&world.mint.url(), sat(8)).await.unwrap();
    let token = world.mint.token(sat(20));
    let (_, got) = client.receive(&token).await.unwrap();
    assert_eq!((got.net, got.fee), (sat(19), sat(1)));
    let lines = [
        ("receive".to_owned(), State::Received, sat(20), Some(sat(1))),
        ("send".to_owned(), State::Given, sat(8), None),
    ];
    assert_eq!(found(&world), lines);
    // Again, and with no money at all: nothing is added.
    client.receive(&token).await.unwrap_err();
    let spent = world.mint.token(sat(3));
    world.mint.spend(&spent);
    client.receive(&spent).await.unwrap_err();
    assert_eq!(found(&world), lines);
    let file = std::fs::read_dir(world.dir.path().join("received"))
        .unwrap()
        .next()
        .unwrap();
    let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
    assert!(!text.contains(&token), "what is redeemed is not kept");
}

#[tokio::test]
async fn a_token_whose_receipt_was_lost_is_pending_until_it_is_tried_again() {
    let world = World::new(|_, _| vec![]);
    let token = world.mint.token(sat(20));
    world.mint.lose_next_redeem();
    let client = world.client(LONG);
    let error = client.receive(&token).await.unwrap_err();
    assert_eq!(error.money, Money::Pending);
    assert_eq!(only(&world).state, State::Pending);
    client.receive(&token).await.unwrap();
    assert_eq!(only(&world).state, State::Received);
    assert_eq!(world.balance().await, sat(120));
}

/// Rows of the version before this one are read, and what they do not say is
/// not said.
#[tokio::test]
async fn rows_of_an_earlier_version_are_read() {
    let world = World::new(|_, _| vec![leased()]);
    let client = world.client(LONG);
    world.spawn(&client).await.unwrap();
    let refund = refund_of(&world.mint, 5);
    let whence = super::super::records::Whence::of_lease(&lease_id());
    client
        .records()
        .note_refund(&key(7), &refund, &whence)
        .unwrap();
    for (dir, new) in [("requests", vec!["fate"]), ("refunds", vec!["at", "lease"])] {
        let files = std::fs::read_dir(world.dir.path().join(dir)).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        for path in files.filter(|path| path.extension().is_some_and(|ext| ext == "json")) {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut row: serde_json::Value = serde_json::from_str(&text).unwrap();
            for field in &new {
                let gone = row.as_object_mut().unwrap().remove(*field);
                assert!(gone.is_some(), "{field} in {dir}");
            }
            std::fs::write(&path, row.to_string()).unwrap();
        }
    }
    let all = world.client(SHORT).history().unwrap();
    let states: Vec<State> = all.iter().map(|one| one.state).collect();
    assert_eq!(states, [State::Owed, State::Closed]);
    assert!(
        all.iter()
            .all(|one| one.fee_msat.is_none() && one.lease.is_none())
    );
}
