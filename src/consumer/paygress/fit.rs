//! Whether a reply can be the answer to a request: decided by what is in it.

use crate::core::time::Timestamp;
use crate::protocol::offer::Spec;
use crate::protocol::paygress::container_number;
use crate::protocol::paygress::reply::{AccessDetails, Reply};

/// Longest name of a workload that is taken, in bytes.
const MAX_POD: usize = 64;

/// How well a reply fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is the answer.
    Answer,
    /// It may be the answer, if no better one comes: not all is as bought.
    Perhaps,
    /// It is not.
    No,
}

/// To a spawn: access details of a running workload of the tier that was
/// bought, or an error.
pub(super) fn spawn(reply: &Reply, spec: &Spec) -> Fit {
    match reply {
        Reply::Error(_) => Fit::Answer,
        Reply::Access(access) if !runs(access) => Fit::No,
        Reply::Access(access) if as_bought(access, spec) => Fit::Answer,
        Reply::Access(_) => Fit::Perhaps,
        Reply::TopUp(_) | Reply::Status(_) => Fit::No,
    }
}

fn runs(access: &AccessDetails) -> bool {
    let pod = &access.pod_npub;
    let sane = !pod.is_empty() && pod.len() <= MAX_POD && pod.bytes().all(|b| b.is_ascii_graphic());
    sane && access.node_port != 0 && !pod.starts_with("standby-slot-")
}

/// Whether the numbers are those of the tier.
pub(super) fn as_bought(access: &AccessDetails, spec: &Spec) -> bool {
    (access.cpu_millicores, access.memory_mb) == (spec.cpu_millicores, spec.memory_mb)
}

/// To a top-up: of our workload, to a later end than the one that is known, or
/// an error.
pub(super) fn topup(reply: &Reply, pod: &str, ends: Option<Timestamp>) -> Fit {
    match reply {
        Reply::Error(_) => Fit::Answer,
        Reply::TopUp(done) if same_pod(&done.pod_npub, pod) && done.success => {
            let later = instant(&done.new_expires_at).is_some_and(|new| Some(new) > ends);
            if later { Fit::Answer } else { Fit::No }
        }
        _ => Fit::No,
    }
}

/// To a status: of our workload (of any, where only the key is known), or an
/// error.
pub(super) fn status(reply: &Reply, pod: Option<&str>) -> Fit {
    match reply {
        Reply::Error(_) => Fit::Answer,
        Reply::Status(status) => {
            let ours = match pod {
                Some(pod) => same_pod(&status.pod_id, pod),
                None => container_number(&status.pod_id).is_some(),
            };
            if ours { Fit::Answer } else { Fit::No }
        }
        _ => Fit::No,
    }
}

/// `container-7` and `7` are one workload.
fn same_pod(one: &str, other: &str) -> bool {
    match (container_number(one), container_number(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// RFC 3339 as an instant after 1970.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    let parsed = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(parsed.timestamp())
        .ok()
        .map(Timestamp::from_secs)
}
