//! Requests, consumer to provider: one JSON object each.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};

use crate::core::ids::{LeaseId, Name, RequestId};
use crate::core::payment::hash_lock::Preimage;
use crate::core::payment::lock::LockKey;
use crate::core::time::Timestamp;

/// A request with its envelope. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`DIALECT`](super::DIALECT).
    pub satlet: u32,
    /// The consumer's name of this request: the same id gets the same stored
    /// answer, for ever.
    pub request_id: RequestId,
    /// After this the consumer no longer wants it: a request that is read later
    /// is refused with `request_expired`, money untouched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What is asked; `type` on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Ask {
    /// What would this cost, and would it be accepted? No side effects.
    Quote(Quote),
    /// Start a workload for this money.
    Spawn(Spawn),
    /// Hold room for this money, which is locked to a hash, and take nothing yet.
    Hold(Spawn),
    /// Here is the preimage: take the money of my hold, and start the workload.
    Claim(Claim),
    /// I do not want what you hold for me.
    Release(Release),
    /// More time for a lease.
    Topup(Topup),
    /// How is my lease?
    Status(OfLease),
    /// My leases.
    List,
    /// What did my workload print?
    Logs(Logs),
    /// What was paid for my lease, served and given back, with your signature?
    Receipt(OfLease),
    /// End my lease and give back the unserved time.
    Stop(Stop),
}

impl Ask {
    /// The type's name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Quote(_) => "quote",
            Self::Spawn(_) => "spawn",
            Self::Hold(_) => "hold",
            Self::Claim(_) => "claim",
            Self::Release(_) => "release",
            Self::Topup(_) => "topup",
            Self::Status(_) => "status",
            Self::List => "list",
            Self::Logs(_) => "logs",
            Self::Receipt(_) => "receipt",
            Self::Stop(_) => "stop",
        }
    }

    /// Whether answering it changes nothing, however often it is done.
    pub fn only_asks(&self) -> bool {
        match self {
            Self::Quote(_) | Self::Status(_) | Self::List | Self::Logs(_) | Self::Receipt(_) => {
                true
            }
            Self::Spawn(_)
            | Self::Hold(_)
            | Self::Claim(_)
            | Self::Release(_)
            | Self::Topup(_)
            | Self::Stop(_) => false,
        }
    }

    /// The money that comes with it.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Spawn(ask) | Self::Hold(ask) => ask.funds.token(),
            Self::Topup(ask) => ask.funds.token(),
            _ => None,
        }
    }

    /// The order, where it is to be paid by Lightning.
    pub fn order(&self) -> Option<&Order> {
        match self {
            Self::Spawn(ask) => ask.funds.order(),
            Self::Topup(ask) => ask.funds.order(),
            _ => None,
        }
    }
}

/// What is wanted: the same in a quote and in the spawn that follows.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// A tier of the offer; absent: the offer's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Name>,
    /// A template of the offer, instead of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Name>,
    /// `host`, or an OCI reference; absent: the template's, else the provider's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// OpenSSH public keys that open the workload (`ssh-ed25519 AAAA… comment`), 1 to 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// Command line of the main process; empty: the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment, at most 64 pairs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
}

/// Asks for a price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// What is wanted. `ssh_keys` may be left out here.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// For how long, in seconds; absent: the tier's minimum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// Pays for a workload.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// What is wanted.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// The money, or what is in its place.
    #[serde(flatten)]
    pub funds: Funds,
    /// A quote whose price is to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote_id: Option<RequestId>,
    /// Our key that tokens of refunds for this lease are to be locked to, from
    /// now on; absent: as before, and at first not locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_key: Option<LockKey>,
}

/// Pays for more time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topup {
    /// Which lease.
    pub lease: LeaseId,
    /// The money.
    #[serde(flatten)]
    pub funds: Funds,
    /// As in [`Spawn`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_key: Option<LockKey>,
}

/// How it is paid: exactly one of these fields is in the request.
#[derive(Clone, PartialEq, Eq)]
pub enum Funds {
    /// `token`: one Cashu token of one mint.
    Token(String),
    /// `invoice`: nothing yet; the provider answers with an invoice, and with the
    /// one answer once it is paid.
    Invoice(Order),
    /// `gift`: true: the provider's pool is asked for a first lease.
    Gift,
}

/// What is to be paid by Lightning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// For how many seconds.
    pub seconds: u64,
}

impl Funds {
    /// The token, if it is one.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Invoice(_) | Self::Gift => None,
        }
    }

    /// The order, if it is to be paid by Lightning.
    pub fn order(&self) -> Option<&Order> {
        match self {
            Self::Token(_) | Self::Gift => None,
            Self::Invoice(order) => Some(order),
        }
    }
}

impl Serialize for Funds {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1))?;
        match self {
            Self::Token(token) => map.serialize_entry("token", token)?,
            Self::Invoice(order) => map.serialize_entry("invoice", order)?,
            Self::Gift => map.serialize_entry("gift", &true)?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Funds {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            token: Option<String>,
            #[serde(default)]
            invoice: Option<Order>,
            #[serde(default)]
            gift: bool,
        }
        let fields = Fields::deserialize(from)?;
        match (fields.token, fields.invoice, fields.gift) {
            (Some(token), None, false) => Ok(Self::Token(token)),
            (None, Some(order), false) => Ok(Self::Invoice(order)),
            (None, None, true) => Ok(Self::Gift),
            _ => Err(serde::de::Error::custom(
                "exactly one of `token`, `invoice` and `gift` has to be there",
            )),
        }
    }
}

/// Claims a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which hold.
    pub hold: LeaseId,
    /// What opens the token that came with it.
    pub preimage: Preimage,
}

/// Ends a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which hold.
    pub hold: LeaseId,
}

/// Ends a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which lease.
    pub lease: LeaseId,
    /// As in [`Spawn`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_key: Option<LockKey>,
}

/// Names a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfLease {
    /// Which lease.
    pub lease: LeaseId,
}

/// Asks for output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Which lease.
    pub lease: LeaseId,
    /// At most so many bytes from the end; absent: as many as fit an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<usize>,
}

// Tokens are money, and command and environment may hold secrets: not shown.

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("tier", &self.tier)
            .field("template", &self.template)
            .field("image", &self.image)
            .field("ssh_keys", &self.ssh_keys.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Funds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::Invoice(order) => order.fmt(f),
            Self::Gift => f.write_str("Gift"),
        }
    }
}

impl fmt::Debug for Spawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawn")
            .field("wanted", &self.wanted)
            .field("funds", &self.funds)
            .field("quote_id", &self.quote_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Topup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topup")
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// A request of this dialect.
    pub fn new(request_id: RequestId, ask: Ask) -> Self {
        Self {
            satlet: super::DIALECT,
            request_id,
            expires_at: None,
            ask,
        }
    }
}
