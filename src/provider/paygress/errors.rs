//! Our refusals in the words that existing clients know.

use crate::protocol::error::{Code, Money, WireError};
use crate::protocol::paygress::reply::{ErrorReply, ErrorType};

/// The word for a code. Clients that keep a workload alive give it up at
/// `lease_expired`, `not_found`, `race_lost` and `not_owner`, and try again with
/// another token at everything else.
pub(super) fn kind(code: &Code, money: Money) -> ErrorType {
    match code {
        Code::InvalidRequest
        | Code::UnsupportedVersion
        | Code::MessageTooLarge
        | Code::RequestIdReused
        | Code::DurationTooLong
        | Code::ImageNotAllowed
        | Code::BadSshKey
        | Code::BadSpec
        | Code::QuoteExpired
        | Code::Unsupported => ErrorType::InvalidRequest,
        Code::NotAllowed => ErrorType::NotAddressed,
        Code::MalformedToken | Code::BadLock | Code::HoldOver | Code::BadPreimage => {
            ErrorType::InvalidToken
        }
        Code::MintNotAccepted => ErrorType::NonWhitelistedMint,
        Code::WrongUnit => ErrorType::UnsupportedUnit,
        Code::TokenSpent => ErrorType::TokenAlreadySpent,
        Code::TokenInUse | Code::PaymentPending | Code::PaymentDue => ErrorType::TokenPending,
        Code::AmountTooSmall => ErrorType::InsufficientPayment,
        Code::UnknownTier => ErrorType::SpecUnavailable,
        Code::UnknownTemplate => ErrorType::UnknownTemplate,
        Code::TooManyRequests
        | Code::NoCapacity
        | Code::NoGift
        | Code::NoPrice
        | Code::RequestExpired
        | Code::InvoiceExpired
        | Code::Draining => ErrorType::ProvisioningError,
        Code::MintDown | Code::MintPaused => ErrorType::MintNetworkError,
        Code::MintRefused => ErrorType::MintError,
        Code::ImageUnavailable | Code::ProvisioningFailed | Code::Internal | Code::Other(_) => {
            ErrorType::BackendError
        }
        Code::NotFound => ErrorType::NotFound,
        Code::LeaseEnded if money == Money::Taken => ErrorType::RaceLost,
        Code::LeaseEnded => ErrorType::LeaseExpired,
    }
}

/// A refusal in that shape: `details` is the token that comes back, and nothing
/// else.
pub(super) fn reply(refusal: &WireError) -> ErrorReply {
    let mut error = ErrorReply::new(kind(&refusal.code, refusal.money), message(refusal));
    error.details = refusal.refund.as_ref().map(|back| back.token.clone());
    error
}

fn message(refusal: &WireError) -> String {
    let what = &refusal.message;
    match (&refusal.code, &refusal.refund) {
        (_, Some(back)) => format!("{what}; the refund of {} is in details", back.amount_msat),
        (Code::ProvisioningFailed | Code::LeaseEnded, None) if refusal.money == Money::Taken => {
            format!("{what}; the refund is in the answer to a later status, as soon as it is made")
        }
        // These suggestions are about commands that such a client does not have.
        (Code::NotFound | Code::LeaseEnded, None) => what.clone(),
        (_, None) => format!("{what}; {}", refusal.suggestion),
    }
}
