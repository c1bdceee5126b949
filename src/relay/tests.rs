//! What needs no relay.
use std::time::Duration;

use nostr_sdk::nips::nip44;
use nostr_sdk::{Event, EventBuilder, JsonUtil, Keys, Kind, Tag, UnsignedEvent};
use proptest::prelude::*;

use super::connect::{addresses, is_public};
use super::convert::{key_from, key_to, now, time_from, time_to};
use super::memory::{Fate, MemoryInbox, MemoryOutbox};
use super::publisher::{
    MAX_DM_RELAYS, PublicError, Stamps, dm_relays_event, heartbeat_events, offer_event,
    parse_dm_relays, parse_heartbeat, parse_offer,
};
use super::session::normalise;
use super::wrap::{BACKDATE_SECS, MAX_RUMOR, WrapError, fits, is_to, seal_and_wrap, unwrap, wrap};
use super::{Dropped, InboxStore, Incoming, OutboxStore, Outgoing, hear};
use crate::core::ids::{EventId, PublicKey};
use crate::core::time::Timestamp;
use crate::protocol::heartbeat::{AvailableCapacity, Heartbeat};
use crate::protocol::kinds;
use crate::protocol::offer::Offer;

const WRITTEN: Timestamp = Timestamp::from_secs(1_790_000_000);

fn id_of(keys: &Keys) -> PublicKey {
    key_from(&keys.public_key())
}

fn later() -> Timestamp {
    now().plus_secs(600)
}

fn rumor(author: &Keys, kind: Kind, body: &str) -> UnsignedEvent {
    UnsignedEvent::new(author.public_key(), time_to(WRITTEN), kind, [], body)
}

#[test]
fn a_message_comes_out_as_it_went_in_and_shows_nothing_outside() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let (event, rumor) = wrap(&alice, &id_of(&bob), "hello", WRITTEN, later()).unwrap();
    let got = unwrap(&bob, &event).unwrap();
    assert_eq!((got.rumor, got.sender), (rumor, id_of(&alice)));
    assert_eq!((got.written_at, got.body.as_str()), (WRITTEN, "hello"));

    event.verify().unwrap();
    assert_eq!(event.kind, Kind::GiftWrap);
    assert_ne!(event.pubkey, alice.public_key());
    assert!(!event.as_json().contains(&alice.public_key().to_hex()));
    assert!(now().secs_since(time_from(event.created_at)) <= BACKDATE_SECS);
    assert_eq!(event.tags.expiration().copied(), Some(time_to(later())));
}

#[test]
fn each_attempt_is_another_wrap_of_the_same_rumor() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let wrap = || wrap(&alice, &id_of(&bob), "again", WRITTEN, later()).unwrap();
    let (first, second) = (wrap(), wrap());
    assert_eq!(first.1, second.1);
    assert_ne!(first.0.id, second.0.id);
    assert_ne!(first.0.pubkey, second.0.pubkey);
}

#[test]
fn a_rumor_in_another_name_is_forged() {
    let (alice, bob, mallory) = (Keys::generate(), Keys::generate(), Keys::generate());
    // All layers are sound, but alice never sealed this.
    let lie = rumor(&alice, Kind::PrivateDirectMessage, "as alice");
    let event = seal_and_wrap(&mallory, &id_of(&bob), &lie, later()).unwrap();
    assert_eq!(unwrap(&bob, &event), Err(Dropped::ForgedAuthor));
}

#[test]
fn a_seal_that_its_signer_did_not_sign_is_refused() {
    let (alice, bob, mallory) = (Keys::generate(), Keys::generate(), Keys::generate());
    let to = bob.public_key();
    let lie = rumor(&alice, Kind::PrivateDirectMessage, "as alice").as_json();
    let v2 = nip44::Version::V2;
    let sealed = nip44::encrypt(mallory.secret_key(), &to, lie, v2).unwrap();
    let mut seal = EventBuilder::new(Kind::Seal, sealed)
        .sign_with_keys(&mallory)
        .unwrap();
    seal.pubkey = alice.public_key();
    let content = nip44::encrypt(mallory.secret_key(), &to, seal.as_json(), v2).unwrap();
    let event = EventBuilder::new(Kind::GiftWrap, content)
        .tag(Tag::public_key(to))
        .sign_with_keys(&mallory)
        .unwrap();
    assert_eq!(unwrap(&bob, &event), Err(Dropped::Undecryptable));
}

#[test]
fn only_direct_messages_to_us_count() {
    let (alice, bob, carol) = (Keys::generate(), Keys::generate(), Keys::generate());
    let note = rumor(&alice, Kind::TextNote, "a note");
    let event = seal_and_wrap(&alice, &id_of(&bob), &note, later()).unwrap();
    assert_eq!(unwrap(&bob, &event), Err(Dropped::WrongKind));
    let (event, _) = wrap(&alice, &id_of(&bob), "to bob", WRITTEN, later()).unwrap();
    assert_eq!(unwrap(&carol, &event), Err(Dropped::NotForUs));
    let junk = EventBuilder::new(Kind::GiftWrap, "not encrypted")
        .tag(Tag::public_key(bob.public_key()))
        .sign_with_keys(&alice)
        .unwrap();
    assert_eq!(unwrap(&bob, &junk), Err(Dropped::Undecryptable));
}

#[test]
fn an_odd_tag_does_not_make_an_event_somebody_elses() {
    // A relay serves it to us, rightly, and must not be blamed for it.
    let bob = Keys::generate();
    let me = bob.public_key();
    let tag = Tag::parse(["p", &me.to_hex(), "not a relay", "", "more"]).unwrap();
    let event = EventBuilder::new(Kind::GiftWrap, "junk")
        .tag(tag)
        .sign_with_keys(&Keys::generate())
        .unwrap();
    assert!(is_to(&event, &me));
    assert_eq!(unwrap(&bob, &event), Err(Dropped::Undecryptable));
}

#[test]
fn the_rumors_id_is_computed_not_believed() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let mut lie = rumor(&alice, Kind::PrivateDirectMessage, "one");
    let honest = {
        let event = seal_and_wrap(&alice, &id_of(&bob), &lie, later()).unwrap();
        unwrap(&bob, &event).unwrap().rumor
    };
    lie.id = Some(nostr_sdk::EventId::all_zeros());
    let event = seal_and_wrap(&alice, &id_of(&bob), &lie, later()).unwrap();
    assert_eq!(unwrap(&bob, &event).unwrap().rumor, honest);
}

#[test]
fn the_longest_rumor_passes_and_a_longer_one_is_told_before() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let to = id_of(&bob);
    let empty = rumor(&alice, Kind::PrivateDirectMessage, "");
    let mut empty = UnsignedEvent {
        tags: nostr_sdk::Tags::from_list(vec![Tag::public_key(key_to(&to))]),
        ..empty
    };
    empty.ensure_id();
    let room = MAX_RUMOR - empty.as_json().len();
    let longest = "x".repeat(room);
    assert!(fits(&alice, &to, &longest));
    let (event, _) = wrap(&alice, &to, &longest, WRITTEN, later()).unwrap();
    assert_eq!(unwrap(&bob, &event).unwrap().body, longest);
    assert!(event.as_json().len() <= super::session::MAX_EVENT);

    let longer = "x".repeat(room + 1);
    assert!(!fits(&alice, &to, &longer));
    let refused = wrap(&alice, &to, &longer, WRITTEN, later());
    assert_eq!(refused.unwrap_err(), WrapError::TooLong(MAX_RUMOR + 1));
    assert!(!fits(&alice, &to, &"\n".repeat(room)), "escapes count");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_text_survives(body in "\\PC{0,200}|[\\x00-\\x7f]{0,200}") {
        prop_assume!(!body.is_empty());
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let (event, rumor) = wrap(&alice, &id_of(&bob), &body, WRITTEN, later()).unwrap();
        let got = unwrap(&bob, &Event::from_json(event.as_json()).unwrap()).unwrap();
        prop_assert_eq!(got.body, body);
        prop_assert_eq!(got.rumor, rumor);
    }
}

fn tags(event: &Event) -> Vec<Vec<String>> {
    event.tags.iter().map(|t| t.clone().to_vec()).collect()
}

fn offer(provider: PublicKey) -> Offer {
    let json = serde_json::json!({
        "provider_npub": provider, "hostname": "BoldAmberHeron", "location": "Lisbon",
        "capabilities": ["sandbox"], "specs": [], "whitelisted_mints": [],
        "uptime_percent": 100.0, "total_jobs_completed": 12,
    });
    serde_json::from_value(json).unwrap()
}

#[test]
fn an_offer_has_the_tags_that_clients_ask_for_in_their_order() {
    let keys = Keys::generate();
    let me = id_of(&keys);
    let event = offer_event(&keys, &offer(me), WRITTEN).unwrap();
    assert_eq!(event.kind.as_u16(), 38383);
    assert_eq!(time_from(event.created_at), WRITTEN);
    let d = format!("paygress:offer:v1:{me}");
    let wanted = [["t", "paygress"], ["t", "compute"], ["d", &d], ["v", "1"]];
    assert_eq!(tags(&event), wanted.map(|tag| tag.map(str::to_owned)));
    assert_eq!(parse_offer(&event).unwrap(), offer(me));
}

#[test]
fn an_offer_in_another_name_or_without_its_tag_is_none() {
    let (keys, other) = (Keys::generate(), Keys::generate());
    let stolen = offer_event(&keys, &offer(id_of(&other)), WRITTEN);
    assert!(matches!(stolen, Err(PublicError::NotTheAuthor { .. })));
    let content = serde_json::to_string(&offer(id_of(&other))).unwrap();
    let event = |tag: &str, content: &str| {
        EventBuilder::new(Kind::from_u16(kinds::OFFER), content)
            .tag(Tag::hashtag(tag))
            .sign_with_keys(&keys)
            .unwrap()
    };
    let stolen = parse_offer(&event("paygress", &content));
    assert!(matches!(stolen, Err(PublicError::NotTheAuthor { .. })));
    assert!(matches!(
        parse_offer(&event("mostro", &content)),
        Err(PublicError::NoTag("paygress"))
    ));
    assert!(matches!(
        parse_offer(&event("paygress", "{}")),
        Err(PublicError::Malformed(_))
    ));
    let huge = "x".repeat(200_000);
    assert!(matches!(
        parse_offer(&event("paygress", &huge)),
        Err(PublicError::TooLarge(_))
    ));
}

#[test]
fn a_heartbeat_is_two_events_for_one_minute() {
    let keys = Keys::generate();
    let me = id_of(&keys);
    let beat = Heartbeat {
        provider_npub: me,
        timestamp: WRITTEN,
        active_workloads: 2,
        available_capacity: AvailableCapacity::default(),
        version: 1,
    };
    let [stored, live] = heartbeat_events(&keys, &beat).unwrap();
    let (p, d) = (me.to_hex(), format!("paygress:heartbeat:v1:{me}:29833333"));
    let wanted = [
        ["t", "paygress-heartbeat"],
        ["p", &p],
        ["d", &d],
        ["v", "1"],
    ];
    assert_eq!(tags(&stored), wanted.map(|tag| tag.map(str::to_owned)));
    let wanted = [["t", "paygress-heartbeat"], ["p", &p], ["v", "1"]];
    assert_eq!(tags(&live), wanted.map(|tag| tag.map(str::to_owned)));
    assert_eq!((stored.kind.as_u16(), live.kind.as_u16()), (38384, 20384));
    assert_eq!(stored.content, live.content);
    assert_eq!(parse_heartbeat(&stored).unwrap(), beat);
    assert_eq!(parse_heartbeat(&live).unwrap(), beat);
}

#[test]
fn only_the_first_good_relays_of_a_list_are_read() {
    let keys = Keys::generate();
    let mut list = vec![
        "https://web.example".to_owned(),
        "wss://user:pass@relay.example".to_owned(),
        "wss://Relay.example/".to_owned(),
        "wss://relay.example".to_owned(),
    ];
    list.extend((0..9).map(|n| format!("wss://r{n}.example")));
    let event = dm_relays_event(&keys, &list, WRITTEN).unwrap();
    let read = parse_dm_relays(&event);
    assert_eq!(read.len(), MAX_DM_RELAYS);
    assert_eq!(read[..2], ["wss://relay.example", "wss://r0.example"]);
}

#[test]
fn what_a_relay_says_reaches_its_subscription_or_nobody() {
    let keys = Keys::generate();
    let event = EventBuilder::new(Kind::TextNote, "x").sign_with_keys(&keys);
    let event = event.unwrap().as_json();
    let id = "a".repeat(64);
    let heard = [
        format!(r#"["EVENT","s",{event}]"#),
        // Cannot be read as an event, and counts all the same.
        format!(r#"["EVENT","s",{{"id":"{id}","created_at":1,"tags":[[]]}}]"#),
        r#"["EOSE","s"]"#.to_owned(),
        format!(r#"["EVENT","another",{event}]"#),
        format!(r#"["OK","{id}",true,""]"#),
        r#"["NOTICE","é"]"#.to_owned(),
        r#"["AUTH","challenge"]"#.to_owned(),
        r#"["SOMETHING",{}]"#.to_owned(),
        "not JSON".to_owned(),
        format!(r#"["CLOSED","s","{}"]"#, "é".repeat(300)),
    ];
    assert_eq!(hear(&keys, heard.iter().map(String::as_str)), Ok(4));
    let again = vec![r#"["AUTH","challenge"]"#; 17];
    assert!(hear(&keys, again).is_err());
}

#[test]
fn stamps_rise_for_each_kind_and_d() {
    let stamps = Stamps::default();
    let at = |n| Timestamp::from_secs(n);
    assert_eq!(stamps.next(1, "a", at(100)), at(100));
    assert_eq!(stamps.next(1, "a", at(100)), at(101));
    assert_eq!(stamps.next(1, "a", at(50)), at(102));
    assert_eq!(stamps.next(1, "b", at(100)), at(100));
    assert_eq!(stamps.next(2, "a", at(100)), at(100));
    assert_eq!(stamps.next(1, "a", at(200)), at(200));
}

#[test]
fn one_relay_has_one_name() {
    for same in [
        "wss://relay.example",
        "wss://relay.example/",
        "WSS://Relay.Example:443/",
    ] {
        assert_eq!(normalise(same).unwrap(), "wss://relay.example");
    }
    assert_eq!(normalise("ws://h:1/a/").unwrap(), "ws://h:1/a/");
    for bad in ["", "relay.example", "http://relay.example", "wss://"] {
        assert!(normalise(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn the_inbox_in_memory_knows_a_message_again() {
    let store = MemoryInbox::new();
    let message = Incoming {
        channel: crate::relay::Channel::GiftWrap,
        rumor: EventId::from_bytes([1; 32]),
        wrap: None,
        sender: PublicKey::from_bytes([2; 32]),
        written_at: WRITTEN,
        received_at: WRITTEN,
        relay: "wss://a".to_owned(),
        body: String::new(),
    };
    let (first, again) = (EventId::from_bytes([4; 32]), EventId::from_bytes([5; 32]));
    assert!(store.store(&message, &first).await.unwrap());
    assert!(store.seen_wrap(&first).await);
    assert!(!store.store(&message, &again).await.unwrap());
    assert!(store.seen_wrap(&again).await);
    assert!(!store.seen_wrap(&EventId::from_bytes([3; 32])).await);
    assert_eq!(store.last_seen("wss://a").await, None);
    store.set_last_seen("wss://a", WRITTEN).await.unwrap();
    assert_eq!(store.last_seen("wss://a").await, Some(WRITTEN));
}

#[tokio::test]
async fn the_outbox_in_memory_gives_what_is_due_until_it_is_settled() {
    let store = MemoryOutbox::new();
    for (id, due) in [("late", 20), ("soon", 5), ("now", 1)] {
        store.put(Outgoing {
            channel: crate::relay::Channel::GiftWrap,
            id: id.to_owned(),
            to: PublicKey::from_bytes([2; 32]),
            body: String::new(),
            relays: Vec::new(),
            expires_at: WRITTEN.plus_secs(100),
            written_at: WRITTEN,
            attempts: 0,
            next_attempt: WRITTEN.plus_secs(due),
        });
    }
    let at = WRITTEN.plus_secs(10);
    let due = async |limit| -> Vec<String> {
        let due = store.due(at, limit, &Default::default()).await.unwrap();
        due.into_iter().map(|m| m.id).collect()
    };
    assert_eq!(due(9).await, ["now", "soon"]);
    assert_eq!(due(1).await, ["now"]);
    store.confirmed("now", "wss://a", at).await.unwrap();
    let next = at.plus(Duration::from_secs(30));
    store.postponed("soon", 1, next).await.unwrap();
    assert!(due(9).await.is_empty());
    assert_eq!(store.next_due().await, Some(WRITTEN.plus_secs(20)));
    store.given_up("late", at).await.unwrap();
    assert_eq!(store.settled("late").await, Some(Fate::GivenUp));
    assert_eq!(store.next_due().await, Some(next));
    assert_eq!(store.settled("unknown").await, None);
}

#[test]
fn strangers_cannot_make_us_dial_our_own_network() {
    for ip in [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
    ] {
        assert!(!is_public(ip.parse().unwrap()), "{ip}");
    }
    for ip in ["1.1.1.1", "100.128.0.1", "2606:4700::1111"] {
        assert!(is_public(ip.parse().unwrap()), "{ip}");
    }
}

#[tokio::test]
async fn names_that_lead_home_are_refused() {
    let refused = addresses("ws://localhost:7777", true).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(addresses("ws://localhost:7777", false).await.is_ok());
}
