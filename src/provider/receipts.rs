//! Receipts of our leases: made from the ledger, signed with our key, and put
//! beside what tells that a lease is over.

use super::ctx::Ctx;
use crate::core::ids::LeaseId;
use crate::core::lease::Lease;
use crate::core::payment::Payment;
use crate::core::receipt::Receipt;
use crate::ledger::{LedgerError, Tx, all_payments_of, find_lease};
use crate::protocol::error::Money;
use crate::protocol::receipt::SignedReceipt;
use crate::protocol::reply::{Answer, Message, Outcome};
use crate::relay::receipt::sign;
use crate::relay::wrap;

/// The account of a lease as of now. `None` where there is none: the clock was
/// set so that its times contradict its books, and we sign nothing that is false.
pub(super) fn receipt(
    ctx: &Ctx,
    lease: &Lease,
    payments: &[Payment],
) -> Option<Box<SignedReceipt>> {
    let now = ctx.now();
    let account = Receipt::of(ctx.me(), lease, payments, now);
    let Some(account) = account else {
        tracing::error!(lease = %lease.id, "no receipt: a number does not fit");
        return None;
    };
    match sign(&ctx.parts.keys, &account, now) {
        Ok(signed) => Some(Box::new(signed)),
        Err(error) => {
            tracing::error!(lease = %lease.id, %error, "no receipt");
            None
        }
    }
}

/// The same for a lease as the ledger has it, running or over.
pub(super) fn current(ctx: &Ctx, id: &LeaseId) -> Result<Option<Box<SignedReceipt>>, LedgerError> {
    // Both at one look, so that the sums are those of the payments.
    let found = ctx.ledger().read(|reader| {
        let Some(lease) = find_lease(reader, id)? else {
            return Ok(None);
        };
        let payments = all_payments_of(reader, &lease)?;
        Ok(Some((lease, payments)))
    })?;
    Ok(found.and_then(|(lease, payments)| receipt(ctx, &lease, &payments)))
}

/// Puts the receipt into an answer that ends a lease or says that one has ended,
/// where there is room for it: a refund's token goes first.
///
/// # Errors
/// A payment's row cannot be read.
pub(super) fn enclose(
    ctx: &Ctx,
    tx: &Tx,
    lease: &Lease,
    message: &mut Message,
) -> Result<(), LedgerError> {
    let Some(empty) = place(message) else {
        return Ok(());
    };
    *empty = receipt(ctx, lease, &all_payments_of(tx, lease)?);
    let text = serde_json::to_string(message).unwrap_or_default();
    if !wrap::fits(&ctx.parts.keys, &lease.owner, &text)
        && let Some(full) = place(message)
    {
        *full = None;
    }
    Ok(())
}

/// Where a message has room for a receipt, if it does.
fn place(message: &mut Message) -> Option<&mut Option<Box<SignedReceipt>>> {
    match message {
        Message::Notice(notice) => Some(&mut notice.receipt),
        Message::Reply(reply) => match &mut reply.outcome {
            Outcome::Error(error) if error.money == Money::Taken => Some(&mut error.receipt),
            Outcome::Error(_) => None,
            Outcome::Result(answer) => match &mut **answer {
                Answer::Stop(stop) => Some(&mut stop.receipt),
                _ => None,
            },
        },
    }
}
