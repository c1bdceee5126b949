//! Answers and notices: composed from the state of a lease, stored in the same
//! commit as the change that they announce, sent by the outbox.

use super::ctx::Ctx;
use super::handlers::{describe, refund};
use super::paygress::{self, wait};
use super::pool;
use super::receipts;
use super::refuse::{self, Refusal};
use crate::core::ids::{EventId, PublicKey, RequestId};
use crate::core::lease::{EndCause, Lease, Phase, RefundState};
use crate::core::money::Msat;
use crate::core::payment::{Payment, PaymentState, Purpose};
use crate::core::time::Timestamp;
use crate::ledger::{
    CONTAINER_OF, INBOX, InboxRow, LedgerError, OUTBOX, OldAsk, OutboxRow, REQUESTS, RequestRow,
    Tx, WRAPS, event_key, request_key,
};
use crate::protocol::DIALECT;
use crate::protocol::channel::Channel;
use crate::protocol::error::{Code, Money, WireError};
use crate::protocol::paygress::reply::Reply as OldReply;
use crate::protocol::reply::{
    self, Answer, Message, Notice, Outcome, Reply, SpawnAnswer, StopAnswer, TopupAnswer,
};
use crate::relay::Incoming;

/// Notes that a message is dealt with, and forgets its text, which may hold a
/// token. Of one that was not stored only its gift wrap is remembered.
pub(super) fn mark_done(
    tx: &Tx,
    message: &Incoming,
    request: Option<RequestId>,
) -> Result<(), LedgerError> {
    let key = event_key(&message.rumor);
    if let Some(wrap) = message.wrap
        && tx.get(&INBOX, &key)?.is_none()
    {
        return tx.put(&WRAPS, &event_key(&wrap), &message.received_at);
    }
    let row = InboxRow {
        channel: message.channel,
        sender: message.sender,
        relay: message.relay.clone(),
        received_at: message.received_at,
        written_at: message.written_at,
        body: String::new(),
        request,
        done: true,
    };
    tx.put(&INBOX, &key, &row)
}

/// Stores the one answer to a request and puts it into the outbox.
pub(super) async fn answer(ctx: &Ctx, message: &Incoming, reply: Reply) -> Result<(), LedgerError> {
    let (message, now, keep) = (message.clone(), ctx.now(), ctx.settings().timing.answer);
    ctx.ledger()
        .write(move |tx| {
            mark_done(tx, &message, Some(reply.request_id))?;
            let key = request_key(&message.sender, reply.request_id);
            match tx.get(&REQUESTS, &key)? {
                Some(row) => store(
                    tx,
                    row,
                    encode(&Message::Reply(reply))?,
                    now,
                    now.plus(keep),
                ),
                None => Ok(()),
            }
        })
        .await?;
    ctx.outbox.notify_one();
    Ok(())
}

/// Stores the one answer to a request in the dialect in use.
pub(super) async fn answer_text(
    ctx: &Ctx,
    message: &Incoming,
    id: RequestId,
    reply: &OldReply,
) -> Result<(), LedgerError> {
    let (message, now, text) = (message.clone(), ctx.now(), paygress::text(reply)?);
    ctx.ledger()
        .write(move |tx| {
            mark_done(tx, &message, Some(id))?;
            match tx.get(&REQUESTS, &request_key(&message.sender, id))? {
                Some(row) => store(tx, row, text, now, now),
                None => Ok(()),
            }
        })
        .await?;
    ctx.outbox.notify_one();
    Ok(())
}

/// A refusal that is not kept as the answer, in the asker's dialect.
pub(super) enum Unkept {
    /// satlet/1.
    Ours(RequestId, Refusal),
    /// The dialect in use.
    Old(OldAsk, OldReply),
}

/// What is written down of a message whose refusal is not kept as the answer.
pub(super) enum Note {
    /// That it is dealt with: it is stored.
    Done,
    /// Its gift wrap, so that it is not taken up when a relay brings it again: it
    /// has money, which was just said to be untouched.
    Wrap(EventId),
    /// Nothing: after a restart it is refused once more.
    Nothing,
}

/// Sends a refusal that is not kept as the answer: the same request may be
/// served later, when its author wraps it anew.
pub(super) async fn unstored(
    ctx: &Ctx,
    message: &Incoming,
    refusal: Unkept,
    note: Note,
) -> Result<(), LedgerError> {
    let row = unkept(ctx, message, refusal)?;
    let (message, now) = (message.clone(), ctx.now());
    ctx.ledger()
        .write(move |tx| {
            match note {
                Note::Done => mark_done(tx, &message, None)?,
                Note::Wrap(wrap) => tx.put(&WRAPS, &event_key(&wrap), &now)?,
                Note::Nothing => {}
            }
            let key = format!("refusal/{}/{}", message.rumor, now.as_secs());
            tx.put(&OUTBOX, &key, &row)
        })
        .await?;
    ctx.outbox.notify_one();
    Ok(())
}

fn unkept(ctx: &Ctx, message: &Incoming, refusal: Unkept) -> Result<OutboxRow, LedgerError> {
    let (now, owner) = (ctx.now(), message.sender);
    let mut row = OutboxRow {
        channel: message.channel,
        to: owner,
        body: String::new(),
        relays: vec![message.relay.clone()],
        written_at: now,
        expires_at: now.plus(ctx.settings().timing.quote),
        attempts: 0,
        next_attempt: now,
    };
    match refusal {
        Unkept::Ours(id, refusal) => {
            tracing::info!(request = %id, %owner, code = %refusal.code, "refused");
            row.body = encode(&Message::Reply(Reply::error(id, refusal)))?;
        }
        Unkept::Old(ask, reply) => {
            tracing::info!(rumor = %message.rumor, %owner, "refused");
            row.body = paygress::text(&reply)?;
            wait::stamp(&ask, now, &mut row);
        }
    }
    Ok(row)
}

/// Deals with a request whose refusal is not told: what was written down of it
/// is removed, and when it comes again it is as new.
pub(super) async fn silent(
    ctx: &Ctx,
    message: &Incoming,
    id: RequestId,
) -> Result<(), LedgerError> {
    let message = message.clone();
    ctx.ledger()
        .write(move |tx| {
            mark_done(tx, &message, Some(id))?;
            let key = request_key(&message.sender, id);
            match tx.get(&REQUESTS, &key)? {
                Some(row) if row.answer.is_none() && row.lease.is_none() => {
                    tx.delete(&REQUESTS, &key)
                }
                _ => Ok(()),
            }
        })
        .await
}

pub(super) fn encode(message: &Message) -> Result<String, LedgerError> {
    serde_json::to_string(message).map_err(|error| LedgerError::Rule(error.to_string()))
}

/// Puts the answer into the request's row and the outbox; an answer that is
/// there already stays.
pub(super) fn store(
    tx: &Tx,
    mut row: RequestRow,
    answer: String,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), LedgerError> {
    if row.answer.is_some() {
        return Ok(());
    }
    row.answer = Some(answer);
    if row.pending.take().is_some() {
        tx.delete(&OUTBOX, &pending_key(&row))?;
    }
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
    if row
        .paygress
        .as_ref()
        .is_some_and(|ask| !wait::is_heard(ask, now))
    {
        tracing::info!(request = %row.id, "its asker waits no longer; the answer is not sent");
        return Ok(());
    }
    let key = format!("answer/{}", request_key(&row.owner, row.id));
    enqueue(tx, &key, row, body, now, until)
}

fn enqueue(
    tx: &Tx,
    key: &str,
    row: &RequestRow,
    body: String,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), LedgerError> {
    // The same text sent again is the same rumor.
    let written_at = tx
        .get(&OUTBOX, key)?
        .map_or(now, |waiting| waiting.written_at);
    let mut out = OutboxRow {
        channel: row.channel,
        to: row.owner,
        body,
        relays: row.relays.clone(),
        written_at,
        expires_at: until,
        attempts: 0,
        next_attempt: now,
    };
    if let Some(ask) = &row.paygress {
        wait::stamp(ask, now, &mut out);
    }
    tx.put(&OUTBOX, key, &out)
}

/// What a commit changes of a lease.
pub(super) struct News<'a> {
    /// The lease before.
    pub(super) before: &'a Lease,
    /// The lease after.
    pub(super) lease: &'a Lease,
    /// Those of its payments that the row has, after.
    pub(super) payments: &'a [Payment],
    /// Whoever has waited too long is answered with what is known.
    pub(super) late: bool,
}

/// What was told in a commit, and what is left to tell.
#[derive(Default)]
struct Told {
    /// An answer was given.
    answered: bool,
    /// Somebody's answer is still to come, and will bring the refunds.
    waiting: bool,
    /// Refunds that went out with an answer or a notice.
    refunds: Vec<String>,
}

/// What a request is told.
enum Say {
    /// The one answer.
    Last(Reply),
    /// That the mint's answer was lost; the one answer comes later.
    Pending(Reply),
}

/// Stores every answer and notice that a lease owes now. Called in each commit
/// that changes a lease; what is answered is not answered again.
pub(super) fn settle(ctx: &Ctx, tx: &Tx, news: &News<'_>) -> Result<(), LedgerError> {
    let now = ctx.now();
    let until = now.plus(ctx.settings().timing.answer);
    let mut told = Told::default();
    for (request, owner) in requests(news.lease, news.payments) {
        let key = request_key(&owner, request);
        let Some(row) = tx.get(&REQUESTS, &key)?.filter(|row| row.answer.is_none()) else {
            continue;
        };
        match say(ctx, news, &row) {
            Some(Say::Last(reply)) => {
                told.answered = true;
                told.refunds.extend(refund_in(&reply));
                let text = match &row.paygress {
                    Some(ask) => paygress::render(ctx, tx, ask, news.lease, &reply)?,
                    None => {
                        let mut message = Message::Reply(reply);
                        receipts::enclose(ctx, tx, news.lease, &mut message)?;
                        encode(&message)?
                    }
                };
                store(tx, row, text, now, until)?;
            }
            Some(Say::Pending(reply)) => {
                told.waiting = true;
                if row.pending.is_none() {
                    interim(tx, row, reply, now, until)?;
                }
            }
            None => told.waiting = true,
        }
    }
    // Clients of the dialect in use take any message for the answer to what
    // they asked last.
    if tx.get(&CONTAINER_OF, news.lease.id.as_str())?.is_some() {
        return Ok(());
    }
    notices(ctx, tx, news, &mut told)
}

/// The requests that `lease`'s task answers, with their owners.
fn requests(lease: &Lease, payments: &[Payment]) -> Vec<(RequestId, PublicKey)> {
    let paid = payments.iter().map(|p| (p.request, p.owner));
    let stop = lease.stop_request.map(|request| (request, lease.owner));
    let given = lease.gift.map(|_| (lease.request, lease.owner));
    paid.chain(stop).chain(given).collect()
}

/// Whether a request of this lease could be answered, if need be with less than
/// all there is to tell.
pub(super) fn someone_waits_too_long(
    ctx: &Ctx,
    lease: &Lease,
    payments: &[Payment],
) -> Result<bool, LedgerError> {
    let news = News {
        before: lease,
        lease,
        payments,
        late: true,
    };
    ctx.ledger().read(|reader| {
        for (request, owner) in requests(lease, payments) {
            let row = reader.get(&REQUESTS, &request_key(&owner, request))?;
            let Some(row) = row.filter(|row| row.answer.is_none()) else {
                continue;
            };
            match say(ctx, &news, &row) {
                Some(Say::Last(_)) => return Ok(true),
                Some(Say::Pending(_)) if row.pending.is_none() => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    })
}

fn refund_in(reply: &Reply) -> Option<String> {
    let refund = match &reply.outcome {
        Outcome::Error(error) => error.refund.as_ref(),
        Outcome::Result(answer) => match &**answer {
            Answer::Stop(stop) => stop.refund.as_ref(),
            _ => None,
        },
    };
    refund.map(|refund| refund.refund_id.clone())
}

/// Whether it is over and all money that goes back has been made.
fn is_settled(lease: &Lease) -> bool {
    lease.has_ended() && lease.refund_to_make().is_none()
}

/// What a request of this lease is told now, if anything.
fn say(ctx: &Ctx, news: &News<'_>, row: &RequestRow) -> Option<Say> {
    let lease = news.lease;
    let at_end = matches!(lease.phase, Phase::Ending | Phase::Ended { .. });
    if lease.stop_request == Some(row.id) {
        // Long enough for a mint and a backend that answer at all.
        let patience = ctx.settings().timing.mint.saturating_mul(2);
        let late = news.late && at_end && ctx.now() >= row.received_at.plus(patience);
        let answer = (is_settled(lease) || late).then(|| Answer::Stop(stopped(lease, ctx.now())));
        return answer.map(|answer| Say::Last(Reply::result(row.id, answer)));
    }
    if let Some(told) = pool::told(ctx, lease, row.id, news.late) {
        return Some(Say::Last(match told {
            Ok(answer) => Reply::result(row.id, answer),
            Err(refusal) => Reply::error(row.id, refusal),
        }));
    }
    let mut payments = news.payments.iter();
    let payment = payments.find(|payment| payment.request == row.id)?;
    let late = news.late && ctx.now() >= payment.deadline;
    match payment.state {
        PaymentState::Unknown if late => {
            let reply = Reply::error(row.id, pending());
            Some(match row.paygress {
                Some(_) => Say::Last(reply),
                None => Say::Pending(reply),
            })
        }
        PaymentState::Lapsed => Some(Say::Last(Reply::error(row.id, refuse::invoice_expired()))),
        PaymentState::Rejected => {
            let mints: Vec<_> = ctx
                .settings()
                .mints
                .iter()
                .map(|mint| mint.url.clone())
                .collect();
            let why = payment.rejection.as_ref()?;
            let refusal = refuse::rejection(why, &mints);
            Some(Say::Last(Reply::error(row.id, refusal)))
        }
        PaymentState::Settled => {
            // A part of it was made and the rest takes longer: better told now.
            let part = news.late && lease.refunds.iter().any(|made| refund(made).is_some());
            let late = match &row.paygress {
                Some(ask) => news.late && ctx.now() >= wait::answer_by(ask),
                None => late,
            };
            let outcome = paid_outcome(ctx, lease, payment, at_end && (late || part))?;
            Some(Say::Last(match outcome {
                Ok(answer) => Reply::result(row.id, answer),
                Err(refusal) => Reply::error(row.id, refusal),
            }))
        }
        _ => None,
    }
}

/// What money that was taken has become, once that is known.
fn paid_outcome(
    ctx: &Ctx,
    lease: &Lease,
    payment: &Payment,
    late: bool,
) -> Option<Result<Answer, Refusal>> {
    let up = lease.phase == Phase::Active;
    // With a stop asked for, money that comes is owed back and adds nothing.
    let added = payment.added_seconds > 0 || lease.stop_request.is_none();
    match payment.purpose {
        Purpose::Spawn if lease.started_at.is_some() => Some(Ok(spawned(ctx, lease, payment))),
        Purpose::Topup if up && added => Some(Ok(topped_up(lease, payment))),
        Purpose::Spawn | Purpose::Topup if is_settled(lease) || late => Some(Err(failed(lease))),
        Purpose::Spawn | Purpose::Topup => None,
    }
}

/// Tells a request, once, that its answer takes longer; that is not the answer.
pub(super) fn interim(
    tx: &Tx,
    mut row: RequestRow,
    reply: Reply,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), LedgerError> {
    row.pending = Some(encode(&Message::Reply(reply))?);
    tx.put(&REQUESTS, &request_key(&row.owner, row.id), &row)?;
    pending_again(tx, &row, now, until)
}

/// Puts what a request was told meanwhile into the outbox, once more.
pub(super) fn pending_again(
    tx: &Tx,
    row: &RequestRow,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), LedgerError> {
    let Some(body) = row.pending.clone().filter(|_| row.answer.is_none()) else {
        return Ok(());
    };
    enqueue(tx, &pending_key(row), row, body, now, until)
}

fn pending_key(row: &RequestRow) -> String {
    format!("pending/{}", request_key(&row.owner, row.id))
}

fn pending() -> Refusal {
    WireError::new(
        Code::PaymentPending,
        "the mint's answer was lost; the provider is finding out",
        "do not use the token elsewhere; the answer comes when the mint tells, and asking again with the same request id does no harm",
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

fn stopped(lease: &Lease, now: Timestamp) -> StopAnswer {
    let rate = lease.tier.rate_msat_per_s.max(1);
    // Booked when nothing is left of the workload; certain since the end began.
    let served = match lease.phase {
        Phase::Ended { .. } => lease.money.served,
        _ => lease.served(now).unwrap_or_default(),
    };
    let made =
        |refund: &&crate::core::lease::Refund| matches!(refund.state, RefundState::Made { .. });
    StopAnswer {
        lease: lease.id.clone(),
        served_seconds: served.get().div_ceil(rate),
        served_msat: served,
        refund: lease.refunds.iter().rev().find(made).and_then(refund),
        refund_fee_msat: lease.money.refund_fees.saturating_sub(lease.money.absorbed),
        credit_msat: lease.money.credit,
        receipt: None,
    }
}

/// The notice that a lease will soon be over.
const EXPIRING: &str = "expiring";

/// Notices of what changed.
fn notices(ctx: &Ctx, tx: &Tx, news: &News<'_>, told: &mut Told) -> Result<(), LedgerError> {
    let (before, lease) = (news.before, news.lease);
    let say = |event, name: &str, message: &str, refund| {
        notify(ctx, tx, news, event, name, message, refund)
    };
    let new = |lead: &&u64| !before.warned.contains(lead);
    if let Some(lead) = lease.warned.iter().find(new) {
        let left = lease.unserved_seconds(ctx.now());
        let message = format!("the lease ends in about {left} s; top it up to keep it");
        // A top-up and another warning of the same kind are another notice.
        let end = lease.expires_at.unwrap_or_default().as_secs();
        say(EXPIRING, &format!("expiring-{lead}-{end}"), &message, None)?;
    }
    if before.phase != lease.phase {
        match lease.phase {
            Phase::Grace { destroy_at } => {
                let message = format!("the time is over; a top-up before {destroy_at} revives it");
                let name = format!("expired-{}", destroy_at.as_secs());
                say("expired", &name, &message, None)?;
            }
            Phase::Ended { .. } if lease.cause == Some(EndCause::Expired) => {
                say("destroyed", "destroyed", &lease.why, None)?;
            }
            _ => {}
        }
    }
    let unasked = lease.started_at.is_some() && lease.stop_request.is_none();
    if unasked && lease.cause == Some(EndCause::Lost) && is_settled(lease) && !is_settled(before) {
        let back = lease.refunds.iter().rev().find_map(refund);
        told.refunds
            .extend(back.iter().map(|back| back.refund_id.clone()));
        say("failed", "failed", &lease.why, back)?;
    }
    if told.waiting {
        // The answer brings one of them, and its commit the others.
        return Ok(());
    }
    for made in lease.refunds.iter().filter_map(refund) {
        let known = before.refunds.iter().filter_map(refund);
        let old = known.into_iter().any(|old| old.refund_id == made.refund_id);
        if (old && !told.answered) || told.refunds.contains(&made.refund_id) {
            continue;
        }
        let (name, why) = (format!("refund-{}", made.refund_id), made.why.clone());
        say("refund", &name, &why, Some(made))?;
    }
    Ok(())
}

fn notify(
    ctx: &Ctx,
    tx: &Tx,
    news: &News<'_>,
    event: &str,
    name: &str,
    message: &str,
    refund: Option<reply::Refund>,
) -> Result<(), LedgerError> {
    let (now, lease) = (ctx.now(), news.lease);
    let mut notice = Message::Notice(Notice {
        satlet: DIALECT,
        notice_id: format!("{}/{name}", lease.id),
        lease: lease.id.clone(),
        event: event.to_owned(),
        message: message.to_owned(),
        expires_at: lease.expires_at,
        refund,
        receipt: None,
    });
    // While it runs, who wants to know asks.
    if event != EXPIRING {
        receipts::enclose(ctx, tx, lease, &mut notice)?;
    }
    let relays = tx
        .get(&REQUESTS, &request_key(&lease.owner, lease.request))?
        .map(|row| row.relays)
        .unwrap_or_default();
    let row = OutboxRow {
        channel: Channel::GiftWrap,
        to: lease.owner,
        body: encode(&notice)?,
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
