//! How long a client of the dialect in use waits, and what follows from that. It
//! cannot be told anything later, so nothing is begun that would end too late.

use crate::core::ids::LeaseId;
use crate::core::lease::{Event, Phase};
use crate::core::payment::{Payment, Purpose};
use crate::core::time::Timestamp;
use crate::ledger::{LEASES, LedgerError, OldAsk, OldWants, OutboxRow, REQUESTS, Tx, request_key};
use crate::protocol::paygress::request::Request;
use crate::relay::Incoming;

/// How long a reply is of use after it was written, in seconds: it is in its
/// NIP-40 tag. Clients drop what has expired; without it the next command within
/// a minute would take this reply for its own. Long enough for a client that
/// hears only after all its relays have confirmed the request.
pub const REPLY_LASTS: u64 = 40;

/// How far ahead of ours a client's clock may be, in seconds, for the reply to
/// be stamped by its clock.
const CLOCK_AHEAD: u64 = 900;

/// How long existing clients listen, in seconds.
const fn listens(wants: OldWants) -> u64 {
    match wants {
        OldWants::Spawn => 120,
        OldWants::TopUp => 60,
        OldWants::Status => 30,
    }
}

/// A request older than this when it is looked at is not begun any more, in
/// seconds: paying and making take time.
const fn stale_after(wants: OldWants) -> u64 {
    match wants {
        OldWants::Spawn => 90,
        OldWants::TopUp => 45,
        OldWants::Status => 30,
    }
}

/// What is remembered of a request: `None` is a body that cannot be read.
pub(in crate::provider) fn ask(message: &Incoming, request: Option<&Request>) -> OldAsk {
    let (wants, name) = match request {
        Some(Request::Spawn(_)) => (OldWants::Spawn, String::new()),
        Some(Request::TopUp(topup)) => (OldWants::TopUp, topup.pod_npub.clone()),
        Some(Request::Status(status)) => (OldWants::Status, status.pod_id.clone()),
        None => (OldWants::Status, String::new()),
    };
    OldAsk {
        wants,
        name,
        asked_at: message.written_at.min(message.received_at),
        written_at: message.written_at,
    }
}

/// Whether it is too late to begin with it.
pub(in crate::provider) fn is_stale(ask: &OldAsk, now: Timestamp) -> bool {
    now > ask.asked_at.plus_secs(stale_after(ask.wants))
}

/// Whether somebody still waits for the reply.
pub fn is_heard(ask: &OldAsk, now: Timestamp) -> bool {
    now <= ask.asked_at.plus_secs(listens(ask.wants))
}

/// The latest moment at which its token is redeemed.
pub(super) fn pay_by(ask: &OldAsk) -> Timestamp {
    ask.asked_at.plus_secs(match ask.wants {
        OldWants::Spawn => 70,
        OldWants::TopUp | OldWants::Status => 30,
    })
}

/// A workload that is not up by then is given up, and paid back.
pub fn up_by(ask: &OldAsk) -> Timestamp {
    ask.asked_at.plus_secs(100)
}

/// Who has not been answered by then is told what is known.
pub fn answer_by(ask: &OldAsk) -> Timestamp {
    ask.asked_at.plus_secs(match ask.wants {
        OldWants::Spawn => 112,
        OldWants::TopUp | OldWants::Status => 50,
    })
}

/// Stamps a reply so that its asker sees it, whose clock may be ahead of ours,
/// and so that nobody sees it later.
pub fn stamp(ask: &OldAsk, now: Timestamp, row: &mut OutboxRow) {
    let theirs = ask.written_at.min(now.plus_secs(CLOCK_AHEAD));
    row.written_at = row.written_at.max(theirs);
    row.expires_at = row.written_at.plus_secs(REPLY_LASTS);
}

/// How long bringing it up may take once it is paid, in seconds. Nothing is
/// brought up whose asker was answered already or will not hear how to get in.
///
/// # Errors
/// The ledger.
pub(in crate::provider) fn patience(
    tx: &Tx,
    payment: &Payment,
    usual: u64,
    now: Timestamp,
) -> Result<u64, LedgerError> {
    let row = tx.get(&REQUESTS, &request_key(&payment.owner, payment.request))?;
    let Some(row) = row.filter(|_| payment.purpose == Purpose::Spawn) else {
        return Ok(usual);
    };
    Ok(match row.paygress {
        Some(_) if row.answer.is_some() => 0,
        Some(ask) => usual.min(up_by(&ask).secs_since(now)),
        None => usual,
    })
}

/// An answer was given up. A workload whose password is in it can never be used:
/// it ends, and what was paid goes back. Its lease, if so.
///
/// # Errors
/// The ledger.
pub(in crate::provider) fn unheard(
    tx: &Tx,
    key: &str,
    now: Timestamp,
) -> Result<Option<LeaseId>, LedgerError> {
    let Some(request) = key.strip_prefix("answer/") else {
        return Ok(None);
    };
    let row = tx.get(&REQUESTS, request)?;
    let spawn = |ask: &OldAsk| ask.wants == OldWants::Spawn;
    let row = row.filter(|row| row.paygress.as_ref().is_some_and(spawn));
    let Some(id) = row.and_then(|row| row.lease) else {
        return Ok(None);
    };
    match tx.get(&LEASES, id.as_str())? {
        Some(mut lease) if lease.phase == Phase::Active => {
            tracing::warn!(lease = %id, "nobody heard how to get in; it ends");
            lease.on(Event::Unheard, now)?;
            tx.put(&LEASES, id.as_str(), &lease)?;
            Ok(Some(id))
        }
        _ => Ok(None),
    }
}
