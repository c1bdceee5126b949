//! What must be so: looked at in every commit, at every call that moves money,
//! and once more when all has settled.

use satlet::core::ids::{LeaseId, RequestId};
use satlet::core::lease::{Lease, Phase, RefundState};
use satlet::core::payment::{Payment, PaymentState, Purpose};

use super::disk::{Answer, Ask, Token};
use super::mint::{Purse, Spender};
use super::world::State;

/// In every commit.
pub(super) fn after_commit(s: &mut State) {
    if s.failure.is_some() {
        return;
    }
    let now = s.now();
    let found = s.disk.leases.iter().find_map(|lease| {
        let mut meters = s.meters.iter();
        let meter = meters.find(|meter| meter.lease == lease.id)?;
        let (drift, what) = meter.compare(lease, now).err()?;
        Some((drift, format!("lease {}: {what}", lease.id)))
    });
    if let Some((drift, what)) = found {
        return s.fail(drift, what);
    }
    let active = |lease: &&Lease| lease.phase == Phase::Active;
    let unmade = |lease: &&Lease| !s.backend.ever.contains(&lease.id);
    let mut leases = s.disk.leases.iter();
    if let Some(lease) = leases.find(|lease| active(lease) && unmade(lease)) {
        let what = format!("lease {} is served and has no workload", lease.id);
        return s.fail(0, what);
    }
    if let Some((drift, what)) = super::gifts::check(s) {
        return s.fail(drift, what);
    }
    let purses =
        (0..super::mint::MINTS).flat_map(|mint| [1, 1000].map(|piece| Purse { mint, piece }));
    for purse in purses {
        let (holds, should) = wallet(s, purse);
        if holds != should {
            let (mint, unit) = (purse.mint, purse.unit());
            let what = format!(
                "the wallet holds {holds} {unit} msat at mint {mint}, by the books it should hold {should}"
            );
            return s.fail(holds.abs_diff(should), what);
        }
    }
}

/// What the wallet holds at one mint, and what it should hold: what was put in,
/// and what the leases' books say lies there, owed or served or not, with what is
/// on its way.
fn wallet(s: &State, purse: Purse) -> (u64, u64) {
    let now = super::rules::at(s.now());
    let here = |mint: &str, unit: &str| Purse::read(mint, unit) == purse;
    let (mut plus, mut less) = (s.money.funded(purse), 0);
    for lease in s.disk.leases.iter().chain(&s.disk.ended) {
        for ((mint, unit), dues) in lease.dues(now).unwrap_or_default() {
            if here(&mint, &unit) {
                plus += dues.owed.get() + dues.credit.get();
                plus += dues.unserved.get() + dues.served.get();
                less += dues.absorbed.get();
            }
        }
    }
    let taken = |p: &Payment| matches!(p.state, PaymentState::Redeemed | PaymentState::Settled);
    for done in s.money.done.iter().filter(|done| done.purse == purse) {
        let row = s.disk.payment(&done.payment);
        if row.as_ref().is_none_or(|row| !taken(row)) {
            plus += done.net;
        }
    }
    let sent = s.money.sent.iter().filter(|sent| sent.purse == purse);
    for sent in sent.clone().filter(|sent| sent.booked && !sent.noted) {
        // Taken back, and on no books yet.
        plus += sent.back.map_or(0, |cost| sent.face - cost);
    }
    for sent in sent.filter(|sent| !sent.booked) {
        less += sent.back.map_or(sent.face, |cost| cost) + sent.fee;
    }
    (s.money.balance(purse), plus.saturating_sub(less))
}

/// Before a payment's row is written for the first time.
pub(super) fn before_claim(s: &mut State, payment: &Payment) {
    let shares = |other: &&Payment| other.ys.iter().any(|y| payment.ys.contains(y));
    let open = |other: &&Payment| other.state != PaymentState::Rejected;
    let mut others = s.disk.payments.iter();
    if let Some(other) = others.find(|other| open(other) && shares(other)) {
        let what = format!("payments {} and {} share a proof", other.id, payment.id);
        s.fail(0, what);
    }
}

/// Before `redeem` is called: its purpose is on disk, and it is the only call.
pub(super) fn before_redeem(s: &mut State, payment: &Payment) {
    let same = |row: &&Payment| row.request == payment.request;
    let state = s
        .disk
        .payment(&payment.id)
        .filter(same)
        .map(|row| row.state);
    if state != Some(PaymentState::Redeeming) {
        s.fail(
            0,
            format!("{payment:?} is redeemed, and is {state:?} on disk"),
        );
    }
    let call = (payment.id, payment.request);
    if s.money.redeems.contains(&call) {
        s.fail(0, format!("{payment:?} is redeemed twice"));
    }
    s.money.redeems.push(call);
    if payment.purpose == Purpose::Topup && s.meter(&payment.lease).is_ending() {
        s.fail(0, format!("{payment:?} is taken for a lease at its end"));
    }
}

/// Before a refund's token is made: it is owed on disk.
pub(super) fn before_send(s: &mut State, lease: &LeaseId, refund: &str) {
    let lease = s.disk.lease(lease);
    let found = lease.and_then(|lease| lease.refunds.iter().find(|r| r.id == refund));
    if found.is_none_or(|found| found.state != RefundState::Owed) {
        s.fail(
            0,
            format!("refund {refund} is made and is not owed on disk"),
        );
    }
}

/// When a lease's books take a token in.
pub(super) fn booked(s: &mut State, token: &Token) {
    let sent = s.money.sent.iter_mut().find(|sent| sent.token == *token);
    let first =
        sent.is_some_and(|sent| sent.back.is_none() && !std::mem::replace(&mut sent.booked, true));
    if !first {
        s.fail(0, "a refund was booked whose token is not there".to_owned());
    }
}

/// Before the token of a refund is taken back: it is on disk that it will be.
pub(super) fn before_take_back(s: &mut State, lease: &LeaseId, refund: &str) {
    let lease = s.disk.any_lease(lease);
    let found = lease.and_then(|lease| lease.refunds.iter().find(|r| r.id == refund));
    if !found.is_some_and(|r| matches!(r.state, RefundState::TakingBack { .. })) {
        s.fail(
            0,
            format!("refund {refund} is taken back, and is not on disk"),
        );
    }
}

/// When a lease's books have it that a refund was taken back.
pub(super) fn taken_back(s: &mut State, token: &Token) {
    let sent = s.money.sent.iter_mut().find(|sent| sent.token == *token);
    sent.into_iter().for_each(|sent| sent.noted = true);
}

/// When a refund is called claimed.
pub(super) fn at_claimed(s: &mut State, token: &Token) {
    let by = s.money.proof(token.0[0]).spent;
    if by.is_none() || by == Some(Spender::TakenBack) {
        s.fail(
            0,
            format!("a refund is called claimed, and was spent by {by:?}"),
        );
    }
}

/// When the end of a lease is booked.
pub(super) fn at_destroyed(s: &mut State, lease: &LeaseId) {
    let runs = s.backend.there.iter().any(|(id, _)| id == lease);
    if runs && !s.backend.late.contains(lease) {
        s.fail(
            0,
            format!("lease {lease} is over and its workload is there"),
        );
    }
}

/// When all has settled.
pub(super) fn at_end(s: &mut State) {
    after_commit(s);
    if s.failure.is_some() {
        return;
    }
    if let Some((drift, what)) = leases(s) {
        return s.fail(drift, what);
    }
    let failed = payments(s).or_else(|| refunds(s));
    if let Some(what) = failed.or_else(|| answers(s)) {
        s.fail(0, what);
    }
}

/// Every lease has an end, and nothing runs after it.
fn leases(s: &State) -> Option<(u64, String)> {
    if let Some(lease) = s.disk.leases.first() {
        let what = format!("lease {} is still {:?}", lease.id, lease.phase);
        return Some((0, what));
    }
    let now = s.now();
    for lease in &s.disk.ended {
        let meter = s.meters.iter().find(|meter| meter.lease == lease.id)?;
        if let Err((drift, what)) = meter.compare(lease, now) {
            return Some((drift, format!("lease {}: {what}", lease.id)));
        }
        if lease.cause.is_none() || !lease.money.owed.is_zero() {
            let what = format!("lease {} ended with {:?}", lease.id, lease.money);
            return Some((lease.money.owed.get(), what));
        }
    }
    let there = s.backend.there.first();
    there.map(|(id, _)| (0, format!("the workload of {id} is still there")))
}

/// Each payment is on a lease's books, or the consumer has the token.
fn payments(s: &State) -> Option<String> {
    for row in &s.disk.payments {
        let ours = Spender::Provider(row.id, row.request);
        let mut ids = row.ys.iter().filter_map(|y| y.parse::<usize>().ok());
        let taken = ids.all(|id| s.money.proofs[id - 1].spent == Some(ours));
        let right = match row.state {
            PaymentState::Settled => taken,
            PaymentState::Rejected => !taken,
            _ => false,
        };
        if !right {
            return Some(format!("{row:?}, and the mint gave us its money: {taken}"));
        }
    }
    for (n, proof) in s.money.proofs.iter().enumerate() {
        let Some(Spender::Provider(payment, request)) = proof.spent else {
            continue;
        };
        let row = s
            .disk
            .payment(&payment)
            .filter(|row| row.request == request);
        if row.is_none_or(|row| row.state != PaymentState::Settled) {
            return Some(format!("proof {} was taken and is on no books", n + 1));
        }
    }
    None
}

/// Each refund was made once, and what was made for none is back.
fn refunds(s: &State) -> Option<String> {
    for sent in &s.money.sent {
        if sent.back.is_some() != (sent.noted || !sent.booked) {
            return Some(format!("the token {:?} belongs to nobody", sent.token));
        }
    }
    let made = |meter: &super::meter::Meter| {
        let made = meter.refunds.iter().filter_map(|owed| owed.made);
        made.map(|(face, _)| face).sum::<u64>()
    };
    let told: u64 = s.meters.iter().map(made).sum();
    let booked = s.money.sent.iter().filter(|sent| sent.booked);
    let there: u64 = booked.map(|sent| sent.face).sum();
    (told != there).then(|| format!("refunds of {told} msat were booked, {there} made"))
}

/// Each request has one answer, and it is true.
fn answers(s: &mut State) -> Option<String> {
    for msg in s.consumer.sent.clone() {
        let id = msg.request;
        let Some(row) = s.disk.request(id) else {
            return Some(format!("request {id} was never heard"));
        };
        let (answer, times) = (row.answer, row.answers);
        if times != 1 {
            return Some(format!("request {id} has {times} answers"));
        }
        let right = match answer {
            Some(Answer::Refused) => !is_taken(s, id),
            Some(Answer::Spawned) => {
                let taken = is_taken(s, id);
                lease_of(s, id)
                    .is_some_and(|l| (taken || l.gift.is_some()) && l.started_at.is_some())
            }
            Some(Answer::ToppedUp | Answer::Failed) => is_taken(s, id),
            Some(Answer::Stopped) => {
                let stopped = lease_of(s, id).and_then(|lease| lease.stop_request);
                matches!(msg.ask, Ask::Stop(_)) && stopped == Some(id)
            }
            None => false,
        };
        if !right {
            return Some(format!("request {id} was told {answer:?}, which is not so"));
        }
    }
    None
}

fn is_taken(s: &State, request: RequestId) -> bool {
    let settled = |p: &Payment| p.request == request && p.state == PaymentState::Settled;
    s.disk.payments.iter().any(settled)
}

fn lease_of(s: &mut State, request: RequestId) -> Option<&Lease> {
    let id = s.disk.request(request)?.lease.clone()?;
    s.disk.any_lease(&id)
}
