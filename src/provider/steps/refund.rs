//! Making a refund: a token from our wallet, stored with the books and the
//! answers in one commit.

use std::sync::Arc;

use super::{Taken, change, operation};
use crate::core::lease::{Lease, Refund, RefundState};
use crate::core::money::Msat;
use crate::core::purse::fee;
use crate::ledger::LedgerError;
use crate::provider::ctx::Ctx;
use crate::provider::merges::{self, Need};
use crate::provider::strays;
use crate::wallet::{MintUrl, SentToken, Unit, WalletError};

mod locked;

/// Proofs that a refund is assumed to be made from, for estimating its cost:
/// an amount in powers of two seldom takes more.
const ASSUMED_PROOFS: u64 = 10;

/// Makes the refund `id` of a lease.
pub(super) async fn make(ctx: &Arc<Ctx>, lease: &Lease, id: &str) -> Result<Taken, LedgerError> {
    let Some(refund) = lease.refunds.iter().find(|refund| refund.id == id) else {
        return Ok(Taken::TryLater);
    };
    if let RefundState::Locking { token, to, .. } = &refund.state {
        return locked::finish(ctx, lease, id, token, to).await;
    }
    let mint = MintUrl(refund.mint.clone());
    let Some(_place) = merges::tidy(ctx, &mint, &unit_of(refund), Need::Send).await? else {
        return Ok(Taken::TryLater);
    };
    // Until it is booked, or not made, its token is nobody's stray. Not before the
    // place: a payout has that while it waits until nothing is being made.
    let sending = ctx.sends.begin();
    let key = match locked::key(ctx, lease, refund).await {
        Ok(key) => key,
        Err(error) => return Ok(again(lease, id, &error)),
    };
    let (sent, key) = match attempt(ctx, refund, key.is_some()).await {
        // It costs more than we have: better an open one than a part of it.
        Err(WalletError::NoBalance { .. }) if key.is_some() => {
            (attempt(ctx, refund, false).await, None)
        }
        sent => (sent, key),
    };
    match (sent, key) {
        (Ok(sent), Some(key)) => locked::begin(ctx, lease, id, sent, key).await,
        (Ok(sent), None) => book(ctx, lease, id, sent).await,
        (Err(WalletError::TooSmall), _) => {
            let name = id.to_owned();
            change(ctx, &lease.id, move |_, lease| {
                lease.refund_credited(&name).ok_or_else(|| not_owed(&name))
            })
            .await?;
            Ok(Taken::Done)
        }
        (Err(error @ WalletError::NoBalance { have, .. }), _) => {
            drop(sending);
            // What an answer that was lost holds may be told by now.
            find_out(ctx).await?;
            if has_more(ctx, refund, have).await {
                return Ok(again(lease, id, &error));
            }
            divide(ctx, lease, refund, have).await
        }
        (Err(error @ WalletError::OutcomeUnknown(_)), _) => {
            drop(sending);
            find_out(ctx).await?;
            Ok(again(lease, id, &error))
        }
        (Err(error), _) => Ok(again(lease, id, &error)),
    }
}

/// Asks mints what came of sends whose answers were lost: what they reserved is free
/// then, or a stray, which comes back.
async fn find_out(ctx: &Arc<Ctx>) -> Result<(), LedgerError> {
    let recovering = ctx.parts.wallet.recover();
    if let Ok(Err(error)) = tokio::time::timeout(operation(ctx), recovering).await {
        tracing::warn!(%error, "the wallet could not recover");
    }
    strays::look(ctx, &mut strays::Suspects::default()).await
}

/// Whether the purse of a refund holds more than it did.
async fn has_more(ctx: &Ctx, refund: &Refund, had: Msat) -> bool {
    let purse = (MintUrl(refund.mint.clone()), unit_of(refund));
    let held = ctx.parts.wallet.balances().await;
    held.is_ok_and(|held| held.get(&purse).is_some_and(|held| *held > had))
}

/// Makes a token, a plain one in any case.
async fn attempt(ctx: &Ctx, refund: &Refund, locked: bool) -> Result<SentToken, WalletError> {
    match amount(ctx, refund, locked).await? {
        Some(amount) => send(ctx, refund, amount, locked).await,
        None => Err(WalletError::TooSmall),
    }
}

fn again(lease: &Lease, id: &str, error: &WalletError) -> Taken {
    tracing::warn!(lease = %lease.id, refund = %id, %error, "a refund was not made; again");
    Taken::TryLater
}

/// Our purse is short, as a young one is that bears a fee: what it can give is
/// given at once, and the rest stays owed.
async fn divide(
    ctx: &Arc<Ctx>,
    lease: &Lease,
    refund: &Refund,
    have: Msat,
) -> Result<Taken, LedgerError> {
    tracing::warn!(lease = %lease.id, refund = %refund.id, %have, "not enough ecash for a refund");
    let (mint, unit) = (MintUrl(refund.mint.clone()), unit_of(refund));
    let asked = ctx.parts.wallet.pieces(&mint, &unit);
    let Ok(Ok(pieces)) = tokio::time::timeout(ctx.settings().timing.mint, asked).await else {
        return Ok(Taken::TryLater);
    };
    // All of them may be needed, and then each costs its fee.
    let costs = fee(&pieces, unit.piece());
    let part = costs.and_then(|costs| have.checked_sub(costs));
    // Less than half is not worth a token of its own.
    let half = refund.owed.get() / 2;
    let Some(part) = part.filter(|part| part.get() > half && *part < refund.owed) else {
        return Ok(Taken::TryLater);
    };
    let name = refund.id.clone();
    change(ctx, &lease.id, move |_, lease| {
        lease
            .refund_split(&name, part)
            .ok_or_else(|| not_owed(&name))
    })
    .await?;
    Ok(Taken::Done)
}

/// What making a token costs, by estimate: a swap, and another one to lock it.
fn fee_units(ppk: u64, locked: bool) -> u64 {
    let swap = ppk.saturating_mul(ASSUMED_PROOFS).div_ceil(1000);
    swap.saturating_mul(if locked { 2 } else { 1 })
}

fn unit_of(refund: &Refund) -> Unit {
    if refund.unit == "msat" {
        Unit::Msat
    } else {
        Unit::Sat
    }
}

/// The face of the token: what is owed, less the cost of making it where the
/// consumer bears that; whole units. `None` if nothing is left.
async fn amount(ctx: &Ctx, refund: &Refund, locked: bool) -> Result<Option<Msat>, WalletError> {
    let mint = MintUrl(refund.mint.clone());
    let whole = |sat| Msat::from_sat(sat).filter(|amount| !amount.is_zero());
    if refund.our_fault {
        return Ok(match unit_of(refund) {
            Unit::Msat => Some(refund.owed),
            // What we could not give comes back in full: rounded up.
            Unit::Sat => whole(refund.owed.sat_ceil()),
        });
    }
    let patience = ctx.settings().timing.mint;
    let facts = tokio::time::timeout(patience, ctx.parts.wallet.facts(&mint))
        .await
        .unwrap_or_else(|_| Err(WalletError::MintDown("no answer in time".to_owned())))?;
    let fee_units = fee_units(facts.input_fee_ppk, locked);
    Ok(match unit_of(refund) {
        Unit::Msat => refund
            .owed
            .checked_sub(Msat::new(fee_units))
            .filter(|a| !a.is_zero()),
        Unit::Sat => whole(refund.owed.whole_sat().saturating_sub(fee_units)),
    })
}

/// One that is to be locked brings the fee of that with it.
async fn send(
    ctx: &Ctx,
    refund: &Refund,
    amount: Msat,
    locked: bool,
) -> Result<SentToken, WalletError> {
    let mint = MintUrl(refund.mint.clone());
    let unit = unit_of(refund);
    let sending = ctx.parts.wallet.send(&mint, &unit, amount, locked);
    tokio::time::timeout(operation(ctx), sending)
        .await
        .unwrap_or_else(|_| Err(WalletError::OutcomeUnknown("no answer in time".to_owned())))
}

async fn book(
    ctx: &Arc<Ctx>,
    lease: &Lease,
    id: &str,
    sent: SentToken,
) -> Result<Taken, LedgerError> {
    let (name, now) = (id.to_owned(), ctx.now());
    tracing::info!(lease = %lease.id, refund = %id, face = %sent.face, fee = %sent.fee, "refund made");
    change(ctx, &lease.id, move |_, lease| {
        lease
            .refund_made(&name, sent.token, sent.face, sent.fee, now)
            .ok_or_else(|| not_owed(&name))
    })
    .await?;
    Ok(Taken::Done)
}

fn not_owed(id: &str) -> LedgerError {
    LedgerError::Rule(format!("refund {id} is not owed"))
}
