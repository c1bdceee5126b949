//! Money of our own that nobody knows of: a token that the wallet made for a
//! refund, and that no row of the ledger has, because we died, or gave up waiting,
//! between making it and writing it down. The refund is made again, so the first
//! token is taken back into the wallet.
//!
//! What the ledger knows is never touched, and neither is what is being made: a
//! token that was there while some send was under way is looked at again when all
//! of these are over. A token that is older than anything in the ledger is left
//! alone and named: the ledger it belongs to may be lost.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ctx::Ctx;
use super::steps::operation;
use crate::core::ids::LeaseId;
use crate::core::time::Timestamp;
use crate::ledger::{ENDED, LEASES, Ledger, LedgerError, find_lease};
use crate::wallet::{PendingSend, WalletError};

/// How long the start waits for mints; what is left is done by the upkeep.
const AT_START: Duration = Duration::from_secs(30);

/// The tokens that are being made, from before the wallet is asked until they are
/// booked.
#[derive(Debug, Default)]
pub struct Sends(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    open: BTreeSet<u64>,
}

/// A token is being made, until this is dropped.
#[must_use]
pub(super) struct Sending<'a> {
    sends: &'a Sends,
    number: u64,
}

impl Sends {
    /// Notes that a token is about to be made.
    pub(super) fn begin(&self) -> Sending<'_> {
        let mut numbers = self.lock();
        numbers.next = numbers.next.wrapping_add(1);
        let number = numbers.next;
        numbers.open.insert(number);
        Sending {
            sends: self,
            number,
        }
    }

    /// Those that are being made now, and how many were begun so far.
    pub(super) fn now(&self) -> (BTreeSet<u64>, u64) {
        let numbers = self.lock();
        (numbers.open.clone(), numbers.next)
    }

    fn any_open(&self, of: &BTreeSet<u64>) -> bool {
        !self.lock().open.is_disjoint(of)
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.sends.lock().open.remove(&self.number);
    }
}

/// Tokens that looked like strays while others were being made. Not shown: they
/// are money.
#[derive(Default)]
pub struct Suspects {
    tokens: HashSet<String>,
    /// What was being made then.
    sends: BTreeSet<u64>,
}

/// Looks once before anything else is done, when nothing is being made.
pub async fn at_start(ctx: &Arc<Ctx>) {
    let mut suspects = Suspects::default();
    match tokio::time::timeout(AT_START, look(ctx, &mut suspects)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "tokens that nobody knows of were not looked for")
        }
        Err(_) => tracing::warn!("mints do not answer; tokens that nobody knows of wait"),
    }
}

/// Looks for strays, and takes back those that are certain to be some.
///
/// # Errors
/// The ledger.
pub async fn look(ctx: &Arc<Ctx>, suspects: &mut Suspects) -> Result<(), LedgerError> {
    let mut strange = match ctx.parts.wallet.pending_sends().await {
        Ok(pending) => pending,
        Err(error) => {
            tracing::warn!(%error, "the wallet does not tell which tokens are out");
            return Ok(());
        }
    };
    // In this order: what was being made when the wallet was asked, and is not in
    // here, is over now, and on disk or nowhere.
    let (sends, _) = ctx.sends.now();
    let known = known(ctx.ledger())?;
    strange.retain(|send| !known.contains(&send.token));
    if suspects.tokens.is_empty() {
        suspects.tokens = strange.iter().map(|send| send.token.clone()).collect();
        suspects.sends = sends;
    }
    if suspects.tokens.is_empty() || ctx.sends.any_open(&suspects.sends) {
        return Ok(());
    }
    let suspects = std::mem::take(suspects).tokens;
    strange.retain(|send| suspects.contains(&send.token));
    let strays = certain(ctx, strange).await?;
    if strays.is_empty() {
        return Ok(());
    }
    let since = oldest(ctx).await?;
    for stray in &strays {
        if since.is_none_or(|since| stray.created < since) {
            tracing::warn!(mint = %stray.mint.0, face = %stray.face, made = %stray.created, "a token of ours that this ledger does not know, older than all that it knows; left alone");
            continue;
        }
        take_back(ctx, stray).await;
    }
    Ok(())
}

/// Those of which no refund of the ledger has a proof, however it is written. One
/// of a mint that is not on the list any more is left out.
async fn certain(ctx: &Ctx, strange: Vec<PendingSend>) -> Result<Vec<PendingSend>, LedgerError> {
    if strange.is_empty() {
        return Ok(strange);
    }
    let (known, wallet) = (known(ctx.ledger())?, Arc::clone(&ctx.parts.wallet));
    // Reading tokens costs the processor something, and there may be many.
    let compare = move || {
        let ys = |token: &str| wallet.inspect(token).map(|info| info.ys);
        let taken: HashSet<String> = known.iter().flat_map(|token| ys(token)).flatten().collect();
        let mut strays = strange;
        strays.retain(|send| ys(&send.token).is_ok_and(|ys| !ys.iter().any(|y| taken.contains(y))));
        strays
    };
    let compared = tokio::task::spawn_blocking(compare).await;
    compared.map_err(|error| LedgerError::Died(error.to_string()))
}

/// Tokens of all refunds that are out.
pub(super) fn known(ledger: &Ledger) -> Result<HashSet<String>, LedgerError> {
    let keys = ledger.with_refunds_out();
    ledger.read(|reader| {
        let mut tokens = HashSet::new();
        for key in keys {
            let Ok(id) = key.parse::<LeaseId>() else {
                continue;
            };
            if let Some(lease) = find_lease(reader, &id)? {
                let out = lease.refunds.iter().filter_map(|refund| refund.token());
                tokens.extend(out.map(str::to_owned));
            }
        }
        Ok(tokens)
    })
}

/// When the first lease was made of all that the ledger has.
async fn oldest(ctx: &Ctx) -> Result<Option<Timestamp>, LedgerError> {
    let ledger = ctx.ledger().clone();
    // It reads whole tables; there is a stray hardly ever.
    let read = move || {
        ledger.read(|reader| {
            let leases = reader.all(&LEASES)?.into_iter().chain(reader.all(&ENDED)?);
            Ok(leases.map(|(_, lease)| lease.created_at).min())
        })
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| LedgerError::Died(error.to_string()))?
}

async fn take_back(ctx: &Ctx, stray: &PendingSend) {
    let (mint, face) = (&stray.mint.0, stray.face);
    let reclaim = ctx.parts.wallet.reclaim(&stray.token);
    match tokio::time::timeout(operation(ctx), reclaim).await {
        Ok(Ok(back)) => {
            tracing::warn!(%mint, %face, %back, "a token of ours that no lease knows of was taken back");
        }
        // Claimed and forgotten: the wallet finds out by itself.
        Ok(Err(WalletError::Spent)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%mint, %face, %error, "a token of ours that no lease knows of is out; again");
        }
        Err(_) => {
            tracing::warn!(%mint, %face, "a token of ours that no lease knows of is out; again")
        }
    }
}
