use std::time::Duration;

use super::{BadLock, Conditions, Kind, Lock, LockKey, accept};
use crate::core::time::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);
const MARGIN: Duration = Duration::from_secs(600);

fn key(n: u8) -> LockKey {
    format!("02{}", hex::encode([n; 32])).parse().unwrap()
}

/// A lock as a careful consumer makes it.
fn good() -> Conditions {
    Conditions {
        kind: Kind::P2pk,
        data: key(0xab).to_string(),
        extra_keys: Vec::new(),
        n_sigs: None,
        sig_all: false,
        locktime: Some(NOW.plus(MARGIN)),
        refund_keys: vec![key(9).to_string()],
        n_sigs_refund: None,
    }
}

fn verdict(proofs: &[Option<Conditions>]) -> Result<Option<Lock>, BadLock> {
    accept(proofs, &[key(0xab), key(2)], NOW, MARGIN)
}

#[test]
fn good_locks_are_accepted() {
    type Change = fn(&mut Conditions);
    let until = Some(NOW.plus(MARGIN));
    let cases: [(&str, Change, Option<Timestamp>); 6] = [
        ("as made", |_| {}, until),
        (
            "an older key of ours",
            |c| c.data = key(2).to_string(),
            until,
        ),
        ("one signature, said", |c| c.n_sigs = Some(1), until),
        (
            "two refund keys, both needed",
            |c| {
                c.refund_keys.push(key(8).to_string());
                c.n_sigs_refund = Some(2);
            },
            until,
        ),
        (
            "for ever",
            |c| {
                c.locktime = None;
                c.refund_keys.clear();
            },
            None,
        ),
        ("for ever, with a refund key", |c| c.locktime = None, None),
    ];
    for (name, change, until) in cases {
        let mut conditions = good();
        change(&mut conditions);
        assert_eq!(
            verdict(&[Some(conditions)]),
            Ok(Some(Lock { until })),
            "{name}"
        );
    }
}

#[test]
fn bad_locks_are_refused_by_name() {
    type Change = fn(&mut Conditions);
    let earliest = NOW.plus(MARGIN);
    let early = |locktime| BadLock::TooEarly { locktime, earliest };
    let cases: [(&str, Change, BadLock); 12] = [
        (
            "another key",
            |c| c.data = key(3).to_string(),
            BadLock::WrongKey,
        ),
        (
            "our key in capitals",
            |c| c.data = c.data.to_uppercase(),
            BadLock::WrongKey,
        ),
        ("no key", |c| c.data.clear(), BadLock::WrongKey),
        ("a hash", |c| c.kind = Kind::Htlc, BadLock::Htlc),
        (
            "a second key",
            |c| c.extra_keys.push(key(3).to_string()),
            BadLock::ExtraKeys,
        ),
        (
            "our key twice",
            |c| c.extra_keys.push(key(0xab).to_string()),
            BadLock::ExtraKeys,
        ),
        (
            "two signatures",
            |c| c.n_sigs = Some(2),
            BadLock::Signatures(2),
        ),
        (
            "no signature",
            |c| c.n_sigs = Some(0),
            BadLock::Signatures(0),
        ),
        ("SIG_ALL", |c| c.sig_all = true, BadLock::SigAll),
        (
            "anyone's later, however late",
            |c| {
                c.locktime = Some(Timestamp::from_secs(u64::MAX));
                c.refund_keys.clear();
            },
            BadLock::NoRefundKey,
        ),
        (
            "a second too early",
            |c| c.locktime = Some(Timestamp::from_secs(NOW.plus(MARGIN).as_secs() - 1)),
            early(Timestamp::from_secs(earliest.as_secs() - 1)),
        ),
        (
            "past",
            |c| c.locktime = Some(Timestamp::from_secs(0)),
            early(Timestamp::from_secs(0)),
        ),
    ];
    for (name, change, why) in cases {
        let mut conditions = good();
        change(&mut conditions);
        assert_eq!(
            verdict(&[Some(conditions.clone())]),
            Err(why.clone()),
            "{name}"
        );
        assert_eq!(
            verdict(&[Some(good()), Some(conditions)]),
            Err(why),
            "{name}, beside a good one"
        );
    }
}

#[test]
fn all_proofs_count() {
    assert_eq!(verdict(&[]), Ok(None));
    assert_eq!(
        verdict(&[None, None]),
        Ok(None),
        "a plain token has no lock"
    );
    assert_eq!(verdict(&[None, Some(good())]), Err(BadLock::Mixed));
    assert_eq!(verdict(&[Some(good()), None]), Err(BadLock::Mixed));
    let mut later = good();
    later.locktime = Some(NOW.plus_secs(9000));
    let mut forever = good();
    forever.locktime = None;
    let lock = Lock {
        until: good().locktime,
    };
    let all = [Some(forever), Some(later), Some(good())];
    assert_eq!(verdict(&all), Ok(Some(lock)), "the earliest counts");
}

#[test]
fn no_key_of_ours_accepts_no_lock() {
    let locked = [Some(good())];
    assert_eq!(accept(&locked, &[], NOW, MARGIN), Err(BadLock::WrongKey));
}

#[test]
fn a_lock_key_is_a_compressed_point() {
    let text = key(0xab).to_string();
    assert_eq!(text.parse::<LockKey>().unwrap(), key(0xab));
    let long = format!("{text}0");
    let upper = format!("02{}", "A".repeat(64));
    let x_only = "a".repeat(64);
    let uncompressed = format!("04{}", "a".repeat(64));
    for bad in ["", &text[2..], &long, &upper, &x_only, &uncompressed] {
        assert!(bad.parse::<LockKey>().is_err(), "{bad}");
    }
    let json = serde_json::to_string(&key(0xab)).unwrap();
    assert_eq!(serde_json::from_str::<LockKey>(&json).unwrap(), key(0xab));
    assert!(serde_json::from_str::<LockKey>("\"02\"").is_err());
}
