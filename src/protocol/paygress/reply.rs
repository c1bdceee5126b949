//! Replies, provider to consumer. No reply names its request.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A reply. Written without a type; see [`Reply::read`] for how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To a spawn: where to get in.
    Access(Box<AccessDetails>),
    /// To a top-up.
    TopUp(TopUpDone),
    /// To a status.
    Status(StatusReply),
    /// To any of them.
    Error(ErrorReply),
}

/// Where to get into a workload.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessDetails {
    /// `container-<n>`, or `standby-slot-<workload id>`.
    pub pod_npub: String,
    /// Port of SSH; 0: a standby is reserved and nothing runs.
    pub node_port: u16,
    /// RFC 3339 with a numeric offset.
    pub expires_at: String,
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// MiB.
    pub memory_mb: u64,
    /// The tier's name.
    pub pod_spec_name: String,
    /// The tier's description.
    pub pod_spec_description: String,
    /// For people. The password is here and nowhere else.
    pub instructions: Vec<String>,
    /// Address of SSH; empty: not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_address: String,
    /// Ports of a template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub template_ports: Vec<TemplatePort>,
}

/// A port of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplatePort {
    /// Port on the provider's address.
    pub host_port: u16,
    /// Port in the workload.
    pub container_port: u16,
    /// `tcp`.
    pub protocol: String,
    /// What it is for, `sandbox-exec` for example.
    pub label: String,
}

/// A top-up was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopUpDone {
    /// Always true: failures are [`ErrorReply`].
    pub success: bool,
    /// As the request named it.
    pub pod_npub: String,
    /// Seconds that were added.
    pub extended_duration_seconds: u64,
    /// RFC 3339 with a numeric offset.
    pub new_expires_at: String,
    /// For people.
    pub message: String,
}

/// The state of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The bare number, not `container-<n>`.
    pub pod_id: String,
    /// `Running` or `Expired`.
    pub status: String,
    /// RFC 3339 with a numeric offset.
    pub expires_at: String,
    /// Seconds.
    pub time_remaining_seconds: u64,
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// MiB.
    pub memory_mb: u64,
    /// Address of SSH.
    pub ssh_host: String,
    /// Port of SSH.
    pub ssh_port: u16,
    /// `root`.
    pub ssh_username: String,
}

/// Something was refused, or failed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What, as clients know it: an [`ErrorType`], or another provider's word.
    pub error_type: String,
    /// For people.
    pub message: String,
    /// More of it; a satlet provider's refund token, if one is due. The key is
    /// written when there is nothing too.
    #[serde(default)]
    pub details: Option<String>,
}

/// Every `error_type` that existing clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// The body fits no request.
    InvalidRequest,
    /// Warm standby, and we are no part of it.
    NotAddressed,
    /// Templates are not to be had here.
    TemplateUnsupported,
    /// Not a Cashu token that can be read.
    InvalidToken,
    /// A mint that is not accepted.
    NonWhitelistedMint,
    /// Spent already.
    TokenAlreadySpent,
    /// Pending at the mint, or in another payment.
    TokenPending,
    /// The mint cannot be reached.
    MintNetworkError,
    /// Neither sat nor msat.
    UnsupportedUnit,
    /// Anything else from the mint.
    MintError,
    /// No tiers are for sale.
    NoSpecs,
    /// Below the minimum, or it buys no second.
    InsufficientPayment,
    /// No room.
    ProvisioningError,
    /// No template of that name.
    UnknownTemplate,
    /// A volume key that cannot be used.
    InvalidVolumeEncryption,
    /// Warm standby without a workload id.
    MissingWorkloadId,
    /// The workload could not be made.
    BackendError,
    /// A workload name that cannot be read.
    InvalidPodId,
    /// Somebody else's workload.
    NotOwner,
    /// No such workload.
    NotFound,
    /// The lease is over.
    LeaseExpired,
    /// The tier is not sold.
    SpecUnavailable,
    /// The workload vanished during the top-up.
    RaceLost,
}

impl ErrorType {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::InvalidRequest,
        Self::NotAddressed,
        Self::TemplateUnsupported,
        Self::InvalidToken,
        Self::NonWhitelistedMint,
        Self::TokenAlreadySpent,
        Self::TokenPending,
        Self::MintNetworkError,
        Self::UnsupportedUnit,
        Self::MintError,
        Self::NoSpecs,
        Self::InsufficientPayment,
        Self::ProvisioningError,
        Self::UnknownTemplate,
        Self::InvalidVolumeEncryption,
        Self::MissingWorkloadId,
        Self::BackendError,
        Self::InvalidPodId,
        Self::NotOwner,
        Self::NotFound,
        Self::LeaseExpired,
        Self::SpecUnavailable,
        Self::RaceLost,
    ];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::NotAddressed => "not_addressed",
            Self::TemplateUnsupported => "template_unsupported",
            Self::InvalidToken => "invalid_token",
            Self::NonWhitelistedMint => "non_whitelisted_mint",
            Self::TokenAlreadySpent => "token_already_spent",
            Self::TokenPending => "token_pending",
            Self::MintNetworkError => "mint_network_error",
            Self::UnsupportedUnit => "unsupported_unit",
            Self::MintError => "mint_error",
            Self::NoSpecs => "no_specs",
            Self::InsufficientPayment => "insufficient_payment",
            Self::ProvisioningError => "provisioning_error",
            Self::UnknownTemplate => "unknown_template",
            Self::InvalidVolumeEncryption => "invalid_volume_encryption",
            Self::MissingWorkloadId => "missing_workload_id",
            Self::BackendError => "backend_error",
            Self::InvalidPodId => "invalid_pod_id",
            Self::NotOwner => "not_owner",
            Self::NotFound => "not_found",
            Self::LeaseExpired => "lease_expired",
            Self::SpecUnavailable => "spec_unavailable",
            Self::RaceLost => "race_lost",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

impl ErrorReply {
    /// An error that existing clients know.
    pub fn new(kind: ErrorType, message: impl Into<String>) -> Self {
        Self {
            error_type: kind.name().to_owned(),
            message: message.into(),
            details: None,
        }
    }
}

/// Longest reply that is read, in bytes: what one message can carry.
pub const MAX_REPLY: usize = 64 * 1024;

impl Reply {
    /// Reads a reply, by the fields that are there: an error, access details, a
    /// top-up, a status; `None` for anything else and above [`MAX_REPLY`] bytes.
    pub fn read(body: &str) -> Option<Self> {
        if body.len() > MAX_REPLY {
            return None;
        }
        let value: serde_json::Value = serde_json::from_str(body).ok()?;
        if let Ok(error) = ErrorReply::deserialize(&value) {
            return Some(Self::Error(error));
        }
        if let Ok(access) = AccessDetails::deserialize(&value) {
            return Some(Self::Access(Box::new(access)));
        }
        if let Ok(done) = TopUpDone::deserialize(&value) {
            return Some(Self::TopUp(done));
        }
        StatusReply::deserialize(&value).ok().map(Self::Status)
    }
}

// Instructions hold a password, details may hold a token: not shown.

impl fmt::Debug for AccessDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessDetails")
            .field("pod_npub", &self.pod_npub)
            .field("node_port", &self.node_port)
            .field("expires_at", &self.expires_at)
            .field("host_address", &self.host_address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorReply")
            .field("error_type", &self.error_type)
            .field("message", &self.message)
            .field("details", &self.details.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_errors_are_read_back_and_differ() {
        for kind in ErrorType::ALL {
            assert_eq!(ErrorType::from_name(kind.name()), Some(kind));
        }
        assert_eq!(ErrorType::from_name("something_else"), None);
    }

    #[test]
    fn an_error_writes_its_details_when_there_are_none() {
        let error = ErrorReply::new(ErrorType::NotFound, "no such workload");
        let json = serde_json::to_string(&Reply::Error(error)).unwrap();
        assert_eq!(
            json,
            r#"{"error_type":"not_found","message":"no such workload","details":null}"#
        );
    }

    #[test]
    fn what_is_no_reply_is_not_read_as_one() {
        for bad in [
            "",
            "hello",
            "{}",
            r#"{"pod_id":"7"}"#,
            r#"{"error_type":"x"}"#,
        ] {
            assert_eq!(Reply::read(bad), None, "{bad}");
        }
    }
}
