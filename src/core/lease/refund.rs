//! Money that goes back: owed, then made into a token once, then delivered as
//! often as it takes, until the mint says that its owner has it. What nobody has
//! taken for a time that the offer tells is taken back, and is credit.
//!
//! ```text
//! Owed --made--> Made --spent by its owner--> Claimed
//!  | \             ^ ^                            ^
//!  |  \-> Locking -+ |                            |
//!  |              | |                            |
//!  |too little    | |nothing was taken           |its owner was faster
//!  v          kept long enough ----> TakingBack -+-- redeemed --> TakenBack
//! Credited
//! ```
//!
//! A token that is locked to its owner's key is made in two steps, by way of
//! `Locking` (`refund_lock`).

use serde::{Deserialize, Serialize};

use super::{Lease, Purse};
use crate::core::money::Msat;
use crate::core::payment::lock::LockTo;
use crate::core::time::Timestamp;

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
    /// A plain token was made, and is being locked to the owner's key. It is
    /// shown to nobody, and the refund is still owed.
    Locking {
        /// The plain token. Money: never shown.
        token: String,
        /// Its face.
        face: Msat,
        /// What making it cost.
        fee: Msat,
        /// To whom it is locked, and how it comes back to us.
        to: LockTo,
    },
    /// A token was made.
    Made {
        /// The token. Money: never shown.
        token: String,
        /// Its face.
        face: Msat,
        /// When it was made. `None` in rows of an older version, which told
        /// nobody how long it keeps a refund: such a one is kept for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
        /// To whom it is locked; `None`: whoever has it has the money.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lock: Option<LockTo>,
    },
    /// The mint says that its token is spent. The token is forgotten.
    Claimed {
        /// The token's face.
        face: Msat,
        /// When that was known.
        at: Timestamp,
    },
    /// Nobody has taken it for long, and our own redemption of its token has
    /// begun, or is about to. Its owner is not shown the token any more.
    TakingBack {
        /// The token. Money: never shown.
        token: String,
        /// Its face.
        face: Msat,
        /// When it was made.
        made: Timestamp,
        /// To whom it is locked, and with which key of ours it comes back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lock: Option<LockTo>,
    },
    /// Redeemed by us. What came of it is in the lease's credit.
    TakenBack {
        /// The token's face.
        face: Msat,
        /// What became credit: the face less what the mint kept.
        net: Msat,
        /// When.
        at: Timestamp,
    },
    /// Too little for a token; it is in the lease's credit.
    Credited,
}

impl std::fmt::Debug for Refund {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            RefundState::Owed => "owed",
            RefundState::Locking { .. } => "locking",
            RefundState::Made { .. } => "made",
            RefundState::Claimed { .. } => "claimed",
            RefundState::TakingBack { .. } => "taking-back",
            RefundState::TakenBack { .. } => "taken-back",
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
    /// Where it is made.
    pub fn purse(&self) -> Purse {
        (self.mint.clone(), self.unit.clone())
    }

    /// What is owed and not yet made.
    pub fn still_owed(&self) -> Msat {
        if self.is_to_be_made() {
            self.owed
        } else {
            Msat::ZERO
        }
    }

    /// Whether its owner's token is not made yet.
    pub fn is_to_be_made(&self) -> bool {
        matches!(self.state, RefundState::Owed | RefundState::Locking { .. })
    }

    /// Face of its token, while that is neither claimed nor taken back: it has
    /// left our wallet and may yet come back to it.
    pub fn is_out(&self) -> Option<Msat> {
        match self.state {
            RefundState::Made { face, .. } | RefundState::TakingBack { face, .. } => Some(face),
            _ => None,
        }
    }

    /// A token of ours that belongs to it, while something may come of that: the
    /// owner's, or the plain one that it is made of.
    pub fn token(&self) -> Option<&str> {
        match &self.state {
            RefundState::Locking { token, .. }
            | RefundState::Made { token, .. }
            | RefundState::TakingBack { token, .. } => Some(token),
            _ => None,
        }
    }

    /// When it may be taken back, if `keep` seconds are what the offer tells: not
    /// before its lock lets us.
    pub fn kept_until(&self, keep: u64) -> Option<Timestamp> {
        match &self.state {
            RefundState::Made { at, lock, .. } => {
                let kept = (*at)?.plus_secs(keep);
                // The second of the locktime is its owner's alone (NUT-11).
                let opens = lock.as_ref().map(|lock| lock.locktime.plus_secs(1));
                Some(opens.map_or(kept, |opens| kept.max(opens)))
            }
            _ => None,
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
        (mint, unit): Purse,
        why: &str,
    ) -> Option<()> {
        if owed.is_zero() {
            return Some(());
        }
        self.money.owed = self.money.owed.checked_add(owed)?;
        let purse = (mint.clone(), unit.clone());
        self.bear(&purse, ours)?;
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
        self.refunds.iter().filter(|refund| refund.is_to_be_made())
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

    /// Books a refund that was made `at` some time: a token of `face`, which cost
    /// `fee` at the mint. `None`, and nothing changed, where the refund is not
    /// owed or a number does not fit.
    pub fn refund_made(
        &mut self,
        id: &str,
        token: String,
        face: Msat,
        fee: Msat,
        at: Timestamp,
    ) -> Option<()> {
        let mut after = self.clone();
        let at = Some(at);
        let made = RefundState::Made {
            token,
            face,
            at,
            lock: None,
        };
        after.book_made(id, RefundState::Owed, made, face, fee)?;
        *self = after;
        Some(())
    }

    /// Books the token of a refund that is in state `from`. Leaves a part of it
    /// where a number does not fit.
    pub(super) fn book_made(
        &mut self,
        id: &str,
        from: RefundState,
        made: RefundState,
        face: Msat,
        fee: Msat,
    ) -> Option<()> {
        let parts = self.parts()?;
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        let owed = refund.owed;
        if refund.state != from {
            return None;
        }
        let purse = refund.purse();
        refund.state = made;
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
        let left = rest.checked_sub(borne)?;
        b.credit = b.credit.checked_add(left)?;
        self.bear(&purse, absorbed)?;
        self.lay(parts, &purse, left)
    }

    /// Books a refund that is too little for a token as credit. `None`, and
    /// nothing changed, where the refund is not owed or a number does not fit.
    pub fn refund_credited(&mut self, id: &str) -> Option<()> {
        let refund = self.refunds.iter().find(|refund| refund.id == id)?;
        if refund.state != RefundState::Owed {
            return None;
        }
        let (msat, purse) = (refund.owed, refund.purse());
        let mut after = self.clone();
        after
            .refunds
            .iter_mut()
            .filter(|refund| refund.id == id)
            .for_each(|refund| {
                refund.state = RefundState::Credited;
            });
        after.money.owed = self.money.owed.checked_sub(msat)?;
        after.money.credit = self.money.credit.checked_add(msat)?;
        after.lay(self.parts()?, &purse, msat)?;
        *self = after;
        Some(())
    }

    /// Notes that its owner has the money of a refund: its token is spent, and is
    /// forgotten. The books stay as they are: it was given back when it was made.
    /// `None`, and nothing changed, where no token is out.
    pub fn refund_claimed(&mut self, id: &str, at: Timestamp) -> Option<()> {
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        let face = refund.is_out()?;
        refund.state = RefundState::Claimed { face, at };
        Some(())
    }

    /// Notes, before it is done, that a token which nobody has taken is redeemed
    /// by us. `None`, and nothing changed, where it is not made, or not `keep`
    /// seconds old at `now`.
    pub fn refund_take_back(&mut self, id: &str, keep: u64, now: Timestamp) -> Option<()> {
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        if refund.kept_until(keep)? > now {
            return None;
        }
        let RefundState::Made {
            token,
            face,
            at,
            lock,
        } = &mut refund.state
        else {
            return None;
        };
        refund.state = RefundState::TakingBack {
            token: std::mem::take(token),
            face: *face,
            made: (*at)?,
            lock: lock.take(),
        };
        Some(())
    }

    /// Notes that nothing came of taking a refund back, and that this is certain:
    /// its token is its owner's as before. `None`, and nothing changed, where it
    /// was not being taken back.
    pub fn refund_left(&mut self, id: &str) -> Option<()> {
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        let RefundState::TakingBack {
            token,
            face,
            made,
            lock,
        } = &mut refund.state
        else {
            return None;
        };
        refund.state = RefundState::Made {
            token: std::mem::take(token),
            face: *face,
            at: Some(*made),
            lock: lock.take(),
        };
        Some(())
    }

    /// Books a refund that was taken back: `net` came into our wallet, the mint
    /// kept `fee`. It is its owner's credit, less that fee, and never ours.
    /// `None`, and nothing changed, where it was not being taken back, or the two
    /// do not make the token's face.
    pub fn refund_taken_back(
        &mut self,
        id: &str,
        net: Msat,
        fee: Msat,
        at: Timestamp,
    ) -> Option<()> {
        let refund = self.refunds.iter().find(|refund| refund.id == id)?;
        let RefundState::TakingBack { face, .. } = refund.state else {
            return None;
        };
        let purse = refund.purse();
        if net.checked_add(fee)? != face {
            return None;
        }
        let refunded = self.money.refunded.checked_sub(face)?;
        let refund_fees = self.money.refund_fees.checked_add(fee)?;
        let mut after = self.clone();
        after
            .refunds
            .iter_mut()
            .filter(|refund| refund.id == id)
            .for_each(|refund| {
                refund.state = RefundState::TakenBack { face, net, at };
            });
        after.money.refunded = refunded;
        after.money.refund_fees = refund_fees;
        after.money.credit = self.money.credit.checked_add(net)?;
        after.lay(self.parts()?, &purse, net)?;
        *self = after;
        Some(())
    }
}
