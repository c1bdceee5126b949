//! What the wallet holds beyond a threshold goes to the operator's address.

use super::lnurl::Address;
use super::{Wish, begin, free, place};
use crate::core::lease::Purse;
use crate::core::money::Msat;
use crate::core::payout::{Cause, Payout, Standing, limit, sweep};
use crate::core::time::Timestamp;
use crate::ledger::payouts;
use crate::provider::ctx::Ctx;
use crate::provider::settings::SweepPolicy;
use crate::provider::solvency;
use crate::wallet::{Invoice, MeltQuote};

/// When the last round was; not on disk: a start looks at once.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    last: Option<Timestamp>,
}

impl Sweeps {
    /// Sweeps all purses, where it is time for it.
    pub(super) async fn round(&mut self, ctx: &Ctx) {
        let policy = &ctx.settings().sweep;
        let Some(to) = &policy.to else { return };
        let now = ctx.now();
        let due = |last: Timestamp| now < last || last.plus(policy.every) <= now;
        if !self.last.is_none_or(due) {
            return;
        }
        self.last = Some(now);
        if let Err(why) = all(ctx, policy, to).await {
            tracing::warn!(%why, "not swept");
        }
    }
}

async fn all(ctx: &Ctx, policy: &SweepPolicy, to: &Address) -> Result<(), String> {
    let open = ctx.ledger().read(payouts);
    let open = open.map_err(|error| error.to_string())?.into_iter();
    let open: Vec<Payout> = open.filter(Payout::is_open).collect();
    for purse in solvency::balances(ctx).await?.into_keys() {
        // Its money may come back, or go: then there is another invoice, not before.
        if open.iter().any(|payout| payout.purse == purse) {
            continue;
        }
        let (mint, unit) = &purse;
        if let Err(why) = one(ctx, policy, to, &purse).await {
            tracing::warn!(%mint, %unit, %why, "not swept");
        }
    }
    Ok(())
}

async fn one(ctx: &Ctx, policy: &SweepPolicy, to: &Address, purse: &Purse) -> Result<(), String> {
    let looked = free::look(ctx, purse, policy.keep, false, |_, standing| Ok(*standing));
    let standing = looked.await.map_err(|error| error.to_string())?;
    let Some(amount) = sweep(&standing, policy.above, policy.max_fee_percent) else {
        return Ok(());
    };
    let (mut invoice, mut quote) = ask(ctx, to, purse, amount).await?;
    // The mint wants a larger reserve: what leaves room for that.
    if let Some(less) = too_large(&standing, &quote) {
        (invoice, quote) = ask(ctx, to, purse, less).await?;
    }
    let wish = Wish {
        limit: limit(invoice.amount, policy.max_fee_percent),
        invoice,
        quote,
        purse: purse.clone(),
        to: Some(to.to_string()),
        cause: Cause::Sweep,
        keep: policy.keep,
        unexplained: false,
    };
    begin(ctx, wish).await.map_err(|error| error.to_string())?;
    Ok(())
}

/// A smaller amount, where this quote takes more than may leave.
fn too_large(standing: &Standing, quote: &MeltQuote) -> Option<Msat> {
    let over = quote.most()?.checked_sub(standing.free())?;
    let over = Msat::from_sat(over.sat_ceil()).filter(|over| !over.is_zero())?;
    let less = quote.amount.checked_sub(over)?;
    (!less.is_zero()).then_some(less)
}

async fn ask(
    ctx: &Ctx,
    to: &Address,
    purse: &Purse,
    amount: Msat,
) -> Result<(Invoice, MeltQuote), String> {
    let invoice = to.invoice(amount).await?;
    let (mint, unit) = place(purse);
    let quote = ctx.parts.wallet.melt_quote(&mint, &unit, &invoice.bolt11);
    let quote = quote.await.map_err(|error| error.to_string())?;
    Ok((invoice, quote))
}
