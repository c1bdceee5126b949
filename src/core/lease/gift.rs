//! Time from the provider's pool. It is served before what was paid for, so that
//! who leaves early has back what was paid; what of it is not served goes back to
//! the pool, and is never anybody's money.

use super::{Lease, Phase};
use crate::core::money::Msat;
use crate::core::pool::Gift;
use crate::core::time::Timestamp;

impl Lease {
    /// Takes a gift in place of a payment.
    pub(super) fn given(&mut self, gift: Gift, deadline: Timestamp) -> Option<()> {
        let rate = Msat::new(self.tier.rate_msat_per_s);
        let price = rate.checked_mul(gift.seconds)?;
        if self.gift.is_some() || price.is_zero() {
            return None;
        }
        self.gift = Some(gift);
        self.money.given = self.money.given.checked_add(price)?;
        self.waiting_seconds = self.waiting_seconds.checked_add(gift.seconds)?;
        self.sold_seconds = self.sold_seconds.checked_add(gift.seconds)?;
        self.turn(Phase::Provisioning { deadline }, "given, being started");
        Some(())
    }

    /// Price of what was served of the gift until `now`.
    pub fn gift_served(&self, now: Timestamp) -> Option<Msat> {
        Some(self.money.given.min(self.served(now)?))
    }

    /// Price of what is left of the gift at `now`, and may yet be served.
    pub fn gift_left(&self, now: Timestamp) -> Option<Msat> {
        self.gift_kept()?.checked_sub(self.gift_served(now)?)
    }

    /// Price of what of the gift was served, or may yet be.
    pub(super) fn gift_kept(&self) -> Option<Msat> {
        self.money.given.checked_sub(self.money.returned)
    }

    /// Price of what was served for money, once that is booked.
    pub fn paid_served(&self) -> Msat {
        self.money.served.saturating_sub(self.money.given)
    }
}
