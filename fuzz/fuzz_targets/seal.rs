//! The inner layers of a message: a good wrap around a seal, a good seal around
//! a rumor, a good signature around a NIP-04 text. The first byte says which.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nostr_sdk::nips::{nip04, nip44};
use nostr_sdk::{Event, EventBuilder, JsonUtil, Keys, Kind, PublicKey, Tag};
use satlet::core::time::Timestamp;
use satlet::relay::convert::key_from;
use satlet::relay::inbox::{check, open};
use satlet::relay::wrap::{Unwrapped, fits, wrap};
use satlet::relay::{Dropped, MAX_PLAINTEXT, direct};

static US: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"1".repeat(64)).expect("a key"));
static SENDER: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"2".repeat(64)).expect("a key"));
static ONE_TIME: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"3".repeat(64)).expect("a key"));

fn us() -> PublicKey {
    US.public_key()
}

fn hide(keys: &Keys, text: &str) -> Option<String> {
    nip44::encrypt(keys.secret_key(), &us(), text, nip44::Version::V2).ok()
}

fn signed(keys: &Keys, kind: Kind, content: String) -> Event {
    let event = EventBuilder::new(kind, content).tags([Tag::public_key(us())]);
    event.sign_with_keys(keys).expect("a signature")
}

fn receive(event: &Event) -> Option<Unwrapped> {
    check(&US, true, event).ok()?;
    let opened = open(&US, event);
    assert_ne!(opened, Err(Dropped::BadSignature));
    let message = opened.ok()?;
    assert!(message.body.len() <= MAX_PLAINTEXT);
    // Whatever it says: nobody else's key has signed.
    assert_eq!(message.sender, key_from(&SENDER.public_key()));
    Some(message)
}

fn wrapped(text: &str) -> Option<Event> {
    Some(signed(&ONE_TIME, Kind::GiftWrap, hide(&ONE_TIME, text)?))
}

fn sealed(content: String) -> Option<Event> {
    wrapped(&signed(&SENDER, Kind::Seal, content).as_json())
}

/// Our own messages arrive, on both ways.
fn ours(body: &str) {
    let (now, later) = (
        Timestamp::from_secs(1_790_000_000),
        Timestamp::from_secs(u32::MAX.into()),
    );
    let to = key_from(&us());
    let sent = wrap(&SENDER, &to, body, now, later);
    assert_eq!(sent.is_ok(), fits(&SENDER, &to, body));
    if let Ok((event, rumor)) = sent
        && body.len() <= MAX_PLAINTEXT
    {
        let read = receive(&event).expect("our own message");
        assert_eq!((read.body.as_str(), read.rumor), (body, rumor));
    }
    if let Ok(event) = direct::write(&SENDER, &to, body, now, later) {
        let read = receive(&event).expect("our own message");
        assert_eq!(read.body, body);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(data);
    let direct = Kind::EncryptedDirectMessage;
    let event = match how % 8 {
        0 => hide(&SENDER, &text).and_then(sealed),
        1 => wrapped(&text),
        2 => Some(signed(&ONE_TIME, Kind::GiftWrap, text.into_owned())),
        3 => sealed(text.into_owned()),
        4 => nip04::encrypt(SENDER.secret_key(), &us(), &*text)
            .ok()
            .map(|content| signed(&SENDER, direct, content)),
        5 => Some(signed(&SENDER, direct, text.into_owned())),
        _ => return ours(&text),
    };
    if let Some(event) = event {
        receive(&event);
    }
});
