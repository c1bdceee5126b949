//! How much nonsense one connection may bring before it is closed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Events with a bad signature, or that were not asked for, in a burst.
const BURST: u32 = 1_000;

/// How many more each second: what they cost, a signature checked in vain, is
/// then a few hundredths of a processor.
const PER_SECOND: u32 = 250;

/// A bucket that empties with each false event and fills with time.
pub(super) struct Patience(Mutex<(u32, Instant)>);

impl Patience {
    pub(super) fn new() -> Self {
        Self(Mutex::new((BURST, Instant::now())))
    }

    /// Full again, for a new connection.
    pub(super) fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (BURST, Instant::now());
    }

    /// One more false event; `false` where that was one too many.
    pub(super) fn bear(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *state;
        let tick = Duration::from_secs(1) / PER_SECOND;
        let gained = at.elapsed().as_nanos() / tick.as_nanos();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        let left = left.saturating_add(gained).min(BURST);
        // What is left of the last tick is not lost.
        let at = if left == BURST {
            Instant::now()
        } else {
            at + tick * gained
        };
        *state = (left.saturating_sub(1), at);
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_a_trickle_are_borne_and_a_flood_is_not() {
        let patience = Patience::new();
        assert!((0..BURST).all(|_| patience.bear()));
        assert!(!patience.bear());
        for _ in 0..BURST {
            tokio::time::advance(Duration::from_millis(5)).await;
            assert!(patience.bear(), "200 a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_starts_anew() {
        let patience = Patience::new();
        while patience.bear() {}
        patience.renew();
        assert!(patience.bear());
    }
}
