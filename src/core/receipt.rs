//! A receipt: what was paid for a lease, what of it was served and what went
//! back, in so many lines that anyone can add it up. Pure: [`Receipt::of`] takes
//! it from the lease and its payments, [`Receipt::check`] needs neither.
//!
//! `paid + brought + absorbed + given = mint_fees + served + unserved + owed +
//! refunded + refund_fees + credit + moved + returned`, and each of them follows from what is listed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::capacity::Resources;
use super::ids::{LeaseId, Name, PaymentId, PublicKey};
use super::lease::{EndCause, Lease, Phase, Refund, RefundState};
use super::money::Msat;
use super::payment::{Payment, PaymentState, Purpose};
use super::time::Timestamp;

mod check;
#[cfg(test)]
pub(crate) mod tests;

pub use check::Flaw;

/// Version of the format.
pub const VERSION: u32 = 1;

/// Payments that are listed one by one, the newest ones; those before are one sum.
pub const MAX_PAYMENTS: usize = 12;

/// Refunds that are listed one by one, the newest ones; those before are one sum.
pub const MAX_REFUNDS: usize = 6;

/// Longest text of an image or a reason, in characters.
const MAX_TEXT: usize = 200;

/// The account of one lease, as of some instant (which its event's stamp names).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// [`VERSION`].
    pub version: u32,
    /// Who sold it; must be who signs.
    pub provider: PublicKey,
    /// Whose lease it is.
    pub owner: PublicKey,
    /// Which lease.
    pub lease: LeaseId,
    /// The tier, as it was sold.
    pub tier: Name,
    /// What the tier gives, as it was sold.
    pub gives: Resources,
    /// The image.
    pub image: String,
    /// Price in msat per second, frozen at sale; at least 1.
    pub rate_msat_per_s: u64,
    /// When it was reserved.
    pub created_at: Timestamp,
    /// When its time first began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When its time was or is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When nothing of it was left; absent: it has not ended, and this is the
    /// account so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it ended, or is ending, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<EndCause>,
    /// How it stands and why, for people.
    pub why: String,
    /// Payments that were taken, the newest [`MAX_PAYMENTS`], oldest first.
    pub payments: Vec<PaymentLine>,
    /// The sum of those before.
    #[serde(default, skip_serializing_if = "EarlierPayments::is_none")]
    pub earlier_payments: EarlierPayments,
    /// Seconds that the provider gave, in place of a first payment.
    #[serde(default, skip_serializing_if = "no_seconds")]
    pub gift_seconds: u64,
    /// Seconds that were bought or given in all.
    pub sold_seconds: u64,
    /// Seconds that were served.
    pub served_seconds: u64,
    /// Seconds that are paid and not served yet; 0 at the end.
    pub unserved_seconds: u64,
    /// Money that goes back, the newest [`MAX_REFUNDS`], oldest first.
    pub refunds: Vec<RefundLine>,
    /// The sum of those before.
    #[serde(default, skip_serializing_if = "EarlierRefunds::is_none")]
    pub earlier_refunds: EarlierRefunds,
    /// The sums.
    pub books: Account,
}

/// One payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentLine {
    /// Its id: SHA-256 over mint, unit and sorted Ys, so that who has the token
    /// knows it again.
    pub payment: PaymentId,
    /// What it was for.
    pub purpose: Purpose,
    /// Its mint.
    pub mint: String,
    /// Its unit.
    pub unit: String,
    /// What the token was worth.
    pub face_msat: Msat,
    /// What the mint kept of it.
    pub mint_fee_msat: Msat,
    /// What was left of it: face less fee.
    pub net_msat: Msat,
    /// Seconds that it added; 0 for one that went back.
    pub added_seconds: u64,
}

/// The sum of payments that are not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierPayments {
    /// How many.
    pub count: u64,
    /// What their tokens were worth.
    pub face_msat: Msat,
    /// What mints kept of them.
    pub mint_fee_msat: Msat,
    /// Seconds that they added.
    pub added_seconds: u64,
}

impl EarlierPayments {
    /// Whether all are listed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose doing it is that money goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// The provider could not give what was paid for; it bears what the refund costs.
    ProviderFault,
    /// The owner left early, and bears it.
    OwnerChoice,
}

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefundStage {
    /// Not made yet.
    Owed,
    /// A token was made.
    Made,
    /// Its token was redeemed by its owner.
    Claimed,
    /// Nobody took it for as long as the offer tells; in the credit again.
    TakenBack,
    /// Too little for a token; in the credit.
    Credited,
}

/// One refund, without its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundLine {
    /// Its id, the same as beside the token.
    pub refund_id: String,
    /// Its mint.
    pub mint: String,
    /// Its unit.
    pub unit: String,
    /// Whose doing it is.
    pub ground: Ground,
    /// Where it stands.
    pub state: RefundStage,
    /// What is or was owed, before the cost of making it.
    pub owed_msat: Msat,
    /// The token's face; 0 where none was made.
    pub face_msat: Msat,
    /// Why: one sentence.
    pub why: String,
}

/// The sum of refunds that are not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierRefunds {
    /// How many.
    pub count: u64,
    /// Face of their tokens.
    pub face_msat: Msat,
    /// What of them is still owed.
    pub owed_msat: Msat,
}

impl EarlierRefunds {
    /// Whether all are listed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The sums: `paid + brought + absorbed + given` is all the others together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Face of all tokens that were taken.
    pub paid_msat: Msat,
    /// Credit of the owner's ended leases that was added to this one.
    #[serde(default, skip_serializing_if = "nothing")]
    pub brought_msat: Msat,
    /// What the provider bore of fees, and rounding in the owner's favour.
    pub absorbed_msat: Msat,
    /// What mints kept of the payments.
    pub mint_fees_msat: Msat,
    /// Price of the time that was served.
    pub served_msat: Msat,
    /// Price of the time that is paid and not served; 0 at the end.
    pub unserved_msat: Msat,
    /// Refunds that are not made yet.
    pub owed_msat: Msat,
    /// Face of the refunds' tokens.
    pub refunded_msat: Msat,
    /// What making them cost.
    pub refund_fees_msat: Msat,
    /// Below the price of a second, or too little for a token.
    pub credit_msat: Msat,
    /// Credit that was added to another lease of the owner's.
    #[serde(default, skip_serializing_if = "nothing")]
    pub moved_msat: Msat,
    /// Price of the time that the provider gave. It is served first.
    #[serde(default, skip_serializing_if = "nothing")]
    pub given_msat: Msat,
    /// What of that was not served, and is the provider's again.
    #[serde(default, skip_serializing_if = "nothing")]
    pub returned_msat: Msat,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands a reference to it"
)]
fn nothing(amount: &Msat) -> bool {
    amount.is_zero()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands a reference to it"
)]
fn no_seconds(seconds: &u64) -> bool {
    *seconds == 0
}

impl Receipt {
    /// The account of `lease` as of `now`, by `provider`. `payments` are those of
    /// the lease; what was not taken of them is left out. `None` where a number
    /// does not fit.
    pub fn of(
        provider: PublicKey,
        lease: &Lease,
        payments: &[Payment],
        now: Timestamp,
    ) -> Option<Self> {
        let taken = |payment: &&Payment| payment.state == PaymentState::Settled;
        let lines: Vec<PaymentLine> = payments.iter().filter(taken).map(paid).collect();
        let (earlier, payments) = lines.split_at(lines.len().saturating_sub(MAX_PAYMENTS));
        let lines: Vec<RefundLine> = lease.refunds.iter().map(given_back).collect();
        let (earlier_refunds, refunds) = lines.split_at(lines.len().saturating_sub(MAX_REFUNDS));
        let books = Account::of(lease, now)?;
        let rate = lease.tier.rate_msat_per_s;
        Some(Self {
            version: VERSION,
            provider,
            owner: lease.owner,
            lease: lease.id.clone(),
            tier: lease.tier.id.clone(),
            gives: lease.tier.resources,
            image: brief(&lease.image),
            rate_msat_per_s: rate,
            created_at: lease.created_at,
            started_at: lease.started_at,
            expires_at: lease.expires_at,
            ended_at: match lease.phase {
                Phase::Ended { at } => Some(at),
                _ => None,
            },
            cause: lease.cause,
            why: brief(&lease.why),
            payments: payments.to_vec(),
            earlier_payments: EarlierPayments::of(earlier)?,
            gift_seconds: lease.gift.map_or(0, |gift| gift.seconds),
            sold_seconds: lease.sold_seconds,
            served_seconds: books.served_msat.get().checked_div(rate)?,
            unserved_seconds: lease.unserved_seconds(now),
            refunds: refunds.to_vec(),
            earlier_refunds: EarlierRefunds::of(earlier_refunds)?,
            books,
        })
    }

    /// Whether nothing in it will change: it has ended and all money that goes
    /// back has been made.
    pub fn is_final(&self) -> bool {
        self.ended_at.is_some() && self.books.owed_msat.is_zero()
    }
}

impl Account {
    fn of(lease: &Lease, now: Timestamp) -> Option<Self> {
        let books = &lease.money;
        let rate = Msat::new(lease.tier.rate_msat_per_s);
        Some(Self {
            paid_msat: books.paid,
            brought_msat: books.brought,
            absorbed_msat: books.absorbed,
            mint_fees_msat: books.mint_fees,
            served_msat: lease.served(now)?,
            unserved_msat: rate.checked_mul(lease.unserved_seconds(now))?,
            owed_msat: books.owed,
            refunded_msat: books.refunded,
            refund_fees_msat: books.refund_fees,
            credit_msat: books.credit,
            moved_msat: books.moved,
            given_msat: books.given,
            returned_msat: books.returned,
        })
    }
}

impl EarlierPayments {
    fn of(lines: &[PaymentLine]) -> Option<Self> {
        let added = lines.iter().map(|line| line.added_seconds);
        Some(Self {
            count: u64::try_from(lines.len()).ok()?,
            face_msat: Msat::checked_sum(lines.iter().map(|line| line.face_msat))?,
            mint_fee_msat: Msat::checked_sum(lines.iter().map(|line| line.mint_fee_msat))?,
            added_seconds: added.into_iter().try_fold(0, u64::checked_add)?,
        })
    }
}

impl EarlierRefunds {
    fn of(lines: &[RefundLine]) -> Option<Self> {
        Some(Self {
            count: u64::try_from(lines.len()).ok()?,
            face_msat: Msat::checked_sum(lines.iter().map(|line| line.face_msat))?,
            owed_msat: Msat::checked_sum(lines.iter().map(RefundLine::still_owed))?,
        })
    }
}

impl RefundLine {
    /// What of it is owed and not made.
    pub fn still_owed(&self) -> Msat {
        match self.state {
            RefundStage::Owed => self.owed_msat,
            RefundStage::Made
            | RefundStage::Claimed
            | RefundStage::TakenBack
            | RefundStage::Credited => Msat::ZERO,
        }
    }
}

fn paid(payment: &Payment) -> PaymentLine {
    PaymentLine {
        payment: payment.id,
        purpose: payment.purpose,
        mint: payment.mint.clone(),
        unit: payment.unit.clone(),
        face_msat: payment.face,
        mint_fee_msat: payment.fee,
        net_msat: payment.net,
        added_seconds: payment.added_seconds,
    }
}

fn given_back(refund: &Refund) -> RefundLine {
    let (state, face) = match refund.state {
        RefundState::Owed | RefundState::Locking { .. } => (RefundStage::Owed, Msat::ZERO),
        RefundState::Made { face, .. } | RefundState::TakingBack { face, .. } => {
            (RefundStage::Made, face)
        }
        RefundState::Claimed { face, .. } => (RefundStage::Claimed, face),
        // What came of it is credit, and what that cost a refund's fee.
        RefundState::TakenBack { .. } => (RefundStage::TakenBack, Msat::ZERO),
        RefundState::Credited => (RefundStage::Credited, Msat::ZERO),
    };
    RefundLine {
        refund_id: refund.id.clone(),
        mint: refund.mint.clone(),
        unit: refund.unit.clone(),
        ground: if refund.our_fault {
            Ground::ProviderFault
        } else {
            Ground::OwnerChoice
        },
        state,
        owed_msat: refund.owed,
        face_msat: face,
        why: brief(&refund.why),
    }
}

/// A receipt travels in messages of bounded length.
fn brief(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
