use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);
const MARGIN: Duration = Duration::from_secs(600);

fn key(n: u8) -> LockKey {
    format!("02{}", hex::encode([n; 32])).parse().unwrap()
}

fn preimage(n: u8) -> Preimage {
    Preimage::from_bytes([n; 32])
}

/// A lock as a careful consumer makes it.
fn good() -> Conditions {
    Conditions {
        kind: Kind::Htlc,
        data: preimage(1).hash().to_string(),
        extra_keys: vec![key(0xab).to_string()],
        n_sigs: None,
        sig_all: false,
        locktime: Some(NOW.plus(MARGIN)),
        refund_keys: vec![key(9).to_string()],
        n_sigs_refund: None,
    }
}

fn verdict(proofs: &[Option<Conditions>]) -> Result<HashLock, BadLock> {
    accept_hashed(proofs, &[key(0xab), key(2)], NOW, MARGIN)
}

#[test]
fn good_locks_are_accepted() {
    type Change = fn(&mut Conditions);
    let cases: [(&str, Change); 4] = [
        ("as made", |_| {}),
        ("an older key of ours", |c| {
            c.extra_keys = vec![key(2).to_string()];
        }),
        ("one signature, said", |c| c.n_sigs = Some(1)),
        ("two refund keys, both needed", |c| {
            c.refund_keys.push(key(8).to_string());
            c.n_sigs_refund = Some(2);
        }),
    ];
    let lock = HashLock {
        hash: preimage(1).hash(),
        until: NOW.plus(MARGIN),
    };
    for (name, change) in cases {
        let mut one = good();
        change(&mut one);
        assert_eq!(verdict(&[Some(one)]), Ok(lock.clone()), "{name}");
    }
    let mut later = good();
    later.locktime = Some(NOW.plus_secs(9000));
    let both = [Some(later), Some(good())];
    assert_eq!(verdict(&both), Ok(lock), "the earliest counts");
}

#[test]
fn bad_locks_are_refused_by_name() {
    type Change = fn(&mut Conditions);
    let earliest = NOW.plus(MARGIN);
    let early = |locktime| BadLock::TooEarly { locktime, earliest };
    let cases: [(&str, Change, BadLock); 14] = [
        ("a key alone", |c| c.kind = Kind::P2pk, BadLock::NotHashed),
        ("no hash", |c| c.data.clear(), BadLock::NotAHash),
        (
            "a hash in capitals",
            |c| c.data = c.data.to_uppercase(),
            BadLock::NotAHash,
        ),
        (
            "no key: whoever has the preimage",
            |c| c.extra_keys.clear(),
            BadLock::NoKey,
        ),
        (
            "another key",
            |c| c.extra_keys = vec![key(3).to_string()],
            BadLock::WrongKey,
        ),
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
        ("for ever", |c| c.locktime = None, BadLock::NoLocktime),
        (
            "anyone's later",
            |c| c.refund_keys.clear(),
            BadLock::NoRefundKey,
        ),
        (
            "no signature later",
            |c| c.n_sigs_refund = Some(0),
            BadLock::NoRefundKey,
        ),
        (
            "a second too early",
            |c| c.locktime = Some(Timestamp::from_secs(NOW.plus(MARGIN).as_secs() - 1)),
            early(Timestamp::from_secs(earliest.as_secs() - 1)),
        ),
    ];
    for (name, change, why) in cases {
        let mut one = good();
        change(&mut one);
        let alone = verdict(&[Some(one.clone())]);
        assert_eq!(alone, Err(why.clone()), "{name}");
        let beside = verdict(&[Some(good()), Some(one)]);
        assert_eq!(beside, Err(why), "{name}, beside a good one");
    }
    assert_eq!(verdict(&[]), Err(BadLock::NotHashed));
    assert_eq!(verdict(&[None]), Err(BadLock::NotHashed));
    assert_eq!(verdict(&[Some(good()), None]), Err(BadLock::NotHashed));
    let mut other = good();
    other.data = preimage(2).hash().to_string();
    let both = [Some(good()), Some(other)];
    assert_eq!(verdict(&both), Err(BadLock::OtherHash));
    let none = accept_hashed(&[Some(good())], &[], NOW, MARGIN);
    assert_eq!(none, Err(BadLock::WrongKey));
}

#[test]
fn a_preimage_has_its_hash_and_is_not_shown() {
    let zero = Preimage::from_bytes([0; 32]);
    // SHA-256 of 32 zero bytes.
    assert_eq!(
        zero.hash().as_str(),
        "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
    );
    assert!(!format!("{zero:?}").contains("00"));
    for bad in ["", "00", &"0".repeat(63), &"G".repeat(64), &"A".repeat(64)] {
        assert_eq!(bad.parse::<Preimage>(), Err(NotHex), "{bad}");
    }
    let text = serde_json::to_string(&zero).unwrap();
    assert_eq!(serde_json::from_str::<Preimage>(&text).unwrap(), zero);
    assert!(serde_json::from_str::<Preimage>("\"00\"").is_err());
}
