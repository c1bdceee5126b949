//! Small readers of strangers' words, and text before it is shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use satlet::core::ids::{LeaseId, Name, PublicKey, RequestId};
use satlet::core::policy::images::validate_reference;
use satlet::core::text::{escape, escape_lines};
use satlet::relay::session;
use satlet::wallet::normalise;

fn same<T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string().parse::<T>().ok().as_ref(), Some(&read));
    }
}

fuzz_target!(|text: &str| {
    let shown = escape(text);
    assert!(!shown.contains(char::is_control));
    assert_eq!(escape(&shown), shown);
    let lines = escape_lines(text);
    assert!(!lines.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
    assert_eq!(lines.matches('\n').count(), text.matches('\n').count());
    if let Ok(full) = validate_reference(text) {
        assert_eq!(validate_reference(&full), Ok(full.clone()), "{text}");
    }
    if let Ok(mint) = normalise(text) {
        assert_eq!(normalise(&mint.0).as_ref(), Ok(&mint));
    }
    if let Ok(relay) = session::normalise(text) {
        assert_eq!(session::normalise(&relay).as_ref(), Ok(&relay));
    }
    same::<LeaseId>(text);
    same::<Name>(text);
    same::<PublicKey>(text);
    same::<RequestId>(text);
});
