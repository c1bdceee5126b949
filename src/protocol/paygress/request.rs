//! Requests, consumer to provider.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::MAX_REQUEST;

/// A request. Written without a type; see [`Request::read`] for how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Request {
    /// Start a workload for this money.
    Spawn(Box<Spawn>),
    /// More time for a workload.
    TopUp(TopUp),
    /// How is a workload?
    Status(Status),
}

/// Pays for a workload.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// The money: `cashuA…` or `cashuB…`.
    pub cashu_token: String,
    /// A tier of the offer; `None`: the first.
    #[serde(default)]
    pub pod_spec_id: Option<String>,
    /// An image, used only without a template.
    pub pod_image: String,
    /// Ignored by providers: the user is always `root`.
    pub ssh_username: String,
    /// The wanted password, used if [`sane_password`] says so.
    pub ssh_password: String,
    /// A template, instead of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_slug: Option<String>,
    /// Copies on other providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// The provider that runs the workload, hex or `npub1…`; for warm standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_npub: Option<String>,
    /// The consumer's own name of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_id: Option<String>,
    /// A key for the data volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_encryption: Option<VolumeEncryption>,
}

/// Copies on other providers; `mode` on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum Replication {
    /// None.
    None,
    /// None that run; the workload saves its state itself.
    Checkpointed,
    /// Providers that stand by, hex or `npub1…`.
    WarmStandby {
        /// In the order of promotion.
        standby_providers: Vec<String>,
    },
}

/// A key for the data volume.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEncryption {
    /// Version of this schema.
    #[serde(default = "one")]
    pub version: u32,
    /// `luks2-aes-xts`.
    pub algorithm: String,
    /// 32 bytes in base64url without padding.
    pub key_b64: String,
}

const fn one() -> u32 {
    1
}

/// Pays for more time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopUp {
    /// The workload: `container-<n>` or `<n>`.
    pub pod_npub: String,
    /// The money.
    pub cashu_token: String,
}

/// Asks for the state of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The workload: `container-<n>` or `<n>`.
    pub pod_id: String,
}

/// Why a body is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// More than [`MAX_REQUEST`] bytes.
    #[error("the request is {0} bytes, more than {MAX_REQUEST}")]
    TooLong(usize),
    /// Not a JSON object with the fields of any request.
    #[error("{0}")]
    Shape(String),
}

impl Request {
    /// Reads a request: the first of spawn, top-up and status whose mandatory
    /// fields are all there.
    ///
    /// # Errors
    /// Too long, or nothing fits; the message then never quotes the body.
    pub fn read(body: &str) -> Result<Self, Unreadable> {
        if body.len() > MAX_REQUEST {
            return Err(Unreadable::TooLong(body.len()));
        }
        let Ok(value) = serde_json::from_str::<serde_json::Value>(body) else {
            return Err(Unreadable::Shape("the request is not JSON".to_owned()));
        };
        let has = |fields: &[&str]| {
            fields
                .iter()
                .all(|f| value.get(f).is_some_and(|v| v.is_string()))
        };
        if has(&["cashu_token", "pod_image", "ssh_username", "ssh_password"])
            && let Ok(spawn) = Spawn::deserialize(&value)
        {
            return Ok(Self::Spawn(Box::new(spawn)));
        }
        if let Ok(topup) = TopUp::deserialize(&value) {
            return Ok(Self::TopUp(topup));
        }
        Status::deserialize(&value).map(Self::Status).map_err(|_| {
            Unreadable::Shape(
                "a spawn has cashu_token, pod_image, ssh_username and ssh_password, a top-up \
                 pod_npub and cashu_token, a status pod_id"
                    .to_owned(),
            )
        })
    }
}

/// Whether a wanted password is used: 12 to 64 ASCII letters and digits.
pub fn sane_password(password: &str) -> bool {
    (12..=64).contains(&password.len()) && password.bytes().all(|b| b.is_ascii_alphanumeric())
}

// Tokens are money, passwords and keys are secrets: not shown.

impl fmt::Debug for Spawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawn")
            .field("pod_spec_id", &self.pod_spec_id)
            .field("pod_image", &self.pod_image)
            .field("template_slug", &self.template_slug)
            .field("workload_id", &self.workload_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for VolumeEncryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeEncryption")
            .field("version", &self.version)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TopUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopUp")
            .field("pod_npub", &self.pod_npub)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_shape_whose_fields_are_all_there_wins() {
        let spawn = r#"{"cashu_token":"t","pod_image":"i","ssh_username":"u","ssh_password":"p","pod_npub":"n","pod_id":"7"}"#;
        assert!(matches!(Request::read(spawn), Ok(Request::Spawn(_))));
        let topup = r#"{"pod_npub":"n","cashu_token":"t","pod_id":"7"}"#;
        assert!(matches!(Request::read(topup), Ok(Request::TopUp(_))));
        let status = r#"{"pod_id":"7","cashu_token":"t"}"#;
        assert!(matches!(Request::read(status), Ok(Request::Status(_))));
    }

    #[test]
    fn what_fits_no_shape_is_said_without_quoting_it() {
        for bad in [
            "",
            "hello",
            "[]",
            "{}",
            r#"{"pod_id":7}"#,
            r#"{"cashu_token":"cashuBsecret"}"#,
        ] {
            let error = Request::read(bad).unwrap_err();
            assert!(!error.to_string().contains("cashuBsecret"));
        }
        let long = format!(r#"{{"pod_id":"{}"}}"#, "7".repeat(MAX_REQUEST));
        assert!(matches!(Request::read(&long), Err(Unreadable::TooLong(_))));
    }

    #[test]
    fn a_password_is_used_when_it_is_sane() {
        for good in ["k3ZpQ9vTt1LmXe7B", "abcdefghijkl", &"x".repeat(64)] {
            assert!(sane_password(good));
        }
        for bad in ["", "short", "abcdefghijk$", "pässwörter12", &"x".repeat(65)] {
            assert!(!sane_password(bad));
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let body = r#"{"cashu_token":"cashuBmoney","pod_image":"i","ssh_username":"u","ssh_password":"hunter2hunter2",
            "volume_encryption":{"algorithm":"luks2-aes-xts","key_b64":"a2V5"}}"#;
        let shown = format!("{:?}", Request::read(body).unwrap());
        for secret in ["cashuBmoney", "hunter2", "a2V5"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
