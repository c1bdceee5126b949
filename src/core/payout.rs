//! Money that leaves over Lightning: how much of it may, and what becomes of a
//! payment on its way.
//!
//! ```text
//!            +------------- the mint says paid --------------> paid
//! melting ---+--> pending / unknown ---------------------------^
//!            +------------- for certain not paid ------------> failed
//! ```
//!
//! A payout is written down as `melting` before the mint is told, and told once.
//! From then on it is asked about until it is paid or failed; while it is neither,
//! no other invoice is paid from the same purse.

use serde::{Deserialize, Serialize};

use super::lease::Purse;
use super::money::Msat;
use super::time::Timestamp;

/// What a payment may cost where a percentage of it is less: mints ask for a
/// reserve of a few satoshi for the smallest amount.
const LEAST_LIMIT: Msat = Msat::new(10_000);

/// A refund is made of a token, and making it costs the mint's fee, which we bear
/// where it was our fault: this part of the float stays besides.
const MARGIN: u64 = 100;

/// Who wanted a payout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The operator asked for it.
    Withdrawal,
    /// The wallet held more than the threshold.
    Sweep,
}

/// Where a payout stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PayoutState {
    /// The one melt has begun, or is about to.
    Melting,
    /// Its answer was lost. Found out by asking, never by trying again.
    Unknown,
    /// The mint has the money and does not know yet whether it arrived.
    Pending,
    /// It arrived. The end.
    Paid {
        /// When we knew.
        at: Timestamp,
        /// What it cost beyond its amount.
        fee: Msat,
        /// The proof of it, where the mint told one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        preimage: Option<String>,
    },
    /// Nothing was taken, for certain. The end.
    Failed {
        /// When we knew.
        at: Timestamp,
    },
}

impl PayoutState {
    /// Its name in texts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Melting => "melting",
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Paid { .. } => "paid",
            Self::Failed { .. } => "failed",
        }
    }
}

impl std::fmt::Debug for PayoutState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One Lightning invoice that is paid from one purse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// The invoice's payment hash, 64 hex digits: its name here.
    pub hash: String,
    /// The invoice.
    pub bolt11: String,
    /// The Lightning address that it came from, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who wanted it.
    pub cause: Cause,
    /// From where.
    pub purse: Purse,
    /// The mint's name of its quote.
    pub quote: String,
    /// What the invoice asks for.
    pub amount: Msat,
    /// What may leave the wallet at most, amount included.
    pub most: Msat,
    /// When it was written down.
    pub begun: Timestamp,
    /// Where it stands.
    pub state: PayoutState,
    /// Why it stands there, a sentence.
    pub why: String,
    /// How often its invoice was tried, this time included.
    pub tries: u32,
}

/// What was heard of a payout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The mint says that it is paid.
    Paid {
        /// What it cost beyond its amount.
        fee: Msat,
        /// The proof, where one was told.
        preimage: Option<String>,
    },
    /// It is on its way.
    Pending,
    /// The answer was lost, or not understood.
    Lost(String),
    /// Nothing was taken and nothing will be: it was refused, or never sent.
    Refused(String),
    /// The mint does not know of a payment now. A request may still be on its way.
    NotPaid(String),
}

impl Payout {
    /// Whether it may still take money: it is asked about.
    pub fn is_open(&self) -> bool {
        use PayoutState::{Melting, Pending, Unknown};
        matches!(self.state, Melting | Unknown | Pending)
    }

    /// What came of it; `true` where that is something new. Once paid or failed
    /// it stays so. That nothing was paid is believed where the mint had the
    /// payment before, and else `settle` seconds after the beginning, when no
    /// request can be on its way any more.
    pub fn hear(&mut self, heard: Heard, now: Timestamp, settle: u64) -> bool {
        if !self.is_open() {
            return false;
        }
        let had_it = self.state == PayoutState::Pending;
        let (state, why) = match heard {
            Heard::Paid { fee, preimage } => {
                let paid = PayoutState::Paid {
                    at: now,
                    fee,
                    preimage,
                };
                (paid, "it arrived".to_owned())
            }
            Heard::Pending => (
                PayoutState::Pending,
                "the mint is paying it; it is asked until it knows".to_owned(),
            ),
            Heard::Lost(why) => (
                PayoutState::Unknown,
                format!("the mint's answer was lost ({why}); it is asked"),
            ),
            Heard::Refused(why) => (
                PayoutState::Failed { at: now },
                format!("nothing was taken: {why}"),
            ),
            Heard::NotPaid(why) if had_it || now.secs_since(self.begun) >= settle => (
                PayoutState::Failed { at: now },
                format!("nothing was taken: {why}"),
            ),
            Heard::NotPaid(_) => return false,
        };
        let new = state != self.state;
        if new {
            (self.state, self.why) = (state, why);
        }
        new
    }

    /// What it took out of the wallet for good: amount and fee. Zero before.
    pub fn spent(&self) -> (Msat, Msat) {
        match self.state {
            PayoutState::Paid { fee, .. } => (self.amount, fee),
            _ => (Msat::ZERO, Msat::ZERO),
        }
    }
}

/// What a purse holds, and what of it has to stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What the wallet can spend.
    pub balance: Msat,
    /// What may have to go back to consumers, money included of which it is not
    /// known yet whether it is theirs.
    pub float: Msat,
    /// What the operator wants to stay besides.
    pub keep: Msat,
}

impl Standing {
    /// What may leave: the balance, less the float with a hundredth for the fees
    /// of refunds, less what is kept.
    pub fn free(&self) -> Msat {
        let margin = Msat::from_sat(Msat::new(self.float.get() / MARGIN).sat_ceil());
        let stays = Msat::checked_sum([self.float, margin.unwrap_or_default(), self.keep]);
        stays.map_or(Msat::ZERO, |stays| self.balance.saturating_sub(stays))
    }
}

/// Why a payout is not begun; the money is untouched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would take what may have to go back.
    #[error(
        "{free} may leave this purse, and this takes up to {need}; the rest is kept for refunds"
    )]
    TooMuch {
        /// What may leave.
        free: Msat,
        /// What it would take.
        need: Msat,
    },
    /// Its fees are more than is allowed.
    #[error("its fees may be {fees}, and {limit} are allowed")]
    TooDear {
        /// What it may cost.
        fees: Msat,
        /// What is allowed.
        limit: Msat,
    },
    /// Another one of the same purse is not over.
    #[error("another payout from this purse is still open: {0}")]
    Busy(String),
    /// A number does not fit.
    #[error("the amount is too large")]
    TooLarge,
}

/// Whether a payment of `amount` that takes `most` at most may leave. Gives why.
///
/// # Errors
/// `TooMuch`, `TooDear`.
pub fn allow(
    standing: &Standing,
    amount: Msat,
    most: Msat,
    limit: Msat,
) -> Result<String, Refusal> {
    let fees = most.saturating_sub(amount);
    if fees > limit {
        return Err(Refusal::TooDear { fees, limit });
    }
    let free = standing.free();
    if most > free {
        return Err(Refusal::TooMuch { free, need: most });
    }
    Ok(format!("{free} may leave, and this takes up to {most}"))
}

/// What a payment of `amount` may cost: so many percent of it, and 10 sat where
/// that is more.
pub fn limit(amount: Msat, percent: u8) -> Msat {
    let part = u128::from(amount.get()) * u128::from(percent) / 100;
    Msat::new(u64::try_from(part).unwrap_or(u64::MAX)).max(LEAST_LIMIT)
}

/// The largest amount, in whole satoshi, that leaves room for what it may cost;
/// `None`: not one satoshi.
pub fn largest(free: Msat, percent: u8) -> Option<Msat> {
    let hundred = u128::from(free.get()) * 100 / (100 + u128::from(percent));
    let by_part = Msat::new(u64::try_from(hundred).unwrap_or(0));
    let amount = by_part.min(free.saturating_sub(LEAST_LIMIT));
    Msat::from_sat(amount.whole_sat()).filter(|amount| !amount.is_zero())
}

/// What to sweep out of a purse that holds more than `above` beyond what stays.
pub fn sweep(standing: &Standing, above: Msat, percent: u8) -> Option<Msat> {
    let free = standing.free();
    (free > above).then(|| largest(free, percent)).flatten()
}

#[cfg(test)]
mod tests;
