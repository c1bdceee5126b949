//! Paying by Lightning: whatever happens between the order and the money, it is a
//! lease, a refund, or was never paid. On fakes with a paused clock.

use std::time::Duration;

use satlet::compute::fake::Op;
use satlet::core::ids::{LeaseId, PublicKey, RequestId};
use satlet::core::lease::Phase;
use satlet::core::money::Msat;
use satlet::ledger::{self, ENDED, LEASES, PAYMENTS, REQUESTS};
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::reply::{Answer, Invoice, Message, Outcome};
use satlet::protocol::request::{Ask, Funds, Order, Quote, Spawn, Topup, Wanted};
use satlet::provider::settings::{LightningPolicy, Settings};
use satlet::provider::{offer, queries, upkeep};
use satlet::wallet::{Wallet, WalletError};

use crate::support::shop::{MINT, SSH_KEY, Shop, body, key, new_id, spawn, status, stop, until};

/// Of the small tier, at 100 msat a second.
const HOUR: u64 = 3600;
const PRICE: u64 = 360;

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

/// A shop at a mint with a fee, which asks about late invoices for an hour.
async fn open_with(change: impl FnOnce(&mut Settings)) -> Shop {
    let shop = Shop::open_with(|settings| {
        settings.lightning = Some(LightningPolicy {
            late: Duration::from_secs(HOUR),
            ..LightningPolicy::default()
        });
        change(settings);
    })
    .await;
    shop.mint.set_fee_ppk(100);
    shop
}

async fn open() -> Shop {
    open_with(|_| {}).await
}

fn order(seconds: u64) -> Ask {
    Ask::Spawn(Spawn {
        wanted: Wanted {
            ssh_keys: vec![SSH_KEY.to_owned()],
            ..Wanted::default()
        },
        funds: Funds::Invoice(Order { seconds }),
        quote_id: None,
        refund_key: None,
    })
}

fn more(lease: &LeaseId, seconds: u64) -> Ask {
    Ask::Topup(Topup {
        lease: lease.clone(),
        funds: Funds::Invoice(Order { seconds }),
        refund_key: None,
    })
}

/// What waits in the outbox for a request: the outcomes that were sent.
fn told(shop: &Shop, me: PublicKey, id: RequestId) -> Vec<Outcome> {
    let to_me = shop.sent().into_iter().filter(|(to, _)| *to == me);
    to_me
        .filter_map(|(_, text)| match serde_json::from_str(&text).unwrap() {
            Message::Reply(reply) if reply.request_id == id => Some(reply.outcome),
            _ => None,
        })
        .collect()
}

fn invoice_in(outcome: &Outcome) -> Option<Invoice> {
    match outcome {
        Outcome::Error(error) if error.code == Code::PaymentDue => {
            assert_eq!(error.money, Money::Pending);
            error.invoice.as_deref().cloned()
        }
        _ => None,
    }
}

/// Orders, and gives the invoice that is to be paid.
async fn ordered(shop: &Shop, me: PublicKey, ask: Ask) -> (RequestId, Invoice) {
    let id = new_id();
    shop.stored(me, body(id, ask)).await;
    (id, due(shop, me, id).await)
}

async fn due(shop: &Shop, me: PublicKey, id: RequestId) -> Invoice {
    let mut found = None;
    until("the invoice is sent", || {
        found = told(shop, me, id).iter().find_map(invoice_in);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// The one answer, if there is one.
fn answer_now(shop: &Shop, me: PublicKey, id: RequestId) -> Option<Result<Answer, WireError>> {
    let row = shop
        .ctx()
        .ledger()
        .read(|r| r.get(&REQUESTS, &ledger::request_key(&me, id)));
    let text = row.unwrap().and_then(|row| row.answer)?;
    match serde_json::from_str(&text).unwrap() {
        Message::Reply(reply) => Some(match reply.outcome {
            Outcome::Result(answer) => Ok(*answer),
            Outcome::Error(error) => Err(error),
        }),
        Message::Notice(notice) => panic!("{notice:?}"),
    }
}

async fn answered(shop: &Shop, me: PublicKey, id: RequestId) -> Result<Answer, WireError> {
    until("it is answered", || answer_now(shop, me, id).is_some()).await;
    answer_now(shop, me, id).unwrap()
}

fn lease_in(answer: Result<Answer, WireError>) -> LeaseId {
    match answer {
        Ok(Answer::Spawn(sold)) => sold.status.lease,
        other => panic!("{other:?}"),
    }
}

/// The only lease there is, over or not.
fn only_lease(shop: &Shop) -> LeaseId {
    let all = shop.ctx().ledger().read(|reader| {
        let open = reader.all(&LEASES)?.into_iter();
        Ok(open.chain(reader.all(&ENDED)?).collect::<Vec<_>>())
    });
    let all = all.unwrap();
    assert_eq!(all.len(), 1);
    all[0].1.id.clone()
}

async fn balance(shop: &Shop) -> Msat {
    let balances = shop.wallet.balances().await.unwrap();
    Msat::checked_sum(balances.into_values()).unwrap()
}

/// What the operator is shown as payments that are not over.
async fn coming(shop: &Shop) -> Msat {
    let money = queries::money(shop.ctx()).await.unwrap();
    Msat::checked_sum(money.purses.iter().map(|purse| purse.coming_msat)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_paid_invoice_becomes_a_lease() {
    let shop = open().await;
    let me = key(1);
    let (id, invoice) = ordered(&shop, me, order(HOUR)).await;
    assert_eq!(invoice.amount_msat, sat(PRICE));
    assert_eq!(
        (invoice.mint.as_str(), invoice.unit.as_str()),
        (MINT, "sat")
    );
    assert_eq!(invoice.pay_by.secs_since(shop.ctx().now()), 600);
    pass(60).await;
    assert!(answer_now(&shop, me, id).is_none());
    assert!(shop.engine.workloads().is_empty(), "nothing is given yet");
    assert_eq!(coming(&shop).await, sat(PRICE));
    assert!(shop.mint.pay(&invoice.bolt11));
    let Ok(Answer::Spawn(sold)) = answered(&shop, me, id).await else {
        panic!()
    };
    assert_eq!(sold.status.remaining_seconds, HOUR);
    assert_eq!(
        (sold.paid_msat, sold.mint_fee_msat),
        (sat(PRICE), Msat::ZERO)
    );
    assert_eq!(balance(&shop).await, sat(PRICE));
    assert_eq!(coming(&shop).await, Msat::ZERO);
    assert!(
        told(&shop, me, id)
            .iter()
            .all(|said| invoice_in(said).is_none())
    );
    // What is not served comes back as ecash, as from any lease.
    let Ok(Answer::Stop(stopped)) = shop.ask(me, stop(&sold.status.lease)).await else {
        panic!()
    };
    assert!(stopped.refund.unwrap().amount_msat >= sat(PRICE - 3));
    let lease = shop.lease(&sold.status.lease);
    assert!(lease.balances(shop.ctx().now()));
    assert_eq!(
        (lease.money.paid, lease.money.mint_fees),
        (sat(PRICE), Msat::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn a_price_in_part_of_a_sat_is_rounded_up_and_the_rest_is_credit() {
    let shop = open().await;
    let (id, invoice) = ordered(&shop, key(1), order(61)).await;
    assert_eq!(invoice.amount_msat, sat(7), "6.1 sat");
    shop.mint.pay(&invoice.bolt11);
    let lease = lease_in(answered(&shop, key(1), id).await);
    assert_eq!(shop.lease(&lease).sold_seconds, 70);
}

#[tokio::test(start_paused = true)]
async fn asked_again_there_is_one_invoice_one_answer_and_the_money_comes_once() {
    let mut shop = open().await;
    let (me, id) = (key(1), new_id());
    let text = body(id, order(HOUR));
    for _ in 0..3 {
        shop.deliver(me, text.clone()).await;
    }
    let invoice = due(&shop, me, id).await;
    shop.crash().await;
    shop.start().await;
    shop.deliver(me, text.clone()).await;
    assert_eq!(due(&shop, me, id).await, invoice);
    assert_eq!(shop.mint.invoices(), 1);
    shop.mint.pay(&invoice.bolt11);
    let first = answered(&shop, me, id).await;
    shop.crash().await;
    shop.start().await;
    shop.deliver(me, text).await;
    pass(60).await;
    assert_eq!(answered(&shop, me, id).await, first);
    assert_eq!(balance(&shop).await, sat(PRICE));
    assert_eq!(shop.engine.workloads().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_paid_while_we_are_down_becomes_a_lease_when_we_are_back() {
    let mut shop = open().await;
    let me = key(1);
    let (id, invoice) = ordered(&shop, me, order(HOUR)).await;
    shop.crash().await;
    shop.mint.pay(&invoice.bolt11);
    // Beyond the deadline, and not beyond the time for which room is held.
    pass(1_000).await;
    shop.start().await;
    let lease = lease_in(answered(&shop, me, id).await);
    assert_eq!(shop.lease(&lease).unserved_seconds(shop.ctx().now()), HOUR);
    assert_eq!(balance(&shop).await, sat(PRICE));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_mint_that_is_lost_is_asked_for_again() {
    let mut shop = open().await;
    let me = key(1);
    for dies in [false, true] {
        let (id, invoice) = ordered(&shop, me, order(HOUR)).await;
        let asked = shop.mint.asked_about(&invoice.bolt11);
        shop.mint.lose_next_collect();
        shop.mint.pay(&invoice.bolt11);
        until("it is asked", || {
            shop.mint.asked_about(&invoice.bolt11) > asked
        })
        .await;
        if dies {
            shop.crash().await;
            shop.start().await;
        }
        lease_in(answered(&shop, me, id).await);
    }
    assert_eq!(balance(&shop).await, sat(2 * PRICE));
}

#[tokio::test(start_paused = true)]
async fn whoever_has_paid_and_is_gone_has_a_lease_all_the_same() {
    let shop = open().await;
    let me = key(1);
    let (_, invoice) = ordered(&shop, me, order(HOUR)).await;
    shop.mint.pay(&invoice.bolt11);
    let id = only_lease(&shop);
    until("it runs", || shop.lease(&id).phase == Phase::Active).await;
    let Ok(Answer::List { leases }) = shop.ask(me, Ask::List).await else {
        panic!()
    };
    assert_eq!(leases.len(), 1);
    assert!(leases[0].access.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_invoice_that_is_not_paid_expires_and_its_room_is_free() {
    let shop = open_with(|settings| settings.capacity.max_leases = 1).await;
    let me = key(1);
    let (id, invoice) = ordered(&shop, me, order(HOUR)).await;
    let token = shop.mint.token(sat(100));
    let full = shop.ask(key(2), spawn(token.clone())).await.unwrap_err();
    assert_eq!(full.code, Code::NoCapacity, "the room is held");
    pass(700).await;
    let refused = answered(&shop, me, id).await.unwrap_err();
    assert_eq!(refused.code, Code::InvoiceExpired);
    assert_eq!(refused.money, Money::Untouched);
    assert!(refused.refund.is_none());
    shop.ask(key(2), spawn(token)).await.unwrap();
    // After the time that the offer tells nobody asks any more, and all of it is
    // forgotten as any lease that was never paid.
    pass(2 * HOUR).await;
    let asked = shop.mint.asked_about(&invoice.bolt11);
    pass(10 * HOUR).await;
    assert_eq!(shop.mint.asked_about(&invoice.bolt11), asked);
    pass(8 * 24 * HOUR).await;
    upkeep::forget(shop.ctx()).await.unwrap();
    let rows = shop.ctx().ledger().read(|reader| reader.all(&PAYMENTS));
    assert_eq!(rows.unwrap().len(), 1, "the other's");
}

#[tokio::test(start_paused = true)]
async fn what_is_paid_late_comes_back_in_full() {
    let shop = open().await;
    let me = key(1);
    let (id, invoice) = ordered(&shop, me, order(HOUR)).await;
    pass(700).await;
    let refused = answered(&shop, me, id).await.unwrap_err();
    assert_eq!(refused.code, Code::InvoiceExpired);
    // The fee of making it is ours, and somebody else has paid for that before.
    shop.spawn(key(2), 100).await;
    shop.mint.pay(&invoice.bolt11);
    let of_refund = || {
        let mut notices = shop.notices(me).into_iter();
        notices.rfind(|notice| notice.event == "refund")
    };
    pass(300).await;
    let refund = of_refund().expect("a notice").refund.unwrap();
    assert_eq!(refund.amount_msat, sat(PRICE));
    let lease = of_refund().unwrap().lease;
    let Ok(Answer::Status(seen)) = shop.ask(me, status(&lease)).await else {
        panic!()
    };
    assert_eq!(seen.refunds, [refund]);
    assert!(shop.lease(&lease).balances(shop.ctx().now()));
    assert!(shop.engine.workload(&lease).is_none());
    // The one answer stays what it was.
    assert_eq!(answered(&shop, me, id).await, Err(refused));
}

#[tokio::test(start_paused = true)]
async fn what_we_learn_too_late_of_comes_back_in_the_answer() {
    let mut shop = open().await;
    shop.spawn(key(2), 100).await;
    let me = key(1);
    let (id, invoice) = ordered(&shop, me, order(HOUR)).await;
    shop.crash().await;
    shop.mint.pay(&invoice.bolt11);
    pass(2 * HOUR).await;
    shop.start().await;
    let refused = answered(&shop, me, id).await.unwrap_err();
    assert_eq!(refused.money, Money::Taken);
    assert_eq!(refused.refund.unwrap().amount_msat, sat(PRICE));
    let made = shop.engine.count(Op::Create);
    assert_eq!(made, 1, "the other's: nobody waits for this one now");
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_is_silent_at_the_deadline_decides_when_it_speaks() {
    for paid in [false, true] {
        let shop = open_with(|settings| settings.capacity.max_leases = 2).await;
        shop.spawn(key(2), 200).await;
        let me = key(1);
        let (id, invoice) = ordered(&shop, me, order(HOUR)).await;
        shop.mint.set_down(true);
        if paid {
            shop.mint.pay(&invoice.bolt11);
        }
        pass(1_500).await;
        assert!(answer_now(&shop, me, id).is_none(), "nobody knows");
        shop.mint.set_down(false);
        // Its room was not held for ever.
        shop.spawn(key(3), 100).await;
        let refused = answered(&shop, me, id).await.unwrap_err();
        if paid {
            assert_eq!(refused.refund.unwrap().amount_msat, sat(PRICE));
        } else {
            assert_eq!(refused.code, Code::InvoiceExpired);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_makes_no_invoice_leaves_nothing() {
    let shop = open().await;
    let me = key(1);
    shop.mint.set_down(true);
    let refused = shop.ask(me, order(HOUR)).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.money),
        (Code::MintDown, Money::Untouched)
    );
    shop.mint.set_down(false);
    shop.mint
        .fail_next_invoice(WalletError::OutcomeUnknown("lost".to_owned()));
    let refused = shop.ask(me, order(HOUR)).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.money),
        (Code::MintDown, Money::Untouched)
    );
    let soon = shop.ctx().now().plus_secs(10);
    shop.mint.set_expiry(Some(soon));
    let refused = shop.ask(me, order(HOUR)).await.unwrap_err();
    assert_eq!(refused.code, Code::MintRefused, "it could not be paid");
    let rows = shop
        .ctx()
        .ledger()
        .read(|r| Ok((r.all(&LEASES)?, r.all(&PAYMENTS)?)));
    let (leases, payments) = rows.unwrap();
    assert!(leases.is_empty() && payments.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_invoice_that_expires_early_is_told_so() {
    let shop = open().await;
    let soon = shop.ctx().now().plus_secs(120);
    shop.mint.set_expiry(Some(soon));
    let (_, invoice) = ordered(&shop, key(1), order(HOUR)).await;
    assert_eq!(invoice.pay_by, soon);
}

#[tokio::test(start_paused = true)]
async fn strangers_do_not_hold_all_the_room_for_nothing() {
    let shop = open_with(|settings| {
        settings.lightning.as_mut().unwrap().unpaid = 3;
        settings.capacity.total.cpu_millicores = 4_000;
    })
    .await;
    ordered(&shop, key(1), order(HOUR)).await;
    let (id, invoice) = ordered(&shop, key(1), order(HOUR)).await;
    let third = shop.ask(key(1), order(HOUR)).await.unwrap_err();
    assert_eq!(third.code, Code::TooManyRequests);
    ordered(&shop, key(2), order(HOUR)).await;
    let fourth = shop.ask(key(3), order(HOUR)).await.unwrap_err();
    assert_eq!(fourth.code, Code::TooManyRequests);
    assert_eq!(shop.mint.invoices(), 3, "the mint is not asked for more");
    // What is paid is not in the way.
    shop.mint.pay(&invoice.bolt11);
    lease_in(answered(&shop, key(1), id).await);
    ordered(&shop, key(3), order(HOUR)).await;
    shop.spawn(key(4), 100).await;
}

#[tokio::test(start_paused = true)]
async fn time_is_bought_by_invoice_once_for_each_lease_at_a_time() {
    let shop = open().await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    let before = shop.lease(&lease).expires_at.unwrap();
    let (id, invoice) = ordered(&shop, me, more(&lease, 600)).await;
    assert_eq!(invoice.amount_msat, sat(60));
    let second = shop.ask(me, more(&lease, 600)).await.unwrap_err();
    assert_eq!(second.code, Code::TooManyRequests);
    let strangers = shop.ask(key(2), more(&lease, 600)).await.unwrap_err();
    assert_eq!(strangers.code, Code::NotFound);
    shop.mint.pay(&invoice.bolt11);
    let Ok(Answer::Topup(added)) = answered(&shop, me, id).await else {
        panic!()
    };
    assert_eq!(added.added_seconds, 600);
    assert_eq!(added.expires_at, before.plus_secs(600));
    // One that is not paid changes nothing.
    let (id, _) = ordered(&shop, me, more(&lease, 600)).await;
    pass(700).await;
    let refused = answered(&shop, me, id).await.unwrap_err();
    assert_eq!(refused.code, Code::InvoiceExpired);
    assert_eq!(shop.lease(&lease).phase, Phase::Active);
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_hangs_holds_up_neither_the_end_of_a_lease_nor_a_stop() {
    let shop = open().await;
    let me = key(1);
    for stops in [false, true] {
        let lease = shop.spawn(me, 30).await.status.lease;
        let (id, invoice) = ordered(&shop, me, more(&lease, 600)).await;
        pass(200).await;
        shop.mint.set_delay(Duration::from_secs(3600));
        pass(50).await;
        if stops {
            shop.deliver(me, body(new_id(), stop(&lease))).await;
            pass(5).await;
            assert_ne!(shop.lease(&lease).phase, Phase::Active);
        } else {
            pass(60).await;
            assert!(!shop.lease(&lease).is_open(shop.ctx().now()));
            assert_ne!(shop.lease(&lease).phase, Phase::Active);
        }
        shop.mint.set_delay(Duration::ZERO);
        pass(2 * HOUR).await;
        assert!(answer_now(&shop, me, id).is_some());
        assert!(shop.lease(&lease).has_ended());
        assert!(shop.mint.asked_about(&invoice.bolt11) > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn time_that_is_paid_for_a_lease_that_has_ended_comes_back_in_full() {
    let shop = open().await;
    shop.spawn(key(2), 100).await;
    let me = key(1);
    let lease = shop.spawn(me, 100).await.status.lease;
    let (id, invoice) = ordered(&shop, me, more(&lease, 600)).await;
    shop.ask(me, stop(&lease)).await.unwrap();
    assert!(shop.mint.pay(&invoice.bolt11));
    let refused = answered(&shop, me, id).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.money),
        (Code::LeaseEnded, Money::Taken)
    );
    assert_eq!(refused.refund.unwrap().amount_msat, sat(60));
    assert!(shop.lease(&lease).balances(shop.ctx().now()));
}

#[tokio::test(start_paused = true)]
async fn the_offer_and_a_quote_say_how_and_it_can_be_switched_off() {
    let shop = open().await;
    let quote = || {
        Ask::Quote(Quote {
            wanted: Wanted::default(),
            seconds: None,
        })
    };
    let said = offer::current(shop.ctx()).await.unwrap().satlet.unwrap();
    let Ok(Answer::Quote(quoted)) = shop.ask(key(1), quote()).await else {
        panic!()
    };
    let terms = said.lightning.unwrap();
    assert_eq!(quoted.lightning.as_ref(), Some(&terms));
    assert_eq!((terms.mint.as_str(), terms.unit.as_str()), (MINT, "sat"));
    assert_eq!((terms.pay_seconds, terms.late_seconds), (600, HOUR));

    let shop = open_with(|settings| settings.lightning = None).await;
    let said = offer::current(shop.ctx()).await.unwrap().satlet.unwrap();
    assert_eq!(said.lightning, None);
    let refused = shop.ask(key(1), order(HOUR)).await.unwrap_err();
    assert_eq!(refused.code, Code::Unsupported);
}
