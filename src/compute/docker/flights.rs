//! What is being done, by lease. One lease's changes are made one after the
//! other. A create goes on as a task of its own, so that a caller who drops it
//! does not cut a request in two: the step that is under way ends, no other
//! begins, and whoever lists afterwards waits for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

use crate::compute::{BackendError, WorkloadKey};

/// How long a request that nobody waits for may take to end.
const SETTLE: Duration = Duration::from_secs(60);

type Locks = HashMap<WorkloadKey, Weak<tokio::sync::Mutex<()>>>;

/// What is being done.
#[derive(Debug, Default)]
pub(super) struct Flights {
    locks: Mutex<Locks>,
    flying: Mutex<Vec<(CancellationToken, watch::Receiver<()>)>>,
}

/// Held by a task while it does something.
#[derive(Debug)]
pub(super) struct Flying {
    cancelled: CancellationToken,
    _end: watch::Sender<()>,
}

impl Flying {
    /// # Errors
    /// Nobody waits any more.
    pub(super) fn go_on(&self) -> Result<(), BackendError> {
        match self.cancelled.is_cancelled() {
            true => Err(BackendError::Retry("given up".to_owned())),
            false => Ok(()),
        }
    }

    /// Ends when nobody waits any more.
    pub(super) async fn given_up(&self) {
        self.cancelled.cancelled().await;
    }
}

impl Flights {
    /// The right to change this lease's things.
    pub(super) async fn turn(&self, key: &WorkloadKey) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(key).and_then(Weak::upgrade);
            let lock = known.unwrap_or_default();
            locks.insert(key.clone(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }

    /// For a new task, and what tells it that nobody waits.
    pub(super) fn begin(&self) -> (Flying, CancellationToken) {
        let cancelled = CancellationToken::new();
        let (end, ended) = watch::channel(());
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        flying.retain(|(_, ended)| ended.has_changed().is_ok());
        flying.push((cancelled.clone(), ended));
        let task = Flying {
            cancelled: cancelled.clone(),
            _end: end,
        };
        (task, cancelled)
    }

    /// Waits for the last step of tasks that nobody waits for.
    ///
    /// # Errors
    /// One hangs: what there is cannot be said.
    pub(super) async fn settle(&self) -> Result<(), BackendError> {
        let given_up: Vec<_> = {
            let flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
            let given_up = flying.iter().filter(|(token, _)| token.is_cancelled());
            given_up.map(|(_, ended)| ended.clone()).collect()
        };
        let all = async {
            for mut ended in given_up {
                while ended.changed().await.is_ok() {}
            }
        };
        tokio::time::timeout(SETTLE, all).await.map_err(|_| {
            BackendError::Retry("a request to the engine that was given up hangs".to_owned())
        })
    }
}
