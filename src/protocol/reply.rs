//! Replies and notices, provider to consumer: one JSON object each. A reply
//! names its request; a notice answers nothing.

use serde::{Deserialize, Serialize};

use super::error::WireError;
use super::receipt::{self, SignedReceipt};
use crate::core::capacity::Resources;
use crate::core::ids::{LeaseId, Name, RequestId};
use crate::core::money::Msat;
use crate::core::payment::lock::LockKey;
use crate::core::time::Timestamp;

/// Anything that a provider sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Message {
    /// The answer to a request.
    Reply(Reply),
    /// Something that the consumer should know.
    Notice(Notice),
}

/// The one answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// [`DIALECT`](super::DIALECT).
    pub satlet: u32,
    /// The request that this answers; all zeros where it could not be read.
    pub request_id: RequestId,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// `result` or `error`, never both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time is on its way, and the error is what callers take out"
)]
pub enum Outcome {
    /// It was done.
    Result(Box<Answer>),
    /// It was refused, or failed.
    Error(WireError),
}

/// What was done; `kind` names the request's type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Answer {
    /// To `quote`.
    Quote(QuoteAnswer),
    /// To `spawn` and to `claim`.
    Spawn(SpawnAnswer),
    /// To `hold`.
    Hold(HoldAnswer),
    /// To `release`.
    Release {
        /// Which hold.
        hold: LeaseId,
    },
    /// To `topup`.
    Topup(TopupAnswer),
    /// To `status`.
    Status(LeaseStatus),
    /// To `list`.
    List {
        /// Leases of the sender that have not been forgotten, newest first.
        leases: Vec<LeaseStatus>,
    },
    /// To `logs`.
    Logs {
        /// Which lease.
        lease: LeaseId,
        /// Output, with what is not UTF-8 replaced.
        output: String,
        /// Whether earlier output was left out.
        truncated: bool,
    },
    /// To `receipt`.
    Receipt {
        /// Which lease.
        lease: LeaseId,
        /// Its account as of now.
        receipt: SignedReceipt,
    },
    /// To `stop`.
    Stop(StopAnswer),
}

/// A mint and what paying there costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintTerms {
    /// Its URL.
    pub url: String,
    /// Units that are accepted from it.
    pub units: Vec<String>,
    /// Its fee per proof, in thousandths of the unit (NUT-02); `null` while the
    /// mint has not told.
    pub input_fee_ppk: Option<u64>,
    /// [`DEGRADED`], [`PAUSED`] or [`REFUSED`]; absent: it is well. Of another word
    /// nothing is known but that it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// New leases are sold for tokens of this mint only if they are locked.
pub const DEGRADED: &str = "degraded";
/// No new leases are sold for tokens of this mint; running ones may be paid for.
pub const PAUSED: &str = "paused";
/// No tokens of this mint are taken.
pub const REFUSED: &str = "refused";

impl MintTerms {
    /// Whether a new lease may be paid for with its tokens; `locked`: with such
    /// that are locked to the provider.
    pub fn sells(&self, locked: bool) -> bool {
        match self.state.as_deref() {
            None => true,
            Some(DEGRADED) => locked,
            Some(_) => false,
        }
    }
}

/// How a token may be locked to the provider (NUT-11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockTerms {
    /// The provider's key, as in its offer.
    pub key: LockKey,
    /// When the provider reads the token, its locktime has to be at least so
    /// many seconds ahead.
    pub min_seconds: u64,
    /// For so many seconds room is held for a token that is locked to a hash too
    /// (NUT-14); its locktime has to be as much further ahead. Absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u64>,
}

/// How the provider takes Lightning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightningTerms {
    /// The mint that makes the invoices; what comes back is its ecash.
    pub mint: String,
    /// The unit of that ecash. An invoice is over the price, rounded up to it.
    pub unit: String,
    /// An invoice is to be paid within so many seconds; room is held meanwhile.
    pub pay_seconds: u64,
    /// The mint is asked about an invoice for so many seconds after it has
    /// expired; what is paid too late comes back.
    pub late_seconds: u64,
}

/// An invoice for what was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// It (BOLT 11).
    pub bolt11: String,
    /// What it is over.
    pub amount_msat: Msat,
    /// To be paid before this; what is paid later comes back as ecash.
    pub pay_by: Timestamp,
    /// The mint that made it.
    pub mint: String,
    /// The unit of its ecash.
    pub unit: String,
}

/// A price, and all that will be given for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteAnswer {
    /// Cite it in the spawn.
    pub quote_id: RequestId,
    /// After this the price may be another one.
    pub expires_at: Timestamp,
    /// The tier.
    pub tier: Name,
    /// The image as it will be run.
    pub image: String,
    /// Price in msat per second.
    pub rate_msat_per_s: u64,
    /// What that follows from where the tier is priced in another money: for an
    /// hour, such as `0.02 EUR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<String>,
    /// The shortest time sold, in seconds.
    pub min_seconds: u64,
    /// The longest time sold, in seconds.
    pub max_seconds: u64,
    /// What the wanted time costs after mint fees. The token's face must be
    /// this plus the mint's fee for its proofs.
    pub price_msat: Msat,
    /// The smallest amount after mint fees.
    pub min_msat: Msat,
    /// The largest amount after mint fees.
    pub max_msat: Msat,
    /// The wanted time in seconds.
    pub seconds: u64,
    /// What a spawn with `gift` would be given now, in seconds; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gift_seconds: Option<u64>,
    /// Mints that are accepted.
    pub mints: Vec<MintTerms>,
    /// How the token may be locked; absent: the provider takes unlocked ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockTerms>,
    /// How it can be paid by Lightning; absent: it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lightning: Option<LightningTerms>,
    /// What the workload is given.
    pub gives: Resources,
    /// Limits in `gives` that this host cannot enforce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_enforced: Vec<String>,
    /// Whether the workload reaches the outside.
    pub outgoing_network: bool,
}

/// Where to get in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Host name or address of the SSH gateway.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user name to give: the lease id.
    pub user: String,
    /// The gateway's host key, `ssh-ed25519 AAAA…`.
    pub host_key: String,
}

/// The workload is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnAnswer {
    /// The lease as it starts; `access` says where to get in.
    #[serde(flatten)]
    pub status: LeaseStatus,
    /// What the token was worth.
    pub paid_msat: Msat,
    /// What the mint kept of it.
    pub mint_fee_msat: Msat,
}

/// Room is held, and nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldAnswer {
    /// Its id; the lease's, once it is claimed.
    pub hold: LeaseId,
    /// It has to be claimed before this.
    pub until: Timestamp,
    /// What the token leaves after the mint's fee.
    pub net_msat: Msat,
    /// The time that this buys, in seconds.
    pub seconds: u64,
}

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Paid, being started.
    Starting,
    /// There, its time runs.
    Active,
    /// Its time is over; it is stopped and a top-up revives it.
    Grace,
    /// Over: stopped by its owner, expired, or failed.
    Ended,
}

/// A lease, for its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Its id.
    pub lease: LeaseId,
    /// How it stands.
    pub state: LeaseState,
    /// Why it stands so: one sentence.
    pub why: String,
    /// Its tier.
    pub tier: Name,
    /// Its image.
    pub image: String,
    /// Its price, frozen at sale.
    pub rate_msat_per_s: u64,
    /// What it was given.
    pub gives: Resources,
    /// When it was sold.
    pub created_at: Timestamp,
    /// When its time started to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When its time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// In state `grace`: when it is destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroy_at: Option<Timestamp>,
    /// Seconds left, as of this answer.
    pub remaining_seconds: u64,
    /// Money on the lease that is too little for a second.
    pub credit_msat: Msat,
    /// Seconds that the provider's pool gave, for a lease that began with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gift_seconds: Option<u64>,
    /// Where to get in, while that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Tokens that were made for the owner and may not have reached it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refunds: Vec<Refund>,
}

/// More time was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopupAnswer {
    /// Which lease.
    pub lease: LeaseId,
    /// How many seconds were added.
    pub added_seconds: u64,
    /// When its time is over now.
    pub expires_at: Timestamp,
    /// What the token was worth.
    pub paid_msat: Msat,
    /// What the mint kept of it.
    pub mint_fee_msat: Msat,
    /// Money on the lease that is too little for a second.
    pub credit_msat: Msat,
}

/// The lease is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopAnswer {
    /// Which lease.
    pub lease: LeaseId,
    /// Seconds that were served.
    pub served_seconds: u64,
    /// What they cost.
    pub served_msat: Msat,
    /// What comes back, if it was worth a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund>,
    /// What making the refund cost at the mint, borne by the consumer.
    pub refund_fee_msat: Msat,
    /// What was too little for a token.
    pub credit_msat: Msat,
    /// The lease's account, signed.
    #[serde(
        default,
        deserialize_with = "receipt::if_readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub receipt: Option<Box<SignedReceipt>>,
}

/// Money that comes back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// The same refund has the same id however often it is delivered.
    pub refund_id: String,
    /// A Cashu token.
    pub token: String,
    /// Its face.
    pub amount_msat: Msat,
    /// Its mint.
    pub mint: String,
    /// Its unit.
    pub unit: String,
    /// Why: one sentence.
    pub why: String,
}

impl std::fmt::Debug for Refund {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refund")
            .field("refund_id", &self.refund_id)
            .field("amount_msat", &self.amount_msat)
            .finish_non_exhaustive()
    }
}

/// Something that the consumer should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// [`DIALECT`](super::DIALECT).
    pub satlet: u32,
    /// The same notice has the same id however often it is delivered.
    pub notice_id: String,
    /// About which lease.
    pub lease: LeaseId,
    /// What happened, for programs: `expiring`, `expired`, `destroyed`, `failed`, `refund`.
    pub event: String,
    /// What happened, for people.
    pub message: String,
    /// When the lease's time is over, if it has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Money that comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund>,
    /// The lease's account as of now, signed.
    #[serde(
        default,
        deserialize_with = "receipt::if_readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub receipt: Option<Box<SignedReceipt>>,
}

impl Reply {
    /// The reply that says what was done.
    pub fn result(request_id: RequestId, answer: Answer) -> Self {
        Self {
            satlet: super::DIALECT,
            request_id,
            outcome: Outcome::Result(Box::new(answer)),
        }
    }

    /// The reply that says what was refused.
    pub fn error(request_id: RequestId, error: WireError) -> Self {
        Self {
            satlet: super::DIALECT,
            request_id,
            outcome: Outcome::Error(error),
        }
    }
}
