//! The generosity pool: a share of what was earned gives new keys a small first
//! lease. Pure: the state and what is asked in, a decision out.
//!
//! What is given is time that we had been paid for before. It is never money of
//! whom it is given to: what of it is not served goes back to the pool.
//!
//! `balance = credited + returned - given`, and no gift is larger than that.

use serde::{Deserialize, Serialize};

use super::money::Msat;
use super::pricing::{Tier, price};
use super::time::Timestamp;

#[cfg(test)]
mod tests;

/// Seconds in a day, which begins at midnight UTC.
const DAY: u64 = 86_400;

/// What one lease that was paid for adds to its owner's trust.
const PER_LEASE: u64 = 1_000;
/// From here on a key is known: one lease, not long ago.
const KNOWN: u64 = PER_LEASE;
/// From here on it is regular.
const REGULAR: u64 = 5 * PER_LEASE;
/// No trust is more than this, so that it can be lost again.
const MOST: u64 = 100 * PER_LEASE;

/// Gifts that one key gets in a period, however little of them it used: money that
/// comes back could else be asked for again and again, and each time a workload
/// would be made for nothing.
const GIFTS: u32 = 3;

/// What the operator decided. Money in msat, times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Per cent of the price of served time, 0 to 100; 0: there is no pool.
    pub share_percent: u64,
    /// The longest gift.
    pub max_seconds: u64,
    /// What one key is given in a period.
    pub per_key: Msat,
    /// How long a period is, at least 1.
    pub period: u64,
    /// What all keys together are given in a day.
    pub per_day: Msat,
    /// What all new keys together are given in a day.
    pub new_per_day: Msat,
    /// The same for those that are known.
    pub known_per_day: Msat,
    /// The same for those that are regular.
    pub regular_per_day: Msat,
    /// After so much absence half of the trust is left, at least 1.
    pub half_life: u64,
}

impl Terms {
    /// Whether there is a pool.
    pub fn is_on(&self) -> bool {
        self.share_percent > 0
    }

    fn per_day_of(&self, trust: Trust) -> Msat {
        match trust {
            Trust::New => self.new_per_day,
            Trust::Known => self.known_per_day,
            Trust::Regular => self.regular_per_day,
        }
    }
}

/// How well a key is known: by the leases that it paid for, less what its absence
/// has taken of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// It never paid, or long ago.
    New,
    /// It paid for a lease.
    Known,
    /// It paid for several.
    Regular,
}

/// Time that a lease has from the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gift {
    /// So many seconds were promised.
    pub seconds: u64,
    /// What its owner was to us then.
    pub trust: Trust,
    /// When.
    pub at: Timestamp,
}

/// What was given on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Day {
    /// Days since 1970.
    number: u64,
    new: Msat,
    known: Msat,
    regular: Msat,
}

impl Day {
    fn of(&mut self, trust: Trust) -> &mut Msat {
        match trust {
            Trust::New => &mut self.new,
            Trust::Known => &mut self.known,
            Trust::Regular => &mut self.regular,
        }
    }

    /// The day of `now`. A clock that was set begins another one, and what is in
    /// the pool bounds what is given then.
    fn at(self, now: Timestamp) -> Self {
        let number = now.as_secs() / DAY;
        if self.number == number {
            return self;
        }
        Self {
            number,
            ..Self::default()
        }
    }
}

/// The pool. Sums since it was first on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Price of the time that was served for money while it was on.
    pub earned: Msat,
    /// Our share of that, each time rounded down.
    pub credited: Msat,
    /// Price of the time that was promised.
    pub given: Msat,
    /// Price of what of that was not served.
    pub returned: Msat,
    day: Day,
}

/// What we know of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// When it first paid for a lease, or was given one.
    pub first_seen: Timestamp,
    /// When a lease that it paid for was last over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_paid: Option<Timestamp>,
    /// Leases that it paid for and that are over.
    pub leases: u64,
    /// Price of what it was served for money.
    pub served: Msat,
    /// Trust as of `last_paid`.
    score: u64,
    /// When its period began.
    period_from: Timestamp,
    /// What it was given since, less what came back.
    given: Msat,
    /// How often.
    gifts: u32,
    /// Whether a lease of it that has a gift is not over.
    open: bool,
}

impl Key {
    /// A key that we hear of for the first time.
    pub fn new(now: Timestamp) -> Self {
        Self {
            first_seen: now,
            last_paid: None,
            leases: 0,
            served: Msat::ZERO,
            score: 0,
            period_from: now,
            given: Msat::ZERO,
            gifts: 0,
            open: false,
        }
    }

    /// What is left of the score after its absence.
    fn score(&self, terms: &Terms, now: Timestamp) -> u64 {
        let absent = self.last_paid.map_or(0, |last| now.secs_since(last));
        let halvings = absent.checked_div(terms.half_life).unwrap_or(0);
        let shift = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.score.checked_shr(shift).unwrap_or(0)
    }

    /// What the key is to us now.
    pub fn trust(&self, terms: &Terms, now: Timestamp) -> Trust {
        match self.score(terms, now) {
            REGULAR.. => Trust::Regular,
            KNOWN.. => Trust::Known,
            _ => Trust::New,
        }
    }

    /// The same in the period of `now`.
    fn at(self, terms: &Terms, now: Timestamp) -> Self {
        let over = self.period_from.plus_secs(terms.period) <= now;
        if !over && self.period_from <= now {
            return self;
        }
        Self {
            period_from: now,
            given: Msat::ZERO,
            gifts: 0,
            ..self
        }
    }

    /// Notes that a lease is over of which time worth `served` was paid for.
    pub fn paid_for(&mut self, terms: &Terms, served: Msat, now: Timestamp) {
        if served.is_zero() {
            return;
        }
        let score = self.score(terms, now).saturating_add(PER_LEASE);
        self.score = score.min(MOST);
        self.last_paid = Some(now);
        self.leases = self.leases.saturating_add(1);
        self.served = self.served.checked_add(served).unwrap_or(self.served);
    }

    /// Notes that its lease with a gift is over.
    pub fn gift_over(&mut self) {
        self.open = false;
    }
}

/// What is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The gift.
    pub gift: Gift,
    /// Its price.
    pub msat: Msat,
}

/// Why nothing is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGift {
    /// There is no pool.
    #[error("this provider gives nothing away")]
    Off,
    /// It has one that is not over.
    #[error("you have a lease that was given to you, and it is not over")]
    Open,
    /// It had its share.
    #[error("you were given what one key is given until {0}")]
    Key(Timestamp),
    /// Others like it had theirs.
    #[error("what is given to keys like yours today is used up")]
    Trust,
    /// All others had theirs.
    #[error("what is given today is used up")]
    Day,
    /// Too little was earned.
    #[error("the pool is empty for now")]
    Empty,
    /// The longest gift is less than the tier's shortest time, or a number does
    /// not fit: the operator's to mend.
    #[error("the provider's settings permit no gift of this tier")]
    Settings,
}

impl Pool {
    /// What may be given.
    pub fn balance(&self) -> Msat {
        let in_all = self.credited.checked_add(self.returned);
        in_all.map_or(Msat::ZERO, |all| all.saturating_sub(self.given))
    }

    /// What was given on the day of `now`, less what of that came back.
    pub fn given_today(&self, now: Timestamp) -> Option<Msat> {
        let day = self.day.at(now);
        Msat::checked_sum([day.new, day.known, day.regular])
    }

    /// What `key` may be given of `tier` now: as much as each bound leaves, if
    /// that is not less than the shortest time that is sold.
    ///
    /// # Errors
    /// Why nothing is given: the bound that leaves the least.
    pub fn gift(
        &self,
        terms: &Terms,
        key: &Key,
        tier: &Tier,
        now: Timestamp,
    ) -> Result<Grant, NoGift> {
        if !terms.is_on() {
            return Err(NoGift::Off);
        }
        if key.open {
            return Err(NoGift::Open);
        }
        let key = key.at(terms, now);
        let until = NoGift::Key(key.period_from.plus_secs(terms.period));
        if key.gifts >= GIFTS {
            return Err(until);
        }
        let trust = key.trust(terms, now);
        let mut day = self.day.at(now);
        let today = self.given_today(now).ok_or(NoGift::Settings)?;
        let bounds = [
            (terms.per_key.saturating_sub(key.given), until),
            (terms.per_day.saturating_sub(today), NoGift::Day),
            (
                terms.per_day_of(trust).saturating_sub(*day.of(trust)),
                NoGift::Trust,
            ),
            (self.balance(), NoGift::Empty),
        ];
        let least = bounds.into_iter().min_by_key(|(left, _)| *left);
        let (left, why) = least.ok_or(NoGift::Settings)?;
        let rate = tier.rate_msat_per_s;
        let most = terms.max_seconds.min(tier.max_seconds);
        let bought = left.get().checked_div(rate).ok_or(NoGift::Settings)?;
        if most < tier.min_seconds {
            return Err(NoGift::Settings);
        }
        if bought < tier.min_seconds {
            return Err(why);
        }
        let seconds = bought.min(most);
        let at = now;
        let gift = Gift { seconds, trust, at };
        let msat = price(seconds, rate).ok_or(NoGift::Settings)?;
        Ok(Grant { gift, msat })
    }

    /// Promises a gift to `key`. `None`, and nothing changed, where the pool does
    /// not have that much, or a number does not fit.
    pub fn promise(&mut self, terms: &Terms, key: &mut Key, grant: &Grant) -> Option<()> {
        let Grant { gift, msat } = *grant;
        let (mut pool, mut after) = (*self, key.at(terms, gift.at));
        self.balance().checked_sub(msat)?;
        pool.given = pool.given.checked_add(msat)?;
        pool.day = pool.day.at(gift.at);
        let today = pool.day.of(gift.trust);
        *today = today.checked_add(msat)?;
        after.given = after.given.checked_add(msat)?;
        after.gifts = after.gifts.checked_add(1)?;
        after.open = true;
        (*self, *key) = (pool, after);
        Some(())
    }

    /// Takes back what of a gift was not served; the budgets of its day and its
    /// period have it again while they last. `None`, and nothing changed, where
    /// more comes back than was given.
    pub fn take_back(&mut self, key: &mut Key, gift: &Gift, unused: Msat) -> Option<()> {
        let returned = self.returned.checked_add(unused)?;
        self.given.checked_sub(returned)?;
        self.returned = returned;
        if self.day.number == gift.at.as_secs() / DAY {
            let today = self.day.of(gift.trust);
            *today = today.saturating_sub(unused);
        }
        if key.period_from <= gift.at {
            key.given = key.given.saturating_sub(unused);
        }
        Some(())
    }

    /// Credits our share of time worth `served` that was paid for. `None`, and
    /// nothing changed, where a number does not fit.
    pub fn earn(&mut self, terms: &Terms, served: Msat) -> Option<()> {
        if !terms.is_on() {
            return Some(());
        }
        let share = terms.share_percent.min(100);
        // Whole hundreds first, so that no amount is too large for it.
        let whole = (served.get() / 100).checked_mul(share)?;
        let rest = (served.get() % 100).checked_mul(share)? / 100;
        let credited = Msat::new(whole.checked_add(rest)?);
        let earned = self.earned.checked_add(served)?;
        self.credited = self.credited.checked_add(credited)?;
        self.earned = earned;
        Some(())
    }
}
