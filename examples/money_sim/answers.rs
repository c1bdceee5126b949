//! The one answer to each request, as `src/provider/answers.rs` composes it from
//! the state of a lease, in the same commit as the change that it announces.

use satlet::core::ids::RequestId;
use satlet::core::lease::{Lease, Phase, Refund, RefundState};
use satlet::core::payment::{Payment, PaymentState, Purpose};

use super::disk::{Answer, RequestRow};
use super::gifts;
use super::rules::{Mutant, Rules};
use super::world::{MINT, State};

/// What a request is told.
#[derive(PartialEq, Eq)]
enum Say {
    Last(Answer),
    /// That the mint's answer was lost; the one answer comes later.
    Pending,
}

/// Stores every answer that a lease owes now.
pub(super) fn settle(s: &mut State, rules: Rules, lease: &Lease, payments: &[Payment], late: bool) {
    let now = s.now();
    for request in requests(lease, payments) {
        let Some(row) = s.disk.request(request) else {
            continue;
        };
        if row.answer.is_some() && !rules.is(Mutant::AnswerAgain) {
            continue;
        }
        match say(now, lease, payments, row, late) {
            Some(Say::Last(answer)) => {
                store(row, answer);
                s.seen.insert(answer.name());
            }
            Some(Say::Pending) => {
                row.pending = true;
                s.seen.insert("told that it is pending");
            }
            None => {}
        }
    }
}

/// Puts an answer into a request's row and the outbox; what is there already is
/// sent once more and counts as the same one.
pub(super) fn store(row: &mut RequestRow, answer: Answer) {
    if row.answer != Some(answer) {
        row.answer = Some(answer);
        row.answers += 1;
    }
}

/// Whether a request of this lease could be answered with what is known.
pub(super) fn someone_waits(s: &mut State, lease: &Lease, payments: &[Payment]) -> bool {
    let now = s.now();
    requests(lease, payments).into_iter().any(|request| {
        let row = s.disk.request(request).filter(|row| row.answer.is_none());
        row.is_some_and(|row| match say(now, lease, payments, row, true) {
            Some(Say::Last(_)) => true,
            Some(Say::Pending) => !row.pending,
            None => false,
        })
    })
}

fn requests(lease: &Lease, payments: &[Payment]) -> Vec<RequestId> {
    let paid = payments.iter().map(|payment| payment.request);
    let given = lease.gift.map(|_| lease.request);
    paid.chain(lease.stop_request).chain(given).collect()
}

fn is_settled(lease: &Lease) -> bool {
    lease.has_ended() && lease.refund_to_make().is_none()
}

fn say(now: u64, lease: &Lease, payments: &[Payment], row: &RequestRow, late: bool) -> Option<Say> {
    let at_end = matches!(lease.phase, Phase::Ending | Phase::Ended { .. });
    if lease.stop_request == Some(row.id) {
        let late = late && at_end && now >= row.received_at + 2 * MINT;
        return (is_settled(lease) || late).then_some(Say::Last(Answer::Stopped));
    }
    if let Some(told) = gifts::told(lease, row.id, late && at_end) {
        return told.map(Say::Last);
    }
    let payment = payments.iter().find(|payment| payment.request == row.id)?;
    let waited = late && now >= payment.deadline.as_secs();
    match payment.state {
        PaymentState::Unknown if waited => Some(Say::Pending),
        PaymentState::Rejected => Some(Say::Last(Answer::Refused)),
        PaymentState::Settled => {
            let made = |refund: &Refund| {
                !matches!(refund.state, RefundState::Owed | RefundState::Credited)
            };
            let part = late && lease.refunds.iter().any(made);
            paid_outcome(lease, payment, at_end && (waited || part)).map(Say::Last)
        }
        _ => None,
    }
}

/// What money that was taken has become, once that is known.
fn paid_outcome(lease: &Lease, payment: &Payment, late: bool) -> Option<Answer> {
    let up = lease.phase == Phase::Active;
    let added = payment.added_seconds > 0 || lease.stop_request.is_none();
    match payment.purpose {
        Purpose::Spawn if lease.started_at.is_some() => Some(Answer::Spawned),
        Purpose::Topup if up && added => Some(Answer::ToppedUp),
        Purpose::Spawn | Purpose::Topup if is_settled(lease) || late => Some(Answer::Failed),
        Purpose::Spawn | Purpose::Topup => None,
    }
}
