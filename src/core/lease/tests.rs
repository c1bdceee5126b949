use super::*;
use crate::core::capacity::Resources;

mod gifts;
mod histories;
mod purses;
mod refunds;

const RATE: u64 = 100;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_000_000 + secs)
}

fn request(n: u128) -> RequestId {
    RequestId::new(uuid::Uuid::from_u128(n))
}

fn reserved() -> Lease {
    Lease::reserve(
        "aaaaaaaaaaaa".parse().unwrap(),
        PublicKey::from_bytes([1; 32]),
        request(1),
        Tier {
            id: "small".parse().unwrap(),
            name: String::new(),
            description: String::new(),
            resources: Resources::default(),
            rate_msat_per_s: RATE,
            min_seconds: 1,
            max_seconds: 100_000,
        },
        "host".to_owned(),
        Vec::new(),
        at(0),
    )
}

fn pace() -> Pace {
    Pace {
        warnings: vec![600, 60],
        look_every: 30,
        patience: 600,
    }
}

fn purse() -> Purse {
    ("https://mint.test".to_owned(), "sat".to_owned())
}

fn paid(face: u64, fee: u64) -> Event {
    Event::Paid {
        face: Msat::new(face),
        fee: Msat::new(fee),
        patience: 300,
        mint: "https://mint.test".to_owned(),
        unit: "sat".to_owned(),
    }
}

/// A lease after these events, each at its second.
fn after(events: &[(u64, Event)]) -> Lease {
    let mut lease = reserved();
    for (secs, event) in events {
        lease.on(event.clone(), at(*secs)).unwrap();
    }
    lease
}

/// Paid with 10.0 sat, of which the mint kept 1 sat: 90 s.
fn provisioning() -> Vec<(u64, Event)> {
    vec![(0, paid(10_000, 1_000))]
}

fn active() -> Vec<(u64, Event)> {
    let mut events = provisioning();
    events.push((10, Event::Up));
    events
}

fn expiring() -> Vec<(u64, Event)> {
    let mut events = active();
    events.push((100, Event::TimeOver));
    events
}

fn grace() -> Vec<(u64, Event)> {
    let mut events = expiring();
    events.push((101, Event::Stopped { grace: 600 }));
    events
}

fn reviving() -> Vec<(u64, Event)> {
    let mut events = grace();
    events.push((200, paid(10_000, 1_000)));
    events
}

fn ending() -> Vec<(u64, Event)> {
    let mut events = grace();
    events.push((701, Event::GraceOver));
    events
}

fn ended() -> Vec<(u64, Event)> {
    let mut events = ending();
    events.push((702, Event::Destroyed));
    events
}

fn phase_name(lease: &Lease) -> &'static str {
    match lease.phase {
        Phase::Reserved => "reserved",
        Phase::Provisioning { .. } => "provisioning",
        Phase::Active => "active",
        Phase::Expiring => "expiring",
        Phase::Grace { .. } => "grace",
        Phase::Reviving { .. } => "reviving",
        Phase::Ending => "ending",
        Phase::Ended { .. } => "ended",
    }
}

#[test]
fn each_event_is_allowed_in_its_phases_and_refused_in_all_others() {
    let leases = [
        reserved(),
        after(&provisioning()),
        after(&active()),
        after(&expiring()),
        after(&grace()),
        after(&reviving()),
        after(&ending()),
        after(&ended()),
    ];
    let why = || "why".to_owned();
    // Event, and what each phase (in the order above) becomes; "" is refused.
    let table: [(Event, [&str; 8]); 12] = [
        (
            paid(10_000, 0),
            [
                "provisioning",
                "provisioning",
                "active",
                "reviving",
                "reviving",
                "reviving",
                "ending",
                "ended",
            ],
        ),
        (
            gifts::gift(60),
            ["provisioning", "", "", "", "", "", "", ""],
        ),
        (Event::NotPaid(why()), ["ended", "", "", "", "", "", "", ""]),
        (Event::Up, ["", "active", "", "", "", "active", "", ""]),
        (
            Event::Failed(why()),
            ["", "ending", "", "", "", "ending", "", ""],
        ),
        (Event::TimeOver, ["", "", "expiring", "", "", "", "", ""]),
        (
            Event::Stopped { grace: 5 },
            ["", "", "", "grace", "", "", "", ""],
        ),
        (
            Event::GraceOver,
            ["", "", "", "ending", "ending", "", "", ""],
        ),
        (
            Event::Gone,
            ["", "", "ending", "ending", "ending", "", "", ""],
        ),
        (Event::Unheard, ["", "", "ending", "", "", "", "", ""]),
        (Event::Destroyed, ["", "", "", "", "", "", "ended", ""]),
        // Nobody has asked for it.
        (Event::StopBegun, [""; 8]),
    ];
    for (event, expected) in table {
        for (lease, expected) in leases.iter().zip(expected) {
            let mut changed = lease.clone();
            let done = changed.on(event.clone(), at(710));
            let from = phase_name(lease);
            if expected.is_empty() {
                assert!(done.is_err(), "{event:?} in {from}");
                assert_eq!(&changed, lease, "a refused event changes nothing");
            } else {
                assert!(done.is_ok(), "{event:?} in {from}: {done:?}");
                assert_eq!(phase_name(&changed), expected, "{event:?} in {from}");
            }
        }
    }
}

#[test]
fn a_stop_is_asked_for_once_and_begins_when_the_lease_was_paid() {
    for events in [provisioning(), active(), expiring(), grace(), reviving()] {
        let mut lease = after(&events);
        lease.on(Event::StopAsked(request(7)), at(300)).unwrap();
        assert!(lease.on(Event::StopAsked(request(8)), at(300)).is_err());
        assert!(!lease.takes_topup(), "no money for what is to end");
        lease.on(Event::StopBegun, at(300)).unwrap();
        assert_eq!(lease.phase, Phase::Ending);
        assert_eq!(lease.cause, Some(EndCause::Stopped));
    }
    let mut lease = reserved();
    lease.on(Event::StopAsked(request(7)), at(0)).unwrap();
    assert!(lease.on(Event::StopBegun, at(0)).is_err());
    for events in [ending(), ended()] {
        let stop = Event::StopAsked(request(7));
        assert!(after(&events).on(stop, at(800)).is_err());
    }
}

#[test]
fn a_stop_gives_back_the_seconds_that_were_not_served_and_the_credit() {
    let mut lease = reserved();
    lease.on(paid(10_050, 0), at(0)).unwrap();
    lease.on(Event::Up, at(10)).unwrap();
    assert_eq!(lease.unserved_seconds(at(40)), 70);
    lease.on(Event::StopAsked(request(7)), at(40)).unwrap();
    lease.on(Event::StopBegun, at(40)).unwrap();
    assert_eq!(lease.refund_to_make().unwrap().owed, Msat::new(7_050));
    assert!(!lease.refunds[0].our_fault, "its cost is the consumer's");
    lease.on(Event::Destroyed, at(50)).unwrap();
    assert_eq!(lease.money.served, Msat::new(3_000));
    lease
        .refund_made(
            "aaaaaaaaaaaa-1",
            "token".to_owned(),
            Msat::new(6_000),
            Msat::new(1_000),
            at(51),
        )
        .unwrap();
    assert_eq!(lease.money.credit, Msat::new(50));
    assert_eq!(lease.money.absorbed, Msat::ZERO);
    assert!(lease.balances(at(50)));
    let again = lease.refund_made(
        "aaaaaaaaaaaa-1",
        String::new(),
        Msat::new(1),
        Msat::ZERO,
        at(52),
    );
    assert_eq!(again, None, "a refund is made once");
}

#[test]
fn what_we_could_not_give_comes_back_whole_with_the_fees_on_us() {
    for mut lease in [after(&provisioning()), after(&reviving())] {
        lease.on(Event::Failed("no".to_owned()), at(300)).unwrap();
        let refund = lease.refund_to_make().unwrap().clone();
        assert_eq!(
            refund.owed,
            Msat::new(10_000),
            "the face of what was paid last"
        );
        assert!(refund.our_fault);
        assert_eq!(lease.money.absorbed, Msat::new(1_000));
        lease
            .refund_made(
                &refund.id,
                String::new(),
                Msat::new(10_000),
                Msat::new(500),
                at(301),
            )
            .unwrap();
        assert_eq!(lease.money.absorbed, Msat::new(1_500));
        assert!(lease.balances(at(300)));
    }
}

#[test]
fn two_top_ups_at_once_both_become_time() {
    let mut lease = after(&reviving());
    assert!(lease.takes_topup());
    lease.on(paid(20_000, 0), at(205)).unwrap();
    assert_eq!(lease.waiting_seconds, 90 + 200);
    lease.on(Event::Up, at(210)).unwrap();
    assert_eq!(lease.expires_at, Some(at(500)));
    assert!(lease.refunds.is_empty());
}

#[test]
fn money_that_comes_after_the_end_is_owed_back_in_full() {
    let mut lease = after(&ended());
    let served = lease.money.served;
    lease.on(paid(5_000, 1_000), at(800)).unwrap();
    assert!(lease.has_ended());
    assert_eq!(lease.refund_to_make().unwrap().owed, Msat::new(5_000));
    assert_eq!(lease.money.served, served);
    assert_eq!(lease.sold_seconds, 90, "nothing was sold for it");
}

#[test]
fn a_refund_in_parts_keeps_its_sum() {
    let mut lease = after(&provisioning());
    lease.on(Event::Failed("no".to_owned()), at(5)).unwrap();
    let id = lease.refund_to_make().unwrap().id.clone();
    for bad in [0, 10_000, 10_001] {
        assert_eq!(lease.refund_split(&id, Msat::new(bad)), None, "{bad}");
    }
    lease.refund_split(&id, Msat::new(9_000)).unwrap();
    assert!(lease.balances(at(5)));
    let owed: Vec<_> = lease
        .refunds_to_make()
        .map(|r| (r.id.as_str(), r.owed.get()))
        .collect();
    assert_eq!(owed, [("aaaaaaaaaaaa-1", 9_000), ("aaaaaaaaaaaa-2", 1_000)]);
    lease
        .refund_made(&id, String::new(), Msat::new(9_000), Msat::ZERO, at(6))
        .unwrap();
    assert_eq!(lease.refund_split(&id, Msat::new(1)), None, "it is made");
}

#[test]
fn a_clock_that_was_set_back_gives_nothing_twice_and_stops_nothing() {
    let mut lease = after(&active());
    let early = Timestamp::from_secs(500);
    assert_eq!(
        lease.unserved_seconds(early),
        90,
        "no more than was paid for"
    );
    assert!(lease.balances(early));
    let plan = Plan::of(&lease, &[], &pace(), early);
    assert_eq!(plan, Plan::Do(Step::Warn(600)));
    lease.on(Event::Warned(600), early).unwrap();
    assert_eq!(Plan::of(&lease, &[], &pace(), early), Plan::Do(Step::Look));
    lease.on(Event::Looked("ok".to_owned()), early).unwrap();
    assert!(matches!(
        Plan::of(&lease, &[], &pace(), early),
        Plan::WaitUntil(_)
    ));
    lease.on(Event::StopAsked(request(7)), early).unwrap();
    lease.on(Event::StopBegun, early).unwrap();
    assert_eq!(lease.refund_to_make().unwrap().owed, Msat::new(9_000));
    // And set forward: it is over, as anybody can see.
    let late = after(&active());
    assert_eq!(
        Plan::of(&late, &[], &pace(), at(u32::MAX.into())),
        Plan::Do(Step::TimeOver)
    );
}

#[test]
fn warnings_come_once_each_and_a_short_lease_gets_only_the_last() {
    let mut long = reserved();
    long.on(paid(100_000, 0), at(0)).unwrap();
    long.on(Event::Up, at(0)).unwrap();
    let due = |lease: &Lease, secs| match Plan::of(lease, &[], &pace(), at(secs)) {
        Plan::Do(Step::Warn(lead)) => Some(lead),
        _ => None,
    };
    assert_eq!(due(&long, 399), None);
    assert_eq!(due(&long, 400), Some(600));
    long.on(Event::Warned(600), at(400)).unwrap();
    assert_eq!(due(&long, 500), None);
    assert_eq!(due(&long, 940), Some(60));
    long.on(Event::Warned(60), at(940)).unwrap();
    assert_eq!(due(&long, 950), None);
    long.on(paid(10_000, 0), at(950)).unwrap();
    assert_eq!(
        due(&long, 951),
        Some(600),
        "after a top-up the end is another one"
    );
    let mut short = reserved();
    short.on(paid(5_000, 0), at(0)).unwrap();
    short.on(Event::Up, at(0)).unwrap();
    assert_eq!(due(&short, 1), Some(60));
    short.on(Event::Warned(60), at(1)).unwrap();
    assert_eq!(due(&short, 2), None, "600 s would be a lie");
}

#[test]
fn a_step_that_waits_holds_up_nothing_that_does_not_hang_on_it() {
    let payment = |state| crate::core::payment::Payment {
        id: PaymentId::from_bytes([3; 32]),
        owner: PublicKey::from_bytes([1; 32]),
        request: request(2),
        lease: "aaaaaaaaaaaa".parse().unwrap(),
        purpose: crate::core::payment::Purpose::Topup,
        mint: String::new(),
        unit: "sat".to_owned(),
        face: Msat::new(1_000),
        token: String::new(),
        ys: Vec::new(),
        state,
        deadline: at(0),
        net: Msat::ZERO,
        fee: Msat::ZERO,
        added_seconds: 0,
        rejection: None,
        invoice: None,
        hold: None,
    };
    let unknown = [payment(crate::core::payment::PaymentState::Unknown)];
    let resolve = Step::Resolve(unknown[0].id);
    let plan = |lease: &Lease, secs, waiting: &[Step]| {
        Plan::beside(lease, &unknown, &pace(), at(secs), |step| {
            waiting.contains(step)
        })
    };
    let lease = after(&active());
    assert_eq!(plan(&lease, 20, &[]), Plan::Do(resolve.clone()));
    let mint_down = [resolve.clone()];
    assert_eq!(plan(&lease, 100, &mint_down), Plan::Do(Step::TimeOver));
    let mut stopping = lease.clone();
    stopping.on(Event::StopAsked(request(7)), at(20)).unwrap();
    assert_eq!(plan(&stopping, 20, &mint_down), Plan::Do(Step::BeginStop));
    stopping.on(Event::StopBegun, at(20)).unwrap();
    // The host is down: the refund does not wait for it, nor it for the refund.
    let refund = Step::MakeRefund("aaaaaaaaaaaa-1".to_owned());
    let both = [resolve.clone(), Step::Destroy];
    assert_eq!(plan(&stopping, 20, &mint_down), Plan::Do(Step::Destroy));
    assert_eq!(plan(&stopping, 20, &both), Plan::Do(refund.clone()));
    let all = [resolve.clone(), Step::Destroy, refund];
    assert!(matches!(plan(&stopping, 20, &all), Plan::WaitUntil(_)));
    // It is not over while money may still come.
    let over = after(&ended());
    assert!(matches!(plan(&over, 900, &mint_down), Plan::WaitUntil(_)));
    assert_eq!(Plan::of(&over, &[], &pace(), at(900)), Plan::Over);
    // Room is held only so long for a payment that nobody can tell about.
    let held = reserved();
    assert_eq!(plan(&held, 599, &mint_down), Plan::WaitUntil(at(600)));
    assert_eq!(plan(&held, 600, &mint_down), Plan::Do(Step::GiveUp));
    // Room for a preimage is held until the deadline and no longer.
    let mut waits = payment(crate::core::payment::PaymentState::Held);
    waits.deadline = at(120);
    let (id, waits) = (waits.id, [waits]);
    let plan_held = |secs| Plan::of(&held, &waits, &pace(), at(secs));
    assert_eq!(plan_held(119), Plan::WaitUntil(at(120)));
    assert_eq!(plan_held(120), Plan::Do(Step::EndHold(id)));
    // A workload that cannot be stopped is destroyed in the end.
    let stuck = after(&expiring());
    let down = [resolve, Step::StopWorkload];
    assert_eq!(plan(&stuck, 101, &down), Plan::WaitUntil(at(700)));
    assert_eq!(plan(&stuck, 700, &down), Plan::Do(Step::GraceOver));
}

#[test]
fn amounts_that_do_not_fit_change_nothing() {
    let mut lease = after(&active());
    let before = lease.clone();
    assert!(lease.on(paid(u64::MAX, 0), at(20)).is_err());
    assert!(
        lease.on(paid(10, 11), at(20)).is_err(),
        "a fee above the face"
    );
    assert_eq!(lease, before);
}
