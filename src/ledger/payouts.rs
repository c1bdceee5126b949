//! Money that left over Lightning. Kept for ever: it is what was withdrawn.

use std::collections::BTreeMap;

use super::table::Table;
use super::{LedgerError, Reader};
use crate::core::lease::Purse;
use crate::core::money::Msat;
use crate::core::payout::Payout;

/// Payouts, by payment hash.
pub const PAYOUTS: Table<Payout> = Table::new("payouts");

/// What was paid out of one purse so far, and what is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaidOut {
    /// Amounts that arrived.
    pub amount: Msat,
    /// What they cost.
    pub fees: Msat,
    /// What payouts that are not over may take.
    pub leaving: Msat,
}

/// All payouts.
///
/// # Errors
/// A row cannot be read, or the disk.
pub fn payouts(reader: &Reader) -> Result<Vec<Payout>, LedgerError> {
    let rows = reader.all(&PAYOUTS)?.into_iter();
    Ok(rows.map(|(_, payout)| payout).collect())
}

/// The sums, by purse; `None` where one does not fit.
pub fn paid_out(payouts: &[Payout]) -> Option<BTreeMap<Purse, PaidOut>> {
    let mut sums: BTreeMap<Purse, PaidOut> = BTreeMap::new();
    for payout in payouts {
        let sum = sums.entry(payout.purse.clone()).or_default();
        let (amount, fee) = payout.spent();
        sum.amount = sum.amount.checked_add(amount)?;
        sum.fees = sum.fees.checked_add(fee)?;
        if payout.is_open() {
            sum.leaving = sum.leaving.checked_add(payout.most)?;
        }
    }
    Some(sums)
}
