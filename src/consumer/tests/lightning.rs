//! Orders that are paid by Lightning: which invoices are shown, how long they are
//! waited for, and what is written down.

use super::*;
use crate::consumer::client::ShowInvoice;
use crate::consumer::history::State;
use crate::protocol::reply::Invoice;

/// Invoices that were shown.
type Shown = Arc<Mutex<Vec<(RequestId, String)>>>;

/// An invoice over so many sat, of which the provider says that it is over `says`.
fn invoice(mint: &FakeMint, sat: u64, says: u64) -> Invoice {
    let amount = Msat::from_sat(sat).unwrap();
    let wallet = FakeWallet::new([mint.clone()]);
    let url = mint.url();
    let asked = wallet.invoice(&url, &Unit::Sat, amount);
    let quote = futures::executor::block_on(asked).unwrap();
    Invoice {
        bolt11: quote.bolt11,
        amount_msat: Msat::from_sat(says).unwrap(),
        pay_by: now().plus_secs(600),
        mint: MINT.to_owned(),
        unit: "sat".to_owned(),
    }
}

fn due(invoice: &Invoice) -> Outcome {
    let mut error = WireError::new(Code::PaymentDue, "pay", "pay").with_money(Money::Pending);
    error.invoice = Some(Box::new(invoice.clone()));
    Outcome::Error(error)
}

fn client(world: &World, timeout: Option<Duration>) -> (Client, Shown) {
    let shown = Shown::default();
    let to = Arc::clone(&shown);
    let show: ShowInvoice = Arc::new(move |id: &RequestId, invoice: &Invoice| {
        to.lock().unwrap().push((*id, invoice.bolt11.clone()));
    });
    let client = world.client_with(ClientOptions {
        timeout,
        show_invoice: Some(show),
        ..ClientOptions::default()
    });
    (client, shown)
}

fn texts(shown: &Shown) -> Vec<String> {
    let shown = shown.lock().unwrap();
    shown.iter().map(|(_, text)| text.clone()).collect()
}

async fn order(world: &World, client: &Client) -> Result<Leased, ClientError> {
    world.spawn_with(client, Pay::Lightning(None)).await
}

/// The price of a minute.
const SAT: u64 = 6;

#[tokio::test]
async fn an_invoice_is_shown_once_and_its_answer_is_the_lease() {
    let world = World::new(|_, _| vec![]);
    let asked = invoice(&world.mint, SAT, SAT);
    let sent = asked.clone();
    world.stage.act(move |_, nth| match nth {
        1..4 => vec![due(&sent)],
        _ => vec![leased()],
    });
    let (client, shown) = client(&world, Some(LONG));
    let before = world.balance().await;
    let leased = order(&world, &client).await.unwrap();
    assert_eq!(texts(&shown), [asked.bolt11]);
    assert_eq!(leased.face, PRICE);
    assert_eq!(world.balance().await, before, "the wallet has not paid");
    let request: Request = serde_json::from_str(&world.stage.spawns()[0].body).unwrap();
    assert_eq!(request.ask.order().map(|order| order.seconds), Some(60));
    assert!(client.records().open_requests().unwrap().is_empty());
    assert_eq!(client.leases().unwrap().len(), 1);
    let [paid] = &client.history().unwrap()[..] else {
        panic!()
    };
    assert_eq!(
        (paid.state, paid.amount_msat, paid.lightning),
        (State::Spent, PRICE, true)
    );
    assert_eq!(paid.lease, Some(lease_id()));
}

#[tokio::test(start_paused = true)]
async fn an_invoice_is_waited_for_as_long_as_it_can_be_paid() {
    let world = World::new(|_, _| vec![]);
    let sent = invoice(&world.mint, SAT, SAT);
    let begun = tokio::time::Instant::now();
    world.stage.act(move |_, _| {
        if begun.elapsed() < Duration::from_secs(550) {
            vec![due(&sent)]
        } else {
            vec![leased()]
        }
    });
    let (client, _) = client(&world, None);
    order(&world, &client).await.unwrap();
    // One that no invoice comes for is given up as ever.
    world.stage.act(|_, _| vec![]);
    let begun = tokio::time::Instant::now();
    let error = order(&world, &client).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("no_answer", Money::Untouched)
    );
    assert!(
        begun.elapsed() < Duration::from_secs(400),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn an_invoice_over_more_than_the_price_is_shown_to_nobody() {
    for (over, says) in [(SAT + 1, SAT + 1), (10 * SAT, SAT), (SAT, SAT - 1)] {
        let world = World::new(|_, _| vec![]);
        let sent = invoice(&world.mint, over, says);
        world.stage.act(move |_, _| vec![due(&sent)]);
        let (client, shown) = client(&world, Some(LONG));
        let error = order(&world, &client).await.unwrap_err();
        assert_eq!(error.code, "wrong_invoice", "{over} as {says}");
        assert_eq!(texts(&shown), [""; 0]);
        assert!(client.records().open_requests().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_order_that_was_left_is_gone_on_with() {
    let world = World::new(|_, _| vec![]);
    let asked = invoice(&world.mint, SAT, SAT);
    let sent = asked.clone();
    world.stage.act(move |_, _| vec![due(&sent)]);
    let (first, shown) = client(&world, Some(SHORT));
    let error = order(&world, &first).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("payment_due", Money::Pending)
    );
    let id = error.request_id.unwrap();
    assert_eq!(texts(&shown).len(), 1);
    let open = first.records().open_requests().unwrap();
    assert_eq!(open[0].standing, Standing::Pending);
    let written = open[0].order.as_ref().unwrap().invoice.as_ref().unwrap();
    assert_eq!(*written, asked);
    assert_eq!(first.history().unwrap()[0].state, State::Pending);

    // Another command asks and shows nothing; a status shows it again.
    let (second, shown) = client(&world, Some(SHORT));
    second.settle(&quiet).await.unwrap();
    assert_eq!(texts(&shown), [""; 0]);
    let (third, shown) = client(&world, Some(SHORT));
    let left = third.resume(id, SHORT, &quiet).await.unwrap().unwrap();
    assert_eq!(left.result.unwrap_err().code, "payment_due");
    assert_eq!(*shown.lock().unwrap(), [(id, asked.bolt11)]);
    world.stage.act(|_, _| vec![leased()]);
    let left = third.resume(id, LONG, &quiet).await.unwrap().unwrap();
    assert!(left.result.unwrap().lease.is_some());
    assert!(third.records().open_requests().unwrap().is_empty());
    // All of it was one request.
    let sent = world.stage.spawns();
    assert!(sent.iter().all(|letter| *letter == sent[0]));
}

#[tokio::test]
async fn an_invoice_that_expired_is_over_and_a_late_payment_comes_back() {
    let world = World::new(|_, _| vec![]);
    let sent = invoice(&world.mint, SAT, SAT);
    world.stage.act(move |_, nth| match nth {
        1 => vec![due(&sent)],
        _ => vec![no(Code::InvoiceExpired, Money::Untouched)],
    });
    let (client, _) = client(&world, Some(LONG));
    let error = order(&world, &client).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("invoice_expired", Money::Untouched)
    );
    assert!(client.records().open_requests().unwrap().is_empty());
    assert_eq!(client.history().unwrap(), [], "nobody has paid it");

    let refund = refund_of(&world.mint, SAT);
    let sent = invoice(&world.mint, SAT, SAT);
    world.stage.act(move |_, nth| {
        let late = WireError::new(Code::LeaseEnded, "late", "").with_refund(Some(refund.clone()));
        match nth {
            1 => vec![due(&sent)],
            _ => vec![Outcome::Error(late)],
        }
    });
    let before = world.balance().await;
    let error = order(&world, &client).await.unwrap_err();
    assert_eq!(error.money, Money::Taken);
    let got = Msat::from_sat(SAT).unwrap();
    assert_eq!(error.refunded_msat, got);
    assert_eq!(Some(world.balance().await), before.checked_add(got));
    let all = client.history().unwrap();
    let mut lines: Vec<_> = all.iter().map(|one| (one.lightning, one.state)).collect();
    lines.sort_by_key(|(lightning, _)| *lightning);
    assert_eq!(lines, [(false, State::Received), (true, State::Refused)]);
}

#[tokio::test]
async fn an_order_whose_provider_stays_silent_is_no_money_that_could_be_lost() {
    let world = World::new(|_, _| vec![]);
    let (client, _) = client(&world, Some(SHORT));
    let before = world.balance().await;
    let error = order(&world, &client).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.money),
        ("no_answer", Money::Untouched)
    );
    let left = client.settle(&quiet).await.unwrap();
    assert_eq!(left.len(), 1, "it is asked for again");
    assert_eq!(world.balance().await, before);
}
