//! What is to be done for a lease now, and when to look again.

use super::{Lease, Phase};
use crate::core::ids::PaymentId;
use crate::core::payment::{Payment, PaymentState};
use crate::core::time::Timestamp;

/// How fast things go; from the operator's settings, in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Lead times of warnings before the end.
    pub warnings: Vec<u64>,
    /// How often a running workload is looked at.
    pub look_every: u64,
    /// How long what does not get on is waited for: a workload that cannot be
    /// stopped is destroyed after it, and room that is held for a payment of which
    /// nobody can tell what became of it is given up, counted from its deadline.
    pub patience: u64,
}

/// One thing to do. The provider does it and tells the lease what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Ask the mint about the proofs, and if they are unspent redeem them.
    Redeem(PaymentId),
    /// Note that nobody gave the preimage that a held payment waited for.
    EndHold(PaymentId),
    /// Find out what became of a redemption; never redeem.
    Resolve(PaymentId),
    /// Ask whether an invoice is paid, and if so make ecash of it.
    Collect(PaymentId),
    /// Make the workload and wait until it can be entered.
    Provision,
    /// Start the stopped workload.
    Revive,
    /// Give up bringing it up, or holding its room: the time for that is over.
    GiveUp,
    /// Begin the end that the owner asked for.
    BeginStop,
    /// Note that its time is over.
    TimeOver,
    /// Stop the workload, keep its disk.
    StopWorkload,
    /// Note that its grace is over.
    GraceOver,
    /// Remove the workload and all it holds.
    Destroy,
    /// Make the refund with this id.
    MakeRefund(String),
    /// Warn the owner, this many seconds before the end.
    Warn(u64),
    /// See whether the workload is there.
    Look,
}

/// What is to be done now, or when to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Do this, now.
    Do(Step),
    /// Nothing before this instant.
    WaitUntil(Timestamp),
    /// Nothing, ever again.
    Over,
}

impl Plan {
    /// The plan for `lease` with its `payments` at `now`.
    ///
    /// Money comes first, so that nothing that was paid waits behind something
    /// slow; then what the owner asked for; then the clock; then refunds.
    pub fn of(lease: &Lease, payments: &[Payment], pace: &Pace, now: Timestamp) -> Self {
        Self::beside(lease, payments, pace, now, |_| false)
    }

    /// The same, but for steps that failed a moment ago and wait for their next
    /// try: what does not hang on them goes on. A mint that is down holds up no
    /// end, and a backend that is down no refund.
    pub fn beside(
        lease: &Lease,
        payments: &[Payment],
        pace: &Pace,
        now: Timestamp,
        waits: impl Fn(&Step) -> bool,
    ) -> Self {
        let money = payments.iter().filter_map(payment_step);
        if let Some(step) = money.into_iter().find(|step| !waits(step)) {
            return Self::Do(step);
        }
        let can_stop = lease.phase != Phase::Reserved && !super::ending(lease.phase);
        if can_stop && lease.stop_request.is_some() {
            return Self::Do(Step::BeginStop);
        }
        let idle = match phase_plan(lease, payments, pace, now) {
            Self::Do(step) if waits(&step) => Self::WaitUntil(deadline(lease, pace)),
            Self::Do(step) => return Self::Do(step),
            idle => idle,
        };
        let mut refunds = lease.refunds_to_make();
        if let Some(refund) = refunds.find(|refund| !waits(&Step::MakeRefund(refund.id.clone()))) {
            return Self::Do(Step::MakeRefund(refund.id.clone()));
        }
        let open = lease.refund_to_make().is_some() || payments.iter().any(Payment::is_open);
        match idle {
            Self::Over if open => Self::WaitUntil(NEVER),
            idle => idle,
        }
    }
}

/// Nothing but another event or a step's next try changes anything.
const NEVER: Timestamp = Timestamp::from_secs(u64::MAX);

/// When a phase whose step fails is given up.
fn deadline(lease: &Lease, pace: &Pace) -> Timestamp {
    match lease.phase {
        Phase::Provisioning { deadline } | Phase::Reviving { deadline } => deadline,
        Phase::Expiring => lease.looked_at.plus_secs(pace.patience),
        _ => NEVER,
    }
}

fn payment_step(payment: &Payment) -> Option<Step> {
    let id = payment.id;
    match payment.state {
        PaymentState::Reserved => Some(Step::Redeem(id)),
        // A redemption is begun and ended by one step; met at rest, its process died.
        PaymentState::Redeeming | PaymentState::Unknown => Some(Step::Resolve(id)),
        PaymentState::Invoiced | PaymentState::Lapsed => Some(Step::Collect(id)),
        // Its deadline is its lease's.
        PaymentState::Held => None,
        PaymentState::Redeemed | PaymentState::Settled | PaymentState::Rejected => None,
    }
}

fn phase_plan(lease: &Lease, payments: &[Payment], pace: &Pace, now: Timestamp) -> Plan {
    match lease.phase {
        Phase::Reserved => reserved_plan(payments, pace, now),
        Phase::Provisioning { deadline } | Phase::Reviving { deadline } if now >= deadline => {
            Plan::Do(Step::GiveUp)
        }
        Phase::Provisioning { .. } => Plan::Do(Step::Provision),
        Phase::Reviving { .. } => Plan::Do(Step::Revive),
        Phase::Active => active_plan(lease, pace, now),
        Phase::Expiring if now >= deadline(lease, pace) => Plan::Do(Step::GraceOver),
        Phase::Expiring => Plan::Do(Step::StopWorkload),
        Phase::Grace { destroy_at } if now >= destroy_at => Plan::Do(Step::GraceOver),
        Phase::Grace { destroy_at } => Plan::WaitUntil(destroy_at),
        Phase::Ending => Plan::Do(Step::Destroy),
        Phase::Ended { .. } => Plan::Over,
    }
}

/// What becomes of the payment decides. But room is not held for ever for a mint
/// that has gone silent: money that turns up later goes back.
fn reserved_plan(payments: &[Payment], pace: &Pace, now: Timestamp) -> Plan {
    let mut held = payments.iter().filter(|p| p.state == PaymentState::Held);
    if let Some(payment) = held.next() {
        return if payment.is_held(now) {
            Plan::WaitUntil(payment.deadline)
        } else {
            Plan::Do(Step::EndHold(payment.id))
        };
    }
    let latest = payments.iter().map(|payment| payment.deadline).max();
    match latest.map(|deadline| deadline.plus_secs(pace.patience)) {
        Some(until) if now < until => Plan::WaitUntil(until),
        _ => Plan::Do(Step::GiveUp),
    }
}

fn active_plan(lease: &Lease, pace: &Pace, now: Timestamp) -> Plan {
    let Some(end) = lease.expires_at else {
        return Plan::Do(Step::TimeOver);
    };
    let left = lease.unserved_seconds(now);
    if left == 0 {
        return Plan::Do(Step::TimeOver);
    }
    // A later warning says all that an earlier one would have said.
    let due = |lead: &u64| left <= *lead && !lease.warned.iter().any(|told| told <= lead);
    if let Some(lead) = pace.warnings.iter().filter(|lead| due(lead)).min() {
        return Plan::Do(Step::Warn(*lead));
    }
    let look_at = lease.looked_at.plus_secs(pace.look_every);
    // A look that lies in the future was before the clock was set back.
    if now >= look_at || now < lease.looked_at {
        return Plan::Do(Step::Look);
    }
    let warn_at = |lead: &u64| Timestamp::from_secs(end.as_secs().saturating_sub(*lead));
    let next_warning = pace
        .warnings
        .iter()
        .map(warn_at)
        .filter(|at| *at > now)
        .min();
    Plan::WaitUntil(next_warning.unwrap_or(end).min(end).min(look_at))
}
