//! A refund's token that is locked to its owner's key. It is made of a plain one,
//! which is written down with the number of our key and the locktime before the
//! mint is asked.
//!
//! | crash after | what the next start finds |
//! |---|---|
//! | the plain token was made | the refund owed, and a stray, which is taken back |
//! | `locking` is on disk | `locking`: the token is locked, or found to be |
//! | the mint locked it | the same: the mint gives the same token again (NUT-09) |

use std::sync::Arc;

use super::{again, not_owed};
use crate::core::ids::PaymentId;
use crate::core::lease::{Lease, Refund};
use crate::core::payment::lock::{LockKey, LockTo};
use crate::ledger::LedgerError;
use crate::provider::ctx::Ctx;
use crate::provider::steps::{Taken, change, operation};
use crate::wallet::{MintUrl, SentToken, WalletError};

/// A mint that has refused to lock a token for so long, in seconds, does not lock
/// it: by then no request for it is under way any more.
const GIVE_UP: u64 = 600;

/// The key that the token of this refund is locked to: the owner's, where there is
/// one and the mint keeps locks.
pub(super) async fn key(
    ctx: &Ctx,
    lease: &Lease,
    refund: &Refund,
) -> Result<Option<LockKey>, WalletError> {
    let Some(key) = &lease.refund_key else {
        return Ok(None);
    };
    let mint = MintUrl(refund.mint.clone());
    let asked = ctx.parts.wallet.facts(&mint);
    let facts = tokio::time::timeout(ctx.settings().timing.mint, asked)
        .await
        .unwrap_or_else(|_| Err(WalletError::MintDown("no answer in time".to_owned())))?;
    Ok(facts.locks.then(|| key.clone()))
}

/// Writes the plain token down, and what the locked one follows from. We can take
/// that back when the time is over that the offer tells.
pub(super) async fn begin(
    ctx: &Arc<Ctx>,
    lease: &Lease,
    id: &str,
    sent: SentToken,
    key: LockKey,
) -> Result<Taken, LedgerError> {
    let Ok(info) = ctx.parts.wallet.inspect(&sent.token) else {
        // Our own wallet made it a moment ago.
        return Err(LedgerError::Rule(format!("refund {id} has no good token")));
    };
    let to = LockTo {
        key,
        locktime: ctx.now().plus(ctx.settings().refunds.keep),
        index: number(&info.payment),
        hash: None,
    };
    let name = id.to_owned();
    change(ctx, &lease.id, move |_, lease| {
        lease
            .refund_locking(&name, sent.token, sent.face, sent.fee, to)
            .ok_or_else(|| not_owed(&name))
    })
    .await?;
    Ok(Taken::Done)
}

/// A number that no other token has: it follows from the proofs of the plain one.
fn number(plain: &PaymentId) -> u64 {
    let bytes = plain.as_bytes().iter().take(8);
    bytes.fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// Locks the plain token, or finds the one that it was locked into.
pub(super) async fn finish(
    ctx: &Arc<Ctx>,
    lease: &Lease,
    id: &str,
    plain: &str,
    to: &LockTo,
) -> Result<Taken, LedgerError> {
    let locking = ctx.parts.wallet.lock(plain, to);
    let locked = tokio::time::timeout(operation(ctx), locking)
        .await
        .unwrap_or_else(|_| Err(WalletError::OutcomeUnknown("no answer in time".to_owned())));
    let begun = to.locktime.minus(ctx.settings().refunds.keep);
    let long = ctx.now() >= begun.plus_secs(GIVE_UP);
    let (name, now) = (id.to_owned(), ctx.now());
    match locked {
        Ok(sent) => {
            tracing::info!(lease = %lease.id, refund = %id, face = %sent.face, "refund made, locked to its owner");
            change(ctx, &lease.id, move |_, lease| {
                lease
                    .refund_locked(&name, sent.token, sent.face, now)
                    .ok_or_else(|| not_owed(&name))
            })
            .await?;
            Ok(Taken::Done)
        }
        Err(error @ (WalletError::TooSmall | WalletError::Refused(_))) if long => {
            tracing::warn!(lease = %lease.id, refund = %id, %error, "a refund cannot be locked, and is made unlocked");
            change(ctx, &lease.id, move |_, lease| {
                lease
                    .refund_not_locked(&name, now)
                    .ok_or_else(|| not_owed(&name))
            })
            .await?;
            Ok(Taken::Done)
        }
        Err(error) => Ok(again(lease, id, &error)),
    }
}
