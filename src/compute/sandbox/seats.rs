//! How many commands and connections one workload may have going at once. Each
//! takes a helper process and descriptors of the host's, which no limit of the
//! tenant's counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::compute::{BackendError, WorkloadKey};

/// Commands and connections of one workload at once: two SSH connections full
/// of channels.
const SEATS: usize = 128;

/// The seats that are taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats(Arc<Mutex<BTreeMap<WorkloadKey, usize>>>);

/// A seat that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    key: WorkloadKey,
}

impl Seats {
    /// Takes one of the seats of `key`.
    ///
    /// # Errors
    /// `NoCapacity`: all are taken.
    pub(super) fn take(&self, key: &WorkloadKey) -> Result<Seat, BackendError> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(key.clone()).or_default();
        if *count >= SEATS {
            return Err(BackendError::NoCapacity(format!(
                "the workload has {SEATS} sessions already"
            )));
        }
        *count += 1;
        Ok(Seat {
            seats: self.clone(),
            key: key.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken
            .get(&self.key)
            .map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.key);
        } else {
            taken.insert(self.key.clone(), left);
        }
    }
}
