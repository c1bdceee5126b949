//! Answers and notices: composed from the state of a lease, stored in the same
//! commit as the change that they announce, sent by the outbox.

use super::ctx::Ctx;
use super::handlers::{describe, refund};
use super::refuse::{self, Refusal};
use crate::core::ids::RequestId;
use crate::core::lease::{EndCause, Lease, Phase, RefundState};
use crate::core::money::Msat;
use crate::core::payment::{Payment, PaymentState, Purpose};
use crate::core::time::Timestamp;
use crate::ledger::{
    INBOX, InboxRow, LedgerError, OUTBOX, OutboxRow, REQUESTS, RequestRow, Tx, event_key,
    request_key,
};
use crate::protocol::DIALECT;
use crate::protocol::error::{Code, Money, WireError};
use crate::protocol::reply::{
    Answer, Message, Notice, Reply, SpawnAnswer, StopAnswer, TopupAnswer,
};
use crate::relay::Incoming;

/// Notes that a message is dealt with, and forgets its text, which may hold a token.
pub(super) fn mark_done(
    tx: &Tx,
    message: &Incoming,
    request: Option<RequestId>,
) -> Result<(), LedgerError> {
    let row = InboxRow {
        sender: message.sender,
        relay: message.relay.clone(),
        received_at: message.received_at,
        written_at: message.written_at,
        body: String::new(),
        request,
        done: true,
    };
    tx.put(&INBOX, &event_key(&message.rumor), &row)
}

/// Stores the one answer to a request and puts it into the outbox.
pub(super) async fn answer(ctx: &Ctx, message: &Incoming, reply: Reply) -> Result<(), LedgerError> {
    let (message, now, keep) = (message.clone(), ctx.now(), ctx.settings().timing.answer);
    ctx.ledger()
        .write(move |tx| {
            mark_done(tx, &message, Some(reply.request_id))?;
            let key = request_key(&message.sender, reply.request_id);
            match tx.get(&REQUESTS, &key)? {
                Some(row) => store(tx, row, reply, now, now.plus(keep)),
                None => Ok(()),
            }
        })
        .await?;
    ctx.outbox.notify_one();
    Ok(())
}

/// Sends a refusal that is not kept as the answer: the same request may be
/// served later.
pub(super) async fn unstored(
    ctx: &Ctx,
    message: &Incoming,
    id: RequestId,
    refusal: Refusal,
) -> Result<(), LedgerError> {
    tracing::info!(request = %id, owner = %message.sender, code = %refusal.code, "refused");
    let (message, now) = (message.clone(), ctx.now());
    let keep = ctx.settings().timing.quote;
    ctx.ledger()
        .write(move |tx| {
            mark_done(tx, &message, None)?;
            let body = encode(&Message::Reply(Reply::error(id, refusal)))?;
            let row = OutboxRow {
                to: message.sender,
                body,
                relays: vec![message.relay.clone()],
                written_at: now,
                expires_at: now.plus(keep),
                attempts: 0,
                next_attempt: now,
            };
            tx.put(
                &OUTBOX,
                &format!("refusal/{}/{}", message.rumor, now.as_secs()),
                &row,
            )
        })
        .await?;
    ctx.outbox.notify_one();
    Ok(())
}

fn encode(message: &Message) -> Result<String, LedgerError> {
    serde_json::to_string(message).map_err(|error| LedgerError::Rule(error.to_string()))
}

/// Puts the answer into the request's row and the outbox; an answer that is
/// there already stays.
fn store(
    tx: &Tx,
    mut row: RequestRow,
    reply: Reply,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), LedgerError> {
    if row.answer.is_some() {
        return Ok(());
    }
    row.answer = Some(encode(&Message::Reply(reply))?);
    tx.put(&REQUESTS, &request_key(&row.owner, row.id), &row)?;
    send_again(tx, &row, now, until)
}

/// Puts the stored answer of a request into the outbox, once more.
pub(super) fn send_again(
    tx: &Tx,
    row: &RequestRow,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), LedgerError> {
    let Some(body) = row.answer.clone() else {
        return Ok(());
    };
    let key = format!("answer/{}", request_key(&row.owner, row.id));
    // The same answer sent again is the same rumor.
    let written_at = tx
        .get(&OUTBOX, &key)?
        .map_or(now, |waiting| waiting.written_at);
    let out = OutboxRow {
        to: row.owner,
        body,
        relays: row.relays.clone(),
        written_at,
        expires_at: until,
        attempts: 0,
        next_attempt: now,
    };
    tx.put(&OUTBOX, &key, &out)
}

/// Stores every answer and notice that `lease` owes now. Called in each commit
/// that changes a lease; what is answered is not answered again.
pub(super) fn settle(
    ctx: &Ctx,
    tx: &Tx,
    before: &Lease,
    lease: &Lease,
    payments: &[Payment],
) -> Result<(), LedgerError> {
    let now = ctx.now();
    let until = now.plus(ctx.settings().timing.answer);
    for payment in payments {
        let key = request_key(&payment.owner, payment.request);
        let Some(row) = tx.get(&REQUESTS, &key)?.filter(|row| row.answer.is_none()) else {
            continue;
        };
        if let Some(outcome) = payment_outcome(ctx, lease, payment) {
            let reply = match outcome {
                Ok(answer) => Reply::result(payment.request, answer),
                Err(refusal) => Reply::error(payment.request, refusal),
            };
            store(tx, row, reply, now, until)?;
        }
    }
    if let (Some(request), true) = (lease.stop_request, is_settled(lease)) {
        let row = tx.get(&REQUESTS, &request_key(&lease.owner, request))?;
        if let Some(row) = row.filter(|row| row.answer.is_none()) {
            store(
                tx,
                row,
                Reply::result(request, Answer::Stop(stopped(lease))),
                now,
                until,
            )?;
        }
    }
    notices(ctx, tx, before, lease)
}

/// Whether it is over and all money that goes back has been made.
fn is_settled(lease: &Lease) -> bool {
    lease.has_ended() && lease.refund_to_make().is_none()
}

/// What a payment's request is answered with, once that is known.
fn payment_outcome(ctx: &Ctx, lease: &Lease, payment: &Payment) -> Option<Result<Answer, Refusal>> {
    if payment.state == PaymentState::Rejected {
        let mints: Vec<_> = ctx
            .settings()
            .mints
            .iter()
            .map(|mint| mint.url.clone())
            .collect();
        let refusal = payment
            .rejection
            .as_ref()
            .map(|why| refuse::rejection(why, &mints));
        return refusal.map(Err);
    }
    if payment.state != PaymentState::Settled {
        let late = payment.state == PaymentState::Unknown && ctx.now() >= payment.deadline;
        return late.then(|| Err(pending()));
    }
    let up = matches!(lease.phase, Phase::Active);
    match payment.purpose {
        Purpose::Spawn if lease.started_at.is_some() => Some(Ok(spawned(ctx, lease, payment))),
        Purpose::Topup if up && payment.added_seconds > 0 => Some(Ok(topped_up(lease, payment))),
        Purpose::Spawn | Purpose::Topup if is_settled(lease) => Some(Err(failed(lease))),
        Purpose::Spawn | Purpose::Topup => None,
    }
}

fn pending() -> Refusal {
    WireError::new(
        Code::PaymentPending,
        "the mint's answer was lost; the provider is finding out",
        "do not use the token elsewhere; a notice tells what came of it",
    )
    .with_money(Money::Pending)
}

fn spawned(ctx: &Ctx, lease: &Lease, payment: &Payment) -> Answer {
    Answer::Spawn(SpawnAnswer {
        status: describe(ctx, lease),
        paid_msat: payment.face,
        mint_fee_msat: payment.fee,
    })
}

fn topped_up(lease: &Lease, payment: &Payment) -> Answer {
    Answer::Topup(TopupAnswer {
        lease: lease.id.clone(),
        added_seconds: payment.added_seconds,
        expires_at: lease.expires_at.unwrap_or_default(),
        paid_msat: payment.face,
        mint_fee_msat: payment.fee,
        credit_msat: lease.money.credit,
    })
}

/// Why nothing was given for money that was taken, with what comes back.
fn failed(lease: &Lease) -> Refusal {
    let code = match lease.cause {
        Some(EndCause::ProvisioningFailed) => Code::ProvisioningFailed,
        _ => Code::LeaseEnded,
    };
    let back = lease.refunds.iter().rev().find_map(refund);
    let suggestion = if back.is_some() {
        "the refund in this answer is yours; choose another image, tier or provider"
    } else {
        "a status of the lease tells what comes back"
    };
    WireError::new(code, lease.why.clone(), suggestion).with_refund(back)
}

fn stopped(lease: &Lease) -> StopAnswer {
    let rate = lease.tier.rate_msat_per_s.max(1);
    let made =
        |refund: &&crate::core::lease::Refund| matches!(refund.state, RefundState::Made { .. });
    StopAnswer {
        lease: lease.id.clone(),
        served_seconds: lease.money.served.get().div_ceil(rate),
        served_msat: lease.money.served,
        refund: lease.refunds.iter().rev().find(made).and_then(refund),
        refund_fee_msat: lease.money.refund_fees.saturating_sub(lease.money.absorbed),
        credit_msat: lease.money.credit,
    }
}

/// Notices of what changed from `before` to `lease`.
fn notices(ctx: &Ctx, tx: &Tx, before: &Lease, lease: &Lease) -> Result<(), LedgerError> {
    if let Some(lead) = lease
        .warned
        .iter()
        .find(|lead| !before.warned.contains(lead))
    {
        let message = format!("the lease ends in about {lead} s; top it up to keep it");
        // A top-up and another warning of the same kind are another notice.
        let end = lease.expires_at.unwrap_or_default().as_secs();
        notify(
            ctx,
            tx,
            lease,
            "expiring",
            &format!("expiring-{lead}-{end}"),
            &message,
        )?;
    }
    if before.phase != lease.phase {
        match lease.phase {
            Phase::Grace { destroy_at } => {
                let message = format!("the time is over; a top-up before {destroy_at} revives it");
                let id = format!("expired-{}", destroy_at.as_secs());
                notify(ctx, tx, lease, "expired", &id, &message)?;
            }
            Phase::Ended { .. } if lease.cause == Some(EndCause::Expired) => {
                notify(ctx, tx, lease, "destroyed", "destroyed", &lease.why)?;
            }
            _ => {}
        }
    }
    let told = lease.started_at.is_some() && lease.stop_request.is_none();
    if told && lease.cause == Some(EndCause::Lost) && is_settled(lease) && !is_settled(before) {
        notify(ctx, tx, lease, "failed", "failed", &lease.why)?;
    }
    late_refunds(ctx, tx, before, lease)
}

/// A refund that was made after its request had been answered.
fn late_refunds(ctx: &Ctx, tx: &Tx, before: &Lease, lease: &Lease) -> Result<(), LedgerError> {
    for (old, new) in before.refunds.iter().zip(&lease.refunds) {
        let made = old.state != new.state && matches!(new.state, RefundState::Made { .. });
        if made && before.has_ended() && lease.cause == Some(EndCause::Lost) {
            let id = format!("refund-{}", new.id);
            notify(ctx, tx, lease, "refund", &id, &new.why)?;
        }
    }
    Ok(())
}

fn notify(
    ctx: &Ctx,
    tx: &Tx,
    lease: &Lease,
    event: &str,
    name: &str,
    message: &str,
) -> Result<(), LedgerError> {
    let now = ctx.now();
    let notice = Notice {
        satlet: DIALECT,
        notice_id: format!("{}/{name}", lease.id),
        lease: lease.id.clone(),
        event: event.to_owned(),
        message: message.to_owned(),
        expires_at: lease.expires_at,
        refund: lease.refunds.iter().rev().find_map(refund),
    };
    let relays = tx
        .get(&REQUESTS, &request_key(&lease.owner, lease.request))?
        .map(|row| row.relays)
        .unwrap_or_default();
    let row = OutboxRow {
        to: lease.owner,
        body: encode(&Message::Notice(notice))?,
        relays,
        written_at: now,
        expires_at: now.plus(ctx.settings().timing.answer),
        attempts: 0,
        next_attempt: now,
    };
    tx.put(&OUTBOX, &format!("notice/{}/{name}", lease.id), &row)
}

/// What the consumer has to bear of all fees; for the demo's books.
pub fn fees(lease: &Lease) -> Option<Msat> {
    lease
        .money
        .mint_fees
        .checked_add(lease.money.refund_fees)?
        .checked_sub(lease.money.absorbed)
}
