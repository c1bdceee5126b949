//! SHA-256 digests as images write them.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::budget::shown;
use crate::compute::BackendError;

/// `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Digest(String);

impl Digest {
    /// Of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// From `sha256:…`.
    pub(super) fn parse(text: &str) -> Result<Self, BackendError> {
        match text.strip_prefix("sha256:") {
            Some(hex) => Self::from_hex(hex),
            None => None,
        }
        .ok_or_else(|| BackendError::Image(format!("{} is no SHA-256 digest", shown(text))))
    }

    /// From the digits alone.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(hex.to_owned()))
    }

    /// The digits alone: a safe name of a file.
    pub(super) fn hex(&self) -> &str {
        &self.0
    }

    /// Whether these bytes are what the digest stands for.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), BackendError> {
        if Self::of(bytes) == *self {
            Ok(())
        } else {
            Err(self.mismatch())
        }
    }

    /// Reads all and compares both length and digest.
    pub(super) fn check_read(
        &self,
        mut reader: impl Read,
        size: u64,
    ) -> io::Result<Result<(), BackendError>> {
        let mut hasher = Sha256::new();
        let read = io::copy(&mut reader, &mut hasher)?;
        if read != size {
            return Ok(Err(self.wrong_size()));
        }
        if hex::encode(hasher.finalize()) != self.0 {
            return Ok(Err(self.mismatch()));
        }
        Ok(Ok(()))
    }

    pub(super) fn mismatch(&self) -> BackendError {
        BackendError::Image(format!("the content of {self} has another digest"))
    }

    pub(super) fn wrong_size(&self) -> BackendError {
        BackendError::Image(format!("{self} has another size than its manifest says"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = BackendError;
    fn try_from(text: String) -> Result<Self, BackendError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}
