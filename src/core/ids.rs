//! Typed names of things. Each is checked when it is made, so that the rest of
//! the program never meets a malformed one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not a valid id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A lease id is [`LeaseId::LEN`] characters of `a-z2-7`.
    #[error("a lease id is 12 characters of a-z and 2-7")]
    Lease,
    /// A public key is 64 hexadecimal digits (x-only secp256k1, NIP-01).
    #[error("a public key is 64 hexadecimal digits")]
    PublicKey,
    /// A name is 1 to 64 characters of `a-z0-9._-`, starting with a letter or digit.
    #[error(
        "a name is 1 to 64 characters of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
    )]
    Name,
    /// A 32-byte id is 64 hexadecimal digits.
    #[error("an id is 64 hexadecimal digits")]
    Hash,
}

macro_rules! text_serde {
    ($ty:ty) => {
        impl Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A lease: 12 characters of `a-z2-7` (60 random bits). It is the workload's
/// key on the backend, the user name at the SSH gateway and what people type.
/// It is a name, not a secret: knowing it opens nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(String);

impl LeaseId {
    /// Characters in an id.
    pub const LEN: usize = 12;

    /// The id that these random bytes spell: the low five bits of each.
    pub fn from_random(bytes: [u8; Self::LEN]) -> Self {
        const ALPHABET: [char; 32] = [
            'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q',
            'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
        ];
        let pick = |byte: u8| ALPHABET.get(usize::from(byte & 31)).copied().unwrap_or('a');
        Self(bytes.into_iter().map(pick).collect())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeaseId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let good = text.len() == Self::LEN
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Lease)
        }
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(LeaseId);

macro_rules! hex32 {
    ($(#[$doc:meta])* $name:ident, $err:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// 64 lower-case hexadecimal digits.
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::$err)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        text_serde!($name);
    };
}

hex32!(
    /// A Nostr public key (NIP-01): provider or consumer. Always shown and
    /// stored as 64 lower-case hexadecimal digits.
    PublicKey,
    PublicKey
);
hex32!(
    /// A Nostr event id (NIP-01), of a gift wrap or a rumor.
    EventId,
    Hash
);
hex32!(
    /// A payment: SHA-256 over mint, unit and the sorted Ys of its proofs, so
    /// that the same proofs are the same payment however they arrive.
    PaymentId,
    Hash
);

/// The consumer's name of one request; with the sender's key it is unique for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Uuid);

impl RequestId {
    /// Wraps a UUID; draw a random one (version 4) at the rim.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RequestId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// The name of a tier, template or backend: 1 to 64 characters of `a-z0-9._-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let ok_char = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let starts_well = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if starts_well && text.len() <= 64 && text.bytes().all(ok_char) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Name)
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(Name);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_ids_are_refused() {
        for bad in [
            "",
            "aaaaaaaaaaa",
            "aaaaaaaaaaaaa",
            "aaaaaaaaaaa1",
            "aaaaaaaaaaaA",
            "../../../etc",
        ] {
            assert_eq!(bad.parse::<LeaseId>(), Err(IdError::Lease), "{bad}");
        }
        let hex = "0f".repeat(32);
        assert!(hex.parse::<PublicKey>().is_ok());
        assert_eq!(hex[1..].parse::<PublicKey>(), Err(IdError::PublicKey));
        assert_eq!("zz".repeat(32).parse::<EventId>(), Err(IdError::Hash));
        for bad in ["", "-a", ".a", "A", "a b", "a/b", &"a".repeat(65)] {
            assert_eq!(bad.parse::<Name>(), Err(IdError::Name), "{bad}");
        }
        assert!("0-a.b_c".parse::<Name>().is_ok());
        assert!("\"aaaaaaaaaaa1\"".parse::<serde_json::Value>().is_ok());
        assert!(serde_json::from_str::<LeaseId>("\"aaaaaaaaaaa1\"").is_err());
    }

    proptest! {
        #[test]
        fn ids_are_the_same_after_a_way_through_text(bytes: [u8; 32], some: [u8; 12]) {
            let lease = LeaseId::from_random(some);
            prop_assert_eq!(lease.to_string().parse::<LeaseId>().unwrap(), lease.clone());
            let json = serde_json::to_string(&lease).unwrap();
            prop_assert_eq!(serde_json::from_str::<LeaseId>(&json).unwrap(), lease);
            let key = PublicKey::from_bytes(bytes);
            prop_assert_eq!(key.to_hex().to_uppercase().parse::<PublicKey>().unwrap(), key);
            prop_assert_eq!(key.to_string(), key.to_hex());
        }
    }
}
