//! What is done now and then: forget what needs no memory, finish what mints
//! left open, remove workloads whose lease is over.

use std::sync::Arc;
use std::time::Duration;

use super::ctx::Ctx;
use crate::core::time::Timestamp;
use crate::ledger::{ENDED, INBOX, LEASES, LedgerError, WRAPS};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(60);

/// Gift wraps and messages are remembered this long: longer than the inbox ever
/// looks back (3 days and a margin).
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long one call of the backend or the wallet may take.
const CALL: Duration = Duration::from_secs(60);

/// Runs a round at once and then every minute.
pub(super) async fn run(ctx: Arc<Ctx>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds: u64 = 0;
    loop {
        tick.tick().await;
        orphans(&ctx).await;
        match tokio::time::timeout(CALL, ctx.parts.wallet.recover()).await {
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the wallet could not recover"),
        }
        if rounds.is_multiple_of(60)
            && let Err(error) = forget(&ctx).await
        {
            tracing::error!(%error, "old messages could not be forgotten");
        }
        if rounds.is_multiple_of(60) {
            tidy(&ctx).await;
        }
        rounds += 1;
    }
}

async fn tidy(ctx: &Ctx) {
    match tokio::time::timeout(CALL, ctx.parts.backend.tidy()).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the backend could not tidy up"),
    }
}

async fn forget(ctx: &Ctx) -> Result<(), LedgerError> {
    let before = ctx.now().minus(REMEMBER);
    let (wraps, inbox) = ctx
        .ledger()
        .read(|reader| Ok((reader.all(&WRAPS)?, reader.all(&INBOX)?)))?;
    let old = |at: Timestamp| at < before;
    let wraps: Vec<_> = wraps
        .into_iter()
        .filter(|(_, at)| old(*at))
        .map(|(k, _)| k)
        .collect();
    let inbox: Vec<_> = inbox
        .into_iter()
        .filter(|(_, row)| row.done && old(row.received_at))
        .map(|(key, _)| key)
        .collect();
    if wraps.is_empty() && inbox.is_empty() {
        return Ok(());
    }
    ctx.ledger()
        .write(move |tx| {
            wraps.iter().try_for_each(|key| tx.delete(&WRAPS, key))?;
            inbox.iter().try_for_each(|key| tx.delete(&INBOX, key))
        })
        .await
}

/// Destroys workloads of ours whose lease is over. One whose lease is not known
/// at all is left alone and named: its ledger may be lost.
async fn orphans(ctx: &Ctx) {
    let listed = tokio::time::timeout(CALL, ctx.parts.backend.list_owned()).await;
    let Ok(Ok(owned)) = listed else { return };
    for workload in owned {
        let id = workload.labels.lease;
        let known = ctx.ledger().read(|reader| {
            let open = reader.get(&LEASES, id.as_str())?.is_some();
            Ok((open, reader.get(&ENDED, id.as_str())?.is_some()))
        });
        match known {
            Ok((true, _)) | Err(_) => {}
            Ok((false, true)) => {
                tracing::info!(lease = %id, "its lease is over; removing what was left");
                let gone = ctx.parts.backend.destroy(&workload.handle);
                drop(tokio::time::timeout(CALL, gone).await);
            }
            Ok((false, false)) => {
                tracing::warn!(lease = %id, owner = %workload.labels.owner, "a workload without a lease in this ledger");
            }
        }
    }
}
