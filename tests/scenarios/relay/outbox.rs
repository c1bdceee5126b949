//! Messages from us.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nostr_sdk::{ClientMessage, Event, Keys};
use satlet::core::ids::PublicKey;
use satlet::demo::relay::TestRelay;
use satlet::relay::convert::now;
use satlet::relay::memory::{Fate, MemoryInbox, MemoryOutbox};
use satlet::relay::outbox::{Outbox, OutboxOptions};
use satlet::relay::publisher::dm_relays_event;
use satlet::relay::session::Relays;
use satlet::relay::wrap::unwrap;
use satlet::relay::{OutboxStore, Outgoing};

use super::{SOON, fakes::Fake, hex, inbox, next, nothing_more, relays, send, until};

fn quick() -> OutboxOptions {
    OutboxOptions {
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(1),
        lookup_timeout: Duration::from_millis(500),
        linger: Duration::from_millis(500),
        ..OutboxOptions::default()
    }
}

fn outgoing(id: &str, to: PublicKey, relays: &[String]) -> Outgoing {
    Outgoing {
        channel: satlet::relay::Channel::GiftWrap,
        id: id.to_owned(),
        to,
        body: format!("body of {id}"),
        relays: relays.to_vec(),
        expires_at: now().plus_secs(120),
        written_at: now(),
        attempts: 0,
        next_attempt: now(),
    }
}

fn start(relays: &Relays, keys: &Keys, store: &Arc<MemoryOutbox>) -> Outbox {
    Outbox::start(relays, keys.clone(), store.clone(), quick())
}

async fn settled(store: &MemoryOutbox, id: &str) -> Fate {
    let settled = tokio::time::timeout(SOON, store.settled(id)).await;
    settled.expect("settled in time").expect("known")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_waits_for_its_relay_and_comes_once() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let urls = [relay.url()];
    relay.stop().await;
    let at_alice = relays(&alice, &urls);
    let store = Arc::new(MemoryOutbox::new());
    let outbox = start(&at_alice, &alice, &store);
    store.put(outgoing("m", hex(&bob), &urls));
    outbox.nudge();
    until("two attempts failed", || async {
        matches!(store.fate("m"), Some(Fate::Waiting(m)) if m.attempts >= 2)
    })
    .await;

    relay.restart().await.unwrap();
    let fate = settled(&store, "m").await;
    assert!(
        matches!(&fate, Fate::Confirmed { relay, .. } if *relay == urls[0]),
        "{fate:?}"
    );
    let at_bob = relays(&bob, &urls);
    let (_reading, mut messages) = inbox(&at_bob, &bob, &Arc::new(MemoryInbox::new()));
    assert_eq!(next(&mut messages).await.body, "body of m");
    nothing_more(&mut messages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_relays_yes_confirms_and_each_attempt_is_the_same_rumor() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let attempts: Arc<Mutex<Vec<Event>>> = Arc::default();
    let seen = attempts.clone();
    // Silent, then a no, then a yes.
    let relay = Fake::scripted(move |message| {
        let ClientMessage::Event(event) = message else {
            return vec![match message {
                ClientMessage::Req {
                    subscription_id: id,
                    ..
                } => format!("[\"EOSE\",\"{id}\"]"),
                _ => return Vec::new(),
            }];
        };
        let mut seen = seen.lock().unwrap();
        seen.push(event.clone().into_owned());
        let id = event.id;
        match seen.len() {
            1 => Vec::new(),
            2 => vec![format!("[\"OK\",\"{id}\",false,\"blocked: not today\"]")],
            _ => vec![format!("[\"OK\",\"{id}\",true,\"\"]")],
        }
    })
    .await;
    let at_alice = relays(&alice, std::slice::from_ref(&relay.url));
    let store = Arc::new(MemoryOutbox::new());
    let outbox = start(&at_alice, &alice, &store);
    store.put(outgoing("m", hex(&bob), std::slice::from_ref(&relay.url)));
    outbox.nudge();
    assert!(matches!(settled(&store, "m").await, Fate::Confirmed { .. }));
    let attempts = attempts.lock().unwrap();
    assert_eq!(attempts.len(), 3);
    let wraps: HashSet<_> = attempts.iter().map(|event| event.id).collect();
    assert_eq!(wraps.len(), 3, "each attempt is a wrap of its own");
    let rumors: HashSet<_> = attempts
        .iter()
        .map(|event| unwrap(&bob, event).unwrap().rumor)
        .collect();
    assert_eq!(rumors.len(), 1);
    for event in attempts.iter() {
        assert!(event.tags.expiration().is_some());
        assert!(event.created_at.as_secs() <= now().as_secs());
    }
}

/// One place, and minutes of patience with relays that say nothing: who waited
/// for them would not get two messages out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_one_relay_has_makes_room_for_the_next() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let good = TestRelay::start().await.unwrap();
    let mute = Fake::scripted(|_| Vec::new()).await;
    for urls in [vec![good.url()], vec![good.url(), mute.url.clone()]] {
        let at_alice = relays(&alice, &urls);
        assert_eq!(at_alice.wait_connected(urls.len(), SOON).await, urls.len());
        let store = Arc::new(MemoryOutbox::new());
        let options = OutboxOptions {
            parallel: 1,
            linger: Duration::from_secs(600),
            ..quick()
        };
        let outbox = Outbox::start(&at_alice, alice.clone(), store.clone(), options);
        for id in ["a", "b", "c", "d"] {
            store.put(outgoing(id, hex(&bob), &urls));
        }
        outbox.nudge();
        for id in ["a", "b", "c", "d"] {
            let fate = settled(&store, id).await;
            assert!(matches!(fate, Fate::Confirmed { .. }), "{fate:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_where_the_receiver_reads_too() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let (ours, theirs) = (
        TestRelay::start().await.unwrap(),
        TestRelay::start().await.unwrap(),
    );
    // Bob is on a relay that alice does not know, and says so on one she does.
    let at_bob = relays(&bob, &[theirs.url()]);
    let list = dm_relays_event(&bob, &[theirs.url()], now()).unwrap();
    send(&at_bob, &list, &[ours.url()]).await;
    let (_reading, mut messages) = inbox(&at_bob, &bob, &Arc::new(MemoryInbox::new()));

    let at_alice = relays(&alice, &[ours.url()]);
    let store = Arc::new(MemoryOutbox::new());
    let outbox = start(&at_alice, &alice, &store);
    store.put(outgoing("m", hex(&bob), &[ours.url()]));
    outbox.nudge();
    assert_eq!(next(&mut messages).await.body, "body of m");
    assert!(matches!(settled(&store, "m").await, Fate::Confirmed { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_unsent_is_given_up_and_a_dead_relay_holds_up_nothing_else() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let good = TestRelay::start().await.unwrap();
    let mute = Fake::mute().await;
    let at_alice = relays(&alice, &[good.url(), mute.url.clone()]);
    let store = Arc::new(MemoryOutbox::new());
    for n in 0..20 {
        let mut message = outgoing(
            &format!("dead {n}"),
            hex(&bob),
            std::slice::from_ref(&mute.url),
        );
        message.expires_at = now().plus_secs(3);
        store.put(message);
    }
    let outbox = start(&at_alice, &alice, &store);
    store.put(outgoing("good", hex(&bob), &[good.url()]));
    outbox.nudge();
    let started = std::time::Instant::now();
    assert!(matches!(
        settled(&store, "good").await,
        Fate::Confirmed { .. }
    ));
    assert!(started.elapsed() < Duration::from_secs(2));
    for n in 0..20 {
        assert_eq!(settled(&store, &format!("dead {n}")).await, Fate::GivenUp);
    }
    assert_eq!(store.next_due().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_sent_is_given_up() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let at_alice = relays(&alice, &[relay.url()]);
    let store = Arc::new(MemoryOutbox::new());
    let outbox = start(&at_alice, &alice, &store);
    let mut message = outgoing("long", hex(&bob), &[relay.url()]);
    message.body = "x".repeat(60_000);
    store.put(message);
    outbox.nudge();
    assert_eq!(settled(&store, "long").await, Fate::GivenUp);
}
