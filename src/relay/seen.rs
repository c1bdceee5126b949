//! Events that were dealt with, in bounded memory.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::core::ids::EventId;

/// Ids in one generation.
const GENERATION: usize = 65_536;

/// Remembers between one and two generations of ids: the last 65,536 for
/// certain, at most 131,072, in about 5 MB. Half of an id is kept: nobody finds
/// another event with the same half.
#[derive(Default)]
pub(super) struct Seen(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashSet<u128>,
    old: HashSet<u128>,
}

fn half(id: &EventId) -> u128 {
    let mut half = [0; 16];
    for (to, from) in half.iter_mut().zip(id.as_bytes()) {
        *to = *from;
    }
    u128::from_be_bytes(half)
}

impl Seen {
    /// Whether this event was noted.
    pub(super) fn has(&self, id: &EventId) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = half(id);
        seen.young.contains(&half) || seen.old.contains(&half)
    }

    /// Notes an event; `false` where somebody else had.
    pub(super) fn claim(&self, id: &EventId) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = half(id);
        if seen.old.contains(&half) {
            return false;
        }
        if seen.young.len() >= GENERATION {
            seen.old = std::mem::take(&mut seen.young);
        }
        seen.young.insert(half)
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
        let seen = Seen::default();
        let many = GENERATION as u32 * 3;
        assert!((0..many).all(|n| seen.claim(&id(n))));
        assert!((many - GENERATION as u32..many).all(|n| seen.has(&id(n))));
        assert!(!seen.claim(&id(many - 1)), "by one only");
        assert!(!seen.has(&id(0)));
        let kept = seen.0.lock().unwrap();
        assert!(kept.young.len() + kept.old.len() <= 2 * GENERATION);
    }
}
