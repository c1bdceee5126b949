//! What a relay says on an open connection, a message in each line; and what
//! its events say in public: offers, heartbeats, lists of relays.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nostr_sdk::{JsonUtil, Keys, UnsignedEvent};
use satlet::relay::hear;
use satlet::relay::publisher::{parse_dm_relays, parse_heartbeat, parse_offer};

static US: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"1".repeat(64)).expect("a key"));
static SENDER: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&"2".repeat(64)).expect("a key"));

fuzz_target!(|text: &str| {
    if let Ok(mut event) = UnsignedEvent::from_json(text) {
        event.pubkey = SENDER.public_key();
        event.id = None;
        if let Ok(event) = event.sign_with_keys(&SENDER) {
            let _ = parse_offer(&event);
            let _ = parse_heartbeat(&event);
            let _ = parse_dm_relays(&event);
        }
        return;
    }
    if let Err(why) = hear(&US, text.lines()) {
        assert!(why.len() < 200, "a long message: {why}");
    }
});
