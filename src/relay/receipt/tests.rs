use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::core::money::Msat;
use crate::core::receipt::tests::Sample;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + secs)
}

/// The secret key is a number: the vectors in `specs/` are by 3.
fn keys(n: u8) -> Keys {
    let mut secret = [0; 32];
    secret[31] = n;
    Keys::new(nostr_sdk::SecretKey::from_slice(&secret).unwrap())
}

fn receipt(keys: &Keys) -> Receipt {
    Receipt {
        provider: key_from(&keys.public_key()),
        ..Sample::stopped().receipt(40)
    }
}

fn signed() -> SignedReceipt {
    sign(&keys(3), &receipt(&keys(3)), at(40)).unwrap()
}

#[test]
fn a_receipt_is_the_same_after_the_way_through_a_file() {
    let text = serde_json::to_string_pretty(&signed()).unwrap();
    let (read, receipt_in) = open_text(&text).unwrap();
    assert_eq!(read, signed_again(&read), "nothing is lost on the way");
    assert_eq!(receipt_in, receipt(&keys(3)));
}

fn signed_again(signed: &SignedReceipt) -> SignedReceipt {
    let text = serde_json::to_string(signed).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_is_false_is_not_signed() {
    let mut bad = receipt(&keys(3));
    bad.books.credit_msat = Msat::new(7);
    let refused = sign(&keys(3), &bad, at(40));
    assert!(
        matches!(refused, Err(ReceiptError::False(_))),
        "{refused:?}"
    );
    let other = sign(&keys(4), &receipt(&keys(3)), at(40));
    assert!(matches!(other, Err(ReceiptError::NotTheProvider { .. })));
}

#[test]
fn what_is_signed_and_false_is_refused_with_a_reason() {
    let by = |change: fn(&mut Receipt)| {
        let mut bad = receipt(&keys(3));
        change(&mut bad);
        let content = serde_json::to_string(&bad).unwrap();
        let signed = sign_content(&keys(3), content, at(40)).unwrap();
        open(&signed).unwrap_err().to_string()
    };
    let reason = by(|bad| bad.books.refunded_msat = Msat::new(10_000));
    assert!(reason.contains("refunded_msat: it says 10000"), "{reason}");
    let reason = by(|bad| bad.provider = key_from(&keys(4).public_key()));
    assert!(reason.contains("speaks for"), "{reason}");
    let reason = by(|bad| bad.version = 9);
    assert!(reason.contains("version 9"), "{reason}");
    let later = sign_content(&keys(3), r#"{"version":2,"all":"new"}"#.to_owned(), at(1));
    let reason = open(&later.unwrap()).unwrap_err().to_string();
    assert!(reason.contains("version 2"), "{reason}");
    let long = sign_content(&keys(3), "x".repeat(MAX_CONTENT + 1), at(1));
    assert_eq!(long, Err(ReceiptError::TooLong(MAX_CONTENT + 1)));
}

#[test]
fn another_event_of_the_provider_is_no_receipt() {
    let good = receipt(&keys(3));
    let content = serde_json::to_string(&good).unwrap();
    for (kind, tag) in [(1, "-"), (KIND, "x")] {
        let event = EventBuilder::new(Kind::from_u16(kind), content.clone())
            .tags([Tag::parse([tag]).unwrap()])
            .custom_created_at(time_to(at(40)))
            .sign_with_keys(&keys(3))
            .unwrap();
        let refused = open_text(&event.as_json()).unwrap_err();
        assert_eq!(refused, ReceiptError::NotAReceipt, "{kind} {tag}");
    }
}

/// Paths of all values that hold no others.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                leaves(value, &format!("{path}/{n}"), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// Another value of the same type.
fn changed(value: &Value, by: u64, place: prop::sample::Index) -> Value {
    match value {
        Value::Number(n) => n.as_u64().unwrap().wrapping_add(by).into(),
        Value::String(text) if text.is_empty() => "x".into(),
        Value::String(text) => {
            let mut chars: Vec<char> = text.chars().collect();
            let n = place.index(chars.len());
            chars[n] = if chars[n] == '0' { '1' } else { '0' };
            String::from_iter(chars).into()
        }
        other => panic!("{other}"),
    }
}

proptest! {
    #[test]
    fn whatever_is_changed_is_noticed(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        by in 1u64..u64::from(u32::MAX),
        inside in any::<bool>(),
    ) {
        let mut event = serde_json::to_value(signed()).unwrap();
        let mut content: Value =
            serde_json::from_str(event["content"].as_str().unwrap()).unwrap();
        let target = if inside { &mut content } else { &mut event };
        let mut paths = Vec::new();
        leaves(target, "", &mut paths);
        let path = which.get(&paths);
        let leaf = target.pointer_mut(path).unwrap();
        *leaf = changed(leaf, by, place);
        if inside {
            // With the id that goes with it: the signature is what is left.
            let good = signed();
            let content = content.to_string();
            let tags = nostr_sdk::Tags::from_list(vec![Tag::protected()]);
            let author = keys(3).public_key();
            let stamp = time_to(good.created_at);
            let id = nostr_sdk::EventId::new(&author, &stamp, &Kind::from_u16(KIND), &tags, &content);
            event["id"] = id.to_hex().into();
            event["content"] = content.into();
        }
        let refused = open_text(&event.to_string());
        if inside {
            let author = key_from(&keys(3).public_key());
            prop_assert_eq!(refused, Err(ReceiptError::Forged(author)), "{}", path);
        } else {
            prop_assert!(refused.is_err(), "{path}: {event}");
        }
    }

    #[test]
    fn whatever_is_read_is_no_panic(text in ".{0,400}") {
        prop_assert!(open_text(&text).is_err());
    }
}

/// Prints the vectors of `specs/vectors/receipt.json`:
/// `cargo test --lib the_vectors_of_receipts -- --ignored --nocapture`.
#[test]
#[ignore = "it makes files for specs/"]
fn the_vectors_of_receipts() {
    for (sample, secs) in [(Sample::stopped(), 40), (Sample::failed(), 40)] {
        let receipt = Receipt {
            provider: key_from(&keys(3).public_key()),
            ..sample.receipt(secs)
        };
        let signed = sign(&keys(3), &receipt, at(secs)).unwrap();
        println!("{}", serde_json::to_string_pretty(&signed).unwrap());
    }
}
