//! What a lease's books ask of our wallet, by mint and unit: what may have to go
//! back, and what is ours.

use super::Lease;
use crate::core::money::Msat;
use crate::core::time::Timestamp;

/// Where money lies: mint and unit.
pub type Purse = (String, String);

/// What the books of leases say of one purse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dues {
    /// Refunds that are owed and not yet made.
    pub owed: Msat,
    /// Face of refund tokens that are made and neither claimed nor taken back.
    /// They have left the wallet.
    pub out: Msat,
    /// The owners' credit.
    pub credit: Msat,
    /// Price of the time that is paid and not served. What is left of a gift is
    /// owed to nobody, and not in it.
    pub unserved: Msat,
    /// Price of the time that was served for money: a gift was earned before.
    pub served: Msat,
    /// What we bore of all fees.
    pub absorbed: Msat,
    /// What mints kept: of payments, for making refunds and for taking them back.
    pub fees: Msat,
}

impl Dues {
    /// The sum, or `None` on overflow.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        Some(Self {
            owed: self.owed.checked_add(other.owed)?,
            out: self.out.checked_add(other.out)?,
            credit: self.credit.checked_add(other.credit)?,
            unserved: self.unserved.checked_add(other.unserved)?,
            served: self.served.checked_add(other.served)?,
            absorbed: self.absorbed.checked_add(other.absorbed)?,
            fees: self.fees.checked_add(other.fees)?,
        })
    }

    /// What may have to go back, so that the wallet has to hold it: refunds that
    /// are owed, credit, and time that is not served. `None` on overflow.
    pub fn float(&self) -> Option<Msat> {
        Msat::checked_sum([self.owed, self.credit, self.unserved])
    }
}

impl Lease {
    /// What this lease's books say at `now`, by purse. A refund counts where it is
    /// made; everything else where the last payment was, which is where a refund
    /// of it would be made. `None` on overflow.
    pub fn dues(&self, now: Timestamp) -> Option<Vec<(Purse, Dues)>> {
        let mut all = Vec::new();
        for refund in &self.refunds {
            let dues = Dues {
                owed: refund.still_owed(),
                out: refund.is_out().unwrap_or_default(),
                ..Dues::default()
            };
            all.push(((refund.mint.clone(), refund.unit.clone()), dues));
        }
        if let Some(purse) = &self.purse {
            let rate = Msat::new(self.tier.rate_msat_per_s);
            let b = &self.money;
            let unserved = rate.checked_mul(self.unserved_seconds(now))?;
            let dues = Dues {
                credit: b.credit,
                unserved: unserved.saturating_sub(self.gift_left(now)?),
                served: self.served(now)?.checked_sub(self.gift_served(now)?)?,
                absorbed: b.absorbed,
                fees: b.mint_fees.checked_add(b.refund_fees)?,
                ..Dues::default()
            };
            all.push((purse.clone(), dues));
        }
        Some(all)
    }
}
