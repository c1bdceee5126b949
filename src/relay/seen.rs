//! Events that are or were dealt with, in bounded memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::core::ids::EventId;

/// Ids in one generation.
const GENERATION: usize = 65_536;

/// Remembers between one and two generations of ids: the last 65,536 for
/// certain, at most 131,072, in about 5 MB. Half of an id is kept: nobody finds
/// another event with the same half.
#[derive(Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Default)]
struct State {
    young: HashSet<u128>,
    old: HashSet<u128>,
    /// Events that are worked on; no more than there are slots.
    working: HashMap<u128, watch::Receiver<()>>,
}

/// The right to work on an event, until it is dropped.
pub(super) struct Claim {
    seen: Arc<Seen>,
    half: u128,
    /// Whoever waits sees it go.
    _working: watch::Sender<()>,
}

/// Why there is no [`Claim`].
pub(super) enum Taken {
    /// It was dealt with.
    Done,
    /// Somebody works on it; the channel closes when that is over.
    Working(watch::Receiver<()>),
}

fn half(id: &EventId) -> u128 {
    let mut half = [0; 16];
    for (to, from) in half.iter_mut().zip(id.as_bytes()) {
        *to = *from;
    }
    u128::from_be_bytes(half)
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this event was dealt with.
    pub(super) fn has(&self, id: &EventId) -> bool {
        self.lock().has(half(id))
    }

    /// The right to work on an event, for one at a time and until it is done.
    pub(super) fn claim(self: &Arc<Self>, id: &EventId) -> Result<Claim, Taken> {
        let half = half(id);
        let mut state = self.lock();
        if state.has(half) {
            return Err(Taken::Done);
        }
        if let Some(working) = state.working.get(&half) {
            return Err(Taken::Working(working.clone()));
        }
        let (alive, working) = watch::channel(());
        state.working.insert(half, working);
        Ok(Claim {
            seen: Arc::clone(self),
            half,
            _working: alive,
        })
    }
}

impl State {
    fn has(&self, half: u128) -> bool {
        self.young.contains(&half) || self.old.contains(&half)
    }
}

impl Claim {
    /// Notes that the event is dealt with.
    pub(super) fn done(self) {
        let mut state = self.seen.lock();
        if state.young.len() >= GENERATION {
            state.old = std::mem::take(&mut state.young);
        }
        state.young.insert(self.half);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.seen.lock().working.remove(&self.half);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> EventId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        EventId::from_bytes(bytes)
    }

    #[test]
    fn the_newest_are_remembered_and_the_oldest_are_not() {
        let seen = Arc::new(Seen::default());
        let many = GENERATION as u32 * 3;
        for n in 0..many {
            seen.claim(&id(n)).ok().unwrap().done();
        }
        assert!((many - GENERATION as u32..many).all(|n| seen.has(&id(n))));
        assert!(matches!(seen.claim(&id(many - 1)), Err(Taken::Done)));
        assert!(!seen.has(&id(0)));
        let kept = seen.lock();
        assert!(kept.young.len() + kept.old.len() <= 2 * GENERATION);
        assert!(kept.working.is_empty());
    }

    #[tokio::test]
    async fn one_works_on_an_event_and_another_waits_for_the_end_of_it() {
        let seen = Arc::new(Seen::default());
        let claim = seen.claim(&id(1)).ok().unwrap();
        let Err(Taken::Working(mut waiting)) = seen.claim(&id(1)) else {
            panic!("claimed twice")
        };
        assert!(!waiting.has_changed().unwrap() && !seen.has(&id(1)));
        claim.done();
        assert!(waiting.changed().await.is_err() && seen.has(&id(1)));
        // What was given up is anybody's again.
        drop(seen.claim(&id(2)));
        assert!(seen.claim(&id(2)).is_ok());
    }
}
