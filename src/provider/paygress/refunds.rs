//! Refunds that their owner may not have heard of. There is no message in this
//! dialect that brings one unasked, so they are told with the next error, until
//! somebody has taken them.

use std::time::Duration;

use crate::core::ids::PublicKey;
use crate::core::lease::{Lease, RefundState};
use crate::ledger::{
    CONTAINER_OF, CONTAINERS, ContainerRow, LedgerError, find_lease, forgotten_containers,
};
use crate::provider::ctx::Ctx;
use crate::wallet::ProofsState;

/// How long a mint may take to tell whether a refund was taken; a client waits
/// 30 s for its status.
const CHECK: Duration = Duration::from_secs(4);

/// Tokens that one error carries, at most.
const MOST: usize = 8;

/// Refunds of all leases of `owner` that nobody has taken.
pub(super) async fn waiting(ctx: &Ctx, owner: &PublicKey) -> Vec<String> {
    let found = ctx.ledger().read(|reader| {
        let rows = reader.all(&CONTAINERS)?.into_iter();
        let rows = rows.filter(|(_, row)| row.owner == *owner && !row.claimed);
        let mut found = Vec::new();
        for (key, row) in rows {
            if let Some(lease) = find_lease(reader, &row.lease)? {
                found.push((key, row, lease));
            }
        }
        Ok(found)
    });
    let Ok(found) = found.inspect_err(|error| tracing::error!(%error, "refunds cannot be read"))
    else {
        return Vec::new();
    };
    let mut tokens = Vec::new();
    for (key, row, lease) in found {
        if tokens.len() >= MOST {
            break;
        }
        let left = of(ctx, &row, &lease).await;
        if left.is_empty() && lease.has_ended() && lease.refund_to_make().is_none() {
            claimed(ctx, key).await;
        }
        tokens.extend(left);
    }
    tokens.truncate(MOST);
    tokens
}

/// Refunds of one lease that nobody has taken, as far as its mint tells.
pub(super) async fn of(ctx: &Ctx, row: &ContainerRow, lease: &Lease) -> Vec<String> {
    let mut left = Vec::new();
    let made = lease
        .refunds
        .iter()
        .filter_map(|refund| match &refund.state {
            RefundState::Made { token, .. } => Some(token),
            RefundState::Owed | RefundState::Credited => None,
        });
    for token in made.filter(|_| !row.claimed) {
        let asked = tokio::time::timeout(CHECK, ctx.parts.wallet.check(token)).await;
        if !matches!(asked, Ok(Ok(ProofsState::Spent))) {
            left.push(token.clone());
        }
    }
    left
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
