//! Invoices: asked about until they are paid, or until nobody can expect it any
//! more. Asking is safe at any time, and the ecash comes once (NUT-04, NUT-20).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Taken, pay, stop_asked};
use crate::core::lease::{Lease, Phase};
use crate::core::payment::{Learnt, Payment, PaymentState, Rejection};
use crate::core::time::Timestamp;
use crate::ledger::LedgerError;
use crate::provider::ctx::Ctx;
use crate::provider::handlers::unit_of;
use crate::wallet::{MintQuote, MintUrl, WalletError};

/// Asks whether an invoice is paid, and draws the consequences.
pub(super) async fn collect(
    ctx: &Arc<Ctx>,
    lease: &Lease,
    payment: Payment,
    bell: &Notify,
) -> Result<Taken, LedgerError> {
    let Some(quote) = quote(&payment) else {
        return Ok(Taken::TryLater);
    };
    let asking = tokio::time::timeout(patience(ctx, lease), ctx.parts.wallet.collect(&quote));
    let asked = tokio::select! {
        biased;
        asked = asking => asked,
        () = stop_asked(ctx, &lease.id, bell), if lease.stop_request.is_none() => {
            return Ok(again(&payment, ctx.now()));
        }
    };
    let now = ctx.now();
    let watched = payment.invoice.as_ref().map(|invoice| invoice.watch_until);
    let over = watched.is_none_or(|until| now >= until);
    match asked {
        Ok(Ok(Some(amount))) => return pay::learn(ctx, payment, Learnt::Minted(amount)).await,
        Ok(Ok(None)) => {}
        // It will not know it later either.
        Ok(Err(WalletError::Refused(_))) if over => {}
        Ok(Err(error)) => {
            tracing::debug!(lease = %payment.lease, %error, "an invoice was not asked about; again");
            return Ok(again(&payment, now));
        }
        Err(_) => return Ok(again(&payment, now)),
    }
    match payment.state {
        PaymentState::Invoiced if now >= payment.deadline => {
            pay::learn(ctx, payment, Learnt::Unpaid).await
        }
        PaymentState::Lapsed if over => {
            pay::learn(ctx, payment, Learnt::NotTaken(Rejection::NotPaid)).await?;
            if let Err(error) = ctx.parts.wallet.forget_invoice(&quote).await {
                tracing::debug!(%error, "the wallet asks about an old invoice yet");
            }
            Ok(Taken::Done)
        }
        _ => Ok(again(&payment, now)),
    }
}

/// How long the mint's answer is waited for. What is cut off is asked for again, and
/// a mint that hangs holds up neither the end of a lease nor its owner's stop.
fn patience(ctx: &Ctx, lease: &Lease) -> Duration {
    let most = ctx.settings().timing.mint;
    let end = lease.expires_at.filter(|_| lease.phase == Phase::Active);
    let Some(end) = end else { return most };
    let left = Duration::from_secs(end.secs_since(ctx.now()));
    most.min(left.max(Duration::from_secs(1)))
}

fn again(payment: &Payment, now: Timestamp) -> Taken {
    Taken::AskAgain(Duration::from_secs(payment.ask_again_in(now)))
}

fn quote(payment: &Payment) -> Option<MintQuote> {
    let invoice = payment.invoice.as_ref()?;
    Some(MintQuote {
        id: invoice.quote.clone(),
        mint: MintUrl(payment.mint.clone()),
        unit: unit_of(&payment.unit),
        bolt11: invoice.bolt11.clone(),
        expires_at: None,
    })
}

/// Whether what an invoice was for is not given any more, although nobody has
/// given it up yet: we were away for longer than its room is held.
pub(super) fn is_too_late(ctx: &Ctx, lease: &Lease, payment: &Payment, now: Timestamp) -> bool {
    let held_until = payment.deadline.plus_secs(ctx.pace().patience);
    payment.invoice.is_some() && lease.phase == Phase::Reserved && now >= held_until
}
