//! Vectors of the dialect in use: bodies by their own readers, events with
//! their tags.

use nostr_sdk::nips::nip04;
use nostr_sdk::{Event, EventBuilder, Keys, Kind, Tag, Timestamp as Stamp};
use satlet::core::ids::PublicKey;
use satlet::core::time::Timestamp;
use satlet::protocol::heartbeat::Heartbeat;
use satlet::protocol::offer::Offer;
use satlet::protocol::paygress::events::{
    PROMOTION, REVOCATION, Revocation, promotion_tags, revocation_tags,
};
use satlet::protocol::paygress::reply::{ErrorType, Reply};
use satlet::protocol::paygress::request::Request;
use satlet::relay::convert::key_from;
use satlet::relay::direct;
use satlet::relay::publisher::{heartbeat_events, offer_event, parse_heartbeat, parse_offer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Reads a case and writes it back.
type Way = fn(&Value) -> Result<Value, String>;

/// What reads the vectors of this name.
pub(super) fn way(name: &str) -> Option<Way> {
    Some(match name.strip_prefix("paygress-")? {
        "request-spawn" => |json| request(json, |r| matches!(r, Request::Spawn(_))),
        "request-topup" => |json| request(json, |r| matches!(r, Request::TopUp(_))),
        "request-status" => |json| request(json, |r| matches!(r, Request::Status(_))),
        "reply-access" => |json| reply(json, |r| matches!(r, Reply::Access(_))),
        "reply-topup" => |json| reply(json, |r| matches!(r, Reply::TopUp(_))),
        "reply-status" => |json| reply(json, |r| matches!(r, Reply::Status(_))),
        "reply-error" => |json| reply(json, |r| matches!(r, Reply::Error(_))),
        "event-offer" => offer,
        "event-heartbeat" => heartbeat,
        "event-revocation" => revocation,
        "event-promotion" => promotion,
        "event-message" => message,
        _ => return None,
    })
}

/// All names of vectors of this dialect.
pub(super) const NAMES: [&str; 12] = [
    "paygress-event-heartbeat",
    "paygress-event-message",
    "paygress-event-offer",
    "paygress-event-promotion",
    "paygress-event-revocation",
    "paygress-reply-access",
    "paygress-reply-error",
    "paygress-reply-status",
    "paygress-reply-topup",
    "paygress-request-spawn",
    "paygress-request-status",
    "paygress-request-topup",
];

fn text<E: ToString>(error: E) -> String {
    error.to_string()
}

fn request(json: &Value, wanted: fn(&Request) -> bool) -> Result<Value, String> {
    let read = Request::read(&json.to_string()).map_err(text)?;
    if !wanted(&read) {
        return Err(format!("another request: {read:?}"));
    }
    serde_json::to_value(read).map_err(text)
}

fn reply(json: &Value, wanted: fn(&Reply) -> bool) -> Result<Value, String> {
    let read = Reply::read(&json.to_string()).ok_or("no reply")?;
    if !wanted(&read) {
        return Err(format!("another reply: {read:?}"));
    }
    serde_json::to_value(read).map_err(text)
}

/// The key pair of a small secret number.
fn keys(secret: u8) -> Keys {
    Keys::parse(&format!("{secret:064x}")).unwrap()
}

fn stamp() -> Timestamp {
    Timestamp::from_secs(1_790_000_012)
}

/// The event that a case describes, signed.
fn event(json: &Value, content: String) -> Event {
    let kind = u16::try_from(json["kind"].as_u64().unwrap()).unwrap();
    let tags: Vec<Vec<String>> = serde_json::from_value(json["tags"].clone()).unwrap();
    EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags.into_iter().map(|tag| Tag::parse(tag).unwrap()))
        .custom_created_at(Stamp::from_secs(stamp().as_secs()))
        .sign_with_keys(&keys(1))
        .unwrap()
}

/// An event as a vector has it.
fn described(event: &Event, content: Value) -> Value {
    let tags: Vec<Vec<String>> = event.tags.iter().map(|t| t.clone().to_vec()).collect();
    json!({ "kind": event.kind.as_u16(), "tags": tags, "content": content })
}

fn content(event: &Event) -> Result<Value, String> {
    serde_json::from_str(&event.content).map_err(text)
}

fn offer(json: &Value) -> Result<Value, String> {
    let read: Offer = parse_offer(&event(json, json["content"].to_string())).map_err(text)?;
    let written = offer_event(&keys(1), &read, stamp()).map_err(text)?;
    Ok(described(&written, content(&written)?))
}

fn heartbeat(json: &Value) -> Result<Value, String> {
    let stored = json["kind"] == satlet::protocol::kinds::HEARTBEAT;
    let sent = event(json, json["content"].to_string());
    let read: Heartbeat = if stored {
        parse_heartbeat(&sent).map_err(text)?
    } else {
        serde_json::from_str(&sent.content).map_err(text)?
    };
    let written = heartbeat_events(&keys(1), &read).map_err(text)?;
    let same = |one: &&Event| one.kind.as_u16() == json["kind"];
    let written = written.iter().find(same).ok_or("no such kind")?;
    Ok(described(written, content(written)?))
}

/// Content of type `T`, and the event with the tags that it makes.
fn tagged<T: DeserializeOwned + Serialize>(
    json: &Value,
    kind: u16,
    tags: impl Fn(&T) -> Vec<Vec<String>>,
) -> Result<Value, String> {
    let read: T = serde_json::from_str(&json["content"].to_string()).map_err(text)?;
    let content = serde_json::to_value(&read).map_err(text)?;
    Ok(json!({ "kind": kind, "tags": tags(&read), "content": content }))
}

fn revocation(json: &Value) -> Result<Value, String> {
    tagged(json, REVOCATION, |read: &Revocation| {
        let named = read.standby_providers.iter();
        let standbys = named.filter_map(|name| nostr_sdk::PublicKey::parse(name).ok());
        let standbys: Vec<PublicKey> = standbys.map(|key| key_from(&key)).collect();
        revocation_tags(read, &standbys)
    })
}

fn promotion(json: &Value) -> Result<Value, String> {
    tagged(json, PROMOTION, promotion_tags)
}

fn message(json: &Value) -> Result<Value, String> {
    let body = json["content"].as_str().ok_or("no text")?;
    let (from, to) = (keys(1), keys(2));
    let sealed = nip04::encrypt(from.secret_key(), &to.public_key(), body).map_err(text)?;
    let sent = event(json, sealed);
    let read = direct::read(&to, &sent).map_err(|why| format!("{why:?}"))?;
    let receiver = key_from(&to.public_key());
    let expires = Timestamp::from_secs(1_790_000_052);
    let written = direct::write(&from, &receiver, &read.body, stamp(), expires).map_err(text)?;
    assert_eq!(direct::read(&to, &written).unwrap().body, body);
    Ok(described(&written, Value::String(read.body)))
}

#[test]
fn every_error_type_has_a_vector() {
    let (_, file) = super::load()
        .into_iter()
        .find(|(name, _)| name == "paygress-reply-error")
        .unwrap();
    let said: Vec<&str> = file
        .cases
        .iter()
        .filter_map(|case| case.json["error_type"].as_str())
        .collect();
    for kind in ErrorType::ALL {
        assert!(said.contains(&kind.name()), "{kind:?}");
    }
}
