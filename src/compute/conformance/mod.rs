//! What every backend must do, as plain async functions over a [`Fixture`] that
//! the backend's own tests provide. [`backend_conformance!`] makes a test of
//! each.
//!
//! A case says what a tenant or the daemon would notice. It returns a
//! [`Failure`] and does not panic, so that tests can show that the suite
//! notices a broken backend. What cannot be tried on this host is
//! [`Failure::Skipped`] with the reason, and is printed as
//! `SKIPPED <name>: <why>`.
//!
//! * [`lifecycle`]: create, observe, start, stop, destroy, list.
//! * [`crashes`]: what a dead daemon, a dead engine and a cancelled call leave.
//! * [`limits`]: programs that want more than they were sold.
//! * [`network`]: where a workload gets, and where not.
//! * [`exec`]: commands, terminals, logs.
//! * [`walls`]: what the inside must not see or do.

pub mod crashes;
pub mod exec;
mod fixture;
pub mod lifecycle;
pub mod limits;
mod list;
pub mod network;
mod programs;
mod support;
pub mod walls;

use std::io::Write;

pub use fixture::{Fixture, HostSide};
pub use programs::{Escape, Program, debian_line};

/// Why a case did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be tried here.
    #[error("skipped: {0}")]
    Skipped(String),
    /// The backend does not do what it must.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    /// It cannot be tried here, for this reason.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }

    /// The backend does not do what it must.
    pub fn broken(what: impl Into<String>) -> Self {
        Self::Broken(what.into())
    }
}

/// What a case comes to.
pub type Outcome = Result<(), Failure>;

/// Cleans up after a case and passes its outcome on; one that was skipped is
/// printed and counts as passed. Called by [`backend_conformance!`].
///
/// # Errors
/// The case's.
pub async fn finish(name: &str, fixture: &dyn Fixture, outcome: Outcome) -> Outcome {
    fixture.close().await;
    report(name, outcome)
}

/// Prints a case that was skipped, past the test harness's capture.
///
/// # Errors
/// The case's.
pub fn report(name: &str, outcome: Outcome) -> Outcome {
    match outcome {
        Err(Failure::Skipped(why)) => {
            // Nobody to tell where standard error is closed.
            writeln!(std::io::stderr(), "SKIPPED {name}: {why}").unwrap_or_default();
            Ok(())
        }
        outcome => outcome,
    }
}
