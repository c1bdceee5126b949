//! A first lease that the provider gives.

use super::error::{ClientError, Kind};
use super::providers::Provider;
use crate::protocol::request::Wanted;

/// Chooses the tier that `provider` gives, where none is named.
///
/// # Errors
/// Its offer says nothing of gifts.
pub(super) fn choose(provider: &Provider, wanted: &mut Wanted) -> Result<(), ClientError> {
    let ours = provider.offer.satlet.as_ref();
    let Some(pool) = ours.and_then(|ours| ours.pool.as_ref()) else {
        return Err(ClientError::new(
            Kind::Refused,
            "no_gift",
            "this provider gives nothing away",
            "Leave out --gift and pay, or choose another provider.",
        ));
    };
    wanted.tier.get_or_insert_with(|| pool.tier.clone());
    Ok(())
}
