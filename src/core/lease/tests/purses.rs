//! A lease that was paid at several mints.

use super::*;

fn elsewhere() -> Purse {
    ("https://other.test".to_owned(), "msat".to_owned())
}

fn paid_elsewhere(face: u64, fee: u64) -> Event {
    Event::Paid {
        face: Msat::new(face),
        fee: Msat::new(fee),
        patience: 300,
        mint: elsewhere().0,
        unit: elsewhere().1,
    }
}

fn owed(lease: &Lease) -> Vec<(Purse, u64)> {
    let refunds = lease.refunds.iter();
    refunds.map(|r| (r.purse(), r.owed.get())).collect()
}

/// What the wallet has of this lease there, by its books.
fn there(lease: &Lease, purse: &Purse, now: u64) -> u64 {
    let dues = lease.dues(at(now)).unwrap().into_iter();
    let sum = dues
        .filter(|(there, _)| there == purse)
        .fold(Dues::default(), |sum, (_, dues)| sum.plus(&dues).unwrap());
    let all = sum.float().unwrap().get() + sum.served.get();
    all - sum.absorbed.get()
}

fn stopped(lease: &mut Lease, now: u64) {
    lease.on(Event::StopAsked(request(7)), at(now)).unwrap();
    lease.on(Event::StopBegun, at(now)).unwrap();
}

/// 90 s here, then 50 s elsewhere and 7 msat besides; its time runs from 0.
fn twice() -> Lease {
    let mut lease = reserved();
    lease.on(paid(10_000, 1_000), at(0)).unwrap();
    lease.on(Event::Up, at(0)).unwrap();
    lease.on(paid_elsewhere(5_017, 10), at(5)).unwrap();
    lease
}

#[test]
fn each_mint_gives_back_what_it_has_the_oldest_is_served_first() {
    let mut lease = twice();
    assert_eq!(there(&lease, &purse(), 20), 9_000);
    assert_eq!(there(&lease, &elsewhere(), 20), 5_007);
    stopped(&mut lease, 20);
    assert_eq!(owed(&lease), [(purse(), 7_000), (elsewhere(), 5_007)]);
    assert_eq!(there(&lease, &purse(), 20), 9_000);
    lease.on(Event::Destroyed, at(21)).unwrap();
    assert!(lease.balances(at(21)));
    assert_eq!(there(&lease, &purse(), 30), 9_000);
    assert_eq!(there(&lease, &elsewhere(), 30), 5_007);

    let mut lease = twice();
    stopped(&mut lease, 100);
    assert_eq!(
        owed(&lease),
        [(elsewhere(), 4_007)],
        "all of the first is served"
    );
    assert_eq!(there(&lease, &purse(), 100), 9_000);
}

#[test]
fn what_could_not_be_given_comes_back_in_full() {
    let mut lease = reserved();
    lease.on(paid(10_000, 1_000), at(0)).unwrap();
    lease.on(paid_elsewhere(5_000, 10), at(1)).unwrap();
    lease.on(Event::Failed("no".to_owned()), at(9)).unwrap();
    assert_eq!(owed(&lease), [(purse(), 9_000), (elsewhere(), 6_000)]);
    assert_eq!(lease.money.absorbed, Msat::new(1_010));
    assert_eq!(there(&lease, &elsewhere(), 9), 4_990);
    assert!(lease.balances(at(9)));
}

#[test]
fn credit_lies_where_its_refund_would_have_been_made() {
    let mut lease = twice();
    stopped(&mut lease, 20);
    lease.on(Event::Destroyed, at(21)).unwrap();
    let ids: Vec<String> = lease.refunds.iter().map(|r| r.id.clone()).collect();
    lease.refund_credited(&ids[0]).unwrap();
    let (face, fee) = (Msat::new(5_000), Msat::new(2));
    lease
        .refund_made(&ids[1], "t".to_owned(), face, fee, at(30))
        .unwrap();
    assert_eq!(
        lease.credits(),
        [(purse(), Msat::new(7_000)), (elsewhere(), Msat::new(5))]
    );
    assert!(lease.balances(at(30)));
    let mut next = reserved();
    let taken = lease.take_credit(&purse(), Msat::new(10_000)).unwrap();
    assert_eq!(taken, Msat::new(7_000));
    next.bring_credit(&purse(), taken).unwrap();
    assert_eq!(lease.credits(), [(elsewhere(), Msat::new(5))]);
    assert_eq!(lease.take_credit(&purse(), Msat::new(1)), None);
    assert!(lease.balances(at(30)));
    // What was brought goes back where it lies, with a payment at another mint.
    next.on(paid_elsewhere(5_000, 0), at(40)).unwrap();
    next.on(Event::Failed("no".to_owned()), at(41)).unwrap();
    assert_eq!(owed(&next), [(purse(), 7_000), (elsewhere(), 5_000)]);
}

#[test]
fn a_row_of_an_older_version_lies_where_was_last_paid() {
    let mut lease = after(&active());
    let row = serde_json::to_value(&lease).unwrap();
    assert!(row.get("purses").is_some());
    lease.purses = Purses::default();
    let old = serde_json::to_value(&lease).unwrap();
    assert_eq!(old.get("purses"), None);
    let mut lease: Lease = serde_json::from_value(old).unwrap();
    let had = there(&lease, &purse(), 20);
    lease.on(paid_elsewhere(5_000, 0), at(20)).unwrap();
    assert_eq!(there(&lease, &purse(), 20), had);
    assert_eq!(there(&lease, &elsewhere(), 20), 5_000);
    stopped(&mut lease, 20);
    assert_eq!(owed(&lease), [(purse(), 8_000), (elsewhere(), 5_000)]);
}
