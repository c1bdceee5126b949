//! Paying by Lightning: the invoice of a payment, and how often it is asked about.

use serde::{Deserialize, Serialize};

use super::{Payment, PaymentState};
use crate::core::time::Timestamp;

/// Seconds between two questions about an invoice that somebody is about to pay,
/// at most; and about one that was given up, at least and at most.
const WAITING_MOST: u64 = 10;
const LAPSED_LEAST: u64 = 60;
const LAPSED_MOST: u64 = 3600;

/// An invoice that was handed out (NUT-04, NUT-23): the money is bound to the
/// payment's owner and purchase before anybody can pay it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// The mint's name of it. Where the mint does not know NUT-20, whoever has it
    /// can take the money: never shown.
    pub quote: String,
    /// What is paid (BOLT 11).
    pub bolt11: String,
    /// When the mint made it.
    pub issued_at: Timestamp,
    /// Its payer is told to pay before this; the payment's deadline is a little
    /// later, for a payment that is on its way.
    pub pay_by: Timestamp,
    /// Asked about until then, paid in time or not.
    pub watch_until: Timestamp,
}

impl std::fmt::Debug for Invoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invoice")
            .field("pay_by", &self.pay_by)
            .field("watch_until", &self.watch_until)
            .finish_non_exhaustive()
    }
}

impl Payment {
    /// Seconds until its invoice is asked about again: the more seldom the older
    /// it is, and never past the instant at which something hangs on it.
    pub fn ask_again_in(&self, now: Timestamp) -> u64 {
        let Some(invoice) = &self.invoice else {
            return LAPSED_MOST;
        };
        let eighth = now.secs_since(invoice.issued_at) / 8;
        let (wait, end) = match self.state {
            PaymentState::Invoiced => (eighth.clamp(1, WAITING_MOST), self.deadline),
            _ => (eighth.clamp(LAPSED_LEAST, LAPSED_MOST), invoice.watch_until),
        };
        match end.secs_since(now) {
            0 => wait,
            left => wait.min(left),
        }
    }
}
