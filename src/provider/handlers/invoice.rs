//! Paying by Lightning: the purchase is written down, with the room and the
//! invoice, before anybody can pay it. From then on it is its owner's, whether
//! they come back or not; the lease's task asks the mint about it.

use std::sync::Arc;

use super::quote::{room, unit_name};
use super::spawn::{new_lease, put_lease};
use super::topup::fits;
use super::{Handled, Stopped, commit, link, own_lease};
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::Lease;
use crate::core::money::Msat;
use crate::core::payment::lock::LockKey;
use crate::core::payment::{Invoice, Payment, PaymentState, Purpose};
use crate::core::pricing::{PriceError, price};
use crate::ledger::{Held, LEASES, LedgerError, PAYMENTS, REQUESTS, Tx, payments_of, request_key};
use crate::protocol::reply::{self, LightningTerms, Reply};
use crate::protocol::request::{Order, Topup};
use crate::provider::answers;
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};
use crate::provider::settings::LightningPolicy;
use crate::provider::validate::{self, Accepted};
use crate::wallet::{MintQuote, MintUrl, Unit, WalletError, amount_of};

/// A payment that was begun in time may take so long, in seconds.
const ON_ITS_WAY: u64 = 60;
/// An invoice that has to be paid within less than this is of no use to a person.
const LEAST: u64 = 30;
/// Leases of one key that wait for an invoice to be paid.
const OF_ONE_KEY: usize = 2;

/// How Lightning is taken here, for offers and quotes.
pub(in crate::provider) fn terms(
    settings: &crate::provider::settings::Settings,
) -> Option<LightningTerms> {
    let (policy, mint) = settings.lightning()?;
    Some(LightningTerms {
        mint: mint.to_owned(),
        unit: unit_name(&Unit::Sat),
        pay_seconds: policy.pay_within.as_secs(),
        late_seconds: policy.late.as_secs(),
    })
}

/// A unit by its name on the wire and in the ledger.
pub(in crate::provider) fn unit_of(name: &str) -> Unit {
    if name == "msat" {
        Unit::Msat
    } else {
        Unit::Sat
    }
}

/// A workload for an invoice.
pub(super) async fn spawn(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    accepted: Accepted,
    order: &Order,
    refund_key: Option<LockKey>,
) -> Result<Handled, Refusal> {
    let policy = policy(ctx)?;
    let cost = price(order.seconds, accepted.tier.rate_msat_per_s).ok_or_else(too_large)?;
    let sold = accepted.tier.sell(cost);
    sold.map_err(|error| refuse::price(error, Msat::ZERO))?;
    may_order(ctx, &ctx.ledger().held(), owner, &accepted, &policy)?;
    let quote = invoice(ctx, cost).await?;
    let mut lease = new_lease(ctx.now(), owner, id, &accepted);
    lease.invoiced = true;
    lease.refund_key = refund_key;
    "room is held until its invoice is paid, or expires".clone_into(&mut lease.why);
    let payment = payment(ctx, &policy, &lease, id, Purpose::Spawn, &quote)?;
    lease.payments.push(payment.id);
    let (name, shared) = (lease.id.clone(), Arc::clone(ctx));
    commit(ctx, move |tx| {
        let held = shared.ledger().held_in(tx)?;
        may_order(&shared, &held, owner, &accepted, &policy)?;
        tx.put(&PAYMENTS, &payment.id.to_hex(), &payment)?;
        put_lease(&shared, tx, &lease, &accepted)?;
        Ok(tell(&shared, tx, &payment)?)
    })
    .await?;
    ctx.outbox.notify_one();
    ctx.changed.notify_one();
    Ok(Handled::Later(name))
}

/// More time for an invoice. One at a time for each lease.
pub(super) async fn topup(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &Topup,
    order: &Order,
) -> Result<Handled, Refusal> {
    let refund_key = validate::refund_key(ask.refund_key.as_ref())?;
    let policy = policy(ctx)?;
    let lease = own_lease(ctx, &owner, &ask.lease)?;
    if !lease.takes_topup() {
        return Err(refuse::no_topup(&lease));
    }
    let cost = price(order.seconds, lease.tier.rate_msat_per_s).ok_or_else(too_large)?;
    fits(&lease, cost, Msat::ZERO, ctx.now())?;
    let open = |lease: &Lease, tx: &Tx| -> Result<(), Stopped> {
        let payments = payments_of(tx, lease)?;
        let unpaid = |payment: &Payment| payment.state == PaymentState::Invoiced;
        if payments.iter().any(unpaid) {
            return Err(refuse::too_many_invoices("for this lease").into());
        }
        Ok(())
    };
    let first = lease.clone();
    commit(ctx, move |tx| open(&first, tx)).await?;
    let quote = invoice(ctx, cost).await?;
    let payment = payment(ctx, &policy, &lease, id, Purpose::Topup, &quote)?;
    let (name, shared, now) = (lease.id, Arc::clone(ctx), ctx.now());
    commit(ctx, move |tx| {
        let Some(mut lease) = tx.get(&LEASES, payment.lease.as_str())? else {
            return Err(Stopped::from(refuse::ended()));
        };
        if !lease.takes_topup() {
            return Err(refuse::no_topup(&lease).into());
        }
        fits(&lease, cost, Msat::ZERO, now)?;
        open(&lease, tx)?;
        lease.payments.push(payment.id);
        lease.refund_key = refund_key.or(lease.refund_key);
        tx.put(&PAYMENTS, &payment.id.to_hex(), &payment)?;
        tx.put(&LEASES, lease.id.as_str(), &lease)?;
        Ok(tell(&shared, tx, &payment)?)
    })
    .await?;
    ctx.outbox.notify_one();
    Ok(Handled::Later(name))
}

fn policy(ctx: &Ctx) -> Result<LightningPolicy, Refusal> {
    let policy = ctx.settings().lightning.clone();
    policy.ok_or_else(refuse::no_lightning)
}

/// Whether there is room, and not too much of it is held by those who have shown
/// no money.
fn may_order(
    ctx: &Ctx,
    held: &[Held],
    owner: PublicKey,
    accepted: &Accepted,
    policy: &LightningPolicy,
) -> Result<(), Refusal> {
    room(ctx, held, owner, &accepted.tier)?;
    let unpaid = held.iter().filter(|held| held.unpaid);
    if unpaid.clone().count() >= policy.unpaid as usize {
        return Err(refuse::too_many_invoices("here"));
    }
    if unpaid.filter(|held| held.owner == owner).count() >= OF_ONE_KEY {
        return Err(refuse::too_many_invoices("of yours"));
    }
    Ok(())
}

/// Asks the preferred mint for an invoice over `cost`, rounded up to the unit.
async fn invoice(ctx: &Ctx, cost: Msat) -> Result<MintQuote, Refusal> {
    let Some((_, mint)) = ctx.settings().lightning() else {
        return Err(refuse::no_lightning());
    };
    let accepted = [mint.to_owned()];
    let amount = Msat::from_sat(cost.sat_ceil()).ok_or_else(too_large)?;
    let mint = MintUrl(mint.to_owned());
    let asking = ctx.parts.wallet.invoice(&mint, &Unit::Sat, amount);
    let quote = tokio::time::timeout(crate::provider::steps::operation(ctx), asking)
        .await
        .unwrap_or_else(|_| Err(WalletError::MintDown("no answer in time".to_owned())))
        .map_err(|error| refuse::no_invoice(&error, &accepted))?;
    if amount_of(&quote.bolt11) != Some(amount) {
        let why = "its invoice is over another amount".to_owned();
        return Err(refuse::no_invoice(&WalletError::Refused(why), &accepted));
    }
    Ok(quote)
}

/// The payment that an invoice will be.
fn payment(
    ctx: &Ctx,
    policy: &LightningPolicy,
    lease: &Lease,
    request: RequestId,
    purpose: Purpose,
    quote: &MintQuote,
) -> Result<Payment, Refusal> {
    let now = ctx.now();
    let ours = now.plus(policy.pay_within);
    let expiry = quote.expires_at.unwrap_or(ours);
    let pay_by = ours.min(expiry);
    if pay_by.secs_since(now) < LEAST {
        let why = "its invoices expire at once".to_owned();
        let accepted = [quote.mint.0.clone()];
        return Err(refuse::no_invoice(&WalletError::Refused(why), &accepted));
    }
    let deadline = pay_by.plus_secs(ON_ITS_WAY);
    Ok(Payment {
        id: quote.payment(),
        owner: lease.owner,
        request,
        lease: lease.id.clone(),
        purpose,
        mint: quote.mint.0.clone(),
        unit: unit_name(&quote.unit),
        face: amount_of(&quote.bolt11).unwrap_or_default(),
        token: String::new(),
        ys: Vec::new(),
        state: PaymentState::Invoiced,
        deadline,
        net: Msat::ZERO,
        fee: Msat::ZERO,
        added_seconds: 0,
        rejection: None,
        hold: None,
        invoice: Some(Invoice {
            quote: quote.id.clone(),
            bolt11: quote.bolt11.clone(),
            issued_at: now,
            pay_by,
            watch_until: deadline.max(expiry).plus(policy.late),
        }),
    })
}

/// Links the request to its payment, and tells its asker what is to be paid.
fn tell(ctx: &Ctx, tx: &Tx, payment: &Payment) -> Result<(), LedgerError> {
    link(tx, payment)?;
    let Some(invoice) = &payment.invoice else {
        return Ok(());
    };
    let Some(row) = tx.get(&REQUESTS, &request_key(&payment.owner, payment.request))? else {
        return Ok(());
    };
    let due = refuse::payment_due(reply::Invoice {
        bolt11: invoice.bolt11.clone(),
        amount_msat: payment.face,
        pay_by: invoice.pay_by,
        mint: payment.mint.clone(),
        unit: payment.unit.clone(),
    });
    let reply = Reply::error(row.id, due);
    let now = ctx.now();
    answers::interim(tx, row, reply, now, now.plus(ctx.settings().timing.answer))
}

fn too_large() -> Refusal {
    refuse::price(PriceError::Overflow, Msat::ZERO)
}
