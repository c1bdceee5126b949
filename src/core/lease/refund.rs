//! Money that goes back: owed, then made into a token once, then delivered as
//! often as it takes.

use serde::{Deserialize, Serialize};

use super::Lease;
use crate::core::money::Msat;

/// Money that goes back to the owner of a lease.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Unique: the lease id and a number.
    pub id: String,
    /// What is owed, before the cost of making it.
    pub owed: Msat,
    /// Our fault: we bear what making it costs.
    pub our_fault: bool,
    /// The mint where it is made.
    pub mint: String,
    /// Its unit.
    pub unit: String,
    /// Why: one sentence.
    pub why: String,
    /// Where it stands.
    pub state: RefundState,
}

/// Where a refund stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RefundState {
    /// To be made.
    Owed,
    /// A token was made.
    Made {
        /// The token. Money: never shown.
        token: String,
        /// Its face.
        face: Msat,
    },
    /// Too little for a token; it is in the lease's credit.
    Credited,
}

impl std::fmt::Debug for Refund {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            RefundState::Owed => "owed",
            RefundState::Made { .. } => "made",
            RefundState::Credited => "credited",
        };
        f.debug_struct("Refund")
            .field("id", &self.id)
            .field("owed", &self.owed)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

impl Refund {
    /// What is owed and not yet made.
    pub fn still_owed(&self) -> Msat {
        if self.state == RefundState::Owed {
            self.owed
        } else {
            Msat::ZERO
        }
    }
}

impl Lease {
    /// Owes `owed`, of which `ours` is not the consumer's money but a fee that
    /// we bear.
    pub(super) fn owe(
        &mut self,
        owed: Msat,
        ours: Msat,
        our_fault: bool,
        (mint, unit): (String, String),
        why: &str,
    ) -> Option<()> {
        if owed.is_zero() {
            return Some(());
        }
        self.money.owed = self.money.owed.checked_add(owed)?;
        self.money.absorbed = self.money.absorbed.checked_add(ours)?;
        let id = format!("{}-{}", self.id, self.refunds.len().checked_add(1)?);
        let why = why.to_owned();
        let state = RefundState::Owed;
        self.refunds.push(Refund {
            id,
            owed,
            our_fault,
            mint,
            unit,
            why,
            state,
        });
        Some(())
    }

    /// The first refund that is to be made.
    pub fn refund_to_make(&self) -> Option<&Refund> {
        self.refunds_to_make().next()
    }

    /// All refunds that are to be made.
    pub fn refunds_to_make(&self) -> impl Iterator<Item = &Refund> {
        let owed = |refund: &&Refund| refund.state == RefundState::Owed;
        self.refunds.iter().filter(owed)
    }

    /// Divides a refund that is owed, so that `part` of it can be made now and
    /// the rest later. `None`, and nothing changed, where that is no part of it.
    pub fn refund_split(&mut self, id: &str, part: Msat) -> Option<()> {
        let number = self.refunds.len().checked_add(1)?;
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        let rest = refund.owed.checked_sub(part)?;
        if refund.state != RefundState::Owed || part.is_zero() || rest.is_zero() {
            return None;
        }
        refund.owed = part;
        let later = Refund {
            id: format!("{}-{number}", self.id),
            owed: rest,
            ..refund.clone()
        };
        self.refunds.push(later);
        Some(())
    }

    /// Books a refund that was made: a token of `face`, which cost `fee` at the
    /// mint. `None`, and nothing changed, where the refund is not owed or a number
    /// does not fit.
    pub fn refund_made(&mut self, id: &str, token: String, face: Msat, fee: Msat) -> Option<()> {
        let mut after = self.clone();
        after.book_made(id, token, face, fee)?;
        *self = after;
        Some(())
    }

    fn book_made(&mut self, id: &str, token: String, face: Msat, fee: Msat) -> Option<()> {
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        let owed = refund.owed;
        if refund.state != RefundState::Owed {
            return None;
        }
        refund.state = RefundState::Made { token, face };
        let rest = owed.saturating_sub(face);
        let borne = if refund.our_fault {
            Msat::ZERO
        } else {
            fee.min(rest)
        };
        let absorbed = Msat::checked_sum([fee.checked_sub(borne)?, face.saturating_sub(owed)])?;
        let b = &mut self.money;
        b.owed = b.owed.checked_sub(owed)?;
        b.refunded = b.refunded.checked_add(face)?;
        b.refund_fees = b.refund_fees.checked_add(fee)?;
        b.absorbed = b.absorbed.checked_add(absorbed)?;
        b.credit = b.credit.checked_add(rest.checked_sub(borne)?)?;
        Some(())
    }

    /// Books a refund that is too little for a token as credit. `None`, and
    /// nothing changed, where the refund is not owed or a number does not fit.
    pub fn refund_credited(&mut self, id: &str) -> Option<()> {
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        if refund.state != RefundState::Owed {
            return None;
        }
        let owed = self.money.owed.checked_sub(refund.owed)?;
        let credit = self.money.credit.checked_add(refund.owed)?;
        refund.state = RefundState::Credited;
        self.money.owed = owed;
        self.money.credit = credit;
        Some(())
    }
}
