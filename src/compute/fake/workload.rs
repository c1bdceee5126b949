//! One workload of the fake engine.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::compute::{Labels, WorkloadKey, WorkloadSpec};
use crate::core::ids::Name;
use crate::core::time::Timestamp;

/// The engine keeps so much of what a main process printed.
const LOG_BYTES: usize = 256 * 1024;

const MIB: u64 = 1024 * 1024;

/// What SIGTERM does to a main process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OnTerm {
    /// It ends.
    #[default]
    Default,
    /// It handles the signal itself, or does not care.
    Own,
}

/// SIGTERM on its way to a main process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Term {
    pub(super) sent: bool,
    pub(super) on: OnTerm,
}

/// One life of a workload: from a start to the next stop.
#[derive(Clone)]
pub(super) struct Life {
    /// Cancelled when it ends; takes all commands and connections with it.
    pub(super) end: CancellationToken,
    pub(super) paused: watch::Sender<bool>,
    pub(super) term: watch::Sender<Term>,
    pub(super) started_at: Timestamp,
}

impl Life {
    pub(super) fn begin(at: Timestamp) -> Self {
        Self {
            end: CancellationToken::new(),
            paused: watch::Sender::new(false),
            term: watch::Sender::new(Term::default()),
            started_at: at,
        }
    }
}

/// Runs, or does not.
pub(super) enum State {
    Running(Life),
    Stopped { exit_code: Option<i32> },
}

/// One workload.
pub(super) struct Workload {
    pub(super) key: WorkloadKey,
    pub(super) spec: WorkloadSpec,
    /// Name of the backend that made it; `None` for a stranger's.
    pub(super) backend: Option<Name>,
    /// Which opened backend made it.
    pub(super) instance: u64,
    pub(super) labels: Labels,
    pub(super) address: String,
    pub(super) state: State,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Ports that echo, and what they say first.
    pub(super) ports: BTreeMap<u16, Vec<u8>>,
    /// Ports that echo in every life.
    pub(super) fixed_ports: BTreeSet<u16>,
    pub(super) log: Vec<u8>,
}

impl Workload {
    pub(super) fn life(&self) -> Option<&Life> {
        match &self.state {
            State::Running(life) => Some(life),
            State::Stopped { .. } => None,
        }
    }

    /// Ends the life, if there is one.
    pub(super) fn end(&mut self, exit_code: Option<i32>) {
        if let State::Running(life) = &self.state {
            life.end.cancel();
            self.state = State::Stopped { exit_code };
            self.ports.clear();
        }
    }

    pub(super) fn begin(&mut self, at: Timestamp) -> Life {
        let life = Life::begin(at);
        self.state = State::Running(life.clone());
        self.ports = self.fixed_ports.iter().map(|p| (*p, Vec::new())).collect();
        life
    }

    pub(super) fn print(&mut self, bytes: &[u8]) {
        self.log.extend_from_slice(bytes);
        let excess = self.log.len().saturating_sub(LOG_BYTES);
        self.log.drain(..excess);
    }

    /// Bytes that still fit on its disk; `None`: nobody counts.
    pub(super) fn disk_room(&self, enforced: bool) -> Option<u64> {
        let limit = u64::from(self.spec.resources.disk_mib).saturating_mul(MIB);
        if !enforced || limit == 0 {
            return None;
        }
        let used: usize = self.files.values().map(Vec::len).sum();
        Some(limit.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX)))
    }
}
