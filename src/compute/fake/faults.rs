//! What can be made to go wrong, and the record of what was asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::compute::{BackendError, WorkloadKey};
use crate::core::time::Timestamp;

/// A call that a backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Op {
    Probe,
    Inventory,
    Prepare,
    Create,
    Observe,
    ListOwned,
    Start,
    Stop,
    Destroy,
    Exec,
    Dial,
    Logs,
    Pause,
    Resume,
}

/// A way to be wrong, which the conformance suite must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Defect {
    /// `observe` says `Absent` when the engine does not answer.
    AbsentWhenDown,
    /// `list_owned` is empty when the engine does not answer.
    EmptyWhenDown,
    /// A second `create` with the same key makes a second workload.
    CreateTwiceMakesTwo,
    /// A `create` that fails leaves its workload.
    FailedCreateLeavesIt,
    /// `list_owned` gives workloads without our label.
    ListsStrangers,
    /// `destroy` of an absent workload is an error.
    DestroyTwiceFails,
    /// Handles mean nothing to a backend that was opened later.
    ForgetsHandle,
    /// Only the current version of handles is read.
    RefusesOldHandle,
    /// `stop` gives up on a main process that ignores SIGTERM.
    StopNeverKills,
    /// `stop` kills at once.
    StopWithoutGrace,
    /// `start` begins with an empty disk.
    StartLosesDisk,
    /// The start time is the time of the look.
    StartedAtMoves,
    /// Limits do not hold.
    NoLimits,
    /// Workloads reach each other and the host.
    OpenNetwork,
    /// A paused workload goes on.
    PauseDoesNothing,
    /// Standard error comes with standard output.
    MergesStderr,
    /// Every command ends with 0.
    LosesExitCode,
    /// A command outlives its session.
    KeepsDroppedExec,
    /// Logs come whole, however long.
    UnboundedLogs,
    /// What must be forbidden inside works.
    NoIsolation,
    /// There is room for any number of workloads.
    NoCapacityLimit,
}

/// One line of the engine's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Which call.
    pub op: Op,
    /// Which workload, where the call is about one.
    pub key: Option<WorkloadKey>,
    /// What happened.
    pub what: Happened,
}

/// What happened to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It came in.
    Called,
    /// It went well and was answered.
    Done,
    /// It was answered with this error.
    Failed(BackendError),
}

/// Calls that hang: so many more, or all until they are released.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hang {
    Next(u64),
    Always,
}

/// The knobs.
#[derive(Default)]
pub(super) struct Faults {
    failures: BTreeMap<Op, VecDeque<BackendError>>,
    lost: BTreeMap<Op, u64>,
    hang_before: BTreeMap<Op, Hang>,
    hang_after: BTreeMap<Op, Hang>,
    pub(super) down: bool,
    pub(super) slow: Duration,
    pub(super) defects: BTreeSet<Defect>,
}

impl Faults {
    pub(super) fn fail(&mut self, op: Op, times: usize, error: &BackendError) {
        let queue = self.failures.entry(op).or_default();
        queue.extend(std::iter::repeat_n(error.clone(), times));
    }

    pub(super) fn lose(&mut self, op: Op, times: u64) {
        let lost = self.lost.entry(op).or_default();
        *lost = lost.saturating_add(times);
    }

    pub(super) fn hang(&mut self, op: Op, hang: Hang, before: bool) {
        let which = if before {
            &mut self.hang_before
        } else {
            &mut self.hang_after
        };
        which.insert(op, hang);
    }

    pub(super) fn release(&mut self, op: Option<Op>) {
        for which in [&mut self.hang_before, &mut self.hang_after] {
            which.retain(|hanging, _| op.is_some_and(|op| op != *hanging));
        }
    }

    /// Whether this call hangs; counts it.
    pub(super) fn hangs(&mut self, op: Op, before: bool) -> bool {
        let which = if before {
            &mut self.hang_before
        } else {
            &mut self.hang_after
        };
        match which.get_mut(&op) {
            None | Some(Hang::Next(0)) => false,
            Some(Hang::Always) => true,
            Some(Hang::Next(left)) => {
                *left = left.saturating_sub(1);
                true
            }
        }
    }

    /// The error that this call was to fail with.
    pub(super) fn failure(&mut self, op: Op) -> Option<BackendError> {
        if self.down {
            return Some(BackendError::Retry("the engine does not answer".to_owned()));
        }
        self.failures.get_mut(&op)?.pop_front()
    }

    /// Whether the reply of this call, which went well, is lost; counts it.
    pub(super) fn loses_reply(&mut self, op: Op) -> bool {
        match self.lost.get_mut(&op) {
            Some(left) if *left > 0 => {
                *left = left.saturating_sub(1);
                true
            }
            _ => false,
        }
    }
}
