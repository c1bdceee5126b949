use super::hash_lock::Preimage;
use super::hold::NotClaimed;
use super::*;

fn payment() -> Payment {
    Payment {
        id: PaymentId::from_bytes([1; 32]),
        owner: PublicKey::from_bytes([2; 32]),
        request: RequestId::new(uuid::Uuid::nil()),
        lease: "aaaaaaaaaaaa".parse().unwrap(),
        purpose: Purpose::Spawn,
        mint: "https://mint.test".to_owned(),
        unit: "sat".to_owned(),
        face: Msat::new(10_000),
        token: "cashuBsecret".to_owned(),
        ys: Vec::new(),
        state: PaymentState::Reserved,
        deadline: Timestamp::from_secs(100),
        net: Msat::ZERO,
        fee: Msat::ZERO,
        added_seconds: 0,
        rejection: None,
        invoice: None,
        hold: None,
    }
}

fn in_state(state: PaymentState) -> Payment {
    Payment { state, ..payment() }
}

fn redeemed() -> Learnt {
    Learnt::Redeemed {
        net: Msat::new(9_000),
        fee: Msat::new(1_000),
    }
}

fn minted() -> Learnt {
    Learnt::Minted(Msat::new(12_000))
}

fn invoiced(state: PaymentState) -> Payment {
    let at = Timestamp::from_secs;
    Payment {
        invoice: Some(Invoice {
            quote: "quote-secret".to_owned(),
            bolt11: "lnbc-secret".to_owned(),
            issued_at: at(1_000),
            pay_by: at(1_600),
            watch_until: at(100_000),
        }),
        deadline: at(1_660),
        ..in_state(state)
    }
}

#[test]
fn of_an_invoice_counts_what_was_made_of_it() {
    for state in [PaymentState::Invoiced, PaymentState::Lapsed] {
        let paid = invoiced(state).learn(minted()).unwrap();
        let all = (paid.face, paid.net, paid.fee);
        assert_eq!(all, (Msat::new(12_000), Msat::new(12_000), Msat::ZERO));
        let nothing = Learnt::Minted(Msat::ZERO);
        assert!(invoiced(state).learn(nothing).is_err());
        assert!(!format!("{:?}", invoiced(state)).contains("secret"));
        assert!(invoiced(state).is_open());
    }
}

#[test]
fn an_invoice_is_asked_about_ever_more_seldom_and_when_something_hangs_on_it() {
    let wait = |state, now| invoiced(state).ask_again_in(Timestamp::from_secs(now));
    let waiting = |now| wait(PaymentState::Invoiced, now);
    assert_eq!([1_000, 1_024, 1_500].map(waiting), [1, 3, 10]);
    assert_eq!(waiting(1_655), 5, "not past its deadline");
    assert_eq!(waiting(9_000), 10, "the mint was down then");
    let lapsed = |now| wait(PaymentState::Lapsed, now);
    assert_eq!([1_700, 9_000, 50_000].map(lapsed), [87, 1_000, 3_600]);
    assert_eq!(lapsed(99_990), 10);
}

#[test]
fn only_these_changes_are_allowed() {
    use PaymentState::{
        Held, Invoiced, Lapsed, Redeemed, Redeeming, Rejected, Reserved, Settled, Unknown,
    };
    let not_taken = Learnt::NotTaken(Rejection::Spent);
    let learnt = [
        Learnt::Unspent,
        redeemed(),
        not_taken.clone(),
        Learnt::Lost,
        Learnt::Settled,
        Learnt::Unpaid,
        minted(),
    ];
    let allowed = [
        (Reserved, Learnt::Unspent, Redeeming),
        (Reserved, not_taken.clone(), Rejected),
        (Held, not_taken.clone(), Rejected),
        (Redeeming, redeemed(), Redeemed),
        (Redeeming, not_taken.clone(), Rejected),
        (Redeeming, Learnt::Lost, Unknown),
        (Unknown, redeemed(), Redeemed),
        (Unknown, not_taken.clone(), Rejected),
        (Invoiced, minted(), Redeemed),
        (Invoiced, Learnt::Unpaid, Lapsed),
        (Lapsed, minted(), Redeemed),
        (Lapsed, not_taken, Rejected),
        (Redeemed, Learnt::Settled, Settled),
    ];
    for from in [
        Held, Reserved, Redeeming, Unknown, Redeemed, Settled, Rejected, Invoiced, Lapsed,
    ] {
        for what in &learnt {
            let to = allowed
                .iter()
                .find(|(f, l, _)| *f == from && l == what)
                .map(|(_, _, to)| *to);
            let got = in_state(from).learn(what.clone()).ok().map(|p| p.state);
            assert_eq!(got, to, "{from:?} and {what:?}");
        }
    }
}

#[test]
fn a_redemption_whose_parts_do_not_add_up_is_refused() {
    let wrong = Learnt::Redeemed {
        net: Msat::new(9_000),
        fee: Msat::new(999),
    };
    assert!(in_state(PaymentState::Redeeming).learn(wrong).is_err());
    let too_large = Learnt::Redeemed {
        net: Msat::new(u64::MAX),
        fee: Msat::new(10_001),
    };
    assert!(in_state(PaymentState::Redeeming).learn(too_large).is_err());
}

#[test]
fn the_token_is_kept_as_long_as_something_can_come_of_it_and_never_shown() {
    for state in [
        PaymentState::Reserved,
        PaymentState::Redeeming,
        PaymentState::Unknown,
        PaymentState::Redeemed,
    ] {
        let mut open = in_state(state);
        open.forget_token();
        assert!(open.is_open() && !open.token.is_empty(), "{state:?}");
        assert!(!format!("{open:?}").contains("secret"));
    }
    for state in [PaymentState::Settled, PaymentState::Rejected] {
        let mut closed = in_state(state);
        closed.forget_token();
        assert!(!closed.is_open() && closed.token.is_empty(), "{state:?}");
    }
}

/// A payment that is held until second 100, and may be redeemed until second 500.
fn held() -> Payment {
    let hold = Hold {
        hash: Preimage::from_bytes([7; 32]).hash(),
        redeem_by: Timestamp::from_secs(500),
        preimage: None,
    };
    Payment {
        hold: Some(hold),
        ..in_state(PaymentState::Held)
    }
}

#[test]
fn a_held_payment_is_claimed_once_in_time_and_with_its_preimage() {
    let (right, wrong) = (Preimage::from_bytes([7; 32]), Preimage::from_bytes([8; 32]));
    let claim = RequestId::new(uuid::Uuid::from_u128(9));
    let at = Timestamp::from_secs;
    let late = held().claim(&right, claim, at(100), 300).unwrap_err();
    assert_eq!(late, NotClaimed::Over);
    let other = held().claim(&wrong, claim, at(99), 300).unwrap_err();
    assert_eq!(other, NotClaimed::Preimage);
    let claimed = held().claim(&right, claim, at(99), 300).unwrap();
    assert_eq!(claimed.state, PaymentState::Reserved);
    assert_eq!((claimed.request, claimed.deadline), (claim, at(399)));
    assert_eq!(claimed.hold.clone().unwrap().preimage, Some(right.clone()));
    let near = held().claim(&right, claim, at(99), 900).unwrap();
    assert_eq!(near.deadline, at(500), "its locktime is near");
    let twice = claimed.clone().claim(&right, claim, at(99), 300);
    assert_eq!(twice.unwrap_err(), NotClaimed::Before);
    let over = held().learn(Learnt::NotTaken(Rejection::HoldOver)).unwrap();
    let late = over.claim(&right, claim, at(1), 300).unwrap_err();
    assert_eq!(late, NotClaimed::Over, "it was released");
    assert!(held().learn(Learnt::Unspent).is_err(), "not without it");
    assert!(!format!("{:?}", claimed.hold).contains("0707"));
    // An old row has no such field.
    let row = serde_json::to_value(payment()).unwrap();
    assert!(row.get("hold").is_none());
    assert!(serde_json::from_value::<Payment>(row).unwrap() == payment());
}
