//! Credit of a lease that is over pays for the next one of the same owner.

use super::{Lease, Phase, Purse};
use crate::core::money::Msat;
use crate::core::time::Timestamp;

impl Lease {
    /// How much credit this lease may be brought beside a payment of `net`: none
    /// where that payment goes back, and never so much that more time would lie
    /// ahead than the tier sells.
    pub fn room_for_credit(&self, net: Msat, now: Timestamp) -> Msat {
        if self.phase != Phase::Reserved && !self.takes_topup() {
            return Msat::ZERO;
        }
        let rate = self.tier.rate_msat_per_s;
        let left = self.unserved_seconds(now);
        let seconds = self.tier.max_seconds.saturating_sub(left);
        // Less than one second over the most.
        let most = Msat::new(
            rate.saturating_mul(seconds)
                .saturating_add(rate.saturating_sub(1)),
        );
        most.saturating_sub(net).saturating_sub(self.money.credit)
    }

    /// Takes up to `most` of the credit that a lease which is over has at `purse`,
    /// to bring it to another one. `None`, and nothing changed, where there is nothing to take.
    pub fn take_credit(&mut self, purse: &Purse, most: Msat) -> Option<Msat> {
        let credits = self.credits().into_iter();
        let there = credits.filter(|(at, _)| at == purse).map(|(_, msat)| msat);
        let taken = Msat::checked_sum(there)?.min(most);
        if !self.has_ended() || taken.is_zero() {
            return None;
        }
        let mut after = self.clone();
        after.lift(purse, taken)?;
        after.money.credit = self.money.credit.checked_sub(taken)?;
        after.money.moved = self.money.moved.checked_add(taken)?;
        *self = after;
        Some(taken)
    }

    /// Brings credit of another lease, which lies at `purse`; the next payment makes time of it. `None`,
    /// and nothing changed, where the sum does not fit.
    pub fn bring_credit(&mut self, purse: &Purse, brought: Msat) -> Option<()> {
        let mut after = self.clone();
        after.money.credit = self.money.credit.checked_add(brought)?;
        after.money.brought = self.money.brought.checked_add(brought)?;
        after.lay(self.parts()?, purse, brought)?;
        *self = after;
        Some(())
    }
}
