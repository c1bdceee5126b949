//! A lease: from the moment its room is held to its end. Pure: [`Plan`] says
//! what is to be done, the provider does it and tells with [`Lease::on`] what
//! came of it, and both are the same after a restart.
//!
//! ```text
//! Reserved --paid--> Provisioning --up--> Active --time over--> Expiring --stopped--> Grace
//!    |                   |                  |  ^                                       | |
//!    |not paid           |failed            |  +---- up ---- Reviving <----- paid -----+ |
//!    v                   v                  v                                            v
//!  Ended <----------------------- Ending (destroy) <---- stop asked, lost, grace over ---+
//! ```

use serde::{Deserialize, Serialize};

use super::ids::{LeaseId, PaymentId, PublicKey, RequestId};
use super::money::Msat;
use super::payment::lock::LockKey;
use super::pool::Gift;
use super::pricing::{Tier, purchase};
use super::time::Timestamp;

mod credit;
mod dues;
mod gift;
mod next;
mod purses;
mod refund;
mod refund_lock;
#[cfg(test)]
mod tests;

pub use dues::{Dues, Purse};
pub use next::{Pace, Plan, Step};
pub use purses::{Part, Purses};
pub use refund::{Refund, RefundState};

/// Where a lease stands. Every state that waits for something has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    /// Room is held, the payment is under way; the payment has the deadline.
    Reserved,
    /// Paid; the workload is being made.
    Provisioning {
        /// Given up, and paid back, after this.
        deadline: Timestamp,
    },
    /// The workload is there and its time runs, until `expires_at`.
    Active,
    /// The time is over; the workload is being stopped.
    Expiring,
    /// Stopped; a top-up revives it.
    Grace {
        /// Destroyed after this.
        destroy_at: Timestamp,
    },
    /// Paid again; the workload is being started.
    Reviving {
        /// Given up, and paid back, after this.
        deadline: Timestamp,
    },
    /// Being destroyed; tried again until it is.
    Ending,
    /// Over. Nothing runs, nothing is held.
    Ended {
        /// Since when.
        at: Timestamp,
    },
}

/// Why a lease ends, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndCause {
    /// Nothing was paid after all.
    NotPaid,
    /// It could not be brought up.
    ProvisioningFailed,
    /// Its owner stopped it.
    Stopped,
    /// Its time and its grace are over.
    Expired,
    /// The workload is gone, and not because we destroyed it.
    Lost,
}

/// A lease, with its books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Whose it is.
    pub owner: PublicKey,
    /// The spawn that made it.
    pub request: RequestId,
    /// What was sold, price included, as it was at sale.
    pub tier: Tier,
    /// The image, as it was asked for.
    pub image: String,
    /// SSH keys that open it: type and base64, without comment.
    pub ssh_keys: Vec<String>,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// Why it stands so: one sentence.
    pub why: String,
    /// Why it ends, once it does.
    pub cause: Option<EndCause>,
    /// When it was reserved.
    pub created_at: Timestamp,
    /// When access first worked.
    pub started_at: Option<Timestamp>,
    /// When its time is over; the same instant through a restart.
    pub expires_at: Option<Timestamp>,
    /// Seconds sold and not yet on the clock, while it is being brought up.
    pub waiting_seconds: u64,
    /// Mint fees of the payments for `waiting_seconds`.
    pub waiting_fees: Msat,
    /// Seconds sold in all.
    pub sold_seconds: u64,
    /// The books.
    pub money: Books,
    /// Mint and unit of the last payment.
    pub purse: Option<Purse>,
    /// Where its money lies.
    #[serde(default, skip_serializing_if = "Purses::is_empty")]
    pub purses: Purses,
    /// Payments of which something may still come, or whose request waits for its
    /// answer, the first one first.
    pub payments: Vec<PaymentId>,
    /// How many were taken for it besides, and are done with. The ledger keeps
    /// them in a table of their own, so that a change of a lease that was paid a
    /// thousand times reads and writes as much as that of any other.
    #[serde(default, skip_serializing_if = "none")]
    pub payments_done: u64,
    /// Money that goes back.
    pub refunds: Vec<Refund>,
    /// The owner's key that tokens of refunds are locked to; `None`: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_key: Option<LockKey>,
    /// Time from the provider's pool, if that is what it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gift: Option<Gift>,
    /// Lead times in seconds for which the owner was warned.
    pub warned: Vec<u64>,
    /// The stop that its owner asked for.
    pub stop_request: Option<RequestId>,
    /// When the workload was last looked at.
    pub looked_at: Timestamp,
    /// Whether its first payment is an invoice: while its room is held for that,
    /// nobody has shown any money.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invoiced: bool,
}

/// The books of one lease. At every commit
/// `paid + brought + absorbed + given = mint_fees + served + unserved + owed + refunded + refund_fees + credit + moved + returned`,
/// where `unserved` follows from the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Face of all tokens redeemed.
    pub paid: Msat,
    /// What mints kept of them.
    pub mint_fees: Msat,
    /// Price of the time that was served, booked at the end.
    pub served: Msat,
    /// Refunds that are owed and not yet made.
    pub owed: Msat,
    /// Face of the refund tokens made, but for those that were taken back.
    pub refunded: Msat,
    /// What making them cost, and taking them back.
    pub refund_fees: Msat,
    /// What the provider bore of all fees, and rounding in the consumer's favour.
    pub absorbed: Msat,
    /// The owner's, in our wallet: below the price of a second, too little for a
    /// token, or a refund that was taken back.
    pub credit: Msat,
    /// Credit that came from leases of the same owner that are over; or what a lease
    /// begins with that was rebuilt after its ledger was lost.
    #[serde(default, skip_serializing_if = "nothing")]
    pub brought: Msat,
    /// Credit that went to another lease of the same owner.
    #[serde(default, skip_serializing_if = "nothing")]
    pub moved: Msat,
    /// Price of the time that the provider's pool gave. It is served first, and is
    /// never the owner's money.
    #[serde(default, skip_serializing_if = "nothing")]
    pub given: Msat,
    /// What of `given` was not served, and went back to the pool.
    #[serde(default, skip_serializing_if = "nothing")]
    pub returned: Msat,
}

/// What happened to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A payment for it was redeemed.
    Paid {
        /// What the token was worth.
        face: Msat,
        /// What the mint kept.
        fee: Msat,
        /// How long bringing it up may take from now, in seconds.
        patience: u64,
        /// Its mint.
        mint: String,
        /// Its unit.
        unit: String,
    },
    /// The provider's pool gives it time in place of a payment.
    Given {
        /// What it gives.
        gift: Gift,
        /// How long bringing it up may take from now, in seconds.
        patience: u64,
    },
    /// Nothing was taken for it.
    NotPaid(String),
    /// The workload is there and lets its owner in.
    Up,
    /// It could not be brought up.
    Failed(String),
    /// Its time is over.
    TimeOver,
    /// The workload was stopped because its time is over.
    Stopped {
        /// How long it waits for a top-up, in seconds.
        grace: u64,
    },
    /// Its grace is over.
    GraceOver,
    /// The owner was warned with this lead time in seconds.
    Warned(u64),
    /// The owner asks for its end.
    StopAsked(RequestId),
    /// The end that the owner asked for begins.
    StopBegun,
    /// No relay took the answer that says how to get in, and there is no other
    /// way to learn it.
    Unheard,
    /// It was looked at; the sentence says what was seen.
    Looked(String),
    /// It was looked at: there is no such workload.
    Gone,
    /// The workload is destroyed, nothing is left of it.
    Destroyed,
}

/// An event that does not fit: a defect of ours, never the consumer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease {lease} in {phase:?}: {what}")]
pub struct Misstep {
    /// Which lease.
    pub lease: LeaseId,
    /// Where it stands.
    pub phase: Phase,
    /// What does not fit.
    pub what: String,
}

impl Lease {
    /// A lease as it begins: room is held for it, and nothing is paid.
    pub fn reserve(
        id: LeaseId,
        owner: PublicKey,
        request: RequestId,
        tier: Tier,
        image: String,
        ssh_keys: Vec<String>,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            owner,
            request,
            tier,
            image,
            ssh_keys,
            phase: Phase::Reserved,
            why: "room is held, the payment is under way".to_owned(),
            cause: None,
            created_at: now,
            started_at: None,
            expires_at: None,
            waiting_seconds: 0,
            waiting_fees: Msat::ZERO,
            sold_seconds: 0,
            money: Books::default(),
            purse: None,
            purses: Purses::default(),
            payments: Vec::new(),
            payments_done: 0,
            refunds: Vec::new(),
            refund_key: None,
            gift: None,
            warned: Vec::new(),
            stop_request: None,
            looked_at: now,
            invoiced: false,
        }
    }

    /// Seconds that are paid and not served at `now`. Never more than the books
    /// have money for: a clock that was set back sells nothing again.
    pub fn unserved_seconds(&self, now: Timestamp) -> u64 {
        let Phase::Active = self.phase else {
            return self.waiting_seconds;
        };
        let left = self.expires_at.map_or(0, |end| end.secs_since(now));
        let paid_for = self
            .unspent()
            .and_then(|rest| rest.get().checked_div(self.tier.rate_msat_per_s));
        left.min(paid_for.unwrap_or(0))
    }

    /// What the books hold for time, served or not.
    fn unspent(&self) -> Option<Msat> {
        let b = &self.money;
        let elsewhere = [
            b.mint_fees,
            b.owed,
            b.refunded,
            b.refund_fees,
            b.credit,
            b.moved,
            b.returned,
        ];
        let all = Msat::checked_sum([b.paid, b.brought, b.absorbed, b.given])?;
        all.checked_sub(Msat::checked_sum(elsewhere)?)
    }

    /// Whether people may enter now.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.phase == Phase::Active && self.unserved_seconds(now) > 0
    }

    /// Whether it is over: nothing runs and nothing is held for it.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Whether a top-up may be taken for it: it was paid and is not at its end.
    pub fn takes_topup(&self) -> bool {
        self.phase != Phase::Reserved && !ending(self.phase) && self.stop_request.is_none()
    }

    /// Price of what was served until `now`, by what the books leave over.
    pub fn served(&self, now: Timestamp) -> Option<Msat> {
        let rate = Msat::new(self.tier.rate_msat_per_s);
        let unserved = rate.checked_mul(self.unserved_seconds(now))?;
        self.unspent()?.checked_sub(unserved)
    }

    /// Whether the books are in balance at `now`: nothing was served before the
    /// start, and after the end what was served is what was booked.
    pub fn balances(&self, now: Timestamp) -> bool {
        let owed = Msat::checked_sum(self.refunds.iter().map(Refund::still_owed));
        let served_right = match (self.served(now), self.phase) {
            (None, _) => false,
            (Some(served), Phase::Ended { .. }) => served == self.money.served,
            (Some(served), _) if self.started_at.is_none() => served.is_zero(),
            (Some(_), _) => true,
        };
        served_right && owed == Some(self.money.owed) && self.parts_fit()
    }

    /// The lease after `event`.
    ///
    /// # Errors
    /// The event does not fit the phase, or an amount does not fit; the lease
    /// is as it was.
    pub fn on(&mut self, event: Event, now: Timestamp) -> Result<(), Misstep> {
        let before = self.clone();
        let done = self.apply(event.clone(), now);
        let what = match done {
            Some(()) if self.balances(now) => return Ok(()),
            Some(()) => format!("the books would not balance after {event:?}"),
            None => format!("{event:?} cannot happen here"),
        };
        *self = before;
        Err(Misstep {
            lease: self.id.clone(),
            phase: self.phase,
            what,
        })
    }

    fn apply(&mut self, event: Event, now: Timestamp) -> Option<()> {
        match (event, self.phase) {
            (
                Event::Paid {
                    face,
                    fee,
                    patience,
                    mint,
                    unit,
                },
                _,
            ) => {
                self.paid(face, fee, now.plus_secs(patience), (mint, unit), now)?;
            }
            (Event::Given { gift, patience }, Phase::Reserved) => {
                self.given(gift, now.plus_secs(patience))?;
            }
            (Event::NotPaid(why), Phase::Reserved) => {
                self.cause = Some(EndCause::NotPaid);
                self.turn(Phase::Ended { at: now }, &why);
            }
            (Event::Up, Phase::Provisioning { .. } | Phase::Reviving { .. }) => self.up(now),
            (Event::Failed(why), Phase::Provisioning { .. } | Phase::Reviving { .. }) => {
                self.end(EndCause::ProvisioningFailed, &why, now)?;
            }
            (Event::TimeOver, Phase::Active) => {
                // How long stopping may take is counted from here.
                self.looked_at = now;
                self.turn(Phase::Expiring, "its time is over; being stopped");
            }
            (Event::Stopped { grace }, Phase::Expiring) => {
                let destroy_at = now.plus_secs(grace);
                self.turn(
                    Phase::Grace { destroy_at },
                    "its time is over; a top-up revives it",
                );
            }
            (Event::GraceOver, Phase::Expiring | Phase::Grace { .. }) => {
                self.end(EndCause::Expired, "its time and its grace are over", now)?;
            }
            (Event::Warned(lead), _) => self.warned.push(lead),
            (Event::StopAsked(request), phase) if !ending(phase) && self.stop_request.is_none() => {
                self.stop_request = Some(request);
            }
            (Event::StopBegun, phase)
                if !ending(phase) && phase != Phase::Reserved && self.stop_request.is_some() =>
            {
                self.end(EndCause::Stopped, "its owner stopped it", now)?;
            }
            (Event::Unheard, Phase::Active) => {
                let why = "no relay took the answer that says how to get in";
                self.end(EndCause::ProvisioningFailed, why, now)?;
            }
            (Event::Looked(seen), _) => {
                self.looked_at = now;
                self.why = seen;
            }
            (Event::Gone, Phase::Active | Phase::Expiring | Phase::Grace { .. }) => {
                self.end(EndCause::Lost, "the workload is gone from its host", now)?;
            }
            (Event::Destroyed, Phase::Ending) => {
                self.money.served = self.served(now)?;
                self.phase = Phase::Ended { at: now };
            }
            _ => return None,
        }
        Some(())
    }

    fn turn(&mut self, phase: Phase, why: &str) {
        self.phase = phase;
        why.clone_into(&mut self.why);
    }

    fn up(&mut self, now: Timestamp) {
        self.turn(Phase::Active, "its time runs");
        self.started_at.get_or_insert(now);
        self.expires_at = Some(now.plus_secs(self.waiting_seconds));
        self.waiting_seconds = 0;
        self.waiting_fees = Msat::ZERO;
        self.warned.clear();
        self.looked_at = now;
    }

    fn paid(
        &mut self,
        face: Msat,
        fee: Msat,
        deadline: Timestamp,
        purse: Purse,
        now: Timestamp,
    ) -> Option<()> {
        let net = face.checked_sub(fee)?;
        let parts = self.parts()?;
        self.money.paid = self.money.paid.checked_add(face)?;
        self.money.mint_fees = self.money.mint_fees.checked_add(fee)?;
        if self.phase != Phase::Reserved && !self.takes_topup() {
            // It ended, or its end was asked for, while the money was on its way.
            // What of it may become credit lies there.
            self.purse.get_or_insert_with(|| purse.clone());
            return self.owe(face, fee, true, purse, "the lease had ended");
        }
        self.lay(parts, &purse, net)?;
        self.purse = Some(purse);
        let total = net.checked_add(self.money.credit)?;
        let bought = purchase(total, self.tier.rate_msat_per_s)?;
        self.money.credit = bought.credit;
        self.sold_seconds = self.sold_seconds.checked_add(bought.seconds)?;
        if self.phase == Phase::Active {
            let from = self.expires_at?.max(now);
            self.expires_at = Some(from.plus_secs(bought.seconds));
            self.warned.clear();
            return Some(());
        }
        self.waiting_seconds = self.waiting_seconds.checked_add(bought.seconds)?;
        self.waiting_fees = self.waiting_fees.checked_add(fee)?;
        match self.phase {
            // Being brought up already; the deadline of that stays.
            Phase::Provisioning { .. } | Phase::Reviving { .. } => {}
            Phase::Reserved => self.turn(Phase::Provisioning { deadline }, "paid, being started"),
            _ => self.turn(Phase::Reviving { deadline }, "paid again, being started"),
        }
        Some(())
    }

    /// Begins the end: what is paid and not served is owed from here on. Where
    /// we could not give what was just paid for, the mint's fee is ours to bear.
    fn end(&mut self, cause: EndCause, why: &str, now: Timestamp) -> Option<()> {
        let our_fault = matches!(cause, EndCause::ProvisioningFailed | EndCause::Lost);
        let seconds = self.unserved_seconds(now);
        let unserved = Msat::new(self.tier.rate_msat_per_s).checked_mul(seconds)?;
        let back = self.gift_left(now)?.min(unserved);
        let unserved = unserved.checked_sub(back)?;
        let mut ours = Msat::ZERO;
        if cause == EndCause::ProvisioningFailed {
            ours = self.waiting_fees;
        }
        let goes_back = !unserved.is_zero() || !ours.is_zero();
        let served = self.served(now)?.checked_sub(self.gift_served(now)?)?;
        let (served, rest) = purses::split(&self.parts()?, served);
        self.money.returned = self.money.returned.checked_add(back)?;
        if goes_back {
            self.money.credit = Msat::ZERO;
            self.purses.parts = served;
        }
        self.waiting_seconds = 0;
        self.waiting_fees = Msat::ZERO;
        self.expires_at = self.expires_at.map(|end| end.min(now));
        self.cause = Some(cause);
        self.turn(Phase::Ending, why);
        if !goes_back {
            return Some(());
        }
        let last = self.purse.clone()?;
        // Each where it lies; what we bear is added where was last paid.
        let mut rest = purses::merged(&rest)?;
        if let Some(place) = rest.iter().position(|part| part.purse() == last) {
            let part = rest.remove(place);
            rest.push(part);
        }
        let bear_at = rest.last().map_or(last, purses::Part::purse);
        if rest.is_empty() {
            return self.owe(ours, ours, our_fault, bear_at, why);
        }
        for part in rest {
            let bears = part.purse() == bear_at;
            let ours = if bears { ours } else { Msat::ZERO };
            let owed = part.msat.checked_add(ours)?;
            self.owe(owed, ours, our_fault, part.purse(), why)?;
        }
        Some(())
    }
}

/// Left out of rows, so that those of leases without it are as they were.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn nothing(amount: &Msat) -> bool {
    amount.is_zero()
}

/// As [`nothing`], for a count.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn none(count: &u64) -> bool {
    *count == 0
}

/// Whether it is at its end.
fn ending(phase: Phase) -> bool {
    matches!(phase, Phase::Ending | Phase::Ended { .. })
}
