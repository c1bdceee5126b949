//! What the ledger holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::containers::OldAsk;
use super::table::{Look, Table};
use super::{LedgerError, Reader, Tx};
use crate::core::ids::{EventId, LeaseId, PaymentId, PublicKey, RequestId};
use crate::core::lease::{Lease, Purse};
use crate::core::money::Msat;
use crate::core::payment::{Payment, PaymentState};
use crate::core::purse::Merge;
use crate::core::time::Timestamp;
use crate::protocol::channel::Channel;

/// A message to us, by rumor id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRow {
    /// Who wrote it.
    pub sender: PublicKey,
    /// How it came.
    #[serde(default, skip_serializing_if = "Channel::is_usual")]
    pub channel: Channel,
    /// The relay that brought it.
    pub relay: String,
    /// When it came.
    pub received_at: Timestamp,
    /// When its author wrote it.
    pub written_at: Timestamp,
    /// Its text, until it is dealt with.
    pub body: String,
    /// The request in it, once it has been read.
    pub request: Option<RequestId>,
    /// Whether it is dealt with: what is left to do is in other tables.
    pub done: bool,
}

/// A request, by owner and id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRow {
    /// Who asks.
    pub owner: PublicKey,
    /// The asker's name of it.
    pub id: RequestId,
    /// SHA-256 of the body, hex: the same id with another body is refused.
    pub body_hash: String,
    /// How it came, and how the answer goes.
    #[serde(default, skip_serializing_if = "Channel::is_usual")]
    pub channel: Channel,
    /// Relays that brought it: where the answer goes besides the asker's own.
    pub relays: Vec<String>,
    /// When it came first.
    pub received_at: Timestamp,
    /// The lease that it is about, for what takes time.
    pub lease: Option<LeaseId>,
    /// The payment that it brought.
    pub payment: Option<PaymentId>,
    /// The one answer, as it went out.
    pub answer: Option<String>,
    /// What was said meanwhile, where the answer takes long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// Set for a request in the dialect in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paygress: Option<OldAsk>,
}

/// What the backend has to make; kept until the lease has ended.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRow {
    /// What it should be (a `WorkloadSpec`).
    pub spec: serde_json::Value,
    /// What the backend made of it (a `Handle`), once it has.
    pub handle: Option<serde_json::Value>,
}

/// A message that has to reach somebody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// To whom.
    pub to: PublicKey,
    /// How it goes.
    #[serde(default, skip_serializing_if = "Channel::is_usual")]
    pub channel: Channel,
    /// Its text.
    pub body: String,
    /// Relays to use besides the receiver's own.
    pub relays: Vec<String>,
    /// When it was written.
    pub written_at: Timestamp,
    /// Given up after this.
    pub expires_at: Timestamp,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this.
    pub next_attempt: Timestamp,
}

/// What merging proofs of one purse has cost us, which is on no lease's books.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeRow {
    /// What mints kept, of those that are over.
    pub cost: Msat,
    /// The one that is under way, or about to be.
    pub open: Option<Merge>,
}

// Texts may hold tokens, and a workload's environment may hold secrets: neither
// is shown.

impl fmt::Debug for InboxRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxRow")
            .field("sender", &self.sender)
            .field("received_at", &self.received_at)
            .field("request", &self.request)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestRow")
            .field("owner", &self.owner)
            .field("id", &self.id)
            .field("lease", &self.lease)
            .field("answered", &self.answer.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WorkloadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadRow")
            .field("made", &self.handle.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OutboxRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxRow")
            .field("to", &self.to)
            .field("written_at", &self.written_at)
            .field("attempts", &self.attempts)
            .field("next_attempt", &self.next_attempt)
            .finish_non_exhaustive()
    }
}

/// `format`: version of the file.
pub const META: Table<u32> = Table::new("meta");
/// Gift wraps seen, by event id, and when.
pub const WRAPS: Table<Timestamp> = Table::new("wraps");
/// Messages to us, by rumor id.
pub const INBOX: Table<InboxRow> = Table::new("inbox");
/// Requests, by [`request_key`].
pub const REQUESTS: Table<RequestRow> = Table::new("requests");
/// Payments, by id.
pub const PAYMENTS: Table<Payment> = Table::new("payments");
/// What merging proofs cost us, by [`purse_key`].
pub const MERGES: Table<MergeRow> = Table::new("merges");
/// Payments of a lease that are done with and were taken, by [`done_key`].
pub const DONE: Table<PaymentId> = Table::new("done");
/// Which payment a proof belongs to, for ever, by Y.
pub const PROOFS: Table<PaymentId> = Table::new("proofs");
/// Proofs of our own refunds that are being taken back, by Y, and which refund
/// each is of: nobody pays with them meanwhile.
pub const TAKING: Table<String> = Table::new("taking");
/// Leases that have not ended, and those that ended with something still to do.
pub const LEASES: Table<Lease> = Table::new("leases");
/// Leases that are over.
pub const ENDED: Table<Lease> = Table::new("ended");
/// Workloads, by lease.
pub const WORKLOADS: Table<WorkloadRow> = Table::new("workloads");
/// Messages that have to reach somebody, by our name for them.
pub const OUTBOX: Table<OutboxRow> = Table::new("outbox");
/// When a relay was last caught up with, by URL.
pub const RELAYS: Table<Timestamp> = Table::new("relays");

/// The key of a purse: its unit and its mint.
pub fn purse_key((mint, unit): &Purse) -> String {
    format!("{unit} {mint}")
}

/// The key of a request: the owner's key and the id.
pub fn request_key(owner: &PublicKey, id: RequestId) -> String {
    format!("{owner}/{id}")
}

/// The key of a message or gift wrap.
pub fn event_key(id: &EventId) -> String {
    id.to_hex()
}

/// A lease, running or over.
///
/// # Errors
/// The row cannot be read, or the disk.
pub fn find_lease(reader: &Reader, id: &LeaseId) -> Result<Option<Lease>, LedgerError> {
    match reader.get(&LEASES, id.as_str())? {
        Some(lease) => Ok(Some(lease)),
        None => reader.get(&ENDED, id.as_str()),
    }
}

/// The key of the payment of `lease` that was the `n`-th to be done with, from 0.
pub fn done_key(lease: &LeaseId, n: u64) -> String {
    format!("{lease}/{n:012}")
}

/// The payments of a lease that its row has: those of which something may still
/// come, the first one first. Proofs whose payment was rejected may have been
/// brought again for another lease since.
///
/// # Errors
/// A row cannot be read, or the disk.
pub fn payments_of(rows: &impl Look, lease: &Lease) -> Result<Vec<Payment>, LedgerError> {
    let mut payments = Vec::with_capacity(lease.payments.len());
    for id in &lease.payments {
        payments.extend(payment_of(rows, lease, *id)?);
    }
    Ok(payments)
}

/// The same, with those that are done with before them. Reads all that was ever
/// paid for the lease.
///
/// # Errors
/// A row cannot be read, or the disk.
pub fn all_payments_of(rows: &impl Look, lease: &Lease) -> Result<Vec<Payment>, LedgerError> {
    let mut payments = Vec::new();
    for n in 0..lease.payments_done {
        if let Some(id) = rows.look(&DONE, &done_key(&lease.id, n))? {
            payments.extend(payment_of(rows, lease, id)?);
        }
    }
    payments.extend(payments_of(rows, lease)?);
    Ok(payments)
}

fn payment_of(
    rows: &impl Look,
    lease: &Lease,
    id: PaymentId,
) -> Result<Option<Payment>, LedgerError> {
    let payment = rows.look(&PAYMENTS, &id.to_hex())?;
    Ok(payment.filter(|payment| payment.lease == lease.id))
}

/// Takes those payments off the lease's row that are done with and whose request
/// is answered. `payments` are those of the row. `true` where there were any.
///
/// # Errors
/// A row cannot be read.
pub fn set_aside(tx: &Tx, lease: &mut Lease, payments: &[Payment]) -> Result<bool, LedgerError> {
    let before = lease.payments.len();
    let mut left = Vec::new();
    for id in std::mem::take(&mut lease.payments) {
        // One that was rejected, and whose row is another lease's now, is nobody's.
        let Some(payment) = payments.iter().find(|payment| payment.id == id) else {
            continue;
        };
        let asked = tx.get(&REQUESTS, &request_key(&payment.owner, payment.request))?;
        if payment.is_open() || asked.is_some_and(|row| row.answer.is_none()) {
            left.push(id);
        } else if payment.state == PaymentState::Settled {
            tx.put(&DONE, &done_key(&lease.id, lease.payments_done), &id)?;
            lease.payments_done = lease.payments_done.saturating_add(1);
        }
    }
    lease.payments = left;
    Ok(lease.payments.len() != before)
}
