//! Events from relays: cheap checks, signature, layers. As they come, and
//! signed anew, so that the inside is reached.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nostr_sdk::{Event, JsonUtil, Keys, UnsignedEvent};
use satlet::relay::MAX_PLAINTEXT;
use satlet::relay::convert::key_from;
use satlet::relay::inbox::{check, open};

static US: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"1".repeat(64)).expect("a key"));
static SENDER: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"2".repeat(64)).expect("a key"));

fn receive(event: &Event) {
    for direct in [true, false] {
        if check(&US, direct, event).is_err() {
            continue;
        }
        if let Ok(message) = open(&US, event) {
            assert!(message.body.len() <= MAX_PLAINTEXT);
        }
    }
}

fuzz_target!(|text: &str| {
    if let Ok(event) = Event::from_json(text) {
        receive(&event);
        let again = Event::from_json(event.as_json()).expect("what was read can be read again");
        assert_eq!(again, event);
    }
    if let Ok(mut event) = UnsignedEvent::from_json(text) {
        event.pubkey = SENDER.public_key();
        event.id = None;
        if let Ok(event) = event.sign_with_keys(&SENDER) {
            assert_eq!(key_from(&event.pubkey), key_from(&SENDER.public_key()));
            receive(&event);
        }
    }
});
