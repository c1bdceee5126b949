//! What may leave a purse.

use std::collections::BTreeMap;
use std::time::Duration;

use super::NotBegun;
use crate::core::lease::{Lease, Purse, RefundState};
use crate::core::money::Msat;
use crate::core::payout::Standing;
use crate::core::time::Timestamp;
use crate::ledger::{ENDED, LEASES, LedgerError, Tx, payments_of};
use crate::provider::ctx::Ctx;
use crate::provider::solvency;

/// How often it is looked at anew where a refund is made at the same time…
const TRIES: u32 = 50;
/// … and what lies between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls `decide` inside a change of the ledger with what the purse holds and what
/// of it has to stay. A refund that is made at the same time has left the wallet
/// and is still owed, or the other way round, so then it is looked at again. What
/// no row of the ledger explains stays, unless `unexplained`.
pub(super) async fn look<T, F>(
    ctx: &Ctx,
    purse: &Purse,
    keep: Msat,
    unexplained: bool,
    decide: F,
) -> Result<T, NotBegun>
where
    T: Send + 'static,
    F: FnOnce(&Tx, &Standing) -> Result<T, LedgerError> + Send + 'static,
{
    let mut tries = 0;
    let (before, balance, strange) = loop {
        let before = ctx.sends.now();
        let held = solvency::balances(ctx).await.map_err(NotBegun::Wallet)?;
        let strange = match unexplained {
            true => BTreeMap::new(),
            false => solvency::not_booked(ctx).await.map_err(NotBegun::Wallet)?,
        };
        if before.0.is_empty() && ctx.sends.now() == before {
            let of = |all: &BTreeMap<Purse, Msat>| all.get(purse).copied().unwrap_or_default();
            break (before, of(&held), of(&strange));
        }
        tries += 1;
        if tries == TRIES {
            return Err(NotBegun::Wallet("it makes refunds all the time".to_owned()));
        }
        tokio::time::sleep(PAUSE).await;
    };
    let credit = ctx.ledger().credits();
    let credit = credit.ok_or_else(too_large)?;
    let credit = credit.get(purse).copied().unwrap_or_default();
    let (taking, now) = (ctx.ledger().with_refunds_out(), ctx.now());
    let purse = purse.clone();
    let sends = std::sync::Arc::clone(&ctx.sends);
    let looked = ctx.ledger().write(move |tx| {
        if sends.now() != before {
            return Ok(None);
        }
        let float = float(tx, &purse, &taking, now)?;
        // What no row explains may be somebody's.
        let float = Msat::checked_sum([float, credit, strange]);
        let standing = Standing {
            balance,
            float: float.ok_or_else(too_large)?,
            keep,
        };
        decide(tx, &standing).map(Some)
    });
    let refunds = || NotBegun::Wallet("a refund is being made; try again".to_owned());
    looked.await?.ok_or_else(refunds)
}

/// What may have to go back from this purse, but for credit on leases that are
/// over; with money whose way into the books is not finished.
fn float(tx: &Tx, purse: &Purse, taking: &[String], now: Timestamp) -> Result<Msat, LedgerError> {
    let mut parts = Vec::new();
    for (key, lease) in tx.all(&LEASES)? {
        for (of, dues) in lease.dues(now).ok_or_else(too_large)? {
            if of == *purse {
                parts.push(dues.float().ok_or_else(too_large)?);
            }
        }
        // It may be in the wallet already, and nobody's yet.
        for payment in payments_of(tx, &lease)? {
            if solvency::may_be_here(&payment)
                && (&payment.mint, &payment.unit) == (&purse.0, &purse.1)
            {
                parts.push(payment.face);
            }
        }
        if !taking.contains(&key) {
            parts.extend(taken_back(&lease, purse));
        }
    }
    for key in taking {
        let lease = match tx.get(&LEASES, key)? {
            Some(lease) => Some(lease),
            None => tx.get(&ENDED, key)?,
        };
        parts.extend(lease.iter().flat_map(|lease| taken_back(lease, purse)));
    }
    Msat::checked_sum(parts).ok_or_else(too_large)
}

/// Refunds that we redeem ourselves at this moment: their owner's credit soon.
fn taken_back<'a>(lease: &'a Lease, purse: &'a Purse) -> impl Iterator<Item = Msat> + 'a {
    lease.refunds.iter().filter_map(|refund| {
        let here = (&refund.mint, &refund.unit) == (&purse.0, &purse.1);
        let taking = matches!(refund.state, RefundState::TakingBack { .. });
        refund.is_out().filter(|_| here && taking)
    })
}

fn too_large() -> LedgerError {
    LedgerError::Rule("a sum of money does not fit".to_owned())
}
