//! One task for each lease, and only it changes the lease. It asks [`Plan`] what
//! is to be done, does it, and asks again; what it is told (a top-up, a stop) is
//! in the ledger, and a bell makes it look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::ctx::Ctx;
use super::steps;
use crate::core::ids::LeaseId;
use crate::core::lease::{Plan, Step};
use crate::core::time::Timestamp;
use crate::ledger::{LEASES, LedgerError};

/// First wait after a step that failed and may be tried again; doubles up to
/// [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// Longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Longest wait of a task; the sweep rings more often than that.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// A task that ran for this long had started well.
const WELL: Duration = Duration::from_secs(300);

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
        let began = Instant::now();
        let run = tokio::spawn(run(Arc::clone(&ctx), lease.clone(), Arc::clone(&bell)));
        match AbortOnDropHandle::new(run).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => tracing::error!(%lease, %error, "the lease's task failed"),
            Err(panic) => tracing::error!(%lease, %panic, "the lease's task died"),
        }
        if began.elapsed() > WELL {
            wait = RETRY;
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

/// Steps that failed a moment ago, and when each is tried again.
#[derive(Default)]
struct Waits(HashMap<Step, (Instant, Duration)>);

impl Waits {
    fn holds(&self, step: &Step) -> bool {
        self.0
            .get(step)
            .is_some_and(|(until, _)| *until > Instant::now())
    }

    fn put(&mut self, step: Step) {
        let wait = self
            .0
            .get(&step)
            .map_or(RETRY, |(_, wait)| (*wait * 2).min(RETRY_MAX));
        self.0.insert(step, (Instant::now() + wait, wait));
    }

    fn put_for(&mut self, step: Step, wait: Duration) {
        self.0.insert(step, (Instant::now() + wait, wait));
    }

    /// When the next one of them is tried again.
    fn next(&self) -> Option<Instant> {
        let ahead = |until: &Instant| *until > Instant::now();
        self.0.values().map(|(until, _)| *until).filter(ahead).min()
    }
}

async fn run(ctx: Arc<Ctx>, id: LeaseId, bell: Arc<Notify>) -> Result<(), LedgerError> {
    let mut waits = Waits::default();
    loop {
        let Some((lease, payments)) = steps::load(&ctx, &id)? else {
            return Ok(());
        };
        let plan = Plan::beside(&lease, &payments, &ctx.pace(), ctx.now(), |step| {
            waits.holds(step)
        });
        match plan {
            Plan::Over => return Box::pin(steps::archive(&ctx, &lease)).await,
            Plan::WaitUntil(at) => {
                // There is a task for each lease, and it waits nearly always.
                drop((lease, payments));
                wait_until(&ctx, at, waits.next(), &bell).await;
            }
            Plan::Do(step) => {
                let taken = steps::take(&ctx, lease, payments, step.clone(), &bell);
                match Box::pin(taken).await? {
                    steps::Taken::Done => drop(waits.0.remove(&step)),
                    steps::Taken::TryLater => {
                        waits.put(step);
                        Box::pin(steps::answer_late(&ctx, &id)).await?;
                    }
                    steps::Taken::AskAgain(wait) => waits.put_for(step, wait),
                }
            }
        }
    }
}

async fn wait_until(ctx: &Ctx, at: Timestamp, retry: Option<Instant>, bell: &Notify) {
    let wait = Duration::from_secs(at.secs_since(ctx.now()).max(1)).min(WAIT_MAX);
    let until = Instant::now() + wait;
    let until = retry.map_or(until, |retry| retry.min(until));
    // The wall clock may be set; a sweep rings too, so a long wait is no harm.
    drop(tokio::time::timeout_at(until, bell.notified()).await);
}

/// Rings for every lease that is not over, now and then: what was missed, a set
/// clock, a task that ended. The ledger is the truth.
pub async fn sweep(ctx: Arc<Ctx>) {
    let mut tick = tokio::time::interval(ctx.settings().timing.sweep);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match ctx.ledger().read(|reader| reader.keys(&LEASES, "")) {
            Ok(leases) => {
                ctx.admission.set_owners(&ctx.ledger().held());
                for lease in leases.iter().filter_map(|key| key.parse().ok()) {
                    ctx.actors.wake(&ctx, &lease);
                }
            }
            Err(error) => tracing::error!(%error, "the sweep could not read the ledger"),
        }
    }
}
