//! What a lease's books ask of our wallet, by mint and unit: what may have to go
//! back, and what is ours.

use super::purses::{split, sum};
use super::{Lease, RefundState};
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

    /// What the wallet has of these leases by their books: what may have to go back,
    /// and what was served, less what we bore. `None` on overflow.
    pub fn known(&self) -> Option<Msat> {
        let all = Msat::checked_sum([self.float()?, self.served])?;
        Some(all.saturating_sub(self.absorbed))
    }

    /// What may have to go back, so that the wallet has to hold it: refunds that
    /// are owed, credit, and time that is not served. `None` on overflow.
    pub fn float(&self) -> Option<Msat> {
        Msat::checked_sum([self.owed, self.credit, self.unserved])
    }
}

impl Lease {
    /// What this lease's books say at `now`, by purse. A refund counts where it is
    /// made, time and credit where they were paid, the oldest served first, and
    /// fees where the last payment was. `None` on overflow.
    pub fn dues(&self, now: Timestamp) -> Option<Vec<(Purse, Dues)>> {
        let mut all = Vec::new();
        for refund in &self.refunds {
            // What is being locked has left the wallet, and is still owed.
            let gone = match refund.state {
                RefundState::Locking { face, fee, .. } => face.checked_add(fee)?,
                _ => Msat::ZERO,
            };
            let dues = Dues {
                owed: refund.still_owed().saturating_sub(gone),
                out: refund.is_out().unwrap_or_default(),
                ..Dues::default()
            };
            all.push((refund.purse(), dues));
        }
        let rate = Msat::new(self.tier.rate_msat_per_s);
        let unserved = rate.checked_mul(self.unserved_seconds(now))?;
        let unserved = unserved.checked_sub(self.gift_left(now)?)?;
        let served = self.served(now)?.checked_sub(self.gift_served(now)?)?;
        let (served, rest) = split(&self.parts()?, served);
        let (unserved, credit) = split(&rest, unserved);
        let bore = &self.purses.bore;
        for part in served {
            all.push((
                part.purse(),
                Dues {
                    served: part.msat,
                    ..Dues::default()
                },
            ));
        }
        for part in unserved {
            all.push((
                part.purse(),
                Dues {
                    unserved: part.msat,
                    ..Dues::default()
                },
            ));
        }
        for part in credit {
            all.push((
                part.purse(),
                Dues {
                    credit: part.msat,
                    ..Dues::default()
                },
            ));
        }
        for part in bore {
            all.push((
                part.purse(),
                Dues {
                    absorbed: part.msat,
                    ..Dues::default()
                },
            ));
        }
        if let Some(purse) = &self.purse {
            let b = &self.money;
            let dues = Dues {
                absorbed: b.absorbed.checked_sub(sum(bore)?)?,
                fees: b.mint_fees.checked_add(b.refund_fees)?,
                ..Dues::default()
            };
            all.push((purse.clone(), dues));
        }
        Some(all)
    }
}
