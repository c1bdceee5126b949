//! The steps of a lease, carried out. Each ends in one commit that holds the
//! change, its answers and its notices; a step that is cut off is planned again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::answers;
use super::ctx::Ctx;
use super::lost;
use super::pool;
use crate::compute::{BackendError, Handle, Observed, WorkloadSpec};
use crate::core::ids::LeaseId;
use crate::core::lease::{Event, Lease, Phase, Step};
use crate::core::payment::Payment;
use crate::ledger::{
    self, ENDED, LEASES, LedgerError, WORKLOADS, WorkloadRow, payments_of, set_aside,
};

mod collect;
mod credit;
mod hold;
mod pay;
mod refund;

pub(super) use hold::drop_hold;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is done: plan anew.
    Done,
    /// Nothing changed; try again in a while.
    TryLater,
    /// Nothing changed, and nothing failed; ask again after this.
    AskAgain(Duration),
}

/// How long a backend may take for anything but making a workload.
const CALL: Duration = Duration::from_secs(30);

/// How long an operation of the wallet is waited for: it is made of several
/// requests and waits for its turn, and one that is given up too early may yet
/// make a token that nobody takes.
pub(super) fn operation(ctx: &Ctx) -> Duration {
    ctx.settings().timing.mint.saturating_mul(4)
}

/// The lease with its payments of which something may still come, while it is not
/// archived.
pub(super) fn load(ctx: &Ctx, id: &LeaseId) -> Result<Option<(Lease, Vec<Payment>)>, LedgerError> {
    ctx.ledger().read(|reader| {
        let Some(lease) = reader.get(&LEASES, id.as_str())? else {
            return Ok(None);
        };
        let payments = payments_of(reader, &lease)?;
        Ok(Some((lease, payments)))
    })
}

/// Moves a lease that is over to where sweeps do not look.
pub(super) async fn archive(ctx: &Ctx, lease: &Lease) -> Result<(), LedgerError> {
    let id = lease.id.clone();
    ctx.ledger()
        .write(move |tx| {
            let Some(lease) = tx.get(&LEASES, id.as_str())? else {
                return Ok(());
            };
            tx.put(&ENDED, id.as_str(), &lease)?;
            tx.delete(&WORKLOADS, id.as_str())?;
            tx.delete(&LEASES, id.as_str())
        })
        .await?;
    ctx.changed.notify_one();
    Ok(())
}

/// Carries out one step.
pub(super) async fn take(
    ctx: &Arc<Ctx>,
    lease: Lease,
    payments: Vec<Payment>,
    step: Step,
    bell: &Notify,
) -> Result<Taken, LedgerError> {
    let_open(ctx, &step, &payments).await;
    let paid = |id| payments.into_iter().find(|payment| payment.id == id);
    match step {
        Step::Redeem(id) => match paid(id) {
            Some(payment) => pay::redeem(ctx, &lease, payment).await,
            None => Ok(Taken::TryLater),
        },
        Step::EndHold(id) => hold::end(ctx, &lease, id).await,
        Step::Resolve(id) => match paid(id) {
            Some(payment) => pay::resolve(ctx, payment).await,
            None => Ok(Taken::TryLater),
        },
        Step::Collect(id) => match paid(id) {
            Some(payment) => collect::collect(ctx, &lease, payment, bell).await,
            None => Ok(Taken::TryLater),
        },
        Step::Provision => provision(ctx, &lease, bell).await,
        Step::Revive => revive(ctx, &lease).await,
        Step::GiveUp if lease.phase == Phase::Reserved => {
            let why = "the mint did not tell in time whether it was paid".to_owned();
            tell(ctx, &lease.id, Event::NotPaid(why)).await
        }
        Step::GiveUp => {
            let why = "it did not come up in time".to_owned();
            tell(ctx, &lease.id, Event::Failed(why)).await
        }
        Step::BeginStop => tell(ctx, &lease.id, Event::StopBegun).await,
        Step::TimeOver => tell(ctx, &lease.id, Event::TimeOver).await,
        Step::StopWorkload => stop_workload(ctx, &lease).await,
        Step::GraceOver => tell(ctx, &lease.id, Event::GraceOver).await,
        Step::Destroy => destroy(ctx, &lease).await,
        Step::MakeRefund(id) => refund::make(ctx, &lease, &id).await,
        Step::Warn(lead) => tell(ctx, &lease.id, Event::Warned(lead)).await,
        Step::Look => look(ctx, &lease).await,
    }
}

/// Waits until a start has come so far that this step may be taken.
async fn let_open(ctx: &Ctx, step: &Step, payments: &[Payment]) {
    match step {
        // A refusal is its last word, and the mint may only just be starting too.
        Step::Redeem(id) => {
            if let Some(payment) = payments.iter().find(|payment| payment.id == *id) {
                ctx.opening.mint(&payment.mint).await;
            }
        }
        Step::Resolve(_) | Step::Collect(_) => ctx.opening.turn().await,
        Step::MakeRefund(_) => ctx.opening.wallet().await,
        _ => {}
    }
}

/// Commits a change of a lease, with the answers and notices that follow.
pub(super) async fn change<F>(ctx: &Arc<Ctx>, id: &LeaseId, edit: F) -> Result<(), LedgerError>
where
    F: FnOnce(&ledger::Tx, &mut Lease) -> Result<(), LedgerError> + Send + 'static,
{
    commit(ctx, id, false, edit).await
}

/// After a step that failed: answers whoever has waited long enough with what is
/// known, though not all of it is done.
pub(super) async fn answer_late(ctx: &Arc<Ctx>, id: &LeaseId) -> Result<(), LedgerError> {
    let Some((lease, payments)) = load(ctx, id)? else {
        return Ok(());
    };
    if answers::someone_waits_too_long(ctx, &lease, &payments)? {
        commit(ctx, id, true, |_, _| Ok(())).await?;
    }
    Ok(())
}

async fn commit<F>(ctx: &Arc<Ctx>, id: &LeaseId, late: bool, edit: F) -> Result<(), LedgerError>
where
    F: FnOnce(&ledger::Tx, &mut Lease) -> Result<(), LedgerError> + Send + 'static,
{
    let (shared, key) = (Arc::clone(ctx), id.clone());
    let (before, after) = ctx
        .ledger()
        .write(move |tx| {
            let Some(before) = tx.get(&LEASES, key.as_str())? else {
                return Err(LedgerError::Rule(format!("lease {key} is not there")));
            };
            let mut lease = before.clone();
            edit(tx, &mut lease)?;
            pool::settle(&shared, tx, &before, &lease, shared.now())?;
            tx.put(&LEASES, key.as_str(), &lease)?;
            let payments = payments_of(tx, &lease)?;
            let news = answers::News {
                before: &before,
                lease: &lease,
                payments: &payments,
                late,
            };
            answers::settle(&shared, tx, &news)?;
            if set_aside(tx, &mut lease, &payments)? {
                tx.put(&LEASES, key.as_str(), &lease)?;
            }
            Ok((before, lease))
        })
        .await?;
    if before.phase != after.phase || before.stop_request != after.stop_request {
        tracing::info!(lease = %after.id, phase = ?after.phase, why = %after.why, "lease");
        ctx.changed.notify_one();
        if before.phase == Phase::Active && after.phase != Phase::Active {
            // Nobody may listen: that is no failure.
            drop(ctx.closed.send(after.id));
        }
    }
    ctx.outbox.notify_one();
    Ok(())
}

/// Tells the lease what happened.
async fn tell(ctx: &Arc<Ctx>, id: &LeaseId, event: Event) -> Result<Taken, LedgerError> {
    let now = ctx.now();
    change(ctx, id, move |_, lease| Ok(lease.on(event, now)?)).await?;
    Ok(Taken::Done)
}

/// What the backend has to make and what it made.
fn workload(ctx: &Ctx, id: &LeaseId) -> Result<(WorkloadSpec, Option<Handle>), LedgerError> {
    let bad = |error: serde_json::Error| LedgerError::Row {
        table: "workloads",
        why: error.to_string(),
    };
    let row = ctx
        .ledger()
        .read(|reader| reader.get(&WORKLOADS, id.as_str()))?;
    let Some(WorkloadRow { spec, handle }) = row else {
        return Err(LedgerError::Rule(format!("lease {id} has no workload row")));
    };
    let handle = handle
        .map(serde_json::from_value)
        .transpose()
        .map_err(bad)?;
    Ok((serde_json::from_value(spec).map_err(bad)?, handle))
}

/// Makes the workload. The bell (a stop) ends the making: what is half there is
/// removed by the destroy that follows.
async fn provision(ctx: &Arc<Ctx>, lease: &Lease, bell: &Notify) -> Result<Taken, LedgerError> {
    let (mut spec, _) = workload(ctx, &lease.id)?;
    spec.expires_at = ctx.now().plus_secs(lease.waiting_seconds);
    spec.note = lost::note(ctx, lease)?;
    let Phase::Provisioning { deadline } = lease.phase else {
        return Ok(Taken::TryLater);
    };
    let patience = Duration::from_secs(deadline.secs_since(ctx.now()));
    let create = async {
        // It is never closed.
        let _place = ctx.creates.acquire().await;
        ctx.parts.backend.create(&lease.id, &spec).await
    };
    let made = tokio::select! {
        made = tokio::time::timeout(patience, create) => made,
        () = stop_asked(ctx, &lease.id, bell) => return Ok(Taken::Done),
    };
    match made {
        Ok(Ok(handle)) => up(ctx, &lease.id, Some(handle)).await,
        Ok(Err(BackendError::Retry(why) | BackendError::OutcomeUnknown(why))) => {
            tracing::warn!(lease = %lease.id, %why, "the backend did not make it; again");
            Ok(Taken::TryLater)
        }
        Ok(Err(error)) => {
            tracing::warn!(lease = %lease.id, %error, "the backend cannot make it");
            tell(ctx, &lease.id, Event::Failed(error.to_string())).await
        }
        // The deadline is over: the plan gives up.
        Err(_) => Ok(Taken::Done),
    }
}

/// Waits for a bell that was rung because of a stop.
async fn stop_asked(ctx: &Ctx, id: &LeaseId, bell: &Notify) {
    loop {
        bell.notified().await;
        if matches!(load(ctx, id), Ok(Some((lease, _))) if lease.stop_request.is_some()) {
            return;
        }
    }
}

/// Writes down that the workload is there; from here its time runs.
async fn up(ctx: &Arc<Ctx>, id: &LeaseId, handle: Option<Handle>) -> Result<Taken, LedgerError> {
    let now = ctx.now();
    let handle = handle
        .map(serde_json::to_value)
        .transpose()
        .map_err(|error| LedgerError::Rule(error.to_string()))?;
    change(ctx, id, move |tx, lease| {
        if let Some(handle) = handle {
            let row = tx.get(&WORKLOADS, lease.id.as_str())?;
            let spec = row.map_or(serde_json::Value::Null, |row| row.spec);
            let row = WorkloadRow {
                spec,
                handle: Some(handle),
            };
            tx.put(&WORKLOADS, lease.id.as_str(), &row)?;
        }
        Ok(lease.on(Event::Up, now)?)
    })
    .await?;
    Ok(Taken::Done)
}

/// A call of the backend, bounded in time.
async fn call<T>(
    lease: &LeaseId,
    what: &str,
    patience: Duration,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let done = tokio::time::timeout(patience, call)
        .await
        .unwrap_or_else(|_| Err(BackendError::OutcomeUnknown("no answer in time".to_owned())));
    if let Err(error) = &done {
        tracing::warn!(%lease, %error, "{what}");
    }
    done
}

async fn revive(ctx: &Arc<Ctx>, lease: &Lease) -> Result<Taken, LedgerError> {
    let (_, handle) = workload(ctx, &lease.id)?;
    let Some(handle) = handle else {
        return tell(
            ctx,
            &lease.id,
            Event::Failed("its workload is not there".to_owned()),
        )
        .await;
    };
    let backend = &ctx.parts.backend;
    match call(&lease.id, "start", CALL, backend.start(&handle)).await {
        Ok(()) => up(ctx, &lease.id, None).await,
        Err(BackendError::Retry(_) | BackendError::OutcomeUnknown(_)) => Ok(Taken::TryLater),
        Err(error) => tell(ctx, &lease.id, Event::Failed(error.to_string())).await,
    }
}

async fn stop_workload(ctx: &Arc<Ctx>, lease: &Lease) -> Result<Taken, LedgerError> {
    let (_, handle) = workload(ctx, &lease.id)?;
    let timing = &ctx.settings().timing;
    if let Some(handle) = handle {
        let stop = ctx.parts.backend.stop(&handle, timing.stop_grace);
        if call(&lease.id, "stop", timing.stop_grace + CALL, stop)
            .await
            .is_err()
        {
            return Ok(Taken::TryLater);
        }
    }
    let grace = timing.grace.as_secs();
    tell(ctx, &lease.id, Event::Stopped { grace }).await
}

/// Removes the workload, also one whose making was cut off before its handle
/// was written down.
async fn destroy(ctx: &Arc<Ctx>, lease: &Lease) -> Result<Taken, LedgerError> {
    let (_, handle) = workload(ctx, &lease.id)?;
    let backend = &ctx.parts.backend;
    let mut handles: Vec<Handle> = handle.into_iter().collect();
    if handles.is_empty() {
        match call(&lease.id, "list", CALL, backend.list_owned()).await {
            Ok(owned) => handles.extend(
                owned
                    .into_iter()
                    .filter(|o| o.labels.lease == lease.id)
                    .map(|o| o.handle),
            ),
            Err(_) => return Ok(Taken::TryLater),
        }
    }
    for handle in handles {
        if call(&lease.id, "destroy", CALL, backend.destroy(&handle))
            .await
            .is_err()
        {
            return Ok(Taken::TryLater);
        }
    }
    tell(ctx, &lease.id, Event::Destroyed).await
}

/// Looks at a running workload. "I could not ask" changes nothing.
async fn look(ctx: &Arc<Ctx>, lease: &Lease) -> Result<Taken, LedgerError> {
    let (_, handle) = workload(ctx, &lease.id)?;
    let Some(handle) = handle else {
        return tell(ctx, &lease.id, Event::Gone).await;
    };
    let backend = &ctx.parts.backend;
    if let Some(end) = lease.expires_at {
        // After a top-up, and where it took long to come up. An error is logged,
        // and the next look notes it.
        let noted = backend.note_end(&handle, end);
        drop(call(&lease.id, "note the end", CALL, noted).await);
    }
    let event = match call(&lease.id, "look", CALL, backend.observe(&handle)).await {
        Err(_) => Event::Looked(lease.why.clone()),
        Ok(Observed::Running { .. }) => Event::Looked("its time runs".to_owned()),
        Ok(Observed::Absent) => Event::Gone,
        Ok(Observed::Stopped {
            exit_code: Some(code),
        }) => Event::Looked(format!(
            "its main process ended with code {code}; its time runs"
        )),
        // Stopped by the host, not by itself: a reboot, say.
        Ok(Observed::Stopped { exit_code: None }) => {
            match call(&lease.id, "start", CALL, backend.start(&handle)).await {
                Ok(()) => Event::Looked("its time runs; started again after its host".to_owned()),
                Err(error) => Event::Looked(format!("it is down: {error}; trying again")),
            }
        }
    };
    tell(ctx, &lease.id, event).await
}
