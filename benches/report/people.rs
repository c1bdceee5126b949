//! Who takes part: the same keys and lease ids in every process of a run.

use nostr_sdk::{Keys, SecretKey};
use satlet::core::ids::{LeaseId, PublicKey, RequestId};
use satlet::protocol::request::{Ask, OfLease, Request};
use satlet::relay::convert::{key_from, now};
use satlet::relay::wrap::wrap;
use sha2::{Digest, Sha256};

fn keys(name: &str) -> Keys {
    let hash = Sha256::digest(name.as_bytes());
    Keys::new(SecretKey::from_slice(&hash).expect("a hash is a key"))
}

/// The provider.
pub(crate) fn provider() -> Keys {
    keys("provider")
}

/// The owner of lease `n`.
pub(crate) fn owner(n: usize) -> Keys {
    keys(&format!("consumer {n}"))
}

/// The id of lease `n`.
pub(crate) fn lease_id(n: usize) -> LeaseId {
    let mut bytes = [0u8; LeaseId::LEN];
    let mut rest = n;
    for byte in bytes.iter_mut().rev() {
        *byte = (rest % 32) as u8;
        rest /= 32;
    }
    LeaseId::from_random(bytes)
}

/// The public key as `core` has it.
pub(crate) fn public(keys: &Keys) -> PublicKey {
    key_from(&keys.public_key())
}

/// A status of lease `n` by its owner, wrapped for the provider.
pub(crate) fn status(n: usize) -> nostr_sdk::Event {
    let request = Request::new(
        RequestId::new(uuid::Uuid::new_v4()),
        Ask::Status(OfLease { lease: lease_id(n) }),
    );
    let body = serde_json::to_string(&request).expect("a request is JSON");
    let until = now().plus_secs(3600);
    wrap(&owner(n), &public(&provider()), &body, now(), until)
        .expect("a short message")
        .0
}
