//! The clock, handed in, so that tests can pause it.

use crate::core::time::Timestamp;

/// Where "now" comes from.
pub trait Clock: Send + Sync {
    /// The wall clock, in Unix seconds.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::from_secs(since.map_or(0, |since| since.as_secs()))
    }
}

/// A clock that runs with tokio's, from a given instant: it stands still and
/// jumps with a paused runtime.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    base: Timestamp,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// A clock that shows `base` now.
    pub fn starting_at(base: Timestamp) -> Self {
        Self {
            base,
            start: tokio::time::Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.base.plus(self.start.elapsed())
    }
}
