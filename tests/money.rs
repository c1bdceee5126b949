//! Random histories of money (`examples/money_sim`), and whether they notice a
//! rule that is forgotten.

use crate::money_sim::{MUTANTS, run};

/// What has to have happened in some history, so that a simulation that reaches
/// nothing is no proof.
const SEEN: &[&str] = &[
    "a refund was claimed",
    "a refund was taken back",
    "a gift came back",
    "a lease was given",
    "a lost redemption was done",
    "a lost redemption was not done",
    "a lost token was spent elsewhere",
    "a refund became credit",
    "a refund was made",
    "a refund was split",
    "a token was in use",
    "a token was taken back",
    "a workload was nobody's",
    "could not be made",
    "destroyed",
    "failed",
    "gone",
    "grace over",
    "money came after the end",
    "refused by the mint",
    "revived",
    "room was given up",
    "spawned",
    "stop begun",
    "stopped",
    "time over",
    "told that it is pending",
    "topped up",
];

#[test]
fn no_history_loses_or_makes_a_msat() {
    let run = run(4_000, 1, None);
    let done = run.unwrap_or_else(|failure| panic!("{failure:?}"));
    assert_eq!((done.histories, done.drift_msat), (4_000, 0));
    assert!(done.crashes >= done.histories, "{done:?}");
    for what in SEEN {
        assert!(done.seen.contains(what), "never seen: {what}");
    }
}

#[test]
fn every_forgotten_rule_is_noticed_and_its_history_can_be_replayed() {
    assert!(MUTANTS.len() >= 10);
    for (mutant, name, what) in MUTANTS {
        let failure = run(20_000, 1, Some(*mutant));
        let failure = failure.expect_err(&format!("{name} was not noticed:{what}"));
        let again = run(1, failure.seed, Some(*mutant)).expect_err(name);
        assert_eq!(again.what, failure.what, "{name}");
        assert!(run(1, failure.seed, None).is_ok(), "{name}");
    }
}
