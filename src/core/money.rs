//! Amounts of money, in millisatoshi, with checked arithmetic only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount in millisatoshi (1 sat = 1000 msat), never negative.
///
/// There are no operators: every sum says what happens when it does not fit.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Msat(u64);

/// Millisatoshi in one satoshi.
pub const MSAT_PER_SAT: u64 = 1000;

impl Msat {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `msat` millisatoshi.
    pub const fn new(msat: u64) -> Self {
        Self(msat)
    }

    /// `sat` satoshi, or `None` where that does not fit in 64 bits of msat.
    pub fn from_sat(sat: u64) -> Option<Self> {
        sat.checked_mul(MSAT_PER_SAT).map(Self)
    }

    /// The amount as a plain number of millisatoshi.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole satoshi in this amount, rounded down.
    pub const fn whole_sat(self) -> u64 {
        self.0 / MSAT_PER_SAT
    }

    /// Whole satoshi that cover this amount, rounded up.
    pub const fn sat_ceil(self) -> u64 {
        self.0.div_ceil(MSAT_PER_SAT)
    }

    /// `true` for exactly nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or `None` where `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The difference, or nothing where `other` is larger. For showing and for
    /// clamping, not for booking.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The amount `n` times, or `None` on overflow.
    pub fn checked_mul(self, n: u64) -> Option<Self> {
        self.0.checked_mul(n).map(Self)
    }

    /// The sum of all, or `None` on overflow.
    pub fn checked_sum(amounts: impl IntoIterator<Item = Self>) -> Option<Self> {
        amounts.into_iter().try_fold(Self::ZERO, Self::checked_add)
    }
}

/// `12.5 sat`, `3 sat`, `0 sat`: satoshi with up to three decimals.
impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / MSAT_PER_SAT, self.0 % MSAT_PER_SAT);
        if rest == 0 {
            return write!(f, "{whole} sat");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{whole}.{} sat", decimals.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_do_not_fit_are_none() {
        let most = Msat::new(u64::MAX);
        assert_eq!(most.checked_add(Msat::new(1)), None);
        assert_eq!(Msat::ZERO.checked_sub(Msat::new(1)), None);
        assert_eq!(most.checked_mul(2), None);
        assert_eq!(Msat::from_sat(u64::MAX / 1000 + 1), None);
        assert_eq!(Msat::checked_sum([most, Msat::new(1)]), None);
        assert_eq!(Msat::checked_sum([]), Some(Msat::ZERO));
        assert_eq!(Msat::new(3).saturating_sub(Msat::new(5)), Msat::ZERO);
    }

    #[test]
    fn satoshi_are_rounded_down_or_up_as_the_name_says() {
        for (msat, down, up) in [(0, 0, 0), (1, 0, 1), (1000, 1, 1), (1001, 1, 2)] {
            assert_eq!(Msat::new(msat).whole_sat(), down);
            assert_eq!(Msat::new(msat).sat_ceil(), up);
        }
        assert!(Msat::new(u64::MAX).sat_ceil() > Msat::new(u64::MAX).whole_sat());
    }

    #[test]
    fn amounts_are_shown_in_satoshi() {
        for (msat, text) in [
            (0, "0 sat"),
            (3000, "3 sat"),
            (12_500, "12.5 sat"),
            (1, "0.001 sat"),
            (1010, "1.01 sat"),
        ] {
            assert_eq!(Msat::new(msat).to_string(), text);
        }
    }
}
