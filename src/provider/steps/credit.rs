//! Credit that lies on an owner's leases that are over pays, with the next
//! payment at the same mint, for time.

use crate::core::lease::Lease;
use crate::core::payment::Payment;
use crate::core::time::Timestamp;
use crate::ledger::{ENDED, LedgerError, Tx};

/// Moves what fits to `lease` from those with these keys, in the commit that books
/// the payment. Each is looked at again: they may have changed.
pub(super) fn bring(
    tx: &Tx,
    keys: &[String],
    lease: &mut Lease,
    payment: &Payment,
    now: Timestamp,
) -> Result<(), LedgerError> {
    for key in keys {
        let room = lease.room_for_credit(payment.net, now);
        let Some(mut over) = tx.get(&ENDED, key)?.filter(|_| !room.is_zero()) else {
            continue;
        };
        let purse = (payment.mint.clone(), payment.unit.clone());
        if over.owner != lease.owner {
            continue;
        }
        let Some(taken) = over.take_credit(&purse, room) else {
            continue;
        };
        let fits = lease.bring_credit(&purse, taken).is_some();
        if !fits || !over.balances(now) {
            return Err(LedgerError::Rule(format!(
                "the credit of lease {key} cannot be moved"
            )));
        }
        tracing::info!(from = %over.id, to = %lease.id, %taken, "credit");
        tx.put(&ENDED, key, &over)?;
    }
    Ok(())
}
