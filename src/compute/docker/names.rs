//! Names and labels of what we make in an engine.

use std::collections::HashMap;

use crate::compute::{LABEL_SCHEMA, Labels, WorkloadKey, WorkloadSpec};
use crate::core::time::Timestamp;

/// Which satletd's it is.
pub(super) const INSTANCE: &str = "satlet.instance";
/// Which lease's it is.
pub(super) const LEASE: &str = "satlet.lease";
const OWNER: &str = "satlet.owner";
const EXPIRES: &str = "satlet.expires-at";
const SCHEMA: &str = "satlet.schema";
const NOTE: &str = "satlet.note";
/// What the image was asked for as; the container's `Image` says what it was.
pub(super) const IMAGE: &str = "satlet.image";

/// Letters and digits that are one installation's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance(String);

impl Instance {
    /// Of six letters and digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (text.len() == 6 && text.bytes().all(good)).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a lease's container and of its network.
    pub(super) fn name(&self, key: &WorkloadKey) -> String {
        format!("satlet-{}-{key}", self.0)
    }

    /// What the names of bridges begin with.
    pub(super) fn prefix(&self) -> String {
        format!("sd{}-", self.0)
    }

    /// The bridge of a place among the networks. At most 15 characters, as the
    /// kernel wants it.
    pub(super) fn bridge(&self, slot: u32) -> String {
        format!("{}{slot:04x}", self.prefix())
    }

    /// The place of a bridge of ours.
    pub(super) fn slot(&self, bridge: &str) -> Option<u32> {
        u32::from_str_radix(bridge.strip_prefix(&self.prefix())?, 16).ok()
    }

    /// The repository of tags that say that we fetched an image.
    pub(super) fn repository(&self, kind: &str) -> String {
        format!("satlet-{}/{kind}", self.0)
    }

    /// What all of ours are found by.
    pub(super) fn filter(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{INSTANCE}={}", self.0)])])
    }

    /// What a lease's are found by.
    pub(super) fn filter_lease(&self, key: &WorkloadKey) -> HashMap<String, Vec<String>> {
        let ours = format!("{INSTANCE}={}", self.0);
        let lease = format!("{LEASE}={key}");
        HashMap::from([("label".to_owned(), vec![ours, lease])])
    }

    /// The labels of a new workload.
    pub(super) fn labels(&self, key: &WorkloadKey, spec: &WorkloadSpec) -> HashMap<String, String> {
        let pairs = [
            (INSTANCE, self.0.clone()),
            (LEASE, key.to_string()),
            (OWNER, spec.owner.to_string()),
            (EXPIRES, spec.expires_at.as_secs().to_string()),
            (SCHEMA, LABEL_SCHEMA.to_string()),
            (NOTE, spec.note.clone()),
        ];
        pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Our labels, of something that is this installation's.
    pub(super) fn read(&self, labels: &HashMap<String, String>) -> Option<Labels> {
        (labels.get(INSTANCE)? == &self.0).then_some(())?;
        Some(Labels {
            lease: labels.get(LEASE)?.parse().ok()?,
            owner: labels.get(OWNER)?.parse().ok()?,
            expires_at: Timestamp::from_secs(labels.get(EXPIRES)?.parse().ok()?),
            schema: labels.get(SCHEMA)?.parse().ok()?,
            note: labels.get(NOTE).cloned().unwrap_or_default(),
        })
    }
}
