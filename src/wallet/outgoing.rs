//! Paying Lightning invoices with ecash (NUT-05): what is asked, and what came of it.

use std::fmt;
use std::str::FromStr;

use cdk::Bolt11Invoice;
use serde::{Deserialize, Serialize};

use super::WalletError;
use crate::core::money::Msat;
use crate::core::time::Timestamp;

/// Longest invoice that is read, in bytes.
pub const MAX_INVOICE: usize = 4096;

/// A Lightning invoice over an amount (BOLT11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// The invoice, lower-case, without `lightning:` before it.
    pub bolt11: String,
    /// Its payment hash, 64 hex digits: whoever pays it once has paid it.
    pub hash: String,
    /// What it asks for; never nothing.
    pub amount: Msat,
    /// When nobody takes money for it any more.
    pub expires_at: Timestamp,
}

/// Reads an invoice and checks its signature. Asks nobody.
///
/// # Errors
/// `Malformed`: no invoice, or one without an amount.
pub fn read_invoice(text: &str) -> Result<Invoice, WalletError> {
    let bad = |why: &str| WalletError::Malformed(why.to_owned());
    if text.len() > MAX_INVOICE {
        return Err(bad("the invoice is too long"));
    }
    let bolt11 = text.trim().to_ascii_lowercase();
    let bolt11 = bolt11.strip_prefix("lightning:").unwrap_or(&bolt11);
    let read = Bolt11Invoice::from_str(bolt11).map_err(|_| bad("not a Lightning invoice"))?;
    let amount = read.amount_milli_satoshis().filter(|msat| *msat > 0);
    let expires = read.expires_at().map_or(u64::MAX, |since| since.as_secs());
    Ok(Invoice {
        bolt11: bolt11.to_owned(),
        hash: read.payment_hash().to_string(),
        amount: Msat::new(amount.ok_or_else(|| bad("the invoice names no amount"))?),
        expires_at: Timestamp::from_secs(expires),
    })
}

/// A mint's word on what paying an invoice takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeltQuote {
    /// The mint's name of the quote.
    pub id: String,
    /// What the invoice asks for, in whole pieces of the unit.
    pub amount: Msat,
    /// What Lightning may cost beyond it; what is left of this comes back (NUT-08).
    pub reserve: Msat,
    /// What the mint keeps for the proofs (NUT-02), estimated from those that are
    /// there now.
    pub fees: Msat,
    /// When the mint forgets it.
    pub expires_at: Timestamp,
}

impl MeltQuote {
    /// What leaves the wallet at most; `None` on overflow.
    pub fn most(&self) -> Option<Msat> {
        Msat::checked_sum([self.amount, self.reserve, self.fees])
    }
}

/// What came of paying an invoice.
#[derive(Clone, PartialEq, Eq)]
pub enum Melt {
    /// It is paid.
    Paid {
        /// What the invoice asked for.
        amount: Msat,
        /// What it cost beyond that: Lightning and the mint, less what came back.
        fee: Msat,
        /// The proof of it, where the mint told one.
        preimage: Option<String>,
    },
    /// The mint, or Lightning, is at it: the money is neither ours nor gone.
    Pending,
    /// It is not paid, and nothing was taken. Why, in a few words.
    NotPaid(String),
}

impl fmt::Debug for Melt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paid { amount, fee, .. } => f
                .debug_struct("Paid")
                .field("amount", amount)
                .field("fee", fee)
                .finish_non_exhaustive(),
            Self::Pending => f.write_str("Pending"),
            Self::NotPaid(why) => f.debug_tuple("NotPaid").field(why).finish(),
        }
    }
}
