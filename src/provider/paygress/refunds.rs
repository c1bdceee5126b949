//! Refunds that their owner may not have heard of. There is no message in this
//! dialect that brings one unasked, so they are told with the next error, until
//! somebody has taken them.

use std::time::Duration;

use crate::core::ids::PublicKey;
use crate::core::lease::{Lease, RefundState};
use crate::ledger::{CONTAINER_OF, CONTAINERS, LedgerError, find_lease, forgotten_containers};
use crate::provider::ctx::Ctx;
use crate::wallet::ProofsState;

/// How long a mint may take to tell whether a refund was taken; a client waits
/// 30 s for its status.
const CHECK: Duration = Duration::from_secs(4);

/// Tokens that one error carries, at most, so that a reply stays readable and
/// few mints are asked at once.
const MOST: usize = 8;

/// Refunds of all leases of `owner` that nobody has taken, as far as their mints
/// tell; the latest ones.
pub(super) async fn waiting(ctx: &Ctx, owner: &PublicKey) -> Vec<String> {
    let found = ctx.ledger().read(|reader| {
        let rows = reader.all(&CONTAINERS)?.into_iter().rev();
        let rows = rows.filter(|(_, row)| row.owner == *owner && !row.claimed);
        let mut found = Vec::new();
        for (key, row) in rows {
            let lease = find_lease(reader, &row.lease)?;
            found.extend(lease.filter(has_refund).map(|lease| (key, lease)));
            if found.len() >= MOST {
                break;
            }
        }
        Ok(found)
    });
    let Ok(found) = found.inspect_err(|error| tracing::error!(%error, "refunds cannot be read"))
    else {
        return Vec::new();
    };
    let looks = found.iter().map(|(_, lease)| untaken(ctx, lease));
    let left = futures::future::join_all(looks).await;
    for ((key, lease), left) in found.into_iter().zip(&left) {
        if left.is_empty() && lease.has_ended() && lease.refund_to_make().is_none() {
            claimed(ctx, key).await;
        }
    }
    left.into_iter().flatten().take(MOST).collect()
}

fn made(lease: &Lease) -> impl Iterator<Item = &String> {
    lease
        .refunds
        .iter()
        .filter_map(|refund| match &refund.state {
            RefundState::Made { token, .. } => Some(token),
            _ => None,
        })
}

fn has_refund(lease: &Lease) -> bool {
    made(lease).next().is_some()
}

/// Refunds of one lease that nobody has taken; where the mint does not tell,
/// nobody has.
async fn untaken(ctx: &Ctx, lease: &Lease) -> Vec<String> {
    let look = async |token: &String| {
        let asked = tokio::time::timeout(CHECK, ctx.parts.wallet.check(token)).await;
        let taken = matches!(asked, Ok(Ok(ProofsState::Spent)));
        (!taken).then(|| token.clone())
    };
    let left = futures::future::join_all(made(lease).map(look)).await;
    left.into_iter().flatten().collect()
}

async fn claimed(ctx: &Ctx, key: String) {
    let noted = ctx.ledger().write(move |tx| {
        let Some(mut row) = tx.get(&CONTAINERS, &key)? else {
            return Ok(());
        };
        row.claimed = true;
        tx.put(&CONTAINERS, &key, &row)
    });
    if let Err(error) = noted.await {
        // It is found out again the next time.
        tracing::warn!(%error, "that a refund was taken was not noted");
    }
}

/// Forgets numbers of leases that are forgotten.
///
/// # Errors
/// The ledger.
pub(in crate::provider) async fn forget(ctx: &Ctx) -> Result<(), LedgerError> {
    let gone = ctx.ledger().read(forgotten_containers)?;
    if gone.is_empty() {
        return Ok(());
    }
    let forget = ctx.ledger().write(move |tx| {
        for (key, lease) in gone {
            tx.delete(&CONTAINERS, &key)?;
            tx.delete(&CONTAINER_OF, lease.as_str())?;
        }
        Ok(())
    });
    forget.await
}
