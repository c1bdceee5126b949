//! What the simulated provider asks of the core, and the mutants: each forgets
//! one rule at that boundary, and the oracle has to notice.

use satlet::core::ids::LeaseId;
use satlet::core::lease::{Event, Lease, Misstep, Pace, Phase, Plan, RefundState, Step};
use satlet::core::money::Msat;
use satlet::core::payment::{Learnt, Payment, PaymentState, Rejection};
use satlet::core::time::Timestamp;

use super::disk::Disk;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $mutant:ident = $name:literal,)+) => {
        /// A rule that is forgotten.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mutant {
            $($(#[doc = $doc])+ $mutant,)+
        }

        /// All mutants, each with its name and what it does.
        pub(crate) const MUTANTS: &[(Mutant, &str, &str)] =
            &[$((Mutant::$mutant, $name, concat!($($doc),+)),)+];
    };
}

mutants! {
    /// After a lost answer the token is redeemed again.
    RedeemAgain = "redeem-again",
    /// A lost answer counts as "nothing was taken".
    LostIsRejected = "lost-is-rejected",
    /// `redeem` is called before the payment is noted as being redeemed.
    RedeemUnnoted = "redeem-unnoted",
    /// A payment whose room is given up is closed, though nobody knows what became of it.
    GiveUpCloses = "give-up-closes",
    /// What is left over of a purchase is forgotten.
    DropCredit = "drop-credit",
    /// The mint's fee is not counted.
    IgnoreMintFee = "ignore-mint-fee",
    /// A top-up of a running lease counts from now, and what was left is lost.
    TopupFromNow = "topup-from-now",
    /// An early stop pays back the time that was served too.
    RefundServed = "refund-served",
    /// The fee of what could not be given is not paid back.
    ForgetOurFee = "forget-our-fee",
    /// A refund is booked twice.
    BookTwice = "book-twice",
    /// A refund's token is made before the refund is owed on disk.
    RefundUnowed = "refund-unowed",
    /// A refund of their choice is made as if it were our fault.
    RefundGross = "refund-gross",
    /// A refund of our fault is made less the fee.
    RefundNet = "refund-net",
    /// A refund that is too little for a token is dropped.
    DropSmall = "drop-small",
    /// Refunds are never made.
    KeepRefund = "keep-refund",
    /// A top-up is taken for a lease that is at its end.
    TopupEnding = "topup-ending",
    /// A proof may belong to two payments.
    ShareProofs = "share-proofs",
    /// Time is served before the workload is up.
    ServeBeforeUp = "serve-before-up",
    /// A lease goes on though its workload is gone.
    KeepGone = "keep-gone",
    /// The end of a lease is booked before its workload is removed.
    EndUndestroyed = "end-undestroyed",
    /// An answer is replaced by a later one.
    AnswerAgain = "answer-again",
    /// A refund is taken back before that is on disk.
    TakeUnnoted = "take-unnoted",
    /// A refund that is taken back is ours.
    EarnRefund = "earn-refund",
    /// Money that comes when the lease has ended is on no books.
    ForgetLate = "forget-late",
    /// What of a gift was not served does not come back to the pool.
    GiftKept = "gift-not-returned",
    /// What of a gift was not served is refunded as if it had been paid.
    GiftRefunded = "gift-refunded-as-money",
    /// A gift is promised, and the pool has as much as before.
    GiftUndebited = "gift-undebited",
    /// The pool is debited in one commit and the lease is made in the next.
    GiftApart = "gift-apart",
}

/// The core, whole or with a rule forgotten.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules(pub(super) Option<Mutant>);

impl Rules {
    pub(super) fn is(self, mutant: Mutant) -> bool {
        self.0 == Some(mutant)
    }

    pub(super) fn plan(
        self,
        lease: &Lease,
        payments: &[Payment],
        pace: &Pace,
        now: u64,
        waits: impl Fn(&Step) -> bool,
    ) -> Plan {
        let keeps = self.is(Mutant::KeepRefund);
        Plan::beside(lease, payments, pace, at(now), |step| {
            waits(step) || (keeps && matches!(step, Step::MakeRefund(_)))
        })
    }

    pub(super) fn takes_topup(self, lease: &Lease) -> bool {
        lease.takes_topup() || (self.is(Mutant::TopupEnding) && lease.phase == Phase::Ending)
    }

    /// Whether another payment has a claim on a proof of this one, or the proof is
    /// being taken back.
    pub(super) fn is_held(self, disk: &Disk, payment: &Payment) -> bool {
        let held = |y: &String| {
            let holder = disk.proofs.get(y);
            disk.taking.contains(y) || holder.is_some_and(|id| disk.still_held(id))
        };
        !self.is(Mutant::ShareProofs) && payment.ys.iter().any(held)
    }

    /// What it means that an answer of `redeem` was lost.
    pub(super) fn lost(self) -> Learnt {
        if self.is(Mutant::LostIsRejected) {
            return Learnt::NotTaken(Rejection::CutOff);
        }
        Learnt::Lost
    }

    /// Payments after their room was given up.
    pub(super) fn given_up(self, payments: &mut [Payment], lease: &LeaseId) {
        for payment in payments.iter_mut().filter(|p| p.lease == *lease) {
            if self.is(Mutant::GiveUpCloses) && payment.is_open() {
                payment.state = PaymentState::Rejected;
                payment.rejection = Some(Rejection::Late);
            }
        }
    }

    pub(super) fn on(self, lease: &mut Lease, event: Event, now: u64) -> Result<(), Misstep> {
        match (event, self.0) {
            (Event::StopBegun, Some(Mutant::RefundServed)) => {
                let from = lease.started_at.unwrap_or(at(now));
                lease.on(Event::StopBegun, from)
            }
            (Event::StopBegun, Some(Mutant::GiftRefunded)) => {
                let given = std::mem::take(&mut lease.money.given);
                lease.money.paid = lease.money.paid.checked_add(given).unwrap_or(given);
                let purse = || ("0".to_owned(), "sat".to_owned());
                lease.purse.get_or_insert_with(purse);
                lease.on(Event::StopBegun, at(now))
            }
            (event @ Event::Failed(_), Some(Mutant::ForgetOurFee)) => {
                lease.waiting_fees = Msat::ZERO;
                lease.on(event, at(now))
            }
            (Event::Gone, Some(Mutant::KeepGone)) => {
                lease.on(Event::Looked("seen".to_owned()), at(now))
            }
            (event, _) => lease.on(event, at(now)),
        }
    }

    /// Books money that was redeemed. `false` where it is forgotten.
    pub(super) fn paid(self, lease: &mut Lease, event: Event, now: u64) -> Result<bool, Misstep> {
        let event = match (event, self.0) {
            (_, Some(Mutant::ForgetLate)) if ended(lease.phase) => return Ok(false),
            (
                Event::Paid {
                    face,
                    patience,
                    mint,
                    unit,
                    ..
                },
                Some(Mutant::IgnoreMintFee),
            ) => Event::Paid {
                face,
                fee: Msat::ZERO,
                patience,
                mint,
                unit,
            },
            (event, _) => event,
        };
        let was = lease.clone();
        lease.on(event, at(now))?;
        if self.is(Mutant::DropCredit) {
            lease.money.credit = Msat::ZERO;
        }
        if self.is(Mutant::TopupFromNow) && was.phase == Phase::Active && !lease.refunds_grew(&was)
        {
            let bought = lease.sold_seconds - was.sold_seconds;
            lease.expires_at = Some(at(now).plus_secs(bought));
        }
        Ok(true)
    }

    /// Whether a refund bears its own cost.
    pub(super) fn is_our_fault(self, our_fault: bool) -> bool {
        match self.0 {
            Some(Mutant::RefundGross) => true,
            Some(Mutant::RefundNet) => false,
            _ => our_fault,
        }
    }

    pub(super) fn made(
        self,
        lease: &mut Lease,
        id: &str,
        token: String,
        face: u64,
        fee: u64,
        now: u64,
    ) -> Option<()> {
        let (face, fee) = (Msat::new(face), Msat::new(fee));
        lease.refund_made(id, token.clone(), face, fee, at(now))?;
        if self.is(Mutant::BookTwice) {
            let refund = lease.refunds.iter_mut().find(|refund| refund.id == id)?;
            refund.state = RefundState::Owed;
            let owed = refund.owed;
            lease.money.owed = lease.money.owed.checked_add(owed)?;
            lease.money.absorbed = lease.money.absorbed.checked_add(owed)?;
            lease.refund_made(id, token, face, fee, at(now))?;
        }
        Some(())
    }

    pub(super) fn credited(self, lease: &mut Lease, id: &str) -> Option<()> {
        let credit = lease.money.credit;
        lease.refund_credited(id)?;
        if self.is(Mutant::DropSmall) {
            lease.money.credit = credit;
        }
        Some(())
    }
}

fn ended(phase: Phase) -> bool {
    matches!(phase, Phase::Ending | Phase::Ended { .. })
}

/// Whether money was owed back.
trait Grew {
    fn refunds_grew(&self, before: &Self) -> bool;
}

impl Grew for Lease {
    fn refunds_grew(&self, before: &Self) -> bool {
        self.refunds.len() > before.refunds.len()
    }
}

/// An instant of the wall clock.
pub(super) fn at(now: u64) -> Timestamp {
    Timestamp::from_secs(now)
}
