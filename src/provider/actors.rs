//! One task for each lease, and only it changes the lease. It asks [`Plan`] what
//! is to be done, does it, and asks again; what it is told (a top-up, a stop) is
//! in the ledger, and a bell makes it look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::ctx::{Ctx, open_leases};
use super::steps;
use crate::core::ids::LeaseId;
use crate::core::lease::Plan;
use crate::core::time::Timestamp;
use crate::ledger::LedgerError;

/// First wait after a step that failed and may be tried again; doubles up to
/// [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// Longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The tasks of all leases that are not over.
#[derive(Default)]
pub struct Actors {
    bells: Mutex<HashMap<LeaseId, Arc<Notify>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Actors {
    /// Makes the lease's task look at the ledger; starts it where there is none.
    pub fn wake(&self, ctx: &Arc<Ctx>, lease: &LeaseId) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(lease) {
            bell.notify_one();
            return;
        }
        let bell = Arc::new(Notify::new());
        bells.insert(lease.clone(), Arc::clone(&bell));
        let (ctx, lease) = (Arc::clone(ctx), lease.clone());
        let stop = self.stop.clone();
        self.tasks
            .spawn(stop.run_until_cancelled_owned(supervise(ctx, lease, bell)));
    }

    /// Breaks all tasks off where they wait, and returns when they are gone; the
    /// ledger knows how to go on.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How many leases have a task.
    pub fn count(&self) -> usize {
        self.bells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Takes the task off the list, unless somebody rang for it meanwhile.
    fn leave(&self, lease: &LeaseId) {
        self.bells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(lease);
    }
}

/// Runs the lease's task until the lease is over; one that dies is started again.
async fn supervise(ctx: Arc<Ctx>, lease: LeaseId, bell: Arc<Notify>) {
    let mut wait = RETRY;
    loop {
        let run = tokio::spawn(run(Arc::clone(&ctx), lease.clone(), Arc::clone(&bell)));
        match AbortOnDropHandle::new(run).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => tracing::error!(%lease, %error, "the lease's task failed"),
            Err(panic) => tracing::error!(%lease, %panic, "the lease's task died"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
    ctx.actors.leave(&lease);
    // A change between the last look and leaving must not wait for the sweep.
    if matches!(steps::load(&ctx, &lease), Ok(Some((lease, payments)))
        if !matches!(Plan::of(&lease, &payments, &ctx.pace(), ctx.now()), Plan::Over))
    {
        ctx.actors.wake(&ctx, &lease);
    }
}

async fn run(ctx: Arc<Ctx>, id: LeaseId, bell: Arc<Notify>) -> Result<(), LedgerError> {
    let mut retry = RETRY;
    loop {
        let Some((lease, payments)) = steps::load(&ctx, &id)? else {
            return Ok(());
        };
        match Plan::of(&lease, &payments, &ctx.pace(), ctx.now()) {
            Plan::Over => return steps::archive(&ctx, &lease).await,
            Plan::WaitUntil(at) => {
                retry = RETRY;
                wait_until(&ctx, at, &bell).await;
            }
            Plan::Do(step) => match steps::take(&ctx, lease, payments, step, &bell).await? {
                steps::Taken::Done => retry = RETRY,
                steps::Taken::TryLater => {
                    // A bell (a stop, say) is looked at before the time is over.
                    drop(tokio::time::timeout(retry, bell.notified()).await);
                    retry = (retry * 2).min(RETRY_MAX);
                }
            },
        }
    }
}

async fn wait_until(ctx: &Ctx, at: Timestamp, bell: &Notify) {
    let secs = at.secs_since(ctx.now()).max(1);
    // The wall clock may be set; a sweep rings too, so a long wait is no harm.
    drop(tokio::time::timeout(Duration::from_secs(secs), bell.notified()).await);
}

/// Rings for every lease that is not over, now and then: what was missed, a set
/// clock, a task that ended. The ledger is the truth.
pub async fn sweep(ctx: Arc<Ctx>) {
    let mut tick = tokio::time::interval(ctx.settings().timing.sweep);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match ctx.ledger().read(open_leases) {
            Ok(leases) => {
                for (_, lease) in leases {
                    ctx.actors.wake(&ctx, &lease.id);
                }
            }
            Err(error) => tracing::error!(%error, "the sweep could not read the ledger"),
        }
    }
}
