use proptest::prelude::*;

use super::*;
use crate::core::capacity::Resources;

const RATE: u64 = 100;

fn at(secs: u64) -> Timestamp {
    // A midnight.
    Timestamp::from_secs(20_000 * DAY + secs)
}

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

fn terms() -> Terms {
    Terms {
        share_percent: 10,
        max_seconds: 600,
        per_key: sat(60),
        period: 30 * DAY,
        per_day: sat(600),
        new_per_day: sat(200),
        known_per_day: sat(300),
        regular_per_day: sat(400),
        half_life: 30 * DAY,
    }
}

fn tier() -> Tier {
    Tier {
        id: "small".parse().unwrap(),
        name: String::new(),
        description: String::new(),
        resources: Resources::default(),
        rate_msat_per_s: RATE,
        min_seconds: 60,
        max_seconds: 100_000,
    }
}

/// A pool that has earned so much.
fn pool(earned: u64) -> Pool {
    let mut pool = Pool::default();
    pool.earn(&terms(), sat(earned)).unwrap();
    pool
}

/// Gives `key` what it gets now.
fn give(pool: &mut Pool, key: &mut Key, secs: u64) -> Result<Grant, NoGift> {
    let grant = pool.gift(&terms(), key, &tier(), at(secs))?;
    pool.promise(&terms(), key, &grant).unwrap();
    Ok(grant)
}

#[test]
fn without_a_share_nothing_is_given_and_nothing_kept() {
    let off = Terms {
        share_percent: 0,
        ..terms()
    };
    let mut empty = Pool::default();
    empty.earn(&off, sat(1_000)).unwrap();
    assert_eq!(empty, Pool::default());
    let rich = pool(100_000);
    let refused = rich.gift(&off, &Key::new(at(0)), &tier(), at(0));
    assert_eq!(refused, Err(NoGift::Off));
}

#[test]
fn a_gift_is_as_long_as_the_tightest_bound_leaves() {
    let with = |change: &dyn Fn(&mut Terms), earned| {
        let mut terms = terms();
        change(&mut terms);
        let key = Key::new(at(0));
        pool(earned)
            .gift(&terms, &key, &tier(), at(0))
            .map(|g| g.gift.seconds)
    };
    assert_eq!(with(&|_| {}, 10_000), Ok(600), "the longest");
    assert_eq!(with(&|t| t.per_key = sat(10), 10_000), Ok(100));
    assert_eq!(with(&|t| t.per_day = sat(20), 10_000), Ok(200));
    assert_eq!(with(&|t| t.new_per_day = sat(30), 10_000), Ok(300));
    assert_eq!(with(&|t| t.known_per_day = sat(0), 10_000), Ok(600));
    assert_eq!(with(&|_| {}, 400), Ok(400), "a tenth of what was earned");
    assert_eq!(with(&|_| {}, 59), Err(NoGift::Empty));
    assert_eq!(with(&|t| t.per_day = sat(5), 10_000), Err(NoGift::Day));
    let new = with(&|t| t.new_per_day = sat(5), 10_000);
    assert_eq!(new, Err(NoGift::Trust));
    assert_eq!(with(&|t| t.max_seconds = 59, 10_000), Err(NoGift::Settings));
}

#[test]
fn a_key_has_one_gift_at_a_time_and_its_budget_in_a_period() {
    let (mut pool, mut key) = (pool(100_000), Key::new(at(0)));
    let first = give(&mut pool, &mut key, 0).unwrap();
    assert_eq!(first.msat, sat(60));
    assert_eq!(give(&mut pool, &mut key, 9), Err(NoGift::Open));
    // It left early: the pool has the rest, and its own budget too.
    pool.take_back(&mut key, &first.gift, sat(50)).unwrap();
    key.gift_over();
    let second = give(&mut pool, &mut key, 10).unwrap();
    assert_eq!(second.msat, sat(50));
    key.gift_over();
    let until = NoGift::Key(at(30 * DAY));
    assert_eq!(give(&mut pool, &mut key, 11), Err(until));
    assert_eq!(give(&mut pool, &mut key, 30 * DAY - 1), Err(until));
    assert_eq!(give(&mut pool, &mut key, 30 * DAY).unwrap().msat, sat(60));
}

#[test]
fn gifts_that_are_given_back_at_once_are_not_asked_for_for_ever() {
    let (mut pool, mut key) = (pool(100_000), Key::new(at(0)));
    for n in 0..u64::from(GIFTS) {
        let grant = give(&mut pool, &mut key, n).unwrap();
        pool.take_back(&mut key, &grant.gift, grant.msat).unwrap();
        key.gift_over();
    }
    let refused = give(&mut pool, &mut key, 9);
    assert_eq!(refused, Err(NoGift::Key(at(30 * DAY))));
    assert_eq!(pool.balance(), sat(10_000), "nothing was used");
}

#[test]
fn new_keys_share_the_budget_of_a_day() {
    let mut pool = pool(100_000);
    let mut given = Msat::ZERO;
    let mut refusals = Vec::new();
    for n in 0..10 {
        match give(&mut pool, &mut Key::new(at(n)), n) {
            Ok(grant) => given = given.checked_add(grant.msat).unwrap(),
            Err(why) => refusals.push(why),
        }
    }
    assert_eq!(given, sat(200), "60, 60, 60 and 20");
    assert_eq!(refusals, [NoGift::Trust; 6]);
    assert_eq!(pool.given_today(at(9)), Some(sat(200)));
    // One who is known has another budget, and tomorrow is another day.
    let mut known = Key::new(at(0));
    known.paid_for(&terms(), sat(1), at(9));
    assert_eq!(give(&mut pool, &mut known, 10).unwrap().msat, sat(60));
    let tomorrow = give(&mut pool, &mut Key::new(at(DAY)), DAY);
    assert_eq!(tomorrow.unwrap().msat, sat(60));
}

#[test]
fn trust_grows_with_paid_leases_and_decays_with_absence() {
    let terms = terms();
    let mut key = Key::new(at(0));
    assert_eq!(key.trust(&terms, at(0)), Trust::New);
    key.paid_for(&terms, Msat::ZERO, at(1));
    assert_eq!(key.trust(&terms, at(1)), Trust::New, "nothing was served");
    for _ in 0..4 {
        key.paid_for(&terms, sat(10), at(2));
        assert_eq!(key.trust(&terms, at(2)), Trust::Known);
    }
    for _ in 0..4 {
        key.paid_for(&terms, sat(10), at(2));
    }
    assert_eq!(key.trust(&terms, at(2)), Trust::Regular);
    assert_eq!((key.leases, key.served), (8, sat(80)));
    let month = 30 * DAY;
    assert_eq!(key.trust(&terms, at(month)), Trust::Regular);
    assert_eq!(key.trust(&terms, at(2 + month)), Trust::Known, "4 of 8");
    assert_eq!(key.trust(&terms, at(2 + 3 * month)), Trust::Known, "1 of 8");
    assert_eq!(key.trust(&terms, at(2 + 4 * month)), Trust::New);
    assert_eq!(
        key.trust(&terms, Timestamp::from_secs(u64::MAX)),
        Trust::New
    );
    // Who comes back begins where the absence has left it.
    key.paid_for(&terms, sat(10), at(2 + 3 * month));
    assert_eq!(key.score, 2 * PER_LEASE);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let (mut pool, mut key) = (pool(1_000), Key::new(at(0)));
    let grant = give(&mut pool, &mut key, 0).unwrap();
    let before = (pool, key);
    let more = grant.msat.checked_add(Msat::new(1)).unwrap();
    assert_eq!(pool.take_back(&mut key, &grant.gift, more), None);
    let much = Grant {
        msat: sat(1_000),
        ..grant
    };
    assert_eq!(pool.promise(&terms(), &mut key, &much), None);
    assert_eq!(pool.earn(&terms(), Msat::new(u64::MAX)), None);
    assert_eq!((pool, key), before);
    let all = Terms {
        share_percent: 100,
        ..terms()
    };
    let mut whole = Pool::default();
    whole.earn(&all, Msat::new(u64::MAX)).unwrap();
    assert_eq!(whole.balance(), Msat::new(u64::MAX));
}

/// What happens to a pool.
#[derive(Clone, Debug)]
enum Happens {
    Pass(u64),
    Earn(u64),
    /// This key asks.
    Ask(usize),
    /// This key's lease is over, and so many per cent of its gift were served.
    Over(usize, u64),
    /// This key has paid for a lease.
    Paid(usize),
}

const KEYS: usize = 6;

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        1 => (0..2 * DAY).prop_map(Happens::Pass),
        2 => (0u64..3_000_000).prop_map(Happens::Earn),
        4 => (0..KEYS).prop_map(Happens::Ask),
        4 => (0..KEYS, 0u64..=100).prop_map(|(key, used)| Happens::Over(key, used)),
        1 => (0..KEYS).prop_map(Happens::Paid),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_history_gives_more_than_was_earned_and_allowed(
        history in proptest::collection::vec(happens(), 0..80),
        share in 0u64..=100,
    ) {
        let terms = Terms { share_percent: share, ..terms() };
        let mut pool = Pool::default();
        let mut keys = [Key::new(at(0)); KEYS];
        let mut open: [Option<Grant>; KEYS] = [None; KEYS];
        let (mut now, mut earned, mut promised, mut unused) = (0u64, 0u64, 0u64, 0u64);
        // By day and trust, of gifts that were asked for then: what of them is
        // promised yet or was served.
        let mut days: std::collections::BTreeMap<(u64, Trust), u64> = Default::default();
        for what in history {
            match what {
                Happens::Pass(secs) => now += secs,
                Happens::Earn(msat) => {
                    pool.earn(&terms, Msat::new(msat)).unwrap();
                    earned += msat;
                }
                Happens::Paid(n) => keys[n].paid_for(&terms, sat(1), at(now)),
                Happens::Ask(n) => {
                    let before = pool;
                    match pool.gift(&terms, &keys[n], &tier(), at(now)) {
                        Ok(grant) => {
                            prop_assert!(open[n].is_none() && share > 0);
                            prop_assert!((60..=600).contains(&grant.gift.seconds));
                            prop_assert_eq!(grant.msat.get(), grant.gift.seconds * RATE);
                            pool.promise(&terms, &mut keys[n], &grant).unwrap();
                            promised += grant.msat.get();
                            *days.entry((now / DAY, grant.gift.trust)).or_default() += grant.msat.get();
                            open[n] = Some(grant);
                        }
                        Err(_) => prop_assert_eq!(pool, before),
                    }
                }
                Happens::Over(n, used) => {
                    let Some(grant) = open[n].take() else { continue };
                    let back = grant.msat.get() - grant.msat.get() * used / 100;
                    pool.take_back(&mut keys[n], &grant.gift, Msat::new(back)).unwrap();
                    keys[n].gift_over();
                    unused += back;
                    let day = (grant.gift.at.as_secs() - at(0).as_secs()) / DAY;
                    *days.get_mut(&(day, grant.gift.trust)).unwrap() -= back;
                }
            }
            // Every msat of it is accounted for, and it is never below zero.
            let credited = pool.credited.get();
            prop_assert!(credited <= earned * share / 100);
            prop_assert_eq!(credited + unused, pool.balance().get() + promised);
            // No day gave more than its budgets, nor any key in this period.
            let of = |day, trust| days.get(&(day, trust)).copied().unwrap_or(0);
            let day = now / DAY;
            let (new, known, regular) =
                (of(day, Trust::New), of(day, Trust::Known), of(day, Trust::Regular));
            prop_assert!(new <= terms.new_per_day.get());
            prop_assert!(known <= terms.known_per_day.get());
            prop_assert!(regular <= terms.regular_per_day.get());
            prop_assert!(new + known + regular <= terms.per_day.get());
            prop_assert_eq!(pool.given_today(at(now)), Some(Msat::new(new + known + regular)));
            prop_assert!(keys.iter().all(|key| key.given <= terms.per_key));
        }
        // Rounding keeps less than a msat for each time that was served.
        prop_assert!(earned * share / 100 - pool.credited.get() <= 80);
    }
}
