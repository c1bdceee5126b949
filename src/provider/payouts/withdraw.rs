//! What the operator asks for by hand.

use std::time::Duration;

use super::lnurl::Address;
use super::{NotBegun, Wish, begin, free, may_try_again, place};
use crate::core::lease::Purse;
use crate::core::money::Msat;
use crate::core::payout::{Cause, Payout, PayoutState, Standing, largest, limit};
use crate::ledger::PAYOUTS;
use crate::provider::control::{Amount, PayoutView, Withdrawal};
use crate::provider::ctx::Ctx;
use crate::provider::solvency;
use crate::wallet::{Invoice, normalise, read_invoice};

/// What a payment may cost, in percent, where the operator says nothing.
const PERCENT: u8 = 2;
/// How long the answer waits for the end of a payment, which most reach at once.
const WAIT: Duration = Duration::from_secs(20);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);

/// Pays an invoice, or to a Lightning address. Asked again with the same invoice,
/// it says what becomes of it and pays nothing.
///
/// # Errors
/// A sentence; no money has moved.
pub async fn withdraw(ctx: &Ctx, ask: Withdrawal) -> Result<PayoutView, String> {
    let (to, known) = match ask.to.contains('@') {
        true => (Some(ask.to.parse::<Address>()?), None),
        false => {
            let invoice = read_invoice(&ask.to).map_err(|error| error.to_string())?;
            (None, Some(invoice))
        }
    };
    if let Some(invoice) = &known {
        if ask.amount.is_some() {
            return Err("the invoice says its amount itself".to_owned());
        }
        if let Some(there) = standing_payout(ctx, &invoice.hash)?
            && !may_try_again(&there)
        {
            return end_of(ctx, &there.hash).await;
        }
        if invoice.expires_at <= ctx.now() {
            return Err("the invoice has expired".to_owned());
        }
    }
    let wanted = match (&known, ask.amount) {
        (Some(invoice), _) => Some(invoice.amount),
        (None, Some(Amount::Msat(amount))) => Some(amount),
        (None, Some(Amount::All)) => None,
        (None, None) => return Err("say how much, or all, with --amount".to_owned()),
    };
    ctx.opening.wallet().await;
    let (purse, standing) = choose(ctx, &ask, wanted).await?;
    let mut amount = match wanted {
        Some(amount) => amount,
        None => largest(standing.free(), PERCENT).ok_or("nothing may leave it")?,
    };
    if let (Some(most), None) = (ask.max_fee_msat, wanted) {
        let room = standing.free().saturating_sub(most);
        let room = Msat::from_sat(room.whole_sat()).filter(|room| !room.is_zero());
        amount = amount.max(room.unwrap_or(amount));
    }
    let allowed = ask.max_fee_msat.unwrap_or(limit(amount, PERCENT));
    let invoice: Invoice = match (known, &to) {
        (Some(invoice), _) => invoice,
        (None, Some(address)) => address.invoice(amount).await?,
        (None, None) => return Err("nobody to pay to".to_owned()),
    };
    let (mint, unit) = place(&purse);
    let quote = ctx.parts.wallet.melt_quote(&mint, &unit, &invoice.bolt11);
    let wish = Wish {
        quote: quote.await.map_err(|error| error.to_string())?,
        invoice,
        purse,
        to: to.map(|address| address.to_string()),
        cause: Cause::Withdrawal,
        limit: allowed,
        keep: Msat::ZERO,
        unexplained: ask.unexplained,
    };
    let begun = begin(ctx, wish).await.map_err(|error| error.to_string())?;
    end_of(ctx, &begun.hash).await
}

/// What has become of a payout by now.
///
/// # Errors
/// A sentence: there is none, or the ledger.
pub(in crate::provider) fn view(ctx: &Ctx, hash: &str) -> Result<PayoutView, String> {
    let there = standing_payout(ctx, hash)?;
    let there = there.ok_or("there is no such payout")?;
    Ok(PayoutView::of(&there))
}

fn standing_payout(ctx: &Ctx, hash: &str) -> Result<Option<Payout>, String> {
    let found = ctx.ledger().read(|reader| reader.get(&PAYOUTS, hash));
    found.map_err(|error| error.to_string())
}

/// Waits a little for a payout to be over.
async fn end_of(ctx: &Ctx, hash: &str) -> Result<PayoutView, String> {
    let melting = |payout: &Payout| payout.state == PayoutState::Melting;
    let waiting = async {
        while standing_payout(ctx, hash)?.is_some_and(|payout| melting(&payout)) {
            tokio::time::sleep(LOOK).await;
        }
        Ok::<(), String>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(WAIT, waiting).await {
        return Err(error);
    }
    view(ctx, hash)
}

/// The purse from which most may leave, of those that the operator allows.
async fn choose(
    ctx: &Ctx,
    ask: &Withdrawal,
    wanted: Option<Msat>,
) -> Result<(Purse, Standing), String> {
    let mint = ask.mint.as_deref().map(normalise).transpose();
    let mint = mint.map_err(|error| error.to_string())?;
    let held = solvency::balances(ctx).await?;
    let fits = |purse: &Purse| {
        let whole = |amount: Msat| purse.1 == "msat" || amount.get().is_multiple_of(1000);
        mint.as_ref().is_none_or(|mint| mint.0 == purse.0)
            && ask.unit.as_ref().is_none_or(|unit| *unit == purse.1)
            && wanted.is_none_or(whole)
    };
    let mut best: Option<(Purse, Standing)> = None;
    for purse in held.into_keys().filter(fits) {
        let strange = ask.unexplained;
        let standing = free::look(ctx, &purse, Msat::ZERO, strange, |_, it| Ok(*it));
        let standing = standing
            .await
            .map_err(|error: NotBegun| error.to_string())?;
        if best
            .as_ref()
            .is_none_or(|(_, other)| other.free() < standing.free())
        {
            best = Some((purse, standing));
        }
    }
    let (purse, standing) = best.ok_or("the wallet holds nothing there")?;
    let free = standing.free();
    if wanted.is_some_and(|wanted| wanted > free) {
        return Err(format!(
            "{free} may leave at most; the rest is kept for refunds, or no row of the ledger explains it"
        ));
    }
    Ok((purse, standing))
}
