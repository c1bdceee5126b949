//! A Nostr key for each lease, derived from the home's own key and a number
//! that counts up: with the identity's backup and the number the key is there
//! again.

use std::time::Duration;

use nostr_sdk::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use nostr_sdk::{Keys, SecretKey};

use super::super::client::Client;
use super::super::error::{ClientError, Kind};
use super::super::files::{self, Lock};

/// How long to wait for another process that takes a number.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The key of lease number `index`: HMAC-SHA256 over a label and the number,
/// keyed with the identity's secret key.
///
/// # Errors
/// The outcome is no key (with a probability of 2^-128).
pub fn lease_keys(identity: &Keys, index: u64) -> Result<Keys, ClientError> {
    let mut mac = HmacEngine::<sha256::Hash>::new(identity.secret_key().as_secret_bytes());
    mac.input(b"satlet lease key v1\0");
    mac.input(&index.to_be_bytes());
    let secret = Hmac::<sha256::Hash>::from_engine(mac).to_byte_array();
    SecretKey::from_slice(&secret)
        .map(Keys::new)
        .map_err(|_| ClientError::internal("a lease's key cannot be made"))
}

impl Client {
    /// A number that no lease has had.
    pub(super) async fn next_key(&self) -> Result<u64, ClientError> {
        let lock = Lock::within(&self.home.path("keys.lock"), LOCK_WAIT).await?;
        let _lock = lock.ok_or_else(|| {
            ClientError::new(
                Kind::Internal,
                "home_busy",
                "another satlet holds keys.lock",
                "Wait for the other command, or end it.",
            )
        })?;
        let path = self.home.path("keys.json");
        let next = match files::read_json::<u64>(&path)? {
            Some(next) => next,
            // The file is gone or never was: behind all that is known.
            None => self.records.highest_key()?.map_or(0, |highest| highest + 1),
        };
        files::write_json(&path, &next.saturating_add(1))?;
        Ok(next)
    }
}
