//! A fake backend: workloads that are made, stopped, lost and removed.

use satlet::core::ids::LeaseId;

/// Why a call of the backend gave nothing, by what may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendError {
    /// Nothing happened, or it may be tried again.
    Retry,
    /// It will not work.
    Permanent,
    /// It may have happened.
    OutcomeUnknown,
}

/// What is seen of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    Running,
    /// Stopped by the host, not by itself.
    Stopped,
    Absent,
}

/// What is asked of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Create,
    Start,
    Stop,
    Destroy,
}

/// The host, with all that runs on it. It outlives the provider's process.
#[derive(Default)]
pub(super) struct Backend {
    /// Workloads there are, and whether each runs.
    pub(super) there: Vec<(LeaseId, bool)>,
    /// Leases that had a workload at some time.
    pub(super) ever: Vec<LeaseId>,
    /// Leases whose workload was made when nobody waited for it any more.
    pub(super) late: Vec<LeaseId>,
    pub(super) down: bool,
}

impl Backend {
    pub(super) fn obey(&mut self, order: Order, lease: &LeaseId) -> Result<(), BackendError> {
        if self.down {
            return Err(BackendError::Retry);
        }
        let found = self.there.iter_mut().find(|(id, _)| id == lease);
        match (order, found) {
            (Order::Create | Order::Start, Some((_, runs))) => *runs = true,
            (Order::Create, None) => {
                self.there.push((lease.clone(), true));
                self.ever.push(lease.clone());
            }
            (Order::Start, None) => return Err(BackendError::Permanent),
            (Order::Stop, Some((_, runs))) => *runs = false,
            (Order::Destroy, Some(_)) => self.there.retain(|(id, _)| id != lease),
            (Order::Stop | Order::Destroy, None) => {}
        }
        Ok(())
    }

    pub(super) fn observe(&self, lease: &LeaseId) -> Result<Observed, BackendError> {
        if self.down {
            return Err(BackendError::Retry);
        }
        let found = self.there.iter().find(|(id, _)| id == lease);
        Ok(match found {
            Some((_, true)) => Observed::Running,
            Some((_, false)) => Observed::Stopped,
            None => Observed::Absent,
        })
    }

    pub(super) fn list(&self) -> Result<Vec<LeaseId>, BackendError> {
        if self.down {
            return Err(BackendError::Retry);
        }
        Ok(self.there.iter().map(|(id, _)| id.clone()).collect())
    }
}
