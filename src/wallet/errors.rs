//! cdk's errors by what may be done about them. One function for each kind of
//! call, since the same error means different things before and after a swap
//! was sent.

use cdk::Error;

use super::WalletError;

/// Longest part of a mint's own words in a message.
const MAX_WORDS: usize = 160;

/// An error of a call that has no effect at the mint, or of one whose request
/// never left.
pub(super) fn nothing_sent(error: &Error) -> WalletError {
    match error {
        Error::Database(_) => WalletError::Store(words(error)),
        Error::TokenAlreadySpent => WalletError::Spent,
        _ if too_small(error) => WalletError::TooSmall,
        _ if no_answer(error) => WalletError::MintDown(words(error)),
        _ => WalletError::Refused(words(error)),
    }
}

/// An error of a call whose swap or mint request was sent, or may have been.
pub(super) fn maybe_sent(error: &Error) -> WalletError {
    if error.is_definitive_failure() && !no_answer(error) {
        WalletError::Refused(words(error))
    } else {
        WalletError::OutcomeUnknown(words(error))
    }
}

/// An error of the wallet's store.
pub(super) fn store(error: impl std::fmt::Display) -> WalletError {
    WalletError::Store(words(error))
}

/// The mint gave no answer of its own: no connection, no time, or words that
/// are not a mint's. A status alone may come from a proxy on the way that had
/// already passed the request on.
fn no_answer(error: &Error) -> bool {
    matches!(
        error,
        Error::HttpError(_, _)
            | Error::Timeout
            | Error::CouldNotGetMintInfo
            | Error::SerdeJsonError(_)
            | Error::UnknownErrorResponse(_)
    )
}

fn too_small(error: &Error) -> bool {
    matches!(error, Error::AmountUndefined | Error::AmountLessNotAllowed)
}

pub(super) fn words(error: impl std::fmt::Display) -> String {
    error
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_WORDS)
        .collect()
}
