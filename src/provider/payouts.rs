//! Lightning out: what the operator withdraws, and what is swept.
//!
//! What may leave is worked out in the commit that writes the payout down, and
//! once more right before the mint is told. The melt is sent once; after that the
//! mint is asked about it until it is paid or, for certain, not.
//!
//! | crash after | what the next start finds |
//! |---|---|
//! | the invoice, or the mint's quote | nothing; nobody pays them |
//! | `melting` is on disk | `melting`: it asks; the mint knows of no payment, and after a while it is failed |
//! | the melt was sent | the same; the mint says paid, or pending, or not paid |
//! | the mint paid | the same, and the wallet fetches what was left |

mod free;
pub mod lnurl;
mod sweep;
mod withdraw;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;

use super::ctx::Ctx;
use super::merges::{self, Need};
use super::steps::operation;
use crate::core::lease::Purse;
use crate::core::money::Msat;
use crate::core::payout::{Cause, Heard, Payout, PayoutState, Refusal, allow};
use crate::core::time::Timestamp;
use crate::ledger::{LedgerError, PAYOUTS, payouts};
use crate::wallet::{Invoice, Melt, MeltQuote, MintUrl, Unit, WalletError};

pub(super) use withdraw::view;
pub use withdraw::withdraw;

/// Between two looks at what is open.
const EVERY: Duration = Duration::from_secs(5);
/// An open payout is asked about after this part of its age…
const PART: u64 = 8;
/// … but not more often than this, in seconds…
const SOONEST: u64 = 5;
/// … nor more seldom.
const LATEST: u64 = 600;

/// Payouts that this process has yet to send, or is sending.
#[derive(Debug, Default)]
pub struct Payouts {
    here: Mutex<Here>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Here {
    /// Written down, and to be sent.
    fresh: BTreeSet<String>,
    /// Being written down, to be sent, or being sent: not asked about yet.
    carried: BTreeSet<String>,
}

/// Carried here, until this is dropped.
struct Carried<'a> {
    payouts: &'a Payouts,
    hash: &'a str,
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.payouts.lock().carried.remove(self.hash);
    }
}

impl Payouts {
    fn lock(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks what is about to be written down as ours to send, so that nobody
    /// takes it for one of an earlier run. `None`: it is marked already.
    fn add<'a>(&'a self, hash: &'a str) -> Option<Carried<'a>> {
        let new = self.lock().carried.insert(hash.to_owned());
        new.then_some(Carried {
            payouts: self,
            hash,
        })
    }

    /// It is written down: the task that sends takes it over.
    fn hand_over(&self, hash: &str, mark: Option<Carried<'_>>) {
        drop(mark);
        self.lock().fresh.insert(hash.to_owned());
        self.bell.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        let mut here = self.lock();
        let fresh = std::mem::take(&mut here.fresh);
        here.carried.extend(fresh.iter().cloned());
        fresh
    }

    fn has(&self, hash: &str) -> bool {
        let here = self.lock();
        here.fresh.contains(hash) || here.carried.contains(hash)
    }
}

/// When each open payout was asked about. Not on disk: after a start all are asked
/// about at once.
#[derive(Debug, Default)]
pub struct Asked(HashMap<String, Timestamp>);

impl Asked {
    fn is_due(&self, payout: &Payout, now: Timestamp) -> bool {
        let Some(asked) = self.0.get(&payout.hash) else {
            return true;
        };
        let wait = (now.secs_since(payout.begun) / PART).clamp(SOONEST, LATEST);
        // One that was asked about in the future was so before the clock was set back.
        now < *asked || now.secs_since(*asked) >= wait
    }
}

/// Sends what is to be sent, asks about what is open, and sweeps.
pub async fn run(ctx: Arc<Ctx>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked = Asked::default();
    let mut sweeps = sweep::Sweeps::default();
    let mut sending = FuturesUnordered::new();
    ctx.opening.wallet().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if let Err(error) = round(&ctx, &mut asked).await {
                    tracing::error!(%error, "what became of payouts could not be written down");
                }
                sweeps.round(&ctx).await;
            }
            () = ctx.payouts.bell.notified() => {}
            Some(()) = sending.next(), if !sending.is_empty() => {}
        }
        for hash in ctx.payouts.take() {
            sending.push(carry(Arc::clone(&ctx), hash));
        }
    }
}

/// Asks about the open payouts that are due, one after the other.
///
/// # Errors
/// The ledger.
pub async fn round(ctx: &Ctx, asked: &mut Asked) -> Result<(), LedgerError> {
    let all = ctx.ledger().read(payouts)?.into_iter();
    let open: Vec<Payout> = all.filter(Payout::is_open).collect();
    asked
        .0
        .retain(|hash, _| open.iter().any(|payout| payout.hash == *hash));
    let now = ctx.now();
    for payout in open {
        if !ctx.payouts.has(&payout.hash) && asked.is_due(&payout, now) {
            resolve(ctx, &payout).await?;
            asked.0.insert(payout.hash, now);
        }
    }
    Ok(())
}

/// A payout that is about to be written down.
struct Wish {
    invoice: Invoice,
    quote: MeltQuote,
    purse: Purse,
    to: Option<String>,
    cause: Cause,
    /// What it may cost.
    limit: Msat,
    /// What the operator wants to stay besides the float.
    keep: Msat,
    /// Whether it may take what no row of the ledger explains.
    unexplained: bool,
}

/// Why no payout was begun.
#[derive(Debug, thiserror::Error)]
enum NotBegun {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the wallet: {0}")]
    Wallet(String),
}

/// Writes a payout down, where what it takes may leave, and has it sent. One whose
/// invoice is paid already, or being paid, is given as it stands.
async fn begin(ctx: &Ctx, wish: Wish) -> Result<Payout, NotBegun> {
    let most = wish.quote.most().ok_or(Refusal::TooLarge)?;
    let hash = wish.invoice.hash.clone();
    let mark = ctx.payouts.add(&hash);
    let (payout, new) = write_down(ctx, wish, most).await?;
    if new {
        let (mint, unit) = &payout.purse;
        tracing::info!(payout = %payout.hash, %mint, %unit, amount = %payout.amount, most = %payout.most, why = %payout.why, "paying out");
        ctx.payouts.hand_over(&hash, mark);
    }
    Ok(payout)
}

/// `true`: it is new.
async fn write_down(ctx: &Ctx, wish: Wish, most: Msat) -> Result<(Payout, bool), NotBegun> {
    let now = ctx.now();
    let (purse, keep, strange) = (wish.purse.clone(), wish.keep, wish.unexplained);
    free::look(ctx, &purse, keep, strange, move |tx, standing| {
        let key = &wish.invoice.hash;
        let before = tx.get(&PAYOUTS, key)?;
        if let Some(there) = before.as_ref().filter(|there| !may_try_again(there)) {
            return Ok(Ok((there.clone(), false)));
        }
        let open = tx.all(&PAYOUTS)?.into_iter().map(|(_, payout)| payout);
        let mut open = open.filter(|payout| payout.is_open() && payout.purse == wish.purse);
        if let Some(other) = open.next() {
            return Ok(Err(Refusal::Busy(other.hash)));
        }
        let amount = wish.invoice.amount;
        let why = match allow(standing, amount, most, wish.limit) {
            Ok(why) => why,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let payout = Payout {
            hash: key.clone(),
            bolt11: wish.invoice.bolt11.clone(),
            to: wish.to.clone(),
            cause: wish.cause,
            purse: wish.purse.clone(),
            quote: wish.quote.id.clone(),
            amount,
            most,
            begun: now,
            state: PayoutState::Melting,
            why,
            tries: before.map_or(0, |before| before.tries) + 1,
        };
        tx.put(&PAYOUTS, key, &payout)?;
        Ok(Ok((payout, true)))
    })
    .await?
    .map_err(NotBegun::from)
}

/// Nothing of it was taken, for certain; and an invoice is paid once only.
fn may_try_again(payout: &Payout) -> bool {
    matches!(payout.state, PayoutState::Failed { .. })
}

/// Sends a payout that was written down.
async fn carry(ctx: Arc<Ctx>, hash: String) {
    let _carried = Carried {
        payouts: &ctx.payouts,
        hash: &hash,
    };
    let found = ctx.ledger().read(|reader| reader.get(&PAYOUTS, &hash));
    let heard = match found {
        Ok(Some(payout)) if payout.state == PayoutState::Melting => send(&ctx, &payout).await,
        Ok(_) => return,
        Err(error) => {
            // It is asked about as after a restart.
            tracing::error!(payout = %hash, %error, "not sent");
            return;
        }
    };
    if let Err(error) = note(&ctx, &hash, heard).await {
        tracing::error!(payout = %hash, %error, "what became of it could not be written down");
    }
}

async fn send(ctx: &Ctx, payout: &Payout) -> Heard {
    let most = payout.most;
    let (mint, unit) = place(&payout.purse);
    // Nothing else takes proofs there meanwhile.
    let _place = match merges::tidy(ctx, &mint, &unit, Need::Order).await {
        Ok(Some(place)) => place,
        Ok(None) => return Heard::Refused("its proofs are being merged; try again".to_owned()),
        Err(error) => return Heard::Refused(error.to_string()),
    };
    // Refunds may have become due since it was written down.
    let still = free::look(ctx, &payout.purse, Msat::ZERO, true, move |_, standing| {
        Ok(allow(standing, Msat::ZERO, most, most))
    });
    match still.await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => return Heard::Refused(refusal.to_string()),
        Err(error) => return Heard::Refused(error.to_string()),
    }
    // While its proofs are made ready, the wallet looks poorer than it is.
    let _sending = ctx.sends.begin();
    let melting = ctx.parts.wallet.melt(&mint, &unit, &payout.quote, most);
    match tokio::time::timeout(operation(ctx), melting).await {
        Ok(Ok(Melt::NotPaid(why))) => Heard::Refused(why),
        Ok(Ok(melt)) => heard(melt),
        Ok(Err(error)) => match error {
            WalletError::OutcomeUnknown(why) | WalletError::Store(why) => Heard::Lost(why),
            other => Heard::Refused(other.to_string()),
        },
        Err(_) => Heard::Lost("no answer in time".to_owned()),
    }
}

fn heard(melt: Melt) -> Heard {
    match melt {
        Melt::Paid { fee, preimage, .. } => Heard::Paid { fee, preimage },
        Melt::Pending => Heard::Pending,
        Melt::NotPaid(why) => Heard::NotPaid(why),
    }
}

/// Asks what became of a payout. A mint that does not answer is asked later.
async fn resolve(ctx: &Ctx, payout: &Payout) -> Result<(), LedgerError> {
    let (mint, unit) = place(&payout.purse);
    let asking = ctx.parts.wallet.melt_state(&mint, &unit, &payout.quote);
    match tokio::time::timeout(operation(ctx), asking).await {
        Ok(Ok(melt)) => note(ctx, &payout.hash, heard(melt)).await,
        Ok(Err(error)) => {
            tracing::debug!(payout = %payout.hash, %error, "not known yet");
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

/// Writes down what was heard of a payout, where that is something new.
async fn note(ctx: &Ctx, hash: &str, heard: Heard) -> Result<(), LedgerError> {
    let (key, now) = (hash.to_owned(), ctx.now());
    // Twice what one request may take: by then none is on its way.
    let settle = ctx.settings().timing.mint.saturating_mul(2).as_secs();
    let noted = ctx.ledger().write(move |tx| {
        let Some(mut payout) = tx.get(&PAYOUTS, &key)? else {
            return Ok(None);
        };
        if !payout.hear(heard, now, settle) {
            return Ok(None);
        }
        tx.put(&PAYOUTS, &key, &payout)?;
        Ok(Some(payout))
    });
    if let Some(payout) = noted.await? {
        let (amount, fee) = payout.spent();
        let (state, why) = (payout.state.name(), &payout.why);
        tracing::info!(payout = %hash, state, %amount, %fee, %why, "a payout");
    }
    Ok(())
}

fn place(purse: &Purse) -> (MintUrl, Unit) {
    let unit = match purse.1.as_str() {
        "msat" => Unit::Msat,
        _ => Unit::Sat,
    };
    (MintUrl(purse.0.clone()), unit)
}
