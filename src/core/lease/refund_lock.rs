//! Refunds whose token is locked to a key of their owner (NUT-11): whoever else
//! sees the token on its way has nothing of it, and after the locktime it can be
//! taken back by us.
//!
//! Such a token is made of a plain one. The plain one is written down with all
//! that the locked one follows from, and only then is it locked, so that a crash
//! or a lost answer in between gives the same token again.

use super::{Lease, RefundState};
use crate::core::money::Msat;
use crate::core::payment::lock::LockTo;
use crate::core::time::Timestamp;

impl Lease {
    /// Notes the plain `token` that a refund's locked token will be made of; its
    /// face is `face`, and it cost `fee` at the mint. The refund stays owed.
    /// `None`, and nothing changed, where it was not owed, or a token is there
    /// already.
    pub fn refund_locking(
        &mut self,
        id: &str,
        token: String,
        face: Msat,
        fee: Msat,
        to: LockTo,
    ) -> Option<()> {
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        if refund.state != RefundState::Owed {
            return None;
        }
        refund.state = RefundState::Locking {
            token,
            face,
            fee,
            to,
        };
        Some(())
    }

    /// Books the locked token of a refund, made `at` some time: its face is
    /// `face`, and locking cost what the plain token had more. `None`, and nothing
    /// changed, where it was not being locked or a number does not fit.
    pub fn refund_locked(
        &mut self,
        id: &str,
        token: String,
        face: Msat,
        at: Timestamp,
    ) -> Option<()> {
        let from = self.locking(id)?;
        let RefundState::Locking {
            face: plain,
            fee,
            to,
            ..
        } = from.clone()
        else {
            return None;
        };
        let fee = fee.checked_add(plain.checked_sub(face)?)?;
        let made = RefundState::Made {
            token,
            face,
            at: Some(at),
            lock: Some(to),
        };
        self.book_at_once(id, from, made, face, fee)
    }

    /// Books the plain token as the refund's, because it cannot be locked, and
    /// that is certain. `None`, and nothing changed, where it was not being locked
    /// or a number does not fit.
    pub fn refund_not_locked(&mut self, id: &str, at: Timestamp) -> Option<()> {
        let from = self.locking(id)?;
        let RefundState::Locking {
            token, face, fee, ..
        } = from.clone()
        else {
            return None;
        };
        let made = RefundState::Made {
            token,
            face,
            at: Some(at),
            lock: None,
        };
        self.book_at_once(id, from, made, face, fee)
    }

    fn locking(&self, id: &str) -> Option<RefundState> {
        let refund = self.refunds.iter().find(|refund| refund.id == id)?;
        Some(refund.state.clone())
    }

    fn book_at_once(
        &mut self,
        id: &str,
        from: RefundState,
        made: RefundState,
        face: Msat,
        fee: Msat,
    ) -> Option<()> {
        let mut after = self.clone();
        after.book_made(id, from, made, face, fee)?;
        *self = after;
        Some(())
    }
}
