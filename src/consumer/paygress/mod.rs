//! Renting from providers that speak only "paygress/1": NIP-04 messages without
//! request ids, one after the other, read only while the provider listens, and
//! money that is taken before the request is looked at.
//!
//! What makes that usable:
//!
//! * **A Nostr key for each lease** ([`keys`]), derived from the home's own. A
//!   spawn's key has never been used, so no stale reply and no reply of another
//!   command can be taken for its answer; the provider ties the lease to it.
//! * **A reply counts only if it can be ours** (`fit`): from the provider, not
//!   heard before this request was sent, not older than the request, of the
//!   shape and with the names and numbers that belong to it.
//! * **The mint is asked what became of a token** (`settle`), whatever the
//!   provider says or does not say: unspent, it goes back into the wallet;
//!   spent, the provider is asked for the workload of this key; and what is
//!   lost is written down as lost.
//!
//! * `outcome`: what is known of a lease after a good reply.
//! * `line`: a key's messages on the relays. `terms`: from an offer to a price,
//!   and what there is no protection against. `rent`: spawn. `lease`: top-up
//!   and status. [`access`]: passwords.

pub mod access;
mod fit;
pub mod keys;
mod lease;
mod line;
mod outcome;
mod rent;
mod settle;
mod terms;

#[cfg(test)]
mod tests;

pub use terms::{Consent, LACKS, Terms};

use std::time::Duration;

use super::error::{ClientError, Kind};

/// How long a spawn or a top-up waits for its reply, unless told otherwise.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The refusal of what the dialect does not have.
pub(super) fn not_in_dialect(what: &str, instead: impl Into<String>) -> ClientError {
    ClientError::new(
        Kind::Refused,
        "not_in_dialect",
        format!(
            "the provider speaks only {}, which has no {what}",
            crate::protocol::paygress::DIALECT_NAME
        ),
        instead,
    )
}
