//! How often one key, and all keys together, may do something: token buckets
//! with bounded memory.

use std::collections::BTreeMap;

use crate::core::ids::PublicKey;

/// Keys in one generation. At most twice as many are remembered, and those that
/// came last for certain; who is forgotten starts with a full bucket.
const GENERATION: usize = 5_000;

/// What somebody is to us. Each class has a bucket of its own for all its keys,
/// so that none can use up what another needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Owns a lease.
    Owner,
    /// Brings money that looks good.
    Payer,
    /// Anybody else.
    Stranger,
}

/// Buckets of tokens: each request takes one, and they fill again with time.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    per_key: u32,
    all_per_minute: u32,
    all: [Bucket; 3],
    young: BTreeMap<PublicKey, Bucket>,
    old: BTreeMap<PublicKey, Bucket>,
}

/// What one request takes: so fine that a millisecond at one request a minute
/// is one of them, and however often somebody asks no fraction is lost.
const REQUEST: u64 = 60_000;

/// What all strangers together, and all who bring money, may ask in a burst, as a
/// part of a minute's share: ten seconds of it. A flood of either then leaves
/// room at once for who comes next, instead of a queue.
const BURST: u32 = 6;

/// What is left, as of an instant in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    at_ms: u64,
}

impl Bucket {
    const fn full(per_minute: u32, at_ms: u64) -> Self {
        Self {
            level: per_minute as u64 * REQUEST,
            at_ms,
        }
    }

    /// Filled since, up to `most` requests.
    fn filled(self, per_minute: u32, most: u32, now_ms: u64) -> Self {
        let gained = now_ms
            .saturating_sub(self.at_ms)
            .saturating_mul(u64::from(per_minute));
        let level = self
            .level
            .saturating_add(gained)
            .min(u64::from(most) * REQUEST);
        Self {
            level,
            at_ms: now_ms.max(self.at_ms),
        }
    }

    fn after_one(self) -> Option<Self> {
        let level = self.level.checked_sub(REQUEST)?;
        Some(Self { level, ..self })
    }
}

impl RateLimiter {
    /// At most `per_key` requests of one key and `all` of all keys of a class in
    /// a minute, spread; a key and all owners also in a burst. The clock is any that counts milliseconds up.
    pub fn new(per_key: u32, all: u32, now_ms: u64) -> Self {
        Self {
            per_key,
            all_per_minute: all,
            all: [Bucket::full(all, now_ms); 3],
            young: BTreeMap::new(),
            old: BTreeMap::new(),
        }
    }

    /// Other limits from now on. What was used up stays so, as far as it fits.
    pub fn set(&mut self, per_key: u32, all: u32, now_ms: u64) {
        if (per_key, all) == (self.per_key, self.all_per_minute) {
            return;
        }
        // Levels above a new limit are cut when they are next looked at; keys that
        // are forgotten start anew.
        (self.per_key, self.all_per_minute) = (per_key, all);
        self.all = self.all.map(|bucket| bucket.filled(all, all, now_ms));
    }

    /// Whether `key` may ask at `now_ms`; takes its tokens if so. Who may not
    /// uses up nothing, neither of its own nor of the others' share, and a key
    /// that is refused for the others' sake is not remembered.
    pub fn allow(&mut self, key: PublicKey, class: Class, now_ms: u64) -> bool {
        let [owners, payers, strangers] = &mut self.all;
        let per_minute = self.all_per_minute;
        let burst = per_minute.div_ceil(BURST);
        let (all, most) = match class {
            Class::Owner => (owners, per_minute),
            Class::Payer => (payers, burst),
            Class::Stranger => (strangers, burst),
        };
        *all = all.filled(per_minute, most, now_ms);
        let Some(all_after) = all.after_one() else {
            return false;
        };
        let known = self.young.get(&key).or_else(|| self.old.get(&key));
        let own = known.map_or(Bucket::full(self.per_key, now_ms), |bucket| {
            bucket.filled(self.per_key, self.per_key, now_ms)
        });
        let Some(own_after) = own.after_one() else {
            return false;
        };
        *all = all_after;
        self.remember(key, own_after);
        true
    }

    /// At most one generation is dropped for each one that is filled: forgetting
    /// costs no more than remembering did.
    fn remember(&mut self, key: PublicKey, bucket: Bucket) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, bucket);
    }

    /// How many keys are remembered.
    pub fn keys(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        PublicKey::from_bytes(bytes)
    }

    const ANY: Class = Class::Stranger;

    #[test]
    fn a_key_gets_its_share_and_no_more_and_it_comes_back_with_time() {
        let mut limiter = RateLimiter::new(3, 100, 0);
        let allowed = (0..10).filter(|_| limiter.allow(key(1), ANY, 0)).count();
        assert_eq!(allowed, 3);
        assert!(limiter.allow(key(2), ANY, 0), "another key is not affected");
        assert!(!limiter.allow(key(1), ANY, 19_999));
        assert!(
            limiter.allow(key(1), ANY, 20_000),
            "one more after a third of a minute"
        );
    }

    #[test]
    fn all_keys_together_are_bounded_and_no_class_starves_another() {
        let mut limiter = RateLimiter::new(10, 60, 0);
        for (class, burst) in [(ANY, 10), (Class::Payer, 10), (Class::Owner, 60)] {
            let allowed = (0..200).filter(|n| limiter.allow(key(*n), class, 0));
            assert_eq!(allowed.count(), burst, "{class:?}");
            let later = (0..200).filter(|n| limiter.allow(key(n + 500), class, 5_000));
            assert_eq!(later.count(), 5, "{class:?}: one a second");
        }
    }

    #[test]
    fn one_key_that_is_refused_uses_up_nothing_of_the_others() {
        let mut limiter = RateLimiter::new(2, 30, 0);
        for _ in 0..1000 {
            limiter.allow(key(1), ANY, 0);
        }
        let others = (2..10).filter(|n| limiter.allow(key(*n), ANY, 0)).count();
        assert_eq!(others, 3);
    }

    #[test]
    fn memory_is_bounded_under_a_flood_of_keys_and_who_asks_on_is_remembered() {
        let mut limiter = RateLimiter::new(2, u32::MAX, 0);
        let mut own = 0;
        for n in 0..GENERATION as u32 * 6 {
            limiter.allow(key(n + 1), ANY, 0);
            if n % 100 == 0 {
                own += u32::from(limiter.allow(key(0), ANY, 0));
            }
            assert!(limiter.keys() <= 2 * GENERATION);
        }
        // Allowed or not, it is looked up in what is left of earlier generations.
        assert!(own <= 2 * 6, "{own}");
    }

    #[test]
    fn keys_that_are_refused_for_the_others_sake_are_not_remembered() {
        let mut limiter = RateLimiter::new(2, 600, 0);
        for n in 0..10_000 {
            limiter.allow(key(n), ANY, 0);
        }
        assert_eq!(limiter.keys(), 100);
    }

    #[test]
    fn limits_that_are_set_anew_hold_at_once() {
        let mut limiter = RateLimiter::new(10, 1000, 0);
        assert!(limiter.allow(key(1), ANY, 0));
        limiter.set(2, 1000, 0);
        let allowed = (0..10).filter(|_| limiter.allow(key(1), ANY, 0)).count();
        assert_eq!(allowed, 2);
        limiter.set(2, 18, 0);
        let all = (2..30).filter(|n| limiter.allow(key(*n), ANY, 0)).count();
        assert_eq!(all, 3);
    }
}
