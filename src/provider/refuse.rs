//! Every refusal, written once: code, sentence, what to do next.

use std::time::Duration;

use crate::core::lease::{Lease, Phase};
use crate::core::money::Msat;
use crate::core::payment::Rejection;
use crate::core::payment::lock::{BadLock, LockKey};
use crate::core::pricing::PriceError;
use crate::ledger::LedgerError;
use crate::protocol::error::{Code, Money, WireError};
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
        Rejection::HoldOver => hold_over(),
        Rejection::Internal(_) => WireError::new(
            Code::Internal,
            "the provider's wallet failed before anything was taken",
            "try again later; the token is still yours",
        ),
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
