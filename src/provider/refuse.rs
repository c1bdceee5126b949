//! Every refusal, written once: code, sentence, what to do next.

use std::time::Duration;

use crate::core::lease::{Lease, Phase};
use crate::core::money::Msat;
use crate::core::payment::Rejection;
use crate::core::payment::lock::{BadLock, LockKey};
use crate::core::pricing::PriceError;
use crate::ledger::LedgerError;
use crate::protocol::error::{Code, Money, WireError};
use crate::protocol::reply::Invoice;
use crate::wallet::WalletError;

/// A refusal with the money untouched.
pub(super) type Refusal = WireError;

/// The ledger failed: ours, and the operator's to look at.
pub(super) fn internal(error: &LedgerError) -> Refusal {
    tracing::error!(%error, "the ledger failed");
    WireError::new(
        Code::Internal,
        "the provider could not write this down",
        "try again later with a new request id",
    )
}

/// Why a token cannot be taken.
pub(super) fn wallet(error: &WalletError, accepted: &[String]) -> Refusal {
    let mints = accepted.join(", ");
    let (code, suggestion) = match error {
        WalletError::Malformed(_) => (
            Code::MalformedToken,
            "send one whole cashuA or cashuB token".to_owned(),
        ),
        WalletError::MintNotAccepted(_) => (
            Code::MintNotAccepted,
            format!("pay with a token of one of: {mints}"),
        ),
        WalletError::WrongUnit(_) => (Code::WrongUnit, "pay with a token in sat".to_owned()),
        WalletError::Spent => (
            Code::TokenSpent,
            "pay with another token; look whether you were refunded already".to_owned(),
        ),
        WalletError::TooSmall => (
            Code::AmountTooSmall,
            "send a token that is worth more than its mint's fee; a quote says how much".to_owned(),
        ),
        WalletError::MintDown(_) => (
            Code::MintDown,
            format!("try again later, or pay with a token of another of: {mints}"),
        ),
        WalletError::Refused(_) => (
            Code::MintRefused,
            "ask the mint what is wrong with the token, or pay with another one".to_owned(),
        ),
        WalletError::OutcomeUnknown(_) => (
            Code::PaymentPending,
            "do not use the token elsewhere; ask again with the same request id".to_owned(),
        ),
        WalletError::NoBalance { .. } | WalletError::Store(_) => {
            tracing::error!(%error, "the wallet failed");
            (
                Code::Internal,
                "try again later with a new request id".to_owned(),
            )
        }
    };
    let money = match error {
        WalletError::OutcomeUnknown(_) => Money::Pending,
        _ => Money::Untouched,
    };
    WireError::new(code, error.to_string(), suggestion).with_money(money)
}

/// Why a token's lock cannot be relied on; the mint was not asked.
pub(super) fn bad_lock(why: &BadLock, key: &LockKey, margin: Duration) -> Refusal {
    WireError::new(
        Code::BadLock,
        format!("the token's lock is not accepted: {why}"),
        format!(
            "lock it to {key} alone, with a refund key and a locktime at least {} s ahead, or send an unlocked token",
            margin.as_secs()
        ),
    )
}

/// Other mints to pay at, for people.
fn others(open: &[String]) -> String {
    match open {
        [] => "try again later, or choose another provider".to_owned(),
        open => format!("pay with a token of one of: {}", open.join(", ")),
    }
}

/// The mint lacks something that is needed.
pub(super) fn mint_unfit(mint: &str, why: &str, open: &[String]) -> Refusal {
    WireError::new(
        Code::MintNotAccepted,
        format!("the mint {mint} is not accepted: {why}"),
        others(open),
    )
}

/// The mint is not well, or enough lies there.
pub(super) fn mint_paused(mint: &str, why: &str, open: &[String]) -> Refusal {
    WireError::new(
        Code::MintPaused,
        format!("no new lease is paid at {mint} now: {why}"),
        others(open),
    )
}

/// The mint is not quite well.
pub(super) fn mint_locked_only(mint: &str, why: &str) -> Refusal {
    WireError::new(
        Code::MintPaused,
        format!("only locked tokens pay for a new lease at {mint} now: {why}"),
        "lock the token as a quote says, or pay with another mint's",
    )
}

/// Why a payment was not taken after all.
pub(super) fn rejection(rejection: &Rejection, accepted: &[String]) -> Refusal {
    match rejection {
        Rejection::Spent => wallet(&WalletError::Spent, accepted),
        Rejection::InUse => WireError::new(
            Code::TokenInUse,
            "the mint says that the token is in use",
            "wait until what uses it has ended, or pay with another token",
        ),
        Rejection::TooSmall => wallet(&WalletError::TooSmall, accepted),
        Rejection::MintDown(why) => wallet(&WalletError::MintDown(why.clone()), accepted),
        Rejection::Refused(why) => wallet(&WalletError::Refused(why.clone()), accepted),
        Rejection::Gone(why) => WireError::new(
            Code::ImageUnavailable,
            why.clone(),
            "choose another image or try again later; the token is still yours",
        ),
        Rejection::HostDown(why) => WireError::new(
            Code::NoCapacity,
            format!("the host takes no work now: {why}"),
            "choose another provider or try again later; the token is still yours",
        ),
        Rejection::CutOff => WireError::new(
            Code::MintDown,
            "the provider was cut off before the mint had taken the token",
            "ask again with a new request id; the token is still yours",
        ),
        Rejection::LeaseEnded => ended(),
        Rejection::Late => WireError::new(
            Code::RequestExpired,
            "the provider was away too long and came to it too late",
            "ask again with a new request id; the token is still yours",
        ),
        Rejection::NotPaid => invoice_expired(),
        Rejection::HoldOver => hold_over(),
        Rejection::Internal(_) => WireError::new(
            Code::Internal,
            "the provider's wallet failed before anything was taken",
            "try again later; the token is still yours",
        ),
    }
}

/// An invoice is to be paid before anything else happens.
pub(super) fn payment_due(invoice: Invoice) -> Refusal {
    let mut due = WireError::new(
        Code::PaymentDue,
        format!("an invoice over {} is to be paid", invoice.amount_msat),
        "pay the invoice, once; the answer comes when it is paid, and asking again with the same request id does no harm",
    )
    .with_money(Money::Pending);
    due.invoice = Some(Box::new(invoice));
    due
}

/// The invoice was not paid in time.
pub(super) fn invoice_expired() -> Refusal {
    WireError::new(
        Code::InvoiceExpired,
        "the invoice was not paid in time",
        "order again with a new request id; if you have paid all the same, it comes back as a refund",
    )
}

/// Room is held for a token, and for nothing else.
pub(super) fn no_token() -> Refusal {
    WireError::new(
        Code::InvalidRequest,
        "it has no token",
        "send a token with it",
    )
}

/// The pool gives first leases only.
pub(super) fn no_gift_on_top() -> Refusal {
    WireError::new(
        Code::InvalidRequest,
        "a lease cannot be topped up with a gift",
        "pay with a token, or by Lightning",
    )
}

/// Lightning is not taken here.
pub(super) fn no_lightning() -> Refusal {
    WireError::new(
        Code::Unsupported,
        "this provider takes no Lightning",
        "pay with a Cashu token, or choose another provider",
    )
}

/// Too many invoices wait to be paid already.
pub(super) fn too_many_invoices(whose: &str) -> Refusal {
    WireError::new(
        Code::TooManyRequests,
        format!("too many invoices {whose} wait to be paid"),
        "pay one, or try again with a new request id once one has expired; a Cashu token is taken at once",
    )
}

/// Why the mint makes no invoice; nothing can have been paid.
pub(super) fn no_invoice(error: &WalletError, accepted: &[String]) -> Refusal {
    let refusal = match error {
        WalletError::OutcomeUnknown(why) => wallet(&WalletError::MintDown(why.clone()), accepted),
        error => wallet(error, accepted),
    };
    WireError {
        suggestion: format!(
            "try again later, or pay with a Cashu token of: {}",
            accepted.join(", ")
        ),
        ..refusal
    }
}

/// Why an amount buys nothing.
pub(super) fn price(error: PriceError, fee: Msat) -> Refusal {
    match error {
        PriceError::UnderMinimum {
            needed,
            min_seconds,
            ..
        } => WireError::new(
            Code::AmountTooSmall,
            error.to_string(),
            format!("{min_seconds} s cost {needed}; send at least that and {fee} for the mint"),
        ),
        PriceError::OverMaximum {
            accepted,
            max_seconds,
            ..
        } => WireError::new(
            Code::DurationTooLong,
            error.to_string(),
            format!(
                "send at most {accepted} and {fee} for the mint, for up to {max_seconds} s; top up later"
            ),
        ),
        PriceError::Overflow => WireError::new(
            Code::AmountTooSmall,
            error.to_string(),
            "send a smaller token",
        ),
    }
}

/// No lease of the asker has this id: nobody learns whether another's has.
pub(super) fn not_found() -> Refusal {
    WireError::new(
        Code::NotFound,
        "you have no lease with this id here",
        "look at your leases with `satlet ls`",
    )
}

/// The lease takes no top-up as it stands.
pub(super) fn no_topup(lease: &Lease) -> Refusal {
    if lease.phase != Phase::Reserved {
        return ended();
    }
    WireError::new(
        Code::NotFound,
        "the lease is not paid yet",
        "wait for the answer to its spawn; the token is still yours",
    )
}

/// The lease is over, or its end is asked for already.
pub(super) fn stopped() -> Refusal {
    WireError::new(
        Code::LeaseEnded,
        "the lease has ended, or is being ended",
        "a status of the lease tells what came back",
    )
}

/// The lease is over.
pub(super) fn ended() -> Refusal {
    WireError::new(
        Code::LeaseEnded,
        "the lease has ended",
        "spawn a new one; the token is still yours",
    )
}

/// The hold is over; nothing was taken.
pub(super) fn hold_over() -> Refusal {
    WireError::new(
        Code::HoldOver,
        "the hold is over; nothing was taken",
        "take the token back after its locktime, and buy anew",
    )
}

/// Nothing is signed that does not add up.
pub(super) fn no_receipt() -> Refusal {
    WireError::new(
        Code::Internal,
        "the account of this lease does not add up, so that it is not signed",
        "ask the operator; a status of the lease tells what is known",
    )
}
