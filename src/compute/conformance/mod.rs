//! What every backend must do, as plain async functions over a [`Fixture`] that
//! the backend's own tests provide. [`backend_conformance!`] makes a test of
//! each.
//!
//! A case says what a tenant or the daemon would notice. It returns a
//! [`Failure`] and does not panic, so that tests can show that the suite
//! notices a broken backend. What cannot be tried on this host is
//! [`Failure::Skipped`] with the reason, and is printed as
//! `SKIPPED <name>: <why>`; where there is nothing to try it is [`Failure::Moot`].
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

use std::fs::OpenOptions;
use std::io::Write;

pub use fixture::{Fixture, HostSide};
pub use programs::{Escape, Program, debian_line};

/// Why a case did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be tried here.
    #[error("skipped: {0}")]
    Skipped(String),
    /// There is nothing to try for this backend or host; nothing is missing.
    #[error("moot: {0}")]
    Moot(String),
    /// The backend does not do what it must.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    /// It cannot be tried here, for this reason.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }

    /// There is nothing to try, for this reason.
    pub fn moot(why: impl Into<String>) -> Self {
        Self::Moot(why.into())
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

/// Says that a case was skipped: a line on standard error, past the test
/// harness's capture, and the same in the file that `$SATLET_SKIPS` names, in
/// which skipped tests are counted.
///
/// # Errors
/// The case's; or the file cannot be written.
pub fn report(name: &str, outcome: Outcome) -> Outcome {
    let why = match outcome {
        Err(Failure::Skipped(why)) => why,
        Err(Failure::Moot(_)) => return Ok(()),
        outcome => return outcome,
    };
    let line = format!("SKIPPED {name}: {}\n", why.replace('\n', " "));
    // Nobody to tell where standard error is closed.
    let told = std::io::stderr().write_all(line.as_bytes());
    told.unwrap_or_default();
    let Some(path) = std::env::var_os("SATLET_SKIPS") else {
        return Ok(());
    };
    let file = OpenOptions::new().append(true).create(true).open(path);
    // One write of one line, so that tests side by side do not mix theirs.
    let noted = file.and_then(|mut file| file.write_all(line.as_bytes()));
    noted.map_err(|error| Failure::broken(format!("SATLET_SKIPS: {error}")))
}
