//! What survives a crash of the provider: the tables of its ledger.

use std::collections::BTreeMap;

use satlet::core::ids::{LeaseId, PaymentId, RequestId};
use satlet::core::lease::Lease;
use satlet::core::payment::{Payment, PaymentState};
use serde_json::json;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A workload for this token.
    Spawn(Token),
    /// A workload for nothing.
    Gift,
    /// More time for this lease.
    Topup(LeaseId, Token),
    /// The end of this lease.
    Stop(LeaseId),
}

/// A token: the numbers of its proofs, ascending, one to four of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token(pub(super) Vec<u64>);

impl Token {
    /// As it stands in a payment's row.
    pub(super) fn text(&self) -> String {
        let ids: Vec<_> = self.0.iter().map(u64::to_string).collect();
        ids.join(".")
    }

    /// From its text; one that was forgotten has none.
    pub(super) fn read(text: &str) -> Option<Self> {
        let ids = text.split('.').map(|id| id.parse().ok());
        ids.collect::<Option<Vec<_>>>().map(Self)
    }

    /// Its payment: the same proofs are the same payment.
    pub(super) fn payment(&self) -> PaymentId {
        let mut bytes = [0; 32];
        for (to, id) in bytes.chunks_mut(8).zip(&self.0) {
            to.copy_from_slice(&id.to_be_bytes());
        }
        PaymentId::from_bytes(bytes)
    }
}

/// A message of the consumer: it may come several times, and the same request in
/// several messages.
#[derive(Clone, Debug)]
pub(super) struct Msg {
    pub(super) rumor: u64,
    pub(super) request: RequestId,
    pub(super) ask: Ask,
}

/// The one answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing was taken.
    Refused,
    /// The workload came up.
    Spawned,
    /// Time was added.
    ToppedUp,
    /// Money was taken and nothing given; it goes back.
    Failed,
    /// The lease was ended.
    Stopped,
}

impl Answer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused by the mint",
            Self::Spawned => "spawned",
            Self::ToppedUp => "topped up",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// A request that was written down.
#[derive(Debug)]
pub(super) struct RequestRow {
    pub(super) id: RequestId,
    pub(super) received_at: u64,
    pub(super) lease: Option<LeaseId>,
    pub(super) answer: Option<Answer>,
    /// How many answers were put into the outbox that were not there before.
    pub(super) answers: u32,
    /// It was told that the mint's answer is lost.
    pub(super) pending: bool,
}

/// The tables.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) leases: Vec<Lease>,
    pub(super) ended: Vec<Lease>,
    pub(super) payments: Vec<Payment>,
    pub(super) proofs: BTreeMap<String, PaymentId>,
    /// Proofs of refunds that are being taken back.
    pub(super) taking: Vec<String>,
    pub(super) requests: Vec<RequestRow>,
    /// Messages, and whether each is dealt with.
    pub(super) inbox: Vec<(Msg, bool)>,
    /// Workloads that are to be, and whether the backend gave a handle.
    pub(super) workloads: Vec<(LeaseId, bool)>,
    /// The pool.
    pub(super) gifts: super::gifts::Rows,
}

impl Disk {
    pub(super) fn lease(&self, id: &LeaseId) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.id == *id)
    }

    pub(super) fn lease_mut(&mut self, id: &LeaseId) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|lease| lease.id == *id)
    }

    /// A lease, running or over.
    pub(super) fn any_lease(&self, id: &LeaseId) -> Option<&Lease> {
        let mut ended = self.ended.iter();
        self.lease(id)
            .or_else(|| ended.find(|lease| lease.id == *id))
    }

    /// The payments of a lease: proofs of one that was rejected may have been
    /// brought again for another lease.
    pub(super) fn payments_of(&self, lease: &Lease) -> Vec<Payment> {
        let row = |id: &PaymentId| self.payment(id).filter(|p| p.lease == lease.id);
        lease.payments.iter().filter_map(row).cloned().collect()
    }

    pub(super) fn payment(&self, id: &PaymentId) -> Option<&Payment> {
        self.payments.iter().find(|payment| payment.id == *id)
    }

    pub(super) fn put_payment(&mut self, row: Payment) {
        match self.payments.iter_mut().find(|p| p.id == row.id) {
            Some(there) => *there = row,
            None => self.payments.push(row),
        }
    }

    /// Whether a payment still has a claim on its proofs.
    pub(super) fn still_held(&self, id: &PaymentId) -> bool {
        self.payment(id)
            .is_some_and(|p| p.state != PaymentState::Rejected)
    }

    pub(super) fn request(&mut self, id: RequestId) -> Option<&mut RequestRow> {
        self.requests.iter_mut().find(|row| row.id == id)
    }

    /// Whether the backend's handle is known; `None` where there is no row.
    pub(super) fn handle(&self, id: &LeaseId) -> Option<bool> {
        let row = self.workloads.iter().find(|(lease, _)| lease == id);
        row.map(|(_, handle)| *handle)
    }

    pub(super) fn done(&mut self, rumor: u64) {
        for (msg, done) in &mut self.inbox {
            *done |= msg.rumor == rumor;
        }
    }
}

/// Rows to be filled in. Read from text, as rows of an older file are: a field
/// that is new since then has its default.
#[derive(Clone)]
pub(super) struct Blank {
    pub(super) lease: Lease,
    pub(super) payment: Payment,
}

impl Blank {
    pub(super) fn new() -> Self {
        let (key, id) = ("11".repeat(32), "aaaaaaaaaaaa");
        let request = "00000000-0000-0000-0000-000000000000";
        let lease = json!({
            "id": id, "owner": key, "request": request,
            "tier": { "id": "small", "name": "", "description": "",
                "resources": satlet::core::capacity::Resources::default(),
                "rate_msat_per_s": 1, "min_seconds": 1, "max_seconds": 1 },
            "image": "", "ssh_keys": [], "phase": "reserved",
            "why": "the payment is under way", "cause": null, "created_at": 0,
            "started_at": null, "expires_at": null, "waiting_seconds": 0,
            "waiting_fees": 0, "sold_seconds": 0,
            "money": satlet::core::lease::Books::default(),
            "purse": null, "payments": [], "refunds": [], "warned": [],
            "stop_request": null, "looked_at": 0,
        });
        let payment = json!({
            "id": key, "owner": key, "request": request, "lease": id,
            "purpose": "spawn", "mint": "", "unit": "sat", "face": 0,
            "token": "", "ys": [], "state": "reserved", "deadline": 0,
            "net": 0, "fee": 0, "added_seconds": 0, "rejection": null,
        });
        Self {
            lease: serde_json::from_value(lease).expect("a lease's row"),
            payment: serde_json::from_value(payment).expect("a payment's row"),
        }
    }
}

/// A lease's id by number.
pub(super) fn lease_id(n: u8) -> LeaseId {
    let mut bytes = [0; LeaseId::LEN];
    bytes[LeaseId::LEN - 1] = n;
    LeaseId::from_random(bytes)
}

/// A request's id by number.
pub(super) fn request_id(n: u64) -> RequestId {
    let text = format!("00000000-0000-0000-0000-{n:012}");
    text.parse().expect("a request's id")
}
