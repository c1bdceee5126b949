//! Publishing, fetching and finding providers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nostr_sdk::{ClientMessage, EventBuilder, Filter, Keys, Kind};
use satlet::demo::relay::TestRelay;
use satlet::protocol::heartbeat::{AvailableCapacity, Heartbeat};
use satlet::protocol::offer::{Offer, Spec};
use satlet::relay::Ack;
use satlet::relay::convert::now;
use satlet::relay::publisher::{discover, heartbeat_events, offer_event};
use satlet::relay::session::Relays;

use super::{SOON, fakes::Fake, hex, message, quick, relays, send, until};

async fn refuser() -> Fake {
    Fake::scripted(|message| match message {
        ClientMessage::Event(event) => {
            vec![format!("[\"OK\",\"{}\",false,\"blocked: no\"]", event.id)]
        }
        _ => Vec::new(),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_relay_gives_its_own_answer() {
    let keys = Keys::generate();
    let good = TestRelay::start().await.unwrap();
    let gone = TestRelay::start().await.unwrap();
    gone.stop().await;
    let (refuses, mute) = (refuser().await, Fake::mute().await);
    let to = [
        good.url(),
        refuses.url.clone(),
        gone.url(),
        mute.url.clone(),
        "https://not.a.relay".to_owned(),
    ];
    // Two of the set, the others on demand.
    let at_us = relays(&keys, &to[..2]);
    let event = message(&keys, &keys, "to all");
    let started = Instant::now();
    let answers: BTreeMap<String, Ack> = at_us.publish(&event, &to).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(answers.len(), 5);
    assert_eq!(answers[&to[0]], Ack::Accepted);
    assert_eq!(answers[&to[1]], Ack::Refused("blocked: no".to_owned()));
    for url in &to[2..] {
        assert!(matches!(answers[url], Ack::NoAnswer(_)), "{url}");
    }

    let started = Instant::now();
    let first = at_us
        .publish_until(&message(&keys, &keys, "to one"), &to, 1)
        .await;
    assert_eq!(first.get(&to[0]), Some(&Ack::Accepted));
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "waited for the mute one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_relay_costs_no_time_and_lies_are_not_handed_out() {
    let (keys, other) = (Keys::generate(), Keys::generate());
    let good = TestRelay::start().await.unwrap();
    let note = EventBuilder::text_note("true")
        .sign_with_keys(&keys)
        .unwrap();
    let mut forged = EventBuilder::text_note("false")
        .sign_with_keys(&keys)
        .unwrap();
    forged.content = "falser".to_owned();
    let others = EventBuilder::text_note("not asked for")
        .sign_with_keys(&other)
        .unwrap();
    let liar = Fake::liar(vec![forged, others, note.clone()]).await;
    let mute = Fake::mute().await;
    let gone = TestRelay::start().await.unwrap();
    gone.stop().await;
    let all = [good.url(), liar.url.clone(), mute.url.clone(), gone.url()];
    let at_us = relays(&keys, &all);
    send(&at_us, &note, &[good.url()]).await;

    let filter = Filter::new().kind(Kind::TextNote).author(keys.public_key());
    let started = Instant::now();
    let reads = at_us.fetch(filter, &[], Duration::from_secs(10)).await;
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(reads.len(), 4);
    for read in reads {
        assert_eq!(read.complete, read.relay == good.url(), "{}", read.relay);
        let silent = read.relay == mute.url || read.relay == gone.url();
        let wanted = if silent { vec![] } else { vec![note.clone()] };
        assert_eq!(read.events, wanted, "{}", read.relay);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_on_demand_are_few_and_end() {
    let keys = Keys::generate();
    let (a, b) = (
        TestRelay::start().await.unwrap(),
        TestRelay::start().await.unwrap(),
    );
    let options = satlet::relay::session::RelayOptions {
        on_demand_max: 1,
        idle_close: Duration::from_millis(100),
        ..quick()
    };
    let at_us = Relays::start(keys.clone(), &[], options).unwrap();
    send(&at_us, &message(&keys, &keys, "a"), &[a.url()]).await;
    let over = at_us.publish(&message(&keys, &keys, "b"), &[b.url()]).await;
    assert!(matches!(over[&b.url()], Ack::NoAnswer(_)), "{over:?}");
    until("the place is free again", || async {
        let answers = at_us.publish(&message(&keys, &keys, "b"), &[b.url()]).await;
        answers[&b.url()] == Ack::Accepted
    })
    .await;

    // Strangers name such relays: our own network is out of bounds.
    let careful = satlet::relay::session::RelayOptions {
        private_on_demand: false,
        ..quick()
    };
    let at_us = Relays::start(keys.clone(), &[], careful).unwrap();
    let refused = at_us.publish(&message(&keys, &keys, "c"), &[a.url()]).await;
    assert!(matches!(refused[&a.url()], Ack::NoAnswer(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_messages_pass_and_shutdown_ends_all() {
    let keys = Keys::generate();
    let relay = TestRelay::start().await.unwrap();
    let at_us = relays(&keys, &[relay.url()]);
    let big = EventBuilder::new(Kind::from_u16(1059), "x".repeat(127 * 1024))
        .sign_with_keys(&keys)
        .unwrap();
    send(&at_us, &big, &[relay.url()]).await;
    let filter = Filter::new().author(keys.public_key());
    let reads = at_us.fetch(filter, &[], SOON).await;
    assert_eq!(reads[0].events, [big]);
    tokio::time::timeout(SOON, at_us.shutdown()).await.unwrap();
    assert!(
        !at_us
            .publish(&message(&keys, &keys, "late"), &[relay.url()])
            .await
            .values()
            .any(|ack| *ack == Ack::Accepted)
    );
}

fn offer(keys: &Keys, hostname: &str) -> Offer {
    Offer {
        provider_npub: hex(keys),
        hostname: hostname.to_owned(),
        location: None,
        capabilities: vec!["sandbox".to_owned()],
        specs: vec![Spec {
            id: "basic".to_owned(),
            name: "Basic".to_owned(),
            description: "small".to_owned(),
            cpu_millicores: 1000,
            memory_mb: 512,
            rate_msats_per_sec: 50,
        }],
        whitelisted_mints: Vec::new(),
        uptime_percent: 100.0,
        total_jobs_completed: 0,
        api_endpoint: None,
        version: 1,
        isolation_level: "shared-kernel".to_owned(),
        satlet: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_are_found_with_the_newest_offer_and_whether_they_live() {
    let (up, down, mallory) = (Keys::generate(), Keys::generate(), Keys::generate());
    let (a, b) = (
        TestRelay::start().await.unwrap(),
        TestRelay::start().await.unwrap(),
    );
    let consumer = relays(&Keys::generate(), &[a.url(), b.url()]);
    // The older offer is only on one relay, the newer only on the other.
    let older = offer_event(
        &up,
        &offer(&up, "old"),
        now().minus(Duration::from_secs(10)),
    );
    send(&consumer, &older.unwrap(), &[a.url()]).await;
    let newer = offer_event(&up, &offer(&up, "new"), now()).unwrap();
    send(&consumer, &newer, &[b.url()]).await;
    let silent = offer_event(&down, &offer(&down, "silent"), now()).unwrap();
    send(&consumer, &silent, &[a.url(), b.url()]).await;
    assert!(offer_event(&mallory, &offer(&up, "stolen"), now()).is_err());
    let beat = |keys: &Keys, age: u64| Heartbeat {
        provider_npub: hex(keys),
        timestamp: now().minus(Duration::from_secs(age)),
        active_workloads: 3,
        available_capacity: AvailableCapacity::default(),
        version: 1,
    };
    for (keys, age) in [(&up, 0), (&up, 60), (&down, 200)] {
        for event in heartbeat_events(keys, &beat(keys, age)).unwrap() {
            send(&consumer, &event, &[a.url()]).await;
        }
    }

    let found = discover(&consumer, Duration::from_secs(3)).await;
    let names: Vec<_> = found
        .iter()
        .map(|f| (f.offer.hostname.as_str(), f.online))
        .collect();
    assert_eq!(names, [("new", true), ("silent", false)]);
    assert_eq!(found[0].relays, [b.url()]);
    assert_eq!(found[1].relays.len(), 2);
    assert_eq!(
        found[0].last_heartbeat.as_ref().unwrap().active_workloads,
        3
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_a_relay_that_says_nothing_is_given_up_in_time() {
    // With two TLS providers compiled in, rustls panics unless one is chosen.
    let keys = Keys::generate();
    let mute = Fake::mute().await;
    let url = mute.url.replace("ws://", "wss://");
    let at_us = relays(&keys, std::slice::from_ref(&url));
    let to = std::slice::from_ref(&url);
    let answers = at_us.publish(&message(&keys, &keys, "m"), to).await;
    let Ack::NoAnswer(why) = &answers[&url] else {
        panic!("{answers:?}");
    };
    assert!(why.contains("no connection within"), "{why}");
}
