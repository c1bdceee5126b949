//! A backend in memory, for tests and for trying the daemon without a host.
//!
//! The machine is a [`FakeEngine`] and outlives the daemon: a second
//! [`FakeBackend`] on the same engine is the restarted daemon, and finds its
//! workloads running since the same instant. The engine has knobs for whatever
//! can go wrong ([`FakeEngine::fail_next`], [`FakeEngine::hang`],
//! [`FakeEngine::lose_reply`], [`FakeEngine::vanish`], [`FakeEngine::set_down`],
//! [`FakeEngine::set_slow`]) and writes down what was asked of it.
//!
//! Time is tokio's, so everything works under a paused clock. Commands run in a
//! tiny shell ([`shell`]) over a store of files, one for each workload.

mod backend;
mod engine;
mod faults;
mod powers;
mod shell;
#[cfg(test)]
mod tests;
mod workload;

pub use backend::{FakeBackend, HANDLE_VERSION};
pub use engine::{Clock, FakeEngine, FakeHost, WorkloadView};
pub use faults::{Defect, Event, Happened, Op};
