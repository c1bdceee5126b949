//! What the engine says of a container. Pure.

use std::collections::HashMap;

use bollard::models::ContainerInspectResponse;

use crate::compute::{BackendError, Observed};
use crate::core::time::Timestamp;

/// What matters of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The engine's id of it.
    pub(super) id: String,
    /// All its labels.
    pub(super) labels: HashMap<String, String>,
    /// Its state.
    pub(super) observed: Observed,
    /// Its first process, as the engine's host sees it.
    pub(super) pid: Option<i32>,
    /// Environment of everything in it.
    pub(super) env: Vec<(String, String)>,
}

impl Found {
    pub(super) const fn paused(&self) -> bool {
        matches!(self.observed, Observed::Running { paused: true, .. })
    }

    pub(super) const fn running(&self) -> bool {
        matches!(self.observed, Observed::Running { .. })
    }
}

/// # Errors
/// The answer lacks what every engine says: nothing is known.
pub(super) fn found(answer: ContainerInspectResponse) -> Result<Found, BackendError> {
    let odd = |what: &str| BackendError::Retry(format!("the engine's answer has no {what}"));
    let state = answer.state.ok_or_else(|| odd("state"))?;
    let config = answer.config.ok_or_else(|| odd("configuration"))?;
    let running = state.running.ok_or_else(|| odd("state"))?;
    let observed = if running {
        let started = state.started_at.as_deref().and_then(seconds);
        Observed::Running {
            started_at: started.ok_or_else(|| odd("start time"))?,
            paused: state.paused.unwrap_or(false),
        }
    } else {
        // One that never ran has the exit code 0.
        let ran = state.started_at.as_deref().and_then(seconds).is_some();
        let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
        Observed::Stopped {
            exit_code: code.filter(|_| ran),
        }
    };
    Ok(Found {
        id: answer.id.ok_or_else(|| odd("id"))?,
        labels: config.labels.unwrap_or_default(),
        observed,
        pid: state
            .pid
            .and_then(|pid| i32::try_from(pid).ok())
            .filter(|pid| *pid > 0),
        env: config
            .env
            .unwrap_or_default()
            .iter()
            .filter_map(|text| text.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    })
}

/// Unix seconds of RFC 3339; none for the year 1, which stands for "never".
fn seconds(text: &str) -> Option<Timestamp> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    let seconds = u64::try_from(time.timestamp()).ok()?;
    (seconds > 0).then(|| Timestamp::from_secs(seconds))
}
