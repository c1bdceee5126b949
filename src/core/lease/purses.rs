//! At which mint a lease's money lies. What is paid at a mint is served, owed and
//! credited there: the oldest payment is served first, and what is left goes back
//! in one refund for each mint, so that no purse is short while another is rich.

use serde::{Deserialize, Serialize};

use super::{Lease, Purse};
use crate::core::money::Msat;

/// An amount at one mint, in one unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The mint.
    pub mint: String,
    /// The unit.
    pub unit: String,
    /// How much.
    pub msat: Msat,
}

impl Part {
    fn new((mint, unit): Purse, msat: Msat) -> Self {
        Self { mint, unit, msat }
    }

    fn is_at(&self, (mint, unit): &Purse) -> bool {
        self.mint == *mint && self.unit == *unit
    }

    pub(super) fn purse(&self) -> Purse {
        (self.mint.clone(), self.unit.clone())
    }
}

/// Where the money of a lease lies. Empty in rows of an older version, in which
/// all of it counts where the last payment was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purses {
    /// What came for time and credit, in the order in which it came, less what has
    /// gone back or to another lease: served, unserved and credit together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part>,
    /// Where the provider bore fees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) bore: Vec<Part>,
}

impl Purses {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All of it at one purse, for a lease that is made anew.
    pub fn at(purse: Purse, msat: Msat) -> Self {
        Self {
            parts: vec![Part::new(purse, msat)],
            bore: Vec::new(),
        }
    }
}

/// Adds to the last part where that is of the same purse.
pub(super) fn add(parts: &mut Vec<Part>, purse: &Purse, msat: Msat) -> Option<()> {
    if msat.is_zero() {
        return Some(());
    }
    match parts.last_mut().filter(|last| last.is_at(purse)) {
        Some(last) => last.msat = last.msat.checked_add(msat)?,
        None => parts.push(Part::new(purse.clone(), msat)),
    }
    Some(())
}

/// The first `msat` of the parts, and the rest.
pub(super) fn split(parts: &[Part], msat: Msat) -> (Vec<Part>, Vec<Part>) {
    let (mut left, mut first, mut rest) = (msat, Vec::new(), Vec::new());
    for part in parts {
        let now = part.msat.min(left);
        left = left.saturating_sub(now);
        for (list, msat) in [
            (&mut first, now),
            (&mut rest, part.msat.saturating_sub(now)),
        ] {
            if !msat.is_zero() {
                list.push(Part::new(part.purse(), msat));
            }
        }
    }
    (first, rest)
}

/// One part for each purse, in the order in which they come first.
pub(super) fn merged(parts: &[Part]) -> Option<Vec<Part>> {
    let mut all: Vec<Part> = Vec::new();
    for part in parts {
        match all.iter_mut().find(|known| known.is_at(&part.purse())) {
            Some(known) => known.msat = known.msat.checked_add(part.msat)?,
            None => all.push(part.clone()),
        }
    }
    Some(all)
}

pub(super) fn sum(parts: &[Part]) -> Option<Msat> {
    Msat::checked_sum(parts.iter().map(|part| part.msat))
}

impl Lease {
    /// What the books hold in money for time and credit.
    fn held(&self) -> Option<Msat> {
        let all = self.unspent()?.checked_add(self.money.credit)?;
        all.checked_sub(self.gift_kept()?)
    }

    /// What the books hold for time and credit, by where it lies.
    pub(super) fn parts(&self) -> Option<Vec<Part>> {
        if !self.purses.parts.is_empty() {
            return Some(self.purses.parts.clone());
        }
        let all = self.held()?;
        let purse = self.purse.clone().filter(|_| !all.is_zero());
        Some(
            purse
                .map(|purse| Part::new(purse, all))
                .into_iter()
                .collect(),
        )
    }

    /// Whether the parts are what the books hold.
    pub(super) fn parts_fit(&self) -> bool {
        self.purses.parts.is_empty() || sum(&self.purses.parts) == self.held()
    }

    /// Adds money to the books' `parts`, as they were before anything of it was
    /// booked.
    pub(super) fn lay(&mut self, mut parts: Vec<Part>, at: &Purse, msat: Msat) -> Option<()> {
        add(&mut parts, at, msat)?;
        self.purses.parts = parts;
        Some(())
    }

    /// Notes that we bear `msat` of a fee there.
    pub(super) fn bear(&mut self, at: &Purse, msat: Msat) -> Option<()> {
        self.money.absorbed = self.money.absorbed.checked_add(msat)?;
        add(&mut self.purses.bore, at, msat)
    }

    /// The credit, by where it lies: the newest of the money.
    pub fn credits(&self) -> Vec<(Purse, Msat)> {
        let credit = self.money.credit;
        if credit.is_zero() {
            return Vec::new();
        }
        if self.purses.parts.is_empty() {
            let purse = self.purse.clone();
            return purse.map(|purse| (purse, credit)).into_iter().collect();
        }
        let time = self.held().unwrap_or_default().saturating_sub(credit);
        let (_, rest) = split(&self.purses.parts, time);
        let rest = merged(&rest).unwrap_or_default().into_iter();
        rest.map(|part| (part.purse(), part.msat)).collect()
    }

    /// Takes `msat` of what lies there, the newest first. `None` where it is less.
    pub(super) fn lift(&mut self, at: &Purse, msat: Msat) -> Option<()> {
        let (mut parts, mut left) = (self.parts()?, msat);
        for part in parts.iter_mut().rev().filter(|part| part.is_at(at)) {
            let now = part.msat.min(left);
            part.msat = part.msat.checked_sub(now)?;
            left = left.checked_sub(now)?;
        }
        parts.retain(|part| !part.msat.is_zero());
        self.purses.parts = parts;
        left.is_zero().then_some(())
    }
}
