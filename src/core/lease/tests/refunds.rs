//! What becomes of a refund after it was made.

use super::*;
use crate::core::payment::lock::LockTo;

const KEEP: u64 = 1_000;
const ID: &str = "aaaaaaaaaaaa-1";

/// A lease that was stopped, with a refund of 6 sat made at second 50.
fn made() -> Lease {
    let mut lease = after(&active());
    lease.on(Event::StopAsked(request(7)), at(20)).unwrap();
    lease.on(Event::StopBegun, at(20)).unwrap();
    lease.on(Event::Destroyed, at(30)).unwrap();
    let (face, fee) = (Msat::new(6_000), Msat::new(1_000));
    lease
        .refund_made(ID, "token".to_owned(), face, fee, at(50))
        .unwrap();
    lease
}

fn state(lease: &Lease) -> &RefundState {
    &lease.refunds[0].state
}

#[test]
fn a_claimed_refund_forgets_its_token_and_moves_no_money() {
    let mut lease = made();
    let money = lease.money;
    assert_eq!(lease.refunds[0].is_out(), Some(Msat::new(6_000)));
    lease.refund_claimed(ID, at(90)).unwrap();
    let (face, at) = (Msat::new(6_000), at(90));
    assert!(*state(&lease) == RefundState::Claimed { face, at });
    assert_eq!(lease.refunds[0].token(), None);
    assert_eq!(lease.refunds[0].is_out(), None);
    assert_eq!(lease.money, money);
    assert!(lease.balances(at));
    assert_eq!(lease.refund_claimed(ID, at), None, "once");
    assert_eq!(lease.refund_take_back(ID, 0, at), None, "it is not ours");
}

#[test]
fn what_is_taken_back_is_its_owners_credit_less_the_mints_fee() {
    let mut lease = made();
    let before = lease.money;
    assert_eq!(lease.refund_take_back(ID, KEEP, at(50 + KEEP - 1)), None);
    lease.refund_take_back(ID, KEEP, at(50 + KEEP)).unwrap();
    assert_eq!(lease.money, before, "nothing is booked before it is done");
    let late = at(50 + KEEP);
    let (net, fee) = (Msat::new(5_000), Msat::new(1_000));
    let twice = Msat::new(2_000);
    assert_eq!(lease.refund_taken_back(ID, net, twice, late), None);
    lease.refund_taken_back(ID, net, fee, late).unwrap();
    assert_eq!(lease.money.refunded, Msat::ZERO);
    assert_eq!(lease.money.credit.get(), before.credit.get() + 5_000);
    assert_eq!(lease.money.refund_fees, Msat::new(2_000));
    assert_eq!(lease.money.served, before.served, "we have earned nothing");
    assert_eq!(lease.money.absorbed, before.absorbed);
    assert!(lease.balances(late));
    assert_eq!(lease.refund_taken_back(ID, net, fee, late), None, "once");
    assert_eq!(lease.refund_claimed(ID, late), None);
}

#[test]
fn a_refund_whose_taking_back_came_to_nothing_is_as_it_was() {
    let mut lease = made();
    let before = lease.clone();
    assert_eq!(lease.refund_left(ID), None, "it was not being taken back");
    lease.refund_take_back(ID, KEEP, at(5_000)).unwrap();
    assert_eq!(lease.refund_take_back(ID, KEEP, at(5_000)), None);
    lease.refund_left(ID).unwrap();
    assert_eq!(lease, before);
    // Its owner was faster than we.
    lease.refund_take_back(ID, KEEP, at(5_000)).unwrap();
    lease.refund_claimed(ID, at(5_001)).unwrap();
    assert_eq!(lease.money, before.money);
}

#[test]
fn a_refund_that_is_not_made_is_neither_claimed_nor_taken_back() {
    let mut lease = after(&provisioning());
    lease.on(Event::Failed("no".to_owned()), at(5)).unwrap();
    let before = lease.clone();
    assert_eq!(lease.refund_claimed(ID, at(9)), None);
    assert_eq!(lease.refund_take_back(ID, 0, at(9)), None);
    assert_eq!(lease.refund_left(ID), None);
    let none = Msat::ZERO;
    assert_eq!(lease.refund_taken_back(ID, none, none, at(9)), None);
    assert_eq!(lease.refund_claimed("another", at(9)), None);
    assert_eq!(lease, before);
}

#[test]
fn rows_of_an_older_version_are_read_and_their_refunds_kept_for_ever() {
    let row = r#"{"state":"made","token":"t","face":6000}"#;
    let old: RefundState = serde_json::from_str(row).unwrap();
    let (token, face) = ("t".to_owned(), Msat::new(6_000));
    let undated = RefundState::Made {
        token,
        face,
        at: None,
        lock: None,
    };
    assert!(old == undated);
    let mut lease = made();
    lease.refunds[0].state = old;
    assert_eq!(lease.refund_take_back(ID, KEEP, at(u64::MAX / 2)), None);
    lease.refund_claimed(ID, at(9)).unwrap();
}

#[test]
fn each_state_is_stored_and_read_and_shows_no_token() {
    let mut lease = made();
    let mut states = vec![state(&lease).clone(), RefundState::Owed];
    lease.refund_take_back(ID, 0, at(60)).unwrap();
    states.push(state(&lease).clone());
    let mut taken = lease.clone();
    let (net, fee) = (Msat::new(5_000), Msat::new(1_000));
    taken.refund_taken_back(ID, net, fee, at(61)).unwrap();
    lease.refund_claimed(ID, at(61)).unwrap();
    states.extend([state(&taken).clone(), state(&lease).clone()]);
    for state in states {
        let row = serde_json::to_string(&state).unwrap();
        let read: RefundState = serde_json::from_str(&row).unwrap();
        assert!(read == state, "{row}");
        lease.refunds[0].state = state;
        let shown = format!("{:?}", lease.refunds[0]);
        assert!(!shown.contains("token"), "{shown}");
    }
}

#[test]
fn a_refund_is_due_until_it_is_made_and_out_until_it_is_claimed() {
    let sum = |lease: &Lease| {
        let dues = lease.dues(at(60)).unwrap().into_iter();
        dues.fold(Dues::default(), |sum, (purse, dues)| {
            assert_eq!(purse, ("https://mint.test".to_owned(), "sat".to_owned()));
            sum.plus(&dues).unwrap()
        })
    };
    assert_eq!(reserved().dues(at(60)), Some(Vec::new()));
    let running = sum(&after(&active()));
    assert_eq!(running.float(), Some(Msat::new(4_000)), "40 s are left");
    assert_eq!(running.served, Msat::new(5_000));
    let mut lease = after(&active());
    lease.on(Event::StopAsked(request(7)), at(20)).unwrap();
    lease.on(Event::StopBegun, at(20)).unwrap();
    let owed = sum(&lease);
    assert_eq!((owed.owed, owed.unserved), (Msat::new(8_000), Msat::ZERO));
    let mut lease = made();
    let out = sum(&lease);
    assert_eq!((out.owed, out.out), (Msat::ZERO, Msat::new(6_000)));
    assert_eq!(out.float(), Some(lease.money.credit));
    let own = Msat::checked_sum([out.served, out.credit, out.out, out.fees]);
    assert_eq!(own, Some(Msat::new(10_000)), "all that was paid");
    let mut taken = lease.clone();
    lease.refund_claimed(ID, at(60)).unwrap();
    assert_eq!(sum(&lease).out, Msat::ZERO);
    taken.refund_take_back(ID, 0, at(60)).unwrap();
    assert_eq!(sum(&taken), out);
    let (net, fee) = (Msat::new(5_000), Msat::new(1_000));
    taken.refund_taken_back(ID, net, fee, at(60)).unwrap();
    assert_eq!(sum(&taken).float(), out.credit.checked_add(net));
}

#[test]
fn credit_of_a_lease_that_is_over_becomes_time_on_the_next_one() {
    let mut over = made();
    over.refund_take_back(ID, 0, at(60)).unwrap();
    let (net, fee) = (Msat::new(5_000), Msat::new(1_000));
    over.refund_taken_back(ID, net, fee, at(60)).unwrap();
    let had = over.money.credit;
    let mut next = reserved();
    let room = next.room_for_credit(Msat::new(9_000), at(70));
    let taken = over.take_credit(&purse(), room).unwrap();
    assert_eq!(taken, had);
    assert!(over.balances(at(70)));
    assert_eq!(over.take_credit(&purse(), room), None, "once");
    next.bring_credit(&purse(), taken).unwrap();
    next.on(paid(10_000, 1_000), at(70)).unwrap();
    assert_eq!(next.waiting_seconds, (9_000 + taken.get()) / RATE);
    assert!(next.balances(at(70)));
    // It could not be given: what was brought comes back too.
    next.on(Event::Failed("no".to_owned()), at(80)).unwrap();
    let back = next.refund_to_make().unwrap().owed;
    assert_eq!(back.get(), 10_000 + taken.get());
    assert!(next.balances(at(80)));
}

#[test]
fn credit_is_brought_where_it_becomes_time_and_no_more_than_is_sold() {
    let mut lease = after(&active());
    assert_eq!(
        lease.take_credit(&purse(), Msat::new(u64::MAX)),
        None,
        "it is not over"
    );
    let left = lease.unserved_seconds(at(20));
    let room = lease.room_for_credit(Msat::new(10_000), at(20));
    let most = lease.tier.max_seconds;
    let seconds = left + (10_000 + lease.money.credit.get() + room.get()) / RATE;
    assert_eq!(seconds, most);
    let more = left + (10_000 + lease.money.credit.get() + room.get() + 1) / RATE;
    assert_eq!(more, most + 1);
    lease.on(Event::StopAsked(request(7)), at(20)).unwrap();
    assert_eq!(lease.room_for_credit(Msat::new(1), at(20)), Msat::ZERO);
}

/// A lease that was stopped with 7.05 sat to go back, whose owner gave a key.
fn owing(our_fault: bool) -> Lease {
    let mut lease = after(&active());
    lease.on(Event::StopAsked(request(7)), at(20)).unwrap();
    lease.on(Event::StopBegun, at(20)).unwrap();
    lease.on(Event::Destroyed, at(30)).unwrap();
    lease.refunds[0].our_fault = our_fault;
    lease
}

fn to() -> LockTo {
    LockTo {
        key: format!("02{}", "ab".repeat(32)).parse().unwrap(),
        locktime: at(50 + KEEP),
        index: u64::MAX,
        hash: None,
    }
}

fn locking(our_fault: bool, face: u64) -> Lease {
    let mut lease = owing(our_fault);
    let (token, face, fee) = ("plain".to_owned(), Msat::new(face), Msat::new(1_000));
    lease.refund_locking(ID, token, face, fee, to()).unwrap();
    lease
}

#[test]
fn a_refund_that_is_being_locked_is_still_owed() {
    let before = owing(false);
    let owed = before.refunds[0].owed;
    let lease = locking(false, 5_000);
    assert_eq!(lease.money, before.money);
    assert!(lease.balances(at(60)));
    assert_eq!(lease.refunds[0].still_owed(), owed);
    assert_eq!(lease.refund_to_make(), lease.refunds.first());
    assert_eq!(lease.refunds[0].token(), Some("plain"), "no stray");
    assert_eq!(lease.refunds[0].is_out(), None);
    // What the wallet gave away for it, it does not have to hold any more.
    let cover = |lease: &Lease| {
        let dues = lease.dues(at(60)).unwrap();
        dues.iter().map(|(_, dues)| dues.owed.get()).sum::<u64>()
    };
    assert_eq!(cover(&before) - cover(&lease), 6_000);
    // Nothing else is done with it.
    let mut same = lease.clone();
    let face = Msat::new(1);
    assert_eq!(
        same.refund_made(ID, String::new(), face, face, at(60)),
        None
    );
    assert_eq!(same.refund_claimed(ID, at(60)), None);
    assert_eq!(same.refund_credited(ID), None);
    assert_eq!(same.refund_split(ID, face), None);
    assert_eq!(same.refund_take_back(ID, 0, at(9_999)), None);
    assert_eq!(
        same.refund_locking(ID, String::new(), face, face, to()),
        None
    );
    assert_eq!(same, lease);
}

#[test]
fn locking_costs_its_owner_where_it_was_its_choice_and_us_where_we_failed() {
    let mut theirs = locking(false, 6_000);
    let owed = theirs.refunds[0].owed.get();
    let before = theirs.money;
    theirs
        .refund_locked(ID, "t".to_owned(), Msat::new(5_000), at(60))
        .unwrap();
    assert_eq!(theirs.money.refund_fees, Msat::new(2_000));
    assert_eq!(theirs.money.absorbed, before.absorbed);
    assert_eq!(
        theirs.money.credit.get(),
        before.credit.get() + owed - 7_000
    );
    assert!(theirs.balances(at(60)));

    let mut ours = locking(true, owed + 1_000);
    let before = ours.money;
    ours.refund_locked(ID, "t".to_owned(), Msat::new(owed), at(60))
        .unwrap();
    assert_eq!(ours.money.refunded.get(), owed, "all of it");
    assert_eq!(ours.money.absorbed.get(), before.absorbed.get() + 2_000);
    assert!(ours.balances(at(60)));
    let more = Msat::new(owed + 2_000);
    let again = locking(true, owed + 1_000).refund_locked(ID, String::new(), more, at(60));
    assert_eq!(again, None, "more than the plain token");
}

#[test]
fn a_locked_refund_is_taken_back_after_its_locktime_with_the_key_of_its_lock() {
    let mut lease = locking(false, 6_000);
    lease
        .refund_locked(ID, "t".to_owned(), Msat::new(5_000), at(60))
        .unwrap();
    let opens = 50 + KEEP + 1;
    assert_eq!(lease.refund_take_back(ID, 0, at(opens - 1)), None);
    assert_eq!(lease.refunds[0].kept_until(9_999), Some(at(60 + 9_999)));
    let before = lease.clone();
    lease.refund_take_back(ID, 0, at(opens)).unwrap();
    let RefundState::TakingBack { lock, .. } = state(&lease) else {
        panic!("{lease:?}")
    };
    assert_eq!(lock.as_ref(), Some(&to()));
    lease.refund_left(ID).unwrap();
    assert_eq!(lease, before, "and keeps its lock");
}

#[test]
fn what_cannot_be_locked_is_given_as_it_is() {
    let mut lease = locking(false, 6_000);
    lease.refund_not_locked(ID, at(60)).unwrap();
    assert_eq!(lease.refunds[0].token(), Some("plain"));
    assert_eq!(lease.money.refunded, Msat::new(6_000));
    assert!(lease.balances(at(60)));
    assert_eq!(lease.refunds[0].kept_until(KEEP), Some(at(60 + KEEP)));
    assert_eq!(lease.refund_not_locked(ID, at(61)), None);
}
