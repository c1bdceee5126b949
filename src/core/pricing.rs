//! From a tier and an amount to lease time, and back.

use serde::{Deserialize, Serialize};

use super::capacity::Resources;
use super::ids::Name;
use super::money::Msat;

/// What is for sale, and for how much. Frozen into the lease when it is sold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// Its name in requests and offers.
    pub id: Name,
    /// Its name for people.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What the workload is given.
    pub resources: Resources,
    /// Price in msat per second, at least 1.
    pub rate_msat_per_s: u64,
    /// The shortest time sold at spawn, in seconds, at least 1.
    pub min_seconds: u64,
    /// The longest time that a lease may have ahead of it, in seconds.
    pub max_seconds: u64,
}

/// Why an amount buys nothing on a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Less than the minimum duration.
    #[error("the amount buys {bought_seconds} s, the minimum is {min_seconds} s")]
    UnderMinimum {
        /// What the amount would buy.
        bought_seconds: u64,
        /// What has to be bought.
        min_seconds: u64,
        /// The smallest amount, after mint fees, that is enough.
        needed: Msat,
    },
    /// More than the maximum duration.
    #[error("the amount buys {bought_seconds} s, the maximum is {max_seconds} s")]
    OverMaximum {
        /// What the amount would buy.
        bought_seconds: u64,
        /// What can be bought.
        max_seconds: u64,
        /// The largest amount, after mint fees, that is accepted.
        accepted: Msat,
    },
    /// The numbers do not fit 64 bits.
    #[error("the amount is too large")]
    Overflow,
}

/// Whole seconds that an amount buys, and what is left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purchase {
    /// `floor(net / rate)`.
    pub seconds: u64,
    /// `net - seconds * rate`, below the rate: stays on the lease as credit.
    pub credit: Msat,
}

/// What `net` (after mint fees) buys at `rate_msat_per_s`; `None` for a rate of 0.
pub fn purchase(net: Msat, rate_msat_per_s: u64) -> Option<Purchase> {
    let seconds = net.get().checked_div(rate_msat_per_s)?;
    let credit = Msat::new(net.get() % rate_msat_per_s);
    Some(Purchase { seconds, credit })
}

/// The price of `seconds`, or `None` on overflow.
pub fn price(seconds: u64, rate_msat_per_s: u64) -> Option<Msat> {
    Msat::new(rate_msat_per_s).checked_mul(seconds)
}

impl Tier {
    /// The smallest amount, after mint fees, that a spawn needs.
    pub fn min_price(&self) -> Option<Msat> {
        price(self.min_seconds, self.rate_msat_per_s)
    }

    /// The largest amount, after mint fees, that a spawn accepts: less than
    /// one second over the maximum duration.
    pub fn max_price(&self) -> Option<Msat> {
        price(self.max_seconds, self.rate_msat_per_s)?
            .checked_add(Msat::new(self.rate_msat_per_s.saturating_sub(1)))
    }

    /// What `net` buys as a new lease.
    ///
    /// # Errors
    /// Under the minimum, over the maximum, or numbers that do not fit.
    pub fn sell(&self, net: Msat) -> Result<Purchase, PriceError> {
        let bought = purchase(net, self.rate_msat_per_s).ok_or(PriceError::Overflow)?;
        if bought.seconds < self.min_seconds {
            return Err(PriceError::UnderMinimum {
                bought_seconds: bought.seconds,
                min_seconds: self.min_seconds,
                needed: self.min_price().ok_or(PriceError::Overflow)?,
            });
        }
        if bought.seconds > self.max_seconds {
            return Err(PriceError::OverMaximum {
                bought_seconds: bought.seconds,
                max_seconds: self.max_seconds,
                accepted: self.max_price().ok_or(PriceError::Overflow)?,
            });
        }
        Ok(bought)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tier(rate_msat_per_s: u64, min_seconds: u64, max_seconds: u64) -> Tier {
        Tier {
            id: "small".parse().unwrap(),
            name: String::new(),
            description: String::new(),
            resources: Resources::default(),
            rate_msat_per_s,
            min_seconds,
            max_seconds,
        }
    }

    #[test]
    fn the_bounds_of_a_tier_are_sold_and_one_msat_beyond_is_not() {
        let tier = tier(100, 60, 3600);
        let at = |msat| tier.sell(Msat::new(msat));
        assert_eq!(at(6_000).map(|p| p.seconds), Ok(60));
        assert!(matches!(
            at(5_999),
            Err(PriceError::UnderMinimum { needed, .. }) if needed == Msat::new(6_000)
        ));
        assert_eq!(
            at(360_099),
            Ok(Purchase {
                seconds: 3600,
                credit: Msat::new(99)
            })
        );
        assert!(matches!(
            at(360_100),
            Err(PriceError::OverMaximum { accepted, .. }) if accepted == Msat::new(360_099)
        ));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(purchase(Msat::new(1), 0), None);
        assert_eq!(price(2, u64::MAX), None);
        assert_eq!(
            tier(u64::MAX, 2, 3).sell(Msat::new(1)),
            Err(PriceError::Overflow)
        );
        assert_eq!(tier(0, 1, 2).sell(Msat::new(1)), Err(PriceError::Overflow));
    }

    proptest! {
        #[test]
        fn a_purchase_accounts_for_every_msat(net: u64, rate in 1u64..) {
            let bought = purchase(Msat::new(net), rate).unwrap();
            let back = price(bought.seconds, rate).unwrap().checked_add(bought.credit);
            prop_assert_eq!(back, Some(Msat::new(net)));
            prop_assert!(bought.credit.get() < rate);
        }
    }
}
