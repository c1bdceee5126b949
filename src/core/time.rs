//! Instants and durations as values. The clock is read at the rim and handed in.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant in whole Unix seconds (UTC).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The instant `secs` seconds after 1970-01-01T00:00:00Z.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs)
    }

    /// Unix seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The instant `secs` seconds later; stops at the end of time.
    pub const fn plus_secs(self, secs: u64) -> Self {
        Self(self.0.saturating_add(secs))
    }

    /// The instant `duration` later (whole seconds); stops at the end of time.
    pub const fn plus(self, duration: Duration) -> Self {
        self.plus_secs(duration.as_secs())
    }

    /// The instant `duration` earlier (whole seconds); stops at the epoch.
    pub const fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }

    /// Seconds from `earlier` to `self`, zero where `earlier` is not earlier.
    pub const fn secs_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// RFC 3339 in UTC, as `2026-09-21T14:13:20Z`; bare seconds where the year
/// does not fit the format.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = i64::try_from(self.0)
            .ok()
            .and_then(|secs| chrono::DateTime::from_timestamp(secs, 0));
        match when {
            Some(when) => f.write_str(&when.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stops_at_both_ends() {
        let end = Timestamp::from_secs(u64::MAX);
        assert_eq!(end.plus_secs(1), end);
        assert_eq!(end.plus(Duration::from_secs(5)), end);
        let start = Timestamp::from_secs(3);
        assert_eq!(start.minus(Duration::from_secs(9)), Timestamp::default());
        assert_eq!(start.secs_since(end), 0, "what is later is not past");
        assert_eq!(end.secs_since(start), u64::MAX - 3);
    }

    #[test]
    fn an_instant_is_shown_as_a_date() {
        let shown = Timestamp::from_secs(1_790_000_000).to_string();
        assert_eq!(shown, "2026-09-21T14:13:20Z");
        assert_eq!(
            Timestamp::from_secs(u64::MAX).to_string(),
            u64::MAX.to_string()
        );
    }
}
