//! Leases that begin with time from the pool.

use super::*;
use crate::core::pool::Trust;
use crate::core::receipt::{Flaw, Receipt};

pub(super) fn gift(seconds: u64) -> Event {
    let (trust, at) = (Trust::New, at(0));
    Event::Given {
        gift: Gift { seconds, trust, at },
        patience: 300,
    }
}

fn msat(seconds: u64) -> Msat {
    Msat::new(seconds * RATE)
}

/// Given 100 s, and up at once.
fn running() -> Lease {
    after(&[(0, gift(100)), (0, Event::Up)])
}

fn stopped(mut lease: Lease, secs: u64) -> Lease {
    lease.on(Event::StopAsked(request(7)), at(secs)).unwrap();
    lease.on(Event::StopBegun, at(secs)).unwrap();
    lease.on(Event::Destroyed, at(secs)).unwrap();
    lease
}

/// Its receipt as of then.
fn receipt(lease: &Lease, secs: u64) -> Receipt {
    let provider = PublicKey::from_bytes([9; 32]);
    Receipt::of(provider, lease, &[], at(secs)).unwrap()
}

#[test]
fn what_is_left_of_a_gift_goes_back_to_the_pool_and_to_nobody_else() {
    let lease = stopped(running(), 30);
    assert!(lease.refunds.is_empty() && lease.money.credit.is_zero());
    assert_eq!(lease.money.served, msat(30));
    assert_eq!(lease.money.returned, msat(70));
    assert_eq!(lease.paid_served(), Msat::ZERO, "nobody paid for it");
    let whole = stopped(running(), 100);
    assert_eq!(whole.money.returned, Msat::ZERO);
    let mut failed = after(&[(0, gift(100))]);
    failed.on(Event::Failed("no".to_owned()), at(5)).unwrap();
    assert_eq!(failed.money.returned, msat(100), "in the same commit");
    assert!(failed.refund_to_make().is_none());
}

#[test]
fn a_gift_is_served_before_what_was_paid() {
    let mut early = running();
    early.on(paid(5_000, 0), at(10)).unwrap();
    assert_eq!(early.unserved_seconds(at(10)), 140);
    let (mut late, mut never) = (early.clone(), after(&[(0, gift(100))]));
    early.on(Event::StopAsked(request(7)), at(60)).unwrap();
    early.on(Event::StopBegun, at(60)).unwrap();
    assert_eq!(early.refund_to_make().unwrap().owed, Msat::new(5_000));
    assert_eq!(early.money.returned, msat(40));
    late.on(Event::Gone, at(120)).unwrap();
    assert_eq!(late.refund_to_make().unwrap().owed, msat(30));
    assert_eq!(late.money.returned, Msat::ZERO);
    late.on(Event::Destroyed, at(121)).unwrap();
    assert_eq!(late.paid_served(), msat(20));
    // It never came up: all that was paid, with its fee, and none of the gift.
    never.on(paid(5_000, 1_000), at(1)).unwrap();
    never.on(Event::Failed("no".to_owned()), at(9)).unwrap();
    assert_eq!(never.refund_to_make().unwrap().owed, Msat::new(5_000));
    assert_eq!(never.money.returned, msat(100));
}

#[test]
fn nothing_has_to_be_kept_in_the_wallet_for_a_gift() {
    let mut lease = running();
    assert_eq!(lease.dues(at(10)), Some(Vec::new()));
    lease.on(paid(5_000, 0), at(10)).unwrap();
    let dues = |secs| {
        let all = lease.dues(at(secs)).unwrap().into_iter();
        all.fold(Dues::default(), |sum, (_, dues)| sum.plus(&dues).unwrap())
    };
    assert_eq!(dues(10).float(), Some(msat(50)));
    assert_eq!(dues(100).float(), Some(msat(50)), "the gift goes first");
    assert_eq!(dues(130).float(), Some(msat(20)));
    assert_eq!((dues(90).served, dues(130).served), (Msat::ZERO, msat(30)));
}

#[test]
fn a_lease_has_one_gift_and_only_before_anything_else() {
    let mut lease = after(&[(0, gift(100))]);
    assert!(lease.on(gift(100), at(1)).is_err());
    assert!(reserved().on(gift(0), at(0)).is_err(), "of nothing");
    assert!(reserved().on(gift(u64::MAX), at(0)).is_err());
}

#[test]
fn the_receipt_of_a_gift_adds_up_and_a_false_one_does_not() {
    let running = receipt(&running(), 30);
    assert_eq!(running.check(at(30)), Ok(()));
    assert_eq!(running.books.returned_msat, Msat::ZERO);
    let ended = receipt(&stopped(self::running(), 30), 40);
    assert_eq!(ended.check(at(40)), Ok(()));
    assert!(ended.is_final() && ended.gift_seconds == 100);
    let flaw = |change: fn(&mut Receipt)| {
        let mut bad = ended.clone();
        change(&mut bad);
        bad.check(at(40)).unwrap_err()
    };
    let differs = |flaw: Flaw, name: &str| {
        let found = matches!(&flaw, Flaw::Differs { what, .. } if *what == name);
        assert!(found, "{name}: {flaw}");
    };
    differs(flaw(|r| r.gift_seconds = 90), "sold_seconds");
    differs(flaw(|r| r.books.given_msat = Msat::new(1)), "given_msat");
    // Part of it is said to be the owner's.
    let taken = flaw(|r| {
        r.books.returned_msat = msat(60);
        r.books.credit_msat = msat(10);
    });
    differs(taken, "returned_msat");
    // Payments are said to be served before it.
    let mut mixed = self::running();
    mixed.on(paid(5_000, 0), at(10)).unwrap();
    let early = receipt(&mixed, 20);
    let returned = Receipt {
        books: crate::core::receipt::Account {
            returned_msat: msat(10),
            ..early.books
        },
        ..early
    };
    assert!(returned.check(at(20)).is_err());
}
