//! Locks on tokens (NUT-10, NUT-11): which spending conditions a provider can
//! rely on. A lock is good where, until its locktime, nobody but its receiver
//! can spend the token, and afterwards only the one who made it.
//!
//! cdk's own check is not enough: it looks at the locktime only where there is a
//! refund key, and so takes tokens that anybody can spend a moment later
//! (payments.md section 3, defect 3).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hash_lock::LockHash;
use crate::core::time::Timestamp;

#[cfg(test)]
mod tests;

/// A key that tokens are locked to: a compressed secp256k1 point, 66 lower-case
/// hexadecimal digits (NUT-11). Whether it is on the curve is for the wallet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockKey(String);

/// Not a key as [`LockKey`] has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lock key is a compressed point: 66 lower-case hexadecimal digits, from 02 or 03")]
pub struct BadKey;

impl LockKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LockKey {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Self, BadKey> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let compressed = text.starts_with("02") || text.starts_with("03");
        if text.len() == 66 && compressed && text.bytes().all(digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadKey)
        }
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for LockKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LockKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// To whom a token is locked, and what it takes to have it back. Write it down
/// before the token is made: with it the same token can be made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockTo {
    /// The receiver's key.
    pub key: LockKey,
    /// From then on we can take it back.
    pub locktime: Timestamp,
    /// Number of our refund key; used for one token only.
    pub index: u64,
    /// A hash whose preimage the receiver needs besides (NUT-14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<LockHash>,
}

/// What has to be shown to spend a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Signatures (NUT-11).
    P2pk,
    /// The preimage of a hash (NUT-14).
    Htlc,
}

/// The spending conditions of one proof, as its secret says (NUT-10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Which kind.
    pub kind: Kind,
    /// The key, in hex as the secret has it; for [`Kind::Htlc`] the hash.
    pub data: String,
    /// More keys that can sign.
    #[serde(default)]
    pub extra_keys: Vec<String>,
    /// How many signatures are needed; `None`: 1.
    #[serde(default)]
    pub n_sigs: Option<u64>,
    /// The signature covers all inputs and outputs (`SIG_ALL`).
    #[serde(default)]
    pub sig_all: bool,
    /// From then on the refund keys can sign; anybody where there are none.
    #[serde(default)]
    pub locktime: Option<Timestamp>,
    /// Keys that can sign after the locktime.
    #[serde(default)]
    pub refund_keys: Vec<String>,
    /// How many of these are needed; `None`: 1.
    #[serde(default)]
    pub n_sigs_refund: Option<u64>,
}

/// A lock that holds: only the receiver can spend the token until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The earliest locktime of its proofs; `None`: for ever.
    pub until: Option<Timestamp>,
}

/// Why a token's lock is not accepted. Nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLock {
    /// Some proofs are locked, others are not.
    #[error("some of its proofs are locked and others are not")]
    Mixed,
    /// Locked to a hash.
    #[error("it is locked to a hash (NUT-14)")]
    Htlc,
    /// Not locked to a hash, where it has to be.
    #[error("it is not locked to a hash (NUT-14)")]
    NotHashed,
    /// What stands for a hash is none.
    #[error("its hash is not 64 lower-case hexadecimal digits")]
    NotAHash,
    /// Its proofs are locked to different hashes.
    #[error("its proofs are locked to more than one hash")]
    OtherHash,
    /// Whoever has the preimage could spend it.
    #[error("it is locked to no key beside the hash")]
    NoKey,
    /// It would never come back to who made it.
    #[error("it is locked to a hash without a locktime")]
    NoLocktime,
    /// Locked to a key that is not ours.
    #[error("it is locked to another key")]
    WrongKey,
    /// Others can sign too.
    #[error("it is locked to more than one key")]
    ExtraKeys,
    /// Not exactly one signature is needed.
    #[error("it needs {0} signatures")]
    Signatures(u64),
    /// Signatures would have to cover the outputs.
    #[error("it is locked with SIG_ALL")]
    SigAll,
    /// After the locktime anybody can spend it.
    #[error("its locktime has no refund key: anybody could spend it then")]
    NoRefundKey,
    /// The locktime is too near, or past.
    #[error("its locktime is {locktime}, and has to be {earliest} or later")]
    TooEarly {
        /// What it is.
        locktime: Timestamp,
        /// The earliest that is accepted now.
        earliest: Timestamp,
    },
}

/// Whether the locks of a token's proofs can be relied on: `None` where no proof
/// is locked. `ours` are our lock keys; a locktime has to be `margin` or more
/// ahead of `now`.
///
/// # Errors
/// [`BadLock`], of the first proof that has something wrong.
pub fn accept(
    proofs: &[Option<Conditions>],
    ours: &[LockKey],
    now: Timestamp,
    margin: Duration,
) -> Result<Option<Lock>, BadLock> {
    if proofs.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut lock = Lock { until: None };
    for conditions in proofs {
        let conditions = conditions.as_ref().ok_or(BadLock::Mixed)?;
        let until = one(conditions, ours, now.plus(margin))?;
        lock.until = match (lock.until, until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    Ok(Some(lock))
}

/// The locktime of one proof, if its lock is good.
fn one(
    conditions: &Conditions,
    ours: &[LockKey],
    earliest: Timestamp,
) -> Result<Option<Timestamp>, BadLock> {
    if conditions.kind == Kind::Htlc {
        return Err(BadLock::Htlc);
    }
    if !ours.iter().any(|key| key.as_str() == conditions.data) {
        return Err(BadLock::WrongKey);
    }
    if !conditions.extra_keys.is_empty() {
        return Err(BadLock::ExtraKeys);
    }
    if let Some(n) = conditions.n_sigs.filter(|n| *n != 1) {
        return Err(BadLock::Signatures(n));
    }
    if conditions.sig_all {
        return Err(BadLock::SigAll);
    }
    let Some(locktime) = conditions.locktime else {
        return Ok(None);
    };
    if conditions.refund_keys.is_empty() || conditions.n_sigs_refund == Some(0) {
        return Err(BadLock::NoRefundKey);
    }
    if locktime < earliest {
        return Err(BadLock::TooEarly { locktime, earliest });
    }
    Ok(Some(locktime))
}
