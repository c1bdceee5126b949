//! Under load: what strangers send costs little, is bounded, and delays nobody
//! who pays.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use nostr_sdk::{Event, EventBuilder, Keys, Kind, Tag};
use satlet::compute::fake::Op;
use satlet::core::ids::{EventId, PublicKey, RequestId};
use satlet::core::money::Msat;
use satlet::ledger::{INBOX, OUTBOX, REQUESTS, WRAPS};
use satlet::protocol::error::{Code, Money};
use satlet::protocol::reply::{Answer, Outcome};
use satlet::protocol::request::{Ask, Request};
use satlet::provider::settings::RequestPolicy;
use satlet::provider::stores::Stores;
use satlet::relay::convert::{key_to, now, time_to};
use satlet::relay::inbox::{Inbox, InboxOptions};
use satlet::relay::memory::MemoryInbox;
use satlet::relay::session::RelayOptions;
use satlet::relay::wrap::{wrap, wrap_with_work};
use satlet::relay::{Channel, Dropped, InboxStore, Incoming, pow};

use super::relay::{SOON, hex, message, next, quick, quick_inbox, relays, send, until as until_so};
use crate::support::proxy::Pipe;
use crate::support::shop::{Shop, body, key, new_id, spawn, status, until};
use crate::support::world::{Asker, House, World, request};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

fn stranger(n: u32) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

/// Rows of the tables that messages end in.
struct Rows {
    wraps: u64,
    inbox: u64,
    requests: u64,
    outbox: u64,
}

fn rows(shop: &Shop) -> Rows {
    let count = |reader: &satlet::ledger::Reader| {
        Ok(Rows {
            wraps: reader.count(&WRAPS)?,
            inbox: reader.count(&INBOX)?,
            requests: reader.count(&REQUESTS)?,
            outbox: reader.count(&OUTBOX)?,
        })
    };
    shop.ctx().ledger().read(count).unwrap()
}

fn all_done(shop: &Shop) -> bool {
    let rows = shop.ctx().ledger().read(|r| r.all(&INBOX)).unwrap();
    rows.iter().all(|(_, row)| row.done)
}

async fn ordinary() -> Shop {
    Shop::open_with(|settings| settings.requests = RequestPolicy::default()).await
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_leaves_no_trace() {
    let shop = ordinary().await;
    for n in 0..2_000 {
        let text = match n % 4 {
            0 => "not JSON".to_owned(),
            1 => "{\"satlet\":1}".to_owned(),
            2 => "[[[[[[]]]]]]".to_owned(),
            _ => format!("{{\"n\":{n},\"x\":\"{}\"}}", "y".repeat(1_000)),
        };
        assert!(!shop.post(stranger(n), text).await);
    }
    let rows = rows(&shop);
    assert_eq!(
        (rows.wraps, rows.inbox, rows.requests, rows.outbox),
        (0, 0, 0, 0)
    );
    assert_eq!(shop.ctx().admission.counts().0, 2_000);
    assert_eq!(shop.ctx().admission.keys(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_only_asks_is_written_down_with_its_answer_and_is_nothing_before() {
    let shop = ordinary().await;
    let (owner, id) = (key(1), new_id());
    let message = Incoming {
        channel: Channel::GiftWrap,
        rumor: EventId::from_bytes([1; 32]),
        wrap: Some(EventId::from_bytes([2; 32])),
        sender: owner,
        written_at: shop.ctx().now(),
        received_at: shop.ctx().now(),
        relay: "ws://relay.test".to_owned(),
        body: body(id, Ask::List),
    };
    let wrap = message.wrap.unwrap();
    let stores = Stores::new(Arc::clone(shop.ctx()));
    // Cut off here, it is brought again and served then.
    for _ in 0..2 {
        assert!(stores.store(&message, &wrap).await.unwrap());
        let rows = rows(&shop);
        assert_eq!((rows.wraps, rows.inbox, rows.requests), (0, 0, 0));
    }
    shop.dispatch(message.clone()).await;
    let answer = shop.answer(owner, id).await;
    assert!(matches!(answer, Ok(Answer::List { .. })), "{answer:?}");
    assert!(stores.seen_wrap(&wrap).await);
    assert!(!stores.store(&message, &wrap).await.unwrap());
    let known = rows(&shop);
    assert_eq!((known.wraps, known.inbox, known.requests), (1, 0, 1));
    // Who wraps it anew asks for the answer again, and hears the same one.
    let first = shop.letters(owner);
    assert!(shop.post(owner, message.body).await);
    until("it is dealt with", || rows(&shop).wraps == 2).await;
    assert_eq!(shop.letters(owner), first);
    assert_eq!(rows(&shop).requests, 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_by_many_keys_is_bounded_and_a_paid_one_gets_through() {
    let shop = ordinary().await;
    let owner = key(1);
    let mut bought = None;
    for n in 0..3_000 {
        shop.post(stranger(n), body(new_id(), Ask::List)).await;
        if n == 1_500 {
            let id = new_id();
            let ask = spawn(shop.mint.token(sat(10)));
            assert!(shop.post(owner, body(id, ask)).await);
            bought = Some(id);
        }
    }
    let answer = shop.answer(owner, bought.unwrap()).await;
    assert!(matches!(answer, Ok(Answer::Spawn(_))), "{answer:?}");
    let policy = RequestPolicy::default();
    let rows = rows(&shop);
    // No time has gone by but what the flood took, and the paid one.
    let served = u64::from(policy.per_minute) + 100;
    assert!(rows.inbox <= served, "{}", rows.inbox);
    assert!(rows.requests <= served, "{}", rows.requests);
    let told = u64::from(policy.errors_per_minute) + 10;
    assert!(rows.outbox <= served + told, "{}", rows.outbox);
    assert!(shop.ctx().admission.counts().1 >= 2_000, "not told");
    assert!(shop.ctx().admission.keys() <= 1_000);
}

#[tokio::test(start_paused = true)]
async fn an_owner_is_served_while_strangers_use_up_their_share() {
    let shop = ordinary().await;
    let owner = key(1);
    let lease = shop.spawn(owner, 10).await.status.lease;
    for n in 0..1_000 {
        shop.post(stranger(n), body(new_id(), Ask::List)).await;
    }
    let late = new_id();
    shop.post(stranger(5_000), body(late, Ask::List)).await;
    let id = new_id();
    assert!(shop.post(owner, body(id, status(&lease))).await);
    assert!(shop.answer(owner, id).await.is_ok());
    assert!(shop.answer_now(stranger(5_000), late).is_none());
}

#[tokio::test(start_paused = true)]
async fn refusals_are_rationed_and_leave_nothing_beyond_the_ration() {
    let shop = ordinary().await;
    let one = key(3);
    let mut ids = Vec::new();
    for _ in 0..25 {
        let id = new_id();
        shop.post(one, body(id, spawn("cashuBgarbage".to_owned())))
            .await;
        ids.push(id);
    }
    until("all are dealt with", || all_done(&shop)).await;
    let told = ids.iter().filter_map(|id| shop.answer_now(one, *id));
    let told = told.count() as u64;
    let ration = u64::from(RequestPolicy::default().errors_per_key_per_minute);
    assert_eq!(told, ration);
    assert_eq!(rows(&shop).requests, ration, "what was not told is gone");
    // Another key is told, and the same one after a while.
    let error = shop.ask(key(4), spawn("cashuBgarbage".to_owned())).await;
    assert_eq!(error.unwrap_err().code, Code::MalformedToken);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let error = shop.ask(one, spawn("cashuBgarbage".to_owned())).await;
    assert_eq!(error.unwrap_err().code, Code::MalformedToken);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_answered_is_served_when_it_comes_again() {
    let shop = Shop::open_with(|settings| {
        settings.requests = RequestPolicy {
            errors_per_minute: 0,
            ..RequestPolicy::default()
        };
    })
    .await;
    let (owner, id) = (key(1), new_id());
    shop.mint.set_down(true);
    let text = body(id, spawn(shop.mint.token(sat(10))));
    shop.post(owner, text.clone()).await;
    until("it is dealt with", || all_done(&shop)).await;
    assert!(shop.answer_now(owner, id).is_none());
    assert_eq!(rows(&shop).requests, 0);
    shop.mint.set_down(false);
    shop.post(owner, text).await;
    let answer = shop.answer(owner, id).await;
    assert!(matches!(answer, Ok(Answer::Spawn(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_hangs_fills_its_own_lane_and_delays_no_status() {
    let shop = Shop::open_with(|settings| settings.capacity.max_leases = 10_000).await;
    let owner = key(1);
    let lease = shop.spawn(owner, 10).await.status.lease;
    shop.mint.set_delay(Duration::from_secs(3600));
    let mut waiting = Vec::new();
    for n in 0..300 {
        let id = new_id();
        let ask = spawn(shop.mint.token(sat(10)));
        assert!(shop.post(stranger(n), body(id, ask)).await);
        waiting.push((stranger(n), id));
    }
    let asked = tokio::time::Instant::now();
    let answer = shop.ask(owner, status(&lease)).await;
    assert!(matches!(answer, Ok(Answer::Status(_))), "{answer:?}");
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "before any timeout"
    );
    let refusal = |(key, id): &(PublicKey, RequestId)| match shop.answer_now(*key, *id)?.outcome {
        Outcome::Error(error) => Some(error),
        Outcome::Result(_) => None,
    };
    let mut refused = Vec::new();
    until("what is beyond the lane is refused", || {
        refused = waiting.iter().filter_map(refusal).collect();
        refused.len() >= 100
    })
    .await;
    for error in refused {
        assert_eq!(error.code, Code::TooManyRequests, "{error:?}");
        assert_eq!(error.money, Money::Untouched);
    }
    // The mint is well again: who waits is served, and nobody paid meanwhile.
    assert_eq!(shop.mint.total_redeem_calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn whose_turn_at_a_mint_comes_after_their_own_deadline_is_refused() {
    let shop = Shop::open_with(|settings| settings.capacity.max_leases = 10_000).await;
    shop.mint.set_delay(Duration::from_secs(3600));
    // As many as a lane works on at once; each holds its place until the mint's
    // time is over.
    for n in 0..32 {
        let ask = spawn(shop.mint.token(sat(10)));
        assert!(shop.post(stranger(n), body(new_id(), ask)).await);
    }
    let (late, id) = (stranger(99), new_id());
    let mut request = Request::new(id, spawn(shop.mint.token(sat(10))));
    request.expires_at = Some(shop.ctx().now().plus_secs(10));
    let request = serde_json::to_string(&request).unwrap();
    assert!(shop.post(late, request).await);
    let answer = shop.answer(late, id).await;
    let Err(error) = answer else {
        panic!("served too late: {answer:?}")
    };
    assert_eq!(error.code, Code::RequestExpired, "{error:?}");
    assert_eq!(error.money, Money::Untouched);
    assert_eq!(shop.mint.total_redeem_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_workloads_are_made_at_once_than_the_operator_says() {
    let shop = Shop::open_with(|settings| settings.creates = 2).await;
    shop.engine.hang(Op::Create);
    let ids: Vec<_> = (1..=4).map(|n| (key(n), new_id())).collect();
    for (owner, id) in &ids {
        let ask = spawn(shop.mint.token(sat(10)));
        shop.deliver(*owner, body(*id, ask)).await;
    }
    shop.engine.called(Op::Create, 2).await;
    until("all are paid", || shop.mint.total_redeem_calls() == 4).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(shop.engine.count(Op::Create), 2);
    shop.engine.release();
    for (owner, id) in ids {
        let answer = shop.answer(owner, id).await;
        assert!(matches!(answer, Ok(Answer::Spawn(_))), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_set_anew_holds_at_once() {
    let shop = ordinary().await;
    assert!(shop.ask(key(1), Ask::List).await.is_ok());
    let offered = shop.ctx().policy();
    shop.ctx().set_policy(RequestPolicy {
        deny: vec![key(1)],
        pow_bits: 12,
        ..(*offered).clone()
    });
    let error = shop.ask(key(1), Ask::List).await.unwrap_err();
    assert_eq!(error.code, Code::NotAllowed);
    assert!(shop.ask(key(2), Ask::List).await.is_ok());
    let offer = satlet::provider::offer::current(shop.ctx()).await.unwrap();
    assert_eq!(offer.satlet.unwrap().limits.pow_bits, 12);
    shop.ctx().set_policy((*offered).clone());
    assert!(shop.ask(key(1), Ask::List).await.is_ok());
}

/// Junk as strangers send it, signed well.
fn junk(n: u32, to: &PublicKey) -> Event {
    let keys = Keys::generate();
    let undecryptable = |bytes: usize| {
        let text: String = (0..bytes).map(|_| rand::random_range('a'..='z')).collect();
        let expires = Tag::expiration(time_to(now().plus_secs(3600)));
        EventBuilder::new(Kind::GiftWrap, text)
            .tags([Tag::public_key(key_to(to)), expires])
            .sign_with_keys(&keys)
            .unwrap()
    };
    let said = |text: &str| {
        let expires = now().plus_secs(3600);
        wrap(&keys, to, text, now(), expires).unwrap().0
    };
    match n % 10 {
        0..=4 => undecryptable(600),
        5 => undecryptable(100_000),
        6 | 7 => said("{\"valid\":\"garbage\"}"),
        8 => said(&body(new_id(), Ask::List)),
        _ => said(&body(new_id(), spawn("cashuBgarbage".to_owned()))),
    }
}

const EVENTS: u32 = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_request_is_served_while_a_flood_goes_on() {
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.settings.requests = RequestPolicy::default();
    house.start().await;
    let customer = Asker::start(&world).await;
    let purse = world.purse(100).await;
    let token = purse.token(10).await;
    let to = house.key();

    let flooders = Keys::generate();
    let at_flood = relays(&flooders, &world.urls());
    assert_eq!(at_flood.wait_connected(1, SOON).await, 1);
    let (urls, flooding) = (world.urls(), at_flood.clone());
    let flood = tokio::spawn(async move {
        let began = tokio::time::Instant::now();
        for n in 0..EVENTS {
            let event = tokio::task::spawn_blocking(move || junk(n, &to))
                .await
                .unwrap();
            drop(flooding.publish_until(&event, &urls, 1).await);
            tokio::time::sleep_until(began + Duration::from_millis(2) * n).await;
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!flood.is_finished());
    let answer = customer.ask(&to, spawn(token)).await;
    assert!(matches!(answer, Ok(Answer::Spawn(_))), "{answer:?}");
    assert!(!flood.is_finished(), "served in the middle of it");
    flood.await.unwrap();
    // The same daemon serves on.
    assert!(customer.ask(&to, Ask::List).await.is_ok());

    let ctx = house.ctx();
    let policy = RequestPolicy::default();
    let inbox = ctx.ledger().read(|r| r.count(&INBOX)).unwrap();
    let wraps = ctx.ledger().read(|r| r.count(&WRAPS)).unwrap();
    // A tenth were requests that may be answered, another that is refused.
    let most = u64::from(EVENTS) / 5 + 10;
    assert!(inbox <= most && wraps <= most, "{inbox} {wraps}");
    let (ignored, silenced) = ctx.admission.counts();
    assert!(ignored > 100, "{ignored}");
    assert!(silenced > 100, "{silenced}");
    let requests = ctx.ledger().read(|r| r.all(&REQUESTS)).unwrap();
    let refusals = requests.iter().filter(|(_, row)| {
        let answer = row.answer.as_deref().unwrap_or_default();
        answer.contains("malformed_token")
    });
    // The flood may take some minutes on a busy machine.
    let ration = policy.errors_per_minute as usize * 10;
    assert!(refusals.count() <= ration);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_connection_drops_every_second_for_a_minute_loses_nothing() {
    let world = World::start(1).await;
    let pipe = Pipe::start(world.urls()[0].trim_start_matches("ws://")).await;
    let mut house = House::build(&world, 1);
    house.settings.relays = vec![pipe.ws()];
    house.relays = RelayOptions {
        idle_close: Duration::from_secs(60),
        ..quick()
    };
    house.start().await;
    let asker = Asker::start(&world).await;
    let to = house.key();
    let mut ids = Vec::new();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..60 {
        for _ in 0..2 {
            let (id, text) = request(Ask::List);
            asker.send(&to, &text).await;
            ids.push(id);
        }
        second.tick().await;
        pipe.cut();
    }
    assert!(house.provider().relays().status()[0].connections > 30);
    for id in ids {
        let replies = asker.replies(id, 1).await;
        let rumors: HashSet<_> = replies.iter().map(|got| got.rumor).collect();
        assert_eq!(rumors.len(), 1, "one answer, however often it was sent");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gift_wraps_without_the_work_that_is_asked_for_are_dropped_unread() {
    let world = World::start(1).await;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let at_bob = relays(&bob, &world.urls());
    let options = InboxOptions {
        pow_bits: Arc::new(std::sync::atomic::AtomicU8::new(8)),
        ..quick_inbox()
    };
    let store = Arc::new(MemoryInbox::new());
    let (reading, mut messages) = Inbox::start(&at_bob, bob.clone(), store, options);
    let at_alice = relays(&alice, &world.urls());
    // One in 256 would do by luck, without having set out to.
    send(&at_alice, &message(&alice, &bob, "cheap"), &world.urls()).await;
    until_so("it is dropped", || async {
        reading.dropped(Dropped::NoWork) > 0
    })
    .await;
    let expires = now().plus_secs(600);
    let to = hex(&bob);
    let event = wrap_with_work(&alice, &to, "worked for", now(), expires, 8).await;
    let event = event.unwrap();
    assert!(pow::proves(&event, 8));
    send(&at_alice, &event, &world.urls()).await;
    assert_eq!(next(&mut messages).await.body, "worked for");
    let too_much = wrap_with_work(&alice, &to, "x", now(), expires, 29).await;
    assert!(too_much.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_does_the_work_that_the_offer_asks_for() {
    use satlet::consumer::post::{Letter, Post};
    use satlet::consumer::relay_post::RelayPost;
    let world = World::start(1).await;
    let mut house = House::build(&world, 1);
    house.settings.requests.pow_bits = 8;
    house.start().await;
    // The offer is out.
    let me = RelayPost::new(Keys::generate(), world.urls());
    let mut replies = me.listen().await.unwrap();
    until_so("the offer is found", || async {
        !me.discover().await.unwrap().is_empty()
    })
    .await;
    let (id, text) = request(Ask::List);
    let letter = Letter {
        to: house.key(),
        body: text,
        written_at: now(),
        relays: Vec::new(),
    };
    me.send(&letter).await;
    let got = next(&mut replies).await;
    assert!(got.body.contains(&id.to_string()), "{}", got.body);
    // One who does not know the offer yet finds it out.
    let other = RelayPost::new(Keys::generate(), world.urls());
    let mut replies = other.listen().await.unwrap();
    let (id, text) = request(Ask::List);
    other
        .send(&Letter {
            body: text,
            ..letter
        })
        .await;
    assert!(next(&mut replies).await.body.contains(&id.to_string()));
    house.stop().await;
}
