//! What becomes of refunds after they were made. Their mint is asked now and then
//! whether they are spent (NUT-07): then their owner has them, and their token is
//! forgotten. What nobody has taken for as long as the offer tells is redeemed by
//! us, once, and is its owner's credit.
//!
//! | crash after | what the next round finds |
//! |---|---|
//! | the mint said spent | the refund still made; it asks again |
//! | `taking-back` is on disk | `taking-back`: it asks what became of the redemption, and redeems only where nothing did |
//! | the redemption | the same, and the redemption done: it is booked |

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::ctx::Ctx;
use super::handlers::in_payment;
use super::steps::operation;
use crate::core::ids::LeaseId;
use crate::core::lease::{Lease, RefundState};
use crate::core::time::Timestamp;
use crate::ledger::{ENDED, LEASES, LedgerError, TAKING, Table, Tx, find_lease};
use crate::wallet::{ProofsState, Redeemed, RedemptionState, TokenInfo, WalletError};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(60);
/// Refunds that one mint is asked about in a round, at most: a few requests a
/// minute, so that those who pay have the mint's patience for themselves.
const MOST: usize = 6;
/// A refund is asked about again after this part of its age…
const PART: u64 = 8;
/// … but not more often than this, in seconds…
const SOONEST: u64 = 60;
/// … nor more seldom.
const LATEST: u64 = 24 * 3600;

/// When each refund that is out was asked about. Not on disk: after a restart all
/// are asked about once more, a few at a time.
#[derive(Debug, Default)]
pub struct Asked(HashMap<String, Timestamp>);

impl Asked {
    fn is_due(&self, refund: &Out, now: Timestamp) -> bool {
        let Some(asked) = self.0.get(&refund.id) else {
            return true;
        };
        let age = refund.made.map_or(u64::MAX, |made| now.secs_since(made));
        let wait = if refund.taking {
            SOONEST
        } else {
            (age / PART).clamp(SOONEST, LATEST)
        };
        // One that was asked about in the future was so before the clock was set back.
        now < *asked || now.secs_since(*asked) >= wait
    }
}

/// A refund whose token is out.
#[derive(Clone)]
struct Out {
    lease: LeaseId,
    id: String,
    mint: String,
    token: String,
    made: Option<Timestamp>,
    /// When it may be taken back.
    until: Option<Timestamp>,
    /// Number of our key that opens it then; `None`: it is not locked.
    index: Option<u64>,
    /// Our own redemption of it has begun.
    taking: bool,
}

/// The mint does not answer: no use in asking it more this round.
struct Down;

/// Runs a round every minute.
pub async fn run(ctx: Arc<Ctx>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked = Asked::default();
    ctx.opening.wallet().await;
    loop {
        tick.tick().await;
        if let Err(error) = round(&ctx, &mut asked).await {
            tracing::error!(%error, "what became of refunds could not be written down");
        }
    }
}

/// Asks about the refunds that are due, those longest not asked about first; a few
/// at each mint, all mints side by side.
///
/// # Errors
/// The ledger.
pub async fn round(ctx: &Arc<Ctx>, asked: &mut Asked) -> Result<(), LedgerError> {
    let out = all_out(ctx)?;
    asked
        .0
        .retain(|id, _| out.iter().any(|refund| refund.id == *id));
    let now = ctx.now();
    let mut due: BTreeMap<String, Vec<Out>> = BTreeMap::new();
    for refund in out.into_iter().filter(|refund| asked.is_due(refund, now)) {
        due.entry(refund.mint.clone()).or_default().push(refund);
    }
    for refunds in due.values_mut() {
        refunds.sort_by_key(|refund| (asked.0.get(&refund.id).copied(), Reverse(refund.made)));
        refunds.truncate(MOST);
    }
    let mints = due.into_values().map(|refunds| at_one_mint(ctx, refunds));
    for done in join_all(mints).await {
        asked.0.extend(done?.into_iter().map(|id| (id, now)));
    }
    Ok(())
}

/// All refunds whose token is out.
fn all_out(ctx: &Ctx) -> Result<Vec<Out>, LedgerError> {
    let keys = ctx.ledger().with_refunds_out();
    ctx.ledger().read(|reader| {
        let mut out = Vec::new();
        for key in keys {
            let id: Option<LeaseId> = key.parse().ok();
            let lease = id.map(|id| find_lease(reader, &id)).transpose()?.flatten();
            let keep = ctx.settings().refunds.keep.as_secs();
            out.extend(lease.iter().flat_map(|lease| of_lease(lease, keep)));
        }
        Ok(out)
    })
}

fn of_lease(lease: &Lease, keep: u64) -> impl Iterator<Item = Out> {
    lease.refunds.iter().filter_map(move |refund| {
        let (made, lock, taking) = match &refund.state {
            RefundState::Made { at, lock, .. } => (*at, lock, false),
            RefundState::TakingBack { made, lock, .. } => (Some(*made), lock, true),
            _ => return None,
        };
        Some(Out {
            lease: lease.id.clone(),
            id: refund.id.clone(),
            mint: refund.mint.clone(),
            token: refund.token()?.to_owned(),
            made,
            until: refund.kept_until(keep),
            index: lock.as_ref().map(|lock| lock.index),
            taking,
        })
    })
}

/// Deals with refunds of one mint, one after the other, until it does not answer.
/// Gives those that were dealt with.
async fn at_one_mint(ctx: &Arc<Ctx>, refunds: Vec<Out>) -> Result<Vec<String>, LedgerError> {
    let mut done = Vec::with_capacity(refunds.len());
    for refund in refunds {
        let looked = if refund.taking {
            resolve(ctx, &refund).await?
        } else {
            look(ctx, &refund).await?
        };
        if matches!(looked, Err(Down)) {
            break;
        }
        done.push(refund.id);
    }
    Ok(done)
}

/// Asks whether a refund is spent, and takes it back if it is old.
async fn look(ctx: &Arc<Ctx>, refund: &Out) -> Result<Result<(), Down>, LedgerError> {
    let patience = ctx.settings().timing.mint;
    let asked = tokio::time::timeout(patience, ctx.parts.wallet.check(&refund.token));
    match asked.await {
        Ok(Ok(ProofsState::Spent)) => claimed(ctx, refund).await?,
        Ok(Ok(ProofsState::Unspent)) if is_old(ctx, refund) => {
            return take_back(ctx, refund).await;
        }
        Ok(Ok(ProofsState::Unspent | ProofsState::Pending)) => {}
        Ok(Err(WalletError::MintDown(_))) | Err(_) => return Ok(Err(Down)),
        // Its mint is not on the list any more, say.
        Ok(Err(error)) => tracing::debug!(refund = %refund.id, %error, "not asked about"),
    }
    Ok(Ok(()))
}

fn is_old(ctx: &Ctx, refund: &Out) -> bool {
    refund.until.is_some_and(|until| until <= ctx.now())
}

/// Redeems the token of a refund that nobody took, once, after it was written
/// down that we are about to.
async fn take_back(ctx: &Arc<Ctx>, refund: &Out) -> Result<Result<(), Down>, LedgerError> {
    let wallet = &ctx.parts.wallet;
    let Ok(info) = wallet.inspect(&refund.token) else {
        return Ok(Ok(()));
    };
    // Less than its own fee: it stays its owner's.
    let worth = tokio::time::timeout(ctx.settings().timing.mint, wallet.net_of(&refund.token));
    match worth.await {
        Ok(Ok(_)) => {}
        Ok(Err(WalletError::MintDown(_))) | Err(_) => return Ok(Err(Down)),
        Ok(Err(_)) => return Ok(Ok(())),
    }
    let (id, ys, now) = (refund.id.clone(), info.ys.clone(), ctx.now());
    let keep = ctx.settings().refunds.keep.as_secs();
    let noted = amend(ctx, &refund.lease, move |tx, lease| {
        for y in &ys {
            // Its owner pays with it at this moment.
            if in_payment(tx, y)? {
                return Ok(None);
            }
        }
        let Some(()) = lease.refund_take_back(&id, keep, now) else {
            return Ok(None);
        };
        ys.iter().try_for_each(|y| tx.put(&TAKING, y, &id))?;
        Ok(Some(()))
    });
    if !noted.await? {
        return Ok(Ok(()));
    }
    let redeeming = async {
        match refund.index {
            Some(index) => {
                let token = &refund.token;
                wallet.take_back(info.payment, token, index).await
            }
            None => wallet.redeem(info.payment, &refund.token).await,
        }
    };
    let done = tokio::time::timeout(operation(ctx), redeeming).await;
    match done {
        Ok(Ok(redeemed)) => taken_back(ctx, refund, info, redeemed).await?,
        Ok(Err(WalletError::Spent)) => claimed(ctx, refund).await?,
        // It may have happened: the next round asks, and does not try again.
        Ok(Err(WalletError::OutcomeUnknown(_))) | Err(_) => {}
        Ok(Err(error)) => {
            tracing::warn!(refund = %refund.id, %error, "a refund was not taken back");
            left(ctx, refund, info).await?;
            if matches!(error, WalletError::MintDown(_)) {
                return Ok(Err(Down));
            }
        }
    }
    Ok(Ok(()))
}

/// Finds out what became of taking a refund back.
async fn resolve(ctx: &Arc<Ctx>, refund: &Out) -> Result<Result<(), Down>, LedgerError> {
    let wallet = &ctx.parts.wallet;
    let Ok(info) = wallet.inspect(&refund.token) else {
        return Ok(Ok(()));
    };
    let asked = wallet.redemption(info.payment, &refund.token);
    match tokio::time::timeout(operation(ctx), asked).await {
        Ok(Ok(RedemptionState::Done(redeemed))) => taken_back(ctx, refund, info, redeemed).await?,
        Ok(Ok(RedemptionState::SpentElsewhere)) => claimed(ctx, refund).await?,
        Ok(Ok(RedemptionState::NotDone)) => left(ctx, refund, info).await?,
        Ok(Ok(RedemptionState::Unknown)) => {}
        Ok(Err(_)) | Err(_) => return Ok(Err(Down)),
    }
    Ok(Ok(()))
}

async fn claimed(ctx: &Arc<Ctx>, refund: &Out) -> Result<(), LedgerError> {
    let (id, now) = (refund.id.clone(), ctx.now());
    let ys = ctx.parts.wallet.inspect(&refund.token).map(|info| info.ys);
    let noted = amend(ctx, &refund.lease, move |tx, lease| {
        free(tx, &ys.unwrap_or_default())?;
        Ok(lease.refund_claimed(&id, now))
    });
    if noted.await? {
        tracing::info!(lease = %refund.lease, refund = %refund.id, "its owner has the refund");
    }
    Ok(())
}

async fn taken_back(
    ctx: &Arc<Ctx>,
    refund: &Out,
    info: TokenInfo,
    redeemed: Redeemed,
) -> Result<(), LedgerError> {
    let (id, now) = (refund.id.clone(), ctx.now());
    let Redeemed { net, fee } = redeemed;
    let noted = amend(ctx, &refund.lease, move |tx, lease| {
        free(tx, &info.ys)?;
        Ok(lease.refund_taken_back(&id, net, fee, now))
    });
    if noted.await? {
        tracing::info!(lease = %refund.lease, refund = %refund.id, %net, %fee, "nobody took the refund: taken back, and its owner's credit");
    }
    Ok(())
}

/// Nothing was taken, for certain: it is as it was.
async fn left(ctx: &Arc<Ctx>, refund: &Out, info: TokenInfo) -> Result<(), LedgerError> {
    let id = refund.id.clone();
    let noted = amend(ctx, &refund.lease, move |tx, lease| {
        free(tx, &info.ys)?;
        Ok(lease.refund_left(&id))
    });
    noted.await.map(drop)
}

/// The proofs may be brought as a payment again.
fn free(tx: &Tx, ys: &[String]) -> Result<(), LedgerError> {
    ys.iter().try_for_each(|y| {
        if tx.get(&TAKING, y)?.is_some() {
            tx.delete(&TAKING, y)?;
        }
        Ok(())
    })
}

/// Changes a lease's refunds, wherever it is kept, in one commit. `false`, and
/// nothing changed, where the change does not fit any more.
async fn amend<F>(ctx: &Ctx, id: &LeaseId, edit: F) -> Result<bool, LedgerError>
where
    F: FnOnce(&Tx, &mut Lease) -> Result<Option<()>, LedgerError> + Send + 'static,
{
    let (key, now) = (id.as_str().to_owned(), ctx.now());
    let write = ctx.ledger().write(move |tx| {
        let mut table: &Table<Lease> = &LEASES;
        let mut found = tx.get(table, &key)?;
        if found.is_none() {
            table = &ENDED;
            found = tx.get(table, &key)?;
        }
        let Some(mut lease) = found else {
            return Ok(false);
        };
        if edit(tx, &mut lease)?.is_none() {
            return Ok(false);
        }
        if !lease.balances(now) {
            let why = format!("the books of lease {key} would not balance");
            return Err(LedgerError::Rule(why));
        }
        tx.put(table, &key, &lease)?;
        Ok(true)
    });
    write.await
}
