//! How often one key, and all keys together, may ask: token buckets with
//! bounded memory.

use std::collections::BTreeMap;

use crate::core::ids::PublicKey;

/// Most keys that are remembered; beyond it the fullest buckets are forgotten,
/// which forgives those who have asked least.
const MAX_KEYS: usize = 10_000;

/// Buckets of tokens: each request takes one, and they fill again with time.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    per_key: u32,
    all: Bucket,
    all_per_minute: u32,
    keys: BTreeMap<PublicKey, Bucket>,
}

/// What one request takes: so fine that a millisecond at one request a minute
/// is one of them, and however often somebody asks no fraction is lost.
const REQUEST: u64 = 60_000;

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

    fn filled(self, per_minute: u32, now_ms: u64) -> Self {
        let gained = now_ms
            .saturating_sub(self.at_ms)
            .saturating_mul(u64::from(per_minute));
        let level = self
            .level
            .saturating_add(gained)
            .min(u64::from(per_minute) * REQUEST);
        Self {
            level,
            at_ms: now_ms.max(self.at_ms),
        }
    }

    fn take(&mut self) -> bool {
        match self.level.checked_sub(REQUEST) {
            Some(level) => {
                self.level = level;
                true
            }
            None => false,
        }
    }
}

impl RateLimiter {
    /// At most `per_key` requests of one key and `all` of all keys in a minute,
    /// in a burst or spread. The clock is any that counts milliseconds up.
    pub fn new(per_key: u32, all: u32, now_ms: u64) -> Self {
        Self {
            per_key,
            all: Bucket::full(all, now_ms),
            all_per_minute: all,
            keys: BTreeMap::new(),
        }
    }

    /// Whether `key` may ask at `now_ms`; takes its tokens if so.
    pub fn allow(&mut self, key: PublicKey, now_ms: u64) -> bool {
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(&key) {
            self.forget(now_ms);
        }
        let per_key = self.per_key;
        let bucket = self
            .keys
            .entry(key)
            .or_insert(Bucket::full(per_key, now_ms));
        *bucket = bucket.filled(per_key, now_ms);
        self.all = self.all.filled(self.all_per_minute, now_ms);
        bucket.take() && self.all.take()
    }

    fn forget(&mut self, now_ms: u64) {
        let per_key = self.per_key;
        let full = u64::from(per_key) * REQUEST;
        self.keys
            .retain(|_, bucket| bucket.filled(per_key, now_ms).level < full);
        while self.keys.len() >= MAX_KEYS {
            let fullest = self
                .keys
                .iter()
                .max_by_key(|(_, bucket)| bucket.level)
                .map(|(k, _)| *k);
            let Some(key) = fullest else { break };
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    #[test]
    fn a_key_gets_its_share_and_no_more_and_it_comes_back_with_time() {
        let mut limiter = RateLimiter::new(3, 100, 0);
        let allowed = (0..10).filter(|_| limiter.allow(key(1), 0)).count();
        assert_eq!(allowed, 3);
        assert!(limiter.allow(key(2), 0), "another key is not affected");
        assert!(!limiter.allow(key(1), 19_999));
        assert!(
            limiter.allow(key(1), 20_000),
            "one more after a third of a minute"
        );
    }

    #[test]
    fn all_keys_together_are_bounded() {
        let mut limiter = RateLimiter::new(10, 5, 0);
        let allowed = (0..20).filter(|n| limiter.allow(key(*n), 0)).count();
        assert_eq!(allowed, 5);
    }

    #[test]
    fn memory_is_bounded_under_a_flood_of_keys() {
        let mut limiter = RateLimiter::new(2, u32::MAX, 0);
        for n in 0..(MAX_KEYS as u32 + 50) {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            limiter.allow(PublicKey::from_bytes(bytes), 0);
        }
        assert!(limiter.keys.len() <= MAX_KEYS);
    }
}
