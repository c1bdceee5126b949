//! The end of a hold: nobody gave the preimage.

use std::sync::Arc;

use super::{Taken, change};
use crate::core::ids::PaymentId;
use crate::core::lease::{Event, Lease, Phase};
use crate::core::payment::{Learnt, PaymentState, Rejection};
use crate::core::time::Timestamp;
use crate::ledger::{LedgerError, PAYMENTS, Tx};
use crate::provider::ctx::Ctx;

/// Frees the room of a hold whose time is over, unless it was claimed a moment ago.
pub(super) async fn end(
    ctx: &Arc<Ctx>,
    lease: &Lease,
    id: PaymentId,
) -> Result<Taken, LedgerError> {
    let now = ctx.now();
    change(ctx, &lease.id, move |tx, lease| {
        drop_hold(tx, lease, id, now).map(drop)
    })
    .await?;
    Ok(Taken::Done)
}

/// Ends a hold with nothing taken. `false`, and nothing changed, where the payment
/// is not held any more.
pub(in crate::provider) fn drop_hold(
    tx: &Tx,
    lease: &mut Lease,
    id: PaymentId,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    let key = id.to_hex();
    let row = tx.get(&PAYMENTS, &key)?;
    let Some(payment) = row.filter(|row| row.state == PaymentState::Held) else {
        return Ok(false);
    };
    let mut payment = payment.learn(Learnt::NotTaken(Rejection::HoldOver))?;
    if lease.phase == Phase::Reserved {
        let why = "it was held, and not claimed".to_owned();
        lease.on(Event::NotPaid(why), now)?;
    }
    payment.forget_token();
    tx.put(&PAYMENTS, &key, &payment)?;
    Ok(true)
}
