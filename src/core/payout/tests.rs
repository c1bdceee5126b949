use proptest::prelude::*;

use super::*;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_000_000 + secs)
}

fn payout() -> Payout {
    Payout {
        hash: "00".repeat(32),
        bolt11: "lnbc1".to_owned(),
        to: None,
        cause: Cause::Withdrawal,
        purse: ("https://mint.test".to_owned(), "sat".to_owned()),
        quote: "q".to_owned(),
        amount: Msat::new(100_000),
        most: Msat::new(103_000),
        begun: at(0),
        state: PayoutState::Melting,
        why: "asked for".to_owned(),
        tries: 1,
    }
}

fn paid() -> Heard {
    Heard::Paid {
        fee: Msat::new(1000),
        preimage: None,
    }
}

#[test]
fn it_is_open_until_it_is_known() {
    let mut one = payout();
    assert!(one.hear(Heard::Lost("closed".to_owned()), at(1), 60));
    assert!(one.is_open() && one.state == PayoutState::Unknown);
    assert!(one.hear(Heard::Pending, at(2), 60));
    assert!(!one.hear(Heard::Pending, at(3), 60), "nothing new");
    assert!(one.hear(paid(), at(4), 60));
    assert_eq!(one.spent(), (Msat::new(100_000), Msat::new(1000)));
    for late in [Heard::Pending, Heard::Refused("no".to_owned()), paid()] {
        assert!(!one.hear(late, at(500), 60), "paid for ever");
    }
}

#[test]
fn that_nothing_was_paid_is_believed_when_no_request_is_on_its_way() {
    let mut one = payout();
    let not = || Heard::NotPaid("unpaid".to_owned());
    assert!(!one.hear(not(), at(59), 60));
    assert!(one.is_open());
    assert!(one.hear(not(), at(60), 60));
    assert_eq!(one.state, PayoutState::Failed { at: at(60) });
    assert_eq!(one.spent(), (Msat::ZERO, Msat::ZERO));
    let mut known = payout();
    assert!(known.hear(Heard::Pending, at(1), 60));
    assert!(known.hear(not(), at(2), 60), "the mint had it");
    let mut two = payout();
    assert!(two.hear(Heard::Refused("no route".to_owned()), at(1), 60));
    assert!(!two.is_open() && two.why.contains("no route"));
}

#[test]
fn what_may_leave_is_what_neither_refunds_nor_the_operator_need() {
    let standing = Standing {
        balance: Msat::new(1_000_000),
        float: Msat::new(250_000),
        keep: Msat::new(100_000),
    };
    // 250 sat and 3 for fees of refunds.
    assert_eq!(standing.free(), Msat::new(647_000));
    let amount = Msat::new(600_000);
    let allowed = |most, limit| allow(&standing, amount, Msat::new(most), Msat::new(limit));
    assert!(allowed(647_000, 47_000).is_ok());
    let free = standing.free();
    let need = Msat::new(648_000);
    assert_eq!(
        allowed(648_000, 48_000),
        Err(Refusal::TooMuch { free, need })
    );
    assert!(matches!(
        allowed(647_000, 46_999),
        Err(Refusal::TooDear { .. })
    ));
    let poor = Standing {
        balance: Msat::new(200_000),
        ..standing
    };
    assert_eq!(poor.free(), Msat::ZERO);
}

#[test]
fn a_sweep_waits_for_its_threshold_and_takes_whole_satoshi() {
    let standing = |balance| Standing {
        balance: Msat::new(balance),
        float: Msat::ZERO,
        keep: Msat::ZERO,
    };
    let above = Msat::new(100_000);
    assert_eq!(sweep(&standing(100_000), above, 2), None);
    // 10 sat stay for fees of small amounts.
    assert_eq!(sweep(&standing(100_001), above, 2), Some(Msat::new(90_000)));
    let large = sweep(&standing(10_200_999), above, 2).unwrap();
    assert_eq!(large, Msat::new(10_000_000));
    assert_eq!(sweep(&standing(10_000), Msat::ZERO, 2), None);
}

proptest! {
    /// Whatever is asked for and whatever becomes of it, at the end at least the
    /// float and what is kept is there, and nothing comes from nowhere.
    #[test]
    fn nothing_leaves_below_the_float(
        balance in 0u64..2_000_000,
        float in 0u64..2_000_000,
        keep in 0u64..500_000,
        steps in prop::collection::vec(
            (0u64..2_000_000, 0u64..30_000, 0u64..40_000, 0u8..5, any::<bool>()),
            0..12,
        ),
    ) {
        let mut has = balance;
        for (amount, fees, limit, fate, sweeps) in steps {
            let standing = Standing {
                balance: Msat::new(has),
                float: Msat::new(float),
                keep: Msat::new(keep),
            };
            let amount = match sweeps {
                true => sweep(&standing, Msat::new(amount), fate).unwrap_or_default(),
                false => Msat::new(amount),
            };
            let most = Msat::new(amount.get() + fees);
            if amount.is_zero() {
                continue;
            }
            if allow(&standing, amount, most, Msat::new(limit)).is_err() {
                continue;
            }
            prop_assert!(fees <= limit);
            let spent = match fate {
                0 => most.get(),
                1 => amount.get(),
                _ => 0,
            };
            has -= spent;
            prop_assert!(has >= float + keep, "{has} of {float} and {keep}");
        }
    }

    /// The largest amount and what it may cost fit into what is free.
    #[test]
    fn the_largest_amount_leaves_room_for_its_fees(
        free in 0u64..u64::MAX / 2,
        percent in 0u8..=100,
    ) {
        if let Some(amount) = largest(Msat::new(free), percent) {
            let all = amount.checked_add(limit(amount, percent)).unwrap();
            prop_assert!(all <= Msat::new(free));
            prop_assert_eq!(amount.get() % 1000, 0);
        }
    }
}
