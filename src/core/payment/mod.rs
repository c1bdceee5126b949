//! A payment: from the token that arrived to time on a lease, a refund, or
//! nothing taken. The ledger keeps it before the wallet sees the token, and
//! `redeem` is called at most once for it (payments.md sections 2 and 9).

use serde::{Deserialize, Serialize};

use super::ids::{LeaseId, PaymentId, PublicKey, RequestId};
use super::money::Msat;
use super::time::Timestamp;
use hold::Hold;

pub mod hash_lock;
pub mod hold;
mod invoice;
pub mod lock;
#[cfg(test)]
mod tests;

pub use invoice::Invoice;

/// What a payment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A new lease.
    Spawn,
    /// More time on a lease.
    Topup,
}

/// Where a payment stands. Every state that waits for something ends by
/// [`Payment::deadline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PaymentState {
    /// Written down, with room held for it, until its owner gives the preimage
    /// that opens its token. The mint was asked whether that is unspent.
    Held,
    /// Written down, with room held for it. The mint has not been told.
    Reserved,
    /// The one call of `redeem` has begun, or is about to.
    Redeeming,
    /// `redeem` ended without an answer. Found out by asking, never by trying again.
    Unknown,
    /// The money is ours.
    Redeemed,
    /// It has become time on a lease, or a refund that is owed. The end.
    Settled,
    /// An invoice was handed out, and is not known to be paid.
    Invoiced,
    /// The invoice was not paid in time. What it was for is given up; it is asked
    /// about until [`Invoice::watch_until`], and what comes late goes back.
    Lapsed,
    /// Nothing was taken. The end.
    Rejected,
}

/// One payment: the proofs of one token, or one invoice, for one request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Made from mint, unit and proofs, or from the mint's name of the invoice.
    pub id: PaymentId,
    /// Who pays.
    pub owner: PublicKey,
    /// The request that brought it.
    pub request: RequestId,
    /// The lease that it is for.
    pub lease: LeaseId,
    /// What it is for.
    pub purpose: Purpose,
    /// Its mint.
    pub mint: String,
    /// Its unit, `sat` or `msat`.
    pub unit: String,
    /// What the token is worth, or the invoice is over.
    pub face: Msat,
    /// The token; empty for an invoice. Money: never shown.
    pub token: String,
    /// Y of each of its proofs.
    pub ys: Vec<String>,
    /// Where it stands.
    pub state: PaymentState,
    /// When the state has to be left.
    pub deadline: Timestamp,
    /// What redeeming gave; zero before.
    pub net: Msat,
    /// What the mint kept; zero before.
    pub fee: Msat,
    /// Seconds that it added to its lease; zero before.
    pub added_seconds: u64,
    /// Why nothing was taken, once that is certain.
    pub rejection: Option<Rejection>,
    /// The invoice, where it is paid by Lightning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoice: Option<Invoice>,
    /// What it waits for, or waited for, if it was held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Why nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejection {
    /// The mint says that the token is spent.
    Spent,
    /// Somebody's unfinished operation holds the token's proofs.
    InUse,
    /// It is not worth its own fee.
    TooSmall,
    /// The mint did not answer before anything was sent.
    MintDown(String),
    /// The mint understood and refused.
    Refused(String),
    /// What was to be bought was gone before anything was taken.
    Gone(String),
    /// The host takes no work now; nothing was sent.
    HostDown(String),
    /// The provider was cut off before the mint had taken it.
    CutOff,
    /// The lease of a top-up had ended before anything was sent.
    LeaseEnded,
    /// The provider came to it too late, and sent nothing.
    Late,
    /// Our own store failed before anything was sent.
    Internal(String),
    /// The invoice was not paid, and is asked about no more.
    NotPaid,
    /// It was held, and nobody gave the preimage.
    HoldOver,
}

impl std::fmt::Debug for Payment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payment")
            .field("id", &self.id)
            .field("lease", &self.lease)
            .field("face", &self.face)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// What was learnt about a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// The proofs can be redeemed; `redeem` comes next.
    Unspent,
    /// Redeeming gave `net`, the mint kept `fee`.
    Redeemed {
        /// What the wallet has more.
        net: Msat,
        /// What the mint kept.
        fee: Msat,
    },
    /// Nothing was taken, and nothing will be.
    NotTaken(Rejection),
    /// `redeem` ended without an answer.
    Lost,
    /// The money has its place: time on a lease, or a refund that is owed.
    Settled,
    /// The invoice was paid, and this much ecash was made of it.
    Minted(Msat),
    /// The mint says, after the deadline, that the invoice is not paid.
    Unpaid,
}

/// A change that the rules do not allow: a defect of ours, never the consumer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payment that is {from:?} cannot become {to:?}")]
pub struct Forbidden {
    /// The state it is in.
    pub from: PaymentState,
    /// What was learnt.
    pub to: Learnt,
}

impl Payment {
    /// The payment after something was learnt about it.
    ///
    /// # Errors
    /// The rules do not allow it, such as redeeming twice.
    pub fn learn(mut self, learnt: Learnt) -> Result<Self, Forbidden> {
        use PaymentState::{
            Held, Invoiced, Lapsed, Redeemed, Redeeming, Rejected, Reserved, Settled, Unknown,
        };
        let forbidden = Forbidden {
            from: self.state,
            to: learnt.clone(),
        };
        self.state = match (self.state, learnt) {
            (Reserved, Learnt::Unspent) => Redeeming,
            (Redeeming | Unknown, Learnt::Redeemed { net, fee }) => {
                if net.checked_add(fee) != Some(self.face) {
                    return Err(forbidden);
                }
                self.net = net;
                self.fee = fee;
                Redeemed
            }
            (Redeeming, Learnt::Lost) => Unknown,
            (Held | Reserved | Redeeming | Unknown, Learnt::NotTaken(why)) => {
                self.rejection = Some(why);
                Rejected
            }
            (Redeemed, Learnt::Settled) => Settled,
            // What is there counts, whatever the invoice was over.
            (Invoiced | Lapsed, Learnt::Minted(amount)) if !amount.is_zero() => {
                self.face = amount;
                self.net = amount;
                Redeemed
            }
            (Invoiced, Learnt::Unpaid) => Lapsed,
            (Lapsed, Learnt::NotTaken(why)) => {
                self.rejection = Some(why);
                Rejected
            }
            _ => return Err(forbidden),
        };
        Ok(self)
    }

    /// Whether it still waits for something.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, PaymentState::Settled | PaymentState::Rejected)
    }

    /// The token, and its preimage, are needed no more once nothing can come of it.
    pub fn forget_token(&mut self) {
        if !self.is_open() {
            self.token.clear();
        }
    }
}
