//! Tokens that are locked to a hash beside a key (NUT-14): until its locktime such
//! a token can be spent by its receiver alone, and only once it has the preimage.
//! With tokens of the same hash at several receivers a purchase is made of all of
//! them or of none: no preimage is given away before all have agreed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lock::{BadLock, Conditions, Kind, LockKey};
use crate::core::time::Timestamp;

#[cfg(test)]
mod tests;

/// SHA-256 of a [`Preimage`]: 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LockHash(String);

/// What opens a [`LockHash`]: 32 bytes, as 64 lower-case hexadecimal digits. Money
/// for as long as a token that is locked to its hash is unspent: never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Preimage(String);

/// Not 32 bytes in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has to be 64 lower-case hexadecimal digits")]
pub struct NotHex;

fn is_hex(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 64 && text.bytes().all(digit)
}

impl LockHash {
    /// The hash as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Preimage {
    /// These bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(hex::encode(bytes))
    }

    /// The preimage as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its hash.
    pub fn hash(&self) -> LockHash {
        // What it is made of are digits.
        let bytes = hex::decode(&self.0).unwrap_or_default();
        LockHash(hex::encode(Sha256::digest(bytes)))
    }
}

impl fmt::Debug for Preimage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preimage")
    }
}

impl fmt::Display for LockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LockHash {
    type Error = NotHex;
    fn try_from(text: String) -> Result<Self, NotHex> {
        is_hex(&text).then_some(Self(text)).ok_or(NotHex)
    }
}

impl TryFrom<String> for Preimage {
    type Error = NotHex;
    fn try_from(text: String) -> Result<Self, NotHex> {
        is_hex(&text).then_some(Self(text)).ok_or(NotHex)
    }
}

impl FromStr for Preimage {
    type Err = NotHex;
    fn from_str(text: &str) -> Result<Self, NotHex> {
        text.to_owned().try_into()
    }
}

impl From<LockHash> for String {
    fn from(hash: LockHash) -> Self {
        hash.0
    }
}

impl From<Preimage> for String {
    fn from(preimage: Preimage) -> Self {
        preimage.0
    }
}

/// A lock to a hash that holds: with the preimage we can spend the token until
/// then, and nobody else can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashLock {
    /// The hash.
    pub hash: LockHash,
    /// The earliest locktime of its proofs.
    pub until: Timestamp,
}

/// Whether the locks of a token's proofs are all to one hash and to a key of ours,
/// and can be relied on. `ours` are our lock keys; the locktime has to be `margin`
/// or more ahead of `now`.
///
/// # Errors
/// [`BadLock`], of the first proof that has something wrong.
pub fn accept_hashed(
    proofs: &[Option<Conditions>],
    ours: &[LockKey],
    now: Timestamp,
    margin: Duration,
) -> Result<HashLock, BadLock> {
    let mut lock: Option<HashLock> = None;
    for conditions in proofs {
        let conditions = conditions.as_ref().ok_or(BadLock::NotHashed)?;
        let one = one(conditions, ours, now.plus(margin))?;
        lock = match lock {
            Some(lock) if lock.hash != one.hash => return Err(BadLock::OtherHash),
            Some(lock) => Some(HashLock {
                until: lock.until.min(one.until),
                ..one
            }),
            None => Some(one),
        };
    }
    lock.ok_or(BadLock::NotHashed)
}

fn one(
    conditions: &Conditions,
    ours: &[LockKey],
    earliest: Timestamp,
) -> Result<HashLock, BadLock> {
    if conditions.kind != Kind::Htlc {
        return Err(BadLock::NotHashed);
    }
    let hash = conditions.data.clone().try_into();
    let hash: LockHash = hash.map_err(|_| BadLock::NotAHash)?;
    match conditions.extra_keys.as_slice() {
        // Whoever learns the preimage could spend it.
        [] => return Err(BadLock::NoKey),
        [key] if ours.iter().any(|ours| ours.as_str() == key) => {}
        [_] => return Err(BadLock::WrongKey),
        _ => return Err(BadLock::ExtraKeys),
    }
    if let Some(n) = conditions.n_sigs.filter(|n| *n != 1) {
        return Err(BadLock::Signatures(n));
    }
    if conditions.sig_all {
        return Err(BadLock::SigAll);
    }
    let until = conditions.locktime.ok_or(BadLock::NoLocktime)?;
    if conditions.refund_keys.is_empty() || conditions.n_sigs_refund == Some(0) {
        return Err(BadLock::NoRefundKey);
    }
    if until < earliest {
        let locktime = until;
        return Err(BadLock::TooEarly { locktime, earliest });
    }
    Ok(HashLock { hash, until })
}
