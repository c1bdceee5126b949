//! Chance from a seed: SplitMix64, the same for ever, so that a seed that was
//! printed once replays the same history in every later version.

/// A source of chance.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0. The bias is of no account here.
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// `true` in so many of a hundred cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// The seed of history `i` of a run: the first one's is the run's own, so that
/// `--histories 1 --seed X` replays the history whose seed is X.
pub(super) fn seed_of(run: u64, i: u64) -> u64 {
    if i == 0 {
        return run;
    }
    Rng::new(run ^ i.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next()
}
