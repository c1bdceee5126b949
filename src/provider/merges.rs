//! Keeping purses tidy: many small proofs are swapped for few, and those of a
//! keyset that its mint does not use any more for others. What that costs is ours,
//! and on no lease's books.
//!
//! | crash after | what the next round finds |
//! |---|---|
//! | the merge is on disk | it is open: the wallet tells whether the proofs were swapped, and swaps them where not |
//! | the swap | the same; the wallet has its outputs by its own saga, and the cost is booked |
//! | the cost is on disk | nothing |
//!
//! It is paid for from what was earned: where the purse would hold less than may
//! have to go back, its proofs stay as they are, but for a purse of so many that
//! mints would take no request with them. Money that cannot be sent is no float.

use tokio::sync::SemaphorePermit;

use super::ctx::Ctx;
use super::solvency;
use super::steps::operation;
use crate::core::lease::Purse;
use crate::core::money::Msat;
use crate::core::purse::{MANY, Merge, Piece, TOO_MANY, to_merge};
use crate::ledger::{LedgerError, MERGES, purse_key};
use crate::wallet::{MintUrl, Unit, WalletError};

/// Merges of one purse in a round, at most.
const MOST: usize = 12;

/// Looks at all purses once.
///
/// # Errors
/// The ledger.
pub async fn round(ctx: &Ctx) -> Result<(), LedgerError> {
    let held = match ctx.parts.wallet.balances().await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "the wallet does not tell what it holds");
            return Ok(());
        }
    };
    for (mint, unit) in held.into_keys() {
        drop(tidy(ctx, &mint, &unit, Need::Order).await?);
    }
    Ok(())
}

/// What a purse is merged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// For order's sake: only where it can be afforded.
    Order,
    /// Something is to be sent from it.
    Send,
}

/// The one place at a mint where something is merged or sent, until this is
/// dropped: a send would take proofs of which a merge that is not over may still
/// be asked about.
#[must_use]
pub(super) struct Place<'a> {
    _place: Option<SemaphorePermit<'a>>,
}

/// Waits for the place.
pub(super) async fn place<'a>(ctx: &'a Ctx, mint: &MintUrl) -> Place<'a> {
    let _place = match ctx.purses.get(&mint.0) {
        // It is never closed.
        Some(places) => places.acquire().await.ok(),
        // Not on the list any more: nothing is merged there.
        None => None,
    };
    Place { _place }
}

/// Merges what should be in one purse. `None`: one that was begun is not over,
/// and nothing may be sent from there before it is.
///
/// # Errors
/// The ledger.
pub(super) async fn tidy<'a>(
    ctx: &'a Ctx,
    mint: &MintUrl,
    unit: &Unit,
    need: Need,
) -> Result<Option<Place<'a>>, LedgerError> {
    let place = place(ctx, mint).await;
    let purse = (mint.0.clone(), super::handlers::unit_name(unit));
    if !finish(ctx, &purse, unit).await? {
        return Ok(None);
    }
    for _ in 0..MOST {
        let asked = ctx.parts.wallet.pieces(mint, unit);
        let told = tokio::time::timeout(ctx.settings().timing.mint, asked).await;
        let Ok(Ok(pieces)) = told else {
            return Ok(Some(place));
        };
        let Some(merge) = to_merge(&pieces, unit.piece()) else {
            return Ok(Some(place));
        };
        let must = pieces.len() > TOO_MANY || (need == Need::Send && pieces.len() > MANY);
        if !must && !affordable(ctx, &purse, &pieces, &merge)? {
            tracing::debug!(mint = %mint.0, proofs = pieces.len(), "merging them waits for earnings");
            return Ok(Some(place));
        }
        begin(ctx, &purse, &merge).await?;
        match carry_out(ctx, &purse, unit, &merge).await? {
            Done::Merged => {}
            Done::Refused(_) => return Ok(Some(place)),
            Done::Unknown => return Ok(None),
        }
    }
    Ok(Some(place))
}

/// Swaps what `pick` says, where that can be paid from earnings. `None`: nothing
/// was tried.
///
/// # Errors
/// The ledger.
pub(super) async fn from_earnings(
    ctx: &Ctx,
    mint: &MintUrl,
    unit: &Unit,
    _place: &Place<'_>,
    pick: impl FnOnce(&[Piece]) -> Option<Merge>,
) -> Result<Option<Done>, LedgerError> {
    let purse = (mint.0.clone(), super::handlers::unit_name(unit));
    if !finish(ctx, &purse, unit).await? {
        return Ok(None);
    }
    let asked = ctx.parts.wallet.pieces(mint, unit);
    let told = tokio::time::timeout(ctx.settings().timing.mint, asked).await;
    let Ok(Ok(pieces)) = told else {
        return Ok(None);
    };
    let Some(merge) = pick(&pieces) else {
        return Ok(None);
    };
    if !affordable(ctx, &purse, &pieces, &merge)? {
        return Ok(None);
    }
    begin(ctx, &purse, &merge).await?;
    carry_out(ctx, &purse, unit, &merge).await.map(Some)
}

/// Brings a merge to its end that was begun. `false`: it is not over.
async fn finish(ctx: &Ctx, purse: &Purse, unit: &Unit) -> Result<bool, LedgerError> {
    let key = purse_key(purse);
    let row = ctx.ledger().read(|reader| reader.get(&MERGES, &key))?;
    match row.and_then(|row| row.open) {
        Some(merge) => Ok(carry_out(ctx, purse, unit, &merge).await? != Done::Unknown),
        None => Ok(true),
    }
}

/// Whether the purse has what may have to go back also after it.
fn affordable(
    ctx: &Ctx,
    purse: &Purse,
    pieces: &[Piece],
    merge: &Merge,
) -> Result<bool, LedgerError> {
    let float = solvency::float_of(ctx, purse)?;
    let have = Msat::checked_sum(pieces.iter().map(|piece| piece.amount));
    let left = have.and_then(|have| have.checked_sub(merge.fee));
    Ok(left.is_some_and(|left| left >= float))
}

/// Writes down that it begins.
async fn begin(ctx: &Ctx, purse: &Purse, merge: &Merge) -> Result<(), LedgerError> {
    let (key, merge) = (purse_key(purse), merge.clone());
    let write = ctx.ledger().write(move |tx| {
        let mut row = tx.get(&MERGES, &key)?.unwrap_or_default();
        row.open = Some(merge);
        tx.put(&MERGES, &key, &row)
    });
    write.await
}

/// What came of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It is done.
    Merged,
    /// Nothing happened, and nothing will.
    Refused(String),
    /// It may have happened.
    Unknown,
}

/// Does what was written down, or finds out that it was done.
async fn carry_out(
    ctx: &Ctx,
    purse: &Purse,
    unit: &Unit,
    merge: &Merge,
) -> Result<Done, LedgerError> {
    let mint = MintUrl(purse.0.clone());
    let merging = ctx.parts.wallet.merge(&mint, unit, merge);
    let (cost, done) = match tokio::time::timeout(operation(ctx), merging).await {
        Ok(Ok(cost)) => (cost, Done::Merged),
        Ok(Err(WalletError::Refused(why))) => (Msat::ZERO, Done::Refused(why)),
        Ok(Err(error)) => {
            tracing::warn!(mint = %mint.0, %error, "proofs were not merged; again");
            return Ok(Done::Unknown);
        }
        Err(_) => return Ok(Done::Unknown),
    };
    let key = purse_key(purse);
    let write = ctx.ledger().write(move |tx| {
        let mut row = tx.get(&MERGES, &key)?.unwrap_or_default();
        row.open = None;
        let sum = row.cost.checked_add(cost);
        row.cost = sum.ok_or_else(|| LedgerError::Rule("a sum does not fit".to_owned()))?;
        tx.put(&MERGES, &key, &row)
    });
    write.await?;
    match &done {
        Done::Refused(why) => tracing::warn!(mint = %mint.0, %why, "proofs were not merged"),
        _ => tracing::info!(mint = %mint.0, proofs = merge.ys.len(), %cost, "proofs merged"),
    }
    Ok(done)
}
