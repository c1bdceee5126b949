//! Messages to us.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use nostr_sdk::{ClientMessage, Event, JsonUtil, Keys, Timestamp};
use satlet::core::ids::EventId;
use satlet::demo::relay::{TestRelay, TestRelayOptions};
use satlet::relay::convert::{now, time_to};
use satlet::relay::inbox::Inbox;
use satlet::relay::memory::MemoryInbox;
use satlet::relay::session::Relays;
use satlet::relay::{Dropped, InboxStore, Incoming, StoreError};

use super::{
    Craft, SOON, fakes::Fake, hex, inbox, message, next, nothing_more, quick_inbox, relays, send,
    until,
};

const DAY: u64 = 24 * 60 * 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_over_three_relays_and_wrapped_again_comes_once() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let (a, b, c) = (
        TestRelay::start().await.unwrap(),
        TestRelay::start().await.unwrap(),
        TestRelay::start().await.unwrap(),
    );
    let urls = [a.url(), b.url(), c.url()];
    let at_bob = relays(&bob, &urls);
    let store = Arc::new(MemoryInbox::new());
    let (reading, mut messages) = inbox(&at_bob, &bob, &store);
    let at_alice = relays(&alice, &urls);

    let (written, expires) = (now(), now().plus_secs(600));
    let wrap = || satlet::relay::wrap::wrap(&alice, &hex(&bob), "spawn", written, expires);
    let (first, rumor) = wrap().unwrap();
    let (second, same) = wrap().unwrap();
    assert_eq!(rumor, same);
    assert_ne!(first.id, second.id);
    send(&at_alice, &first, &urls).await;
    send(&at_alice, &second, &urls).await;

    let got = next(&mut messages).await;
    assert_eq!(
        (got.rumor, got.sender, got.written_at, got.body.as_str()),
        (rumor, hex(&alice), written, "spawn")
    );
    assert!(urls.contains(&got.relay), "{}", got.relay);
    until("all copies are looked at", || async {
        reading.dropped(Dropped::Duplicate) >= 5
    })
    .await;
    nothing_more(&mut messages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_sent_while_we_were_down_arrive_however_far_back_dated() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let urls = [relay.url()];
    let at_alice = relays(&alice, &urls);
    let at = |age: u64, body: &str| {
        let craft = Craft {
            author: &alice,
            signer: &alice,
            to: &bob,
            body: body.to_owned(),
            stamp: Timestamp::from_secs(now().as_secs() - age),
        };
        craft.event()
    };
    for (age, body) in [
        (0, "fresh"),
        (DAY, "a day"),
        (2 * DAY, "two days"),
        (9 * DAY, "old"),
    ] {
        send(&at_alice, &at(age, body), &urls).await;
    }

    // Never seen, and seen a moment ago: both look back far enough.
    for seen in [None, Some(now())] {
        let store = Arc::new(MemoryInbox::new());
        if let Some(seen) = seen {
            store.set_last_seen(&urls[0], seen).await.unwrap();
        }
        let at_bob = relays(&bob, &urls);
        let (_reading, mut messages) = inbox(&at_bob, &bob, &store);
        let mut bodies = HashSet::new();
        for _ in 0..3 {
            bodies.insert(next(&mut messages).await.body);
        }
        let wanted = ["fresh", "a day", "two days"].map(str::to_owned);
        assert_eq!(bodies, HashSet::from(wanted));
        nothing_more(&mut messages).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_by_somebody_else_is_refused() {
    let (alice, bob, mallory) = (Keys::generate(), Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let urls = [relay.url()];
    let at_bob = relays(&bob, &urls);
    let store = Arc::new(MemoryInbox::new());
    let (reading, mut messages) = inbox(&at_bob, &bob, &store);
    let forged = Craft {
        author: &alice,
        signer: &mallory,
        to: &bob,
        body: "give me alice's lease".to_owned(),
        stamp: time_to(now()),
    };
    let at_mallory = relays(&mallory, &urls);
    send(&at_mallory, &forged.event(), &urls).await;
    send(
        &at_mallory,
        &message(&mallory, &bob, "in my own name"),
        &urls,
    )
    .await;

    assert_eq!(next(&mut messages).await.sender, hex(&mallory));
    until("the forgery is counted", || async {
        reading.dropped(Dropped::ForgedAuthor) > 0
    })
    .await;
    nothing_more(&mut messages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_are_dead_mute_mad_or_lying_do_not_slow_the_good_one() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let good = TestRelay::start().await.unwrap();
    let (mute, slam, garbage) = (
        Fake::mute().await,
        Fake::slam().await,
        Fake::garbage().await,
    );
    let false_signature = {
        let mut event = message(&alice, &bob, "never written");
        event.sig = message(&alice, &bob, "another").sig;
        event
    };
    let for_another = message(&alice, &alice, "not for bob");
    let liar = Fake::liar(vec![false_signature, for_another]).await;
    let urls = [&mute, &slam, &garbage, &liar].map(|fake| fake.url.clone());
    let all: Vec<String> = urls.into_iter().chain([good.url()]).collect();

    let at_bob = relays(&bob, &all);
    let store = Arc::new(MemoryInbox::new());
    let (reading, mut messages) = inbox(&at_bob, &bob, &store);
    assert!(reading.wait_ready(SOON).await);
    until("the lies are noticed", || async {
        reading.dropped(Dropped::BadSignature) > 0 && reading.dropped(Dropped::NotForUs) > 0
    })
    .await;
    let at_alice = relays(&alice, &[good.url()]);
    assert_eq!(at_alice.wait_connected(1, SOON).await, 1);
    let started = std::time::Instant::now();
    for n in 0..20 {
        let body = n.to_string();
        send(&at_alice, &message(&alice, &bob, &body), &[good.url()]).await;
        assert_eq!(next(&mut messages).await.body, body);
    }
    // Far below one timeout of any of the others.
    assert!(started.elapsed() < Duration::from_secs(5));
    nothing_more(&mut messages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_goes_and_comes_back_loses_nothing() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let urls = [relay.url()];
    let at_bob = relays(&bob, &urls);
    let store = Arc::new(MemoryInbox::new());
    let (_reading, mut messages) = inbox(&at_bob, &bob, &store);
    let at_alice = relays(&alice, &urls);
    for round in 0..3 {
        send(
            &at_alice,
            &message(&alice, &bob, &format!("{round} live")),
            &urls,
        )
        .await;
        assert_eq!(next(&mut messages).await.body, format!("{round} live"));
        relay.stop().await;
        until("the loss is noticed", || async {
            !at_bob.status()[0].connected && !at_alice.status()[0].connected
        })
        .await;
        assert!(at_bob.status()[0].last_error.is_some());
        relay.restart().await.unwrap();
        assert_eq!(at_alice.wait_connected(1, SOON).await, 1);
        let body = format!("{round} after");
        send(&at_alice, &message(&alice, &bob, &body), &urls).await;
        assert_eq!(next(&mut messages).await.body, body);
    }
    assert!(at_bob.status()[0].connections >= 4);
}

/// Puts wraps on a relay, many at once; returns their bodies.
async fn stock(at_alice: &Relays, alice: &Keys, bob: &Keys, count: usize) -> HashSet<String> {
    let urls = at_alice.urls();
    let bodies: Vec<String> = (0..count).map(|n| format!("message {n}")).collect();
    let (alice, bob, made) = (alice.clone(), bob.clone(), bodies.clone());
    let events = tokio::task::spawn_blocking(move || -> Vec<Event> {
        made.iter()
            .map(|body| message(&alice, &bob, body))
            .collect()
    })
    .await
    .unwrap();
    for some in events.chunks(100) {
        let sending = some.iter().map(|event| send(at_alice, event, &urls));
        futures::future::join_all(sending).await;
    }
    bodies.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_stored_messages_are_all_read_from_a_relay_that_gives_500_at_a_time() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let options = TestRelayOptions {
        answer_limit: 500,
        ..TestRelayOptions::default()
    };
    let relay = TestRelay::start_with(options).await.unwrap();
    let urls = [relay.url()];
    let mut missing = stock(&relays(&alice, &urls), &alice, &bob, 3000).await;

    let at_bob = relays(&bob, &urls);
    let store = Arc::new(MemoryInbox::new());
    let (_reading, mut messages) = inbox(&at_bob, &bob, &store);
    while !missing.is_empty() {
        let got = next(&mut messages).await;
        assert!(missing.remove(&got.body), "twice: {}", got.body);
    }
    until("the relay counts as read", || async {
        store.last_seen(&urls[0]).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_messages_in_one_second_than_a_page_holds_are_still_read_past() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let urls = [relay.url()];
    let at_alice = relays(&alice, &urls);
    let at = |age: u64, body: String| Craft {
        author: &alice,
        signer: &alice,
        to: &bob,
        body,
        stamp: Timestamp::from_secs(now().as_secs() / 1000 * 1000 - age),
    };
    for n in 0..10 {
        send(&at_alice, &at(1000, format!("tie {n}")).event(), &urls).await;
    }
    send(&at_alice, &at(2000, "behind".to_owned()).event(), &urls).await;
    let at_bob = relays(&bob, &urls);
    let options = satlet::relay::inbox::InboxOptions {
        page: 10,
        ..quick_inbox()
    };
    let store = Arc::new(MemoryInbox::new());
    let (_reading, mut messages) = Inbox::start(&at_bob, bob.clone(), store, options);
    let mut bodies = HashSet::new();
    for _ in 0..11 {
        bodies.insert(next(&mut messages).await.body);
    }
    assert!(bodies.contains("behind"), "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_slow_loses_nothing_of_a_burst() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let urls = [relay.url()];
    let at_bob = relays(&bob, &urls);
    let options = satlet::relay::inbox::InboxOptions {
        queue: 1,
        parallel: 2,
        ..quick_inbox()
    };
    let store = Arc::new(MemoryInbox::new());
    let (reading, mut messages) = Inbox::start(&at_bob, bob.clone(), store.clone(), options);
    assert!(reading.wait_ready(SOON).await);
    // More than the live queue of a relay holds, while nobody takes any.
    let mut missing = stock(&relays(&alice, &urls), &alice, &bob, 1500).await;
    while !missing.is_empty() {
        let got = next(&mut messages).await;
        assert!(missing.remove(&got.body), "twice: {}", got.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_full_of_what_cannot_be_read_hides_nothing_behind_it() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let craft = Craft {
        author: &alice,
        signer: &alice,
        to: &bob,
        body: "behind".to_owned(),
        stamp: Timestamp::from_secs(now().as_secs() - 5000),
    };
    let (good, newer) = (craft.event(), now().as_secs() - 1000);
    // A relay that took events with an empty tag, and gives ten at a time.
    let junk: Vec<String> = (0..10)
        .map(|n| {
            let (id, key, sig) = (format!("{n:064x}"), "1".repeat(64), "2".repeat(128));
            format!(
                "{{\"id\":\"{id}\",\"pubkey\":\"{key}\",\"created_at\":{newer},\"kind\":1059,\
                 \"tags\":[[]],\"content\":\"\",\"sig\":\"{sig}\"}}"
            )
        })
        .collect();
    let relay = Fake::scripted(move |message| {
        let ClientMessage::Req {
            subscription_id: id,
            filters,
        } = message
        else {
            return Vec::new();
        };
        let until = filters[0].until.map_or(u64::MAX, |until| until.as_secs());
        let page = if until >= newer {
            junk.clone()
        } else if until >= good.created_at.as_secs() {
            vec![good.as_json()]
        } else {
            Vec::new()
        };
        let events = page.iter().map(|e| format!("[\"EVENT\",\"{id}\",{e}]"));
        events.chain([format!("[\"EOSE\",\"{id}\"]")]).collect()
    })
    .await;
    let at_bob = relays(&bob, std::slice::from_ref(&relay.url));
    let store = Arc::new(MemoryInbox::new());
    let (reading, mut messages) = inbox(&at_bob, &bob, &store);
    assert_eq!(next(&mut messages).await.body, "behind");
    assert!(reading.wait_ready(SOON).await);
    assert!(reading.dropped(Dropped::Undecryptable) > 0);
}

/// A store that refuses until it is mended.
#[derive(Default)]
struct Broken {
    mended: AtomicBool,
    inner: MemoryInbox,
}

#[async_trait]
impl InboxStore for Broken {
    async fn store(&self, message: &Incoming, wrap: &EventId) -> Result<bool, StoreError> {
        if !self.mended.load(Ordering::Relaxed) {
            return Err(StoreError("disk full".to_owned()));
        }
        self.inner.store(message, wrap).await
    }
    async fn seen_wrap(&self, wrap: &EventId) -> bool {
        self.inner.seen_wrap(wrap).await
    }
    async fn last_seen(&self, relay: &str) -> Option<satlet::core::time::Timestamp> {
        self.inner.last_seen(relay).await
    }
    async fn set_last_seen(
        &self,
        relay: &str,
        at: satlet::core::time::Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.set_last_seen(relay, at).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_is_not_handed_on_until_it_can() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let relay = TestRelay::start().await.unwrap();
    let urls = [relay.url()];
    send(
        &relays(&alice, &urls),
        &message(&alice, &bob, "keep me"),
        &urls,
    )
    .await;
    let at_bob = relays(&bob, &urls);
    let store = Arc::new(Broken::default());
    let (reading, mut messages) = inbox(&at_bob, &bob, &store);
    nothing_more(&mut messages).await;
    assert!(!reading.wait_ready(Duration::from_millis(1)).await);
    assert_eq!(store.last_seen(&urls[0]).await, None, "nothing was handled");

    store.mended.store(true, Ordering::Relaxed);
    assert_eq!(next(&mut messages).await.body, "keep me");
    assert!(reading.wait_ready(SOON).await);
    until("the relay counts as read", || async {
        store.last_seen(&urls[0]).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_wants_to_know_us_is_told() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let options = TestRelayOptions {
        auth: true,
        ..TestRelayOptions::default()
    };
    let relay = TestRelay::start_with(options).await.unwrap();
    let urls = [relay.url()];
    let at_bob = relays(&bob, &urls);
    let store = Arc::new(MemoryInbox::new());
    let (reading, mut messages) = inbox(&at_bob, &bob, &store);
    assert!(reading.wait_ready(SOON).await);
    let at_alice = relays(&alice, &urls);
    send(&at_alice, &message(&alice, &bob, "hello"), &urls).await;
    assert_eq!(next(&mut messages).await.body, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_added_later_is_read_and_one_removed_is_not() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let (a, b) = (
        TestRelay::start().await.unwrap(),
        TestRelay::start().await.unwrap(),
    );
    let at_bob = relays(&bob, &[a.url()]);
    let store = Arc::new(MemoryInbox::new());
    let (_reading, mut messages) = inbox(&at_bob, &bob, &store);
    let at_alice = relays(&alice, &[a.url(), b.url()]);
    send(&at_alice, &message(&alice, &bob, "on b"), &[b.url()]).await;
    nothing_more(&mut messages).await;
    at_bob.add(&b.url()).unwrap();
    assert_eq!(next(&mut messages).await.body, "on b");
    at_bob.remove(&a.url());
    assert_eq!(at_bob.urls(), [b.url()]);
    send(&at_alice, &message(&alice, &bob, "on a"), &[a.url()]).await;
    nothing_more(&mut messages).await;
}
