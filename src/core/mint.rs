//! How a mint stands with us: whether it was admitted, how its answers come, and
//! how much lies there. Pure.
//!
//! ```text
//! Probing --all that is needed--> Ok <----> Degraded <----> Paused
//!    |  ^                          |   (slow, or answers fail, or too much lies there)
//!    v  |    another probe         |
//!  Refused <----- lacks something -+
//! ```
//!
//! What makes it worse has to get twice as good again before it counts as better,
//! so that a mint at the edge does not come and go.

use serde::{Deserialize, Serialize};

use super::money::Msat;
use super::time::Timestamp;

#[cfg(test)]
mod tests;

/// NUTs without which a mint is of no use: asking about proofs (7), getting lost
/// answers again (9), locks (10, 11, 14) and its own signature's proof (12).
pub const NEEDED: [u16; 6] = [7, 9, 10, 11, 12, 14];

/// A keyset that expires sooner than this many seconds is not accepted: what is
/// left over of it would be worth nothing (NUT-02).
pub const EXPIRES_LATER: u64 = 7 * 24 * 3600;

/// How a mint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// New leases and top-ups are taken with its tokens.
    Ok,
    /// New leases only with tokens that are locked to us; top-ups as ever.
    Degraded,
    /// No new leases; top-ups of running ones are tried.
    Paused,
    /// It has not said yet what it offers: as paused.
    Probing,
    /// It is not fit: nothing is taken. Refunds are still made there.
    Refused,
}

/// What a mint says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// NUTs that it does.
    pub nuts: Vec<u16>,
    /// Whether it signs in sat.
    pub has_sat: bool,
    /// Thousandths of a sat that spending a proof costs (NUT-02).
    pub input_fee_ppk: u64,
    /// When its first active keyset expires.
    pub expires_at: Option<Timestamp>,
}

/// Whether a mint is fit; else why not, in a sentence.
///
/// # Errors
/// The sentence.
pub fn admit(found: &Found, max_input_fee_ppk: u64, now: Timestamp) -> Result<(), String> {
    let lacks: Vec<String> = NEEDED
        .iter()
        .filter(|nut| !found.nuts.contains(nut))
        .map(|nut| format!("NUT-{nut:02}"))
        .collect();
    if !lacks.is_empty() {
        return Err(format!("it does not do {}", lacks.join(", ")));
    }
    if !found.has_sat {
        return Err("it issues no sat".to_owned());
    }
    let fee = found.input_fee_ppk;
    if fee > max_input_fee_ppk {
        return Err(format!(
            "it takes {fee} thousandths of a sat for each proof, and {max_input_fee_ppk} are accepted"
        ));
    }
    match found.expires_at {
        Some(at) if at < now.plus_secs(EXPIRES_LATER) => {
            Err(format!("its keyset expires at {at}, which is too soon"))
        }
        _ => Ok(()),
    }
}

/// From when on a mint is slow, and what may lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Answers that take this many ms on average make it degraded.
    pub slow_ms: u64,
    /// Those that take this many pause it.
    pub too_slow_ms: u64,
    /// More than this at the mint pauses it; `None`: any amount may lie there.
    pub max_exposure: Option<Msat>,
}

/// Failed calls in a thousand, on average, that make a mint degraded: two in a row.
const FAILING: u64 = 400;
/// Those that pause it: four in a row.
const TOO_FAILING: u64 = 650;
/// What the last call counts in an average: a quarter.
const WEIGHT: u64 = 4;

/// What was learnt about a mint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It is being asked what it offers, for the first time.
    Asked,
    /// It told what it offers; `Err`: it is not fit, and why.
    Probed(Result<(), String>),
    /// It answered a call after so many ms.
    Answered(u64),
    /// It did not answer a call; we waited so many ms.
    Failed(u64, String),
    /// So much lies there.
    Holds(Msat),
}

/// How one of several things stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    #[default]
    Good,
    Bad,
    Worst,
}

impl Grade {
    /// The grade of `value`, where it was this one before.
    fn after(self, value: u64, bad: u64, worst: u64) -> Self {
        let reached = |limit: u64| value >= limit;
        let keeps = |limit: u64| value.saturating_mul(2) >= limit;
        if reached(worst) || (self == Self::Worst && keeps(worst)) {
            Self::Worst
        } else if reached(bad) || (self >= Self::Bad && keeps(bad)) {
            Self::Bad
        } else {
            Self::Good
        }
    }
}

/// Whether it was found fit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Admission {
    /// Nobody has asked it: nothing speaks against it.
    Unasked,
    Asking,
    Fit,
    Unfit(String),
}

/// A mint, as we know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mint {
    admission: Admission,
    latency_ms: Option<u64>,
    failing: u64,
    last_failure: String,
    slowness: Grade,
    failures: Grade,
    exposure: Msat,
    full: bool,
    standing: Standing,
    since: Timestamp,
    why: String,
}

impl Mint {
    /// One of which nothing is known, at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            admission: Admission::Unasked,
            latency_ms: None,
            failing: 0,
            last_failure: String::new(),
            slowness: Grade::Good,
            failures: Grade::Good,
            exposure: Msat::ZERO,
            full: false,
            standing: Standing::Ok,
            since: now,
            why: "nothing speaks against it".to_owned(),
        }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Since when.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Why: one sentence, without a full stop. It may quote the mint.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// How long its answers take, on average, in ms; `None`: there was none yet.
    pub fn latency_ms(&self) -> Option<u64> {
        self.latency_ms
    }

    /// Calls in a thousand that it does not answer, on average over the last few.
    pub fn failing(&self) -> u64 {
        self.failing
    }

    /// What lies there.
    pub fn exposure(&self) -> Msat {
        self.exposure
    }

    /// Takes in what was learnt at `now`. `true` where it stands otherwise from now on.
    pub fn learn(&mut self, news: News, bounds: &Bounds, now: Timestamp) -> bool {
        match news {
            News::Asked => {
                if self.admission == Admission::Unasked {
                    self.admission = Admission::Asking;
                }
            }
            News::Probed(Ok(())) => self.admission = Admission::Fit,
            News::Probed(Err(why)) => self.admission = Admission::Unfit(why),
            News::Answered(ms) => {
                self.took(ms);
                self.failing = average(self.failing, 0);
            }
            News::Failed(ms, why) => {
                self.took(ms);
                self.failing = average(self.failing, 1000);
                self.last_failure = why;
            }
            News::Holds(exposure) => self.exposure = exposure,
        }
        self.grade(bounds);
        let (standing, why) = self.decide(bounds);
        let changed = standing != self.standing;
        self.why = why;
        if changed {
            self.standing = standing;
            self.since = now;
        }
        changed
    }

    fn took(&mut self, ms: u64) {
        let known = self.latency_ms.unwrap_or(ms);
        self.latency_ms = Some(average(known, ms));
    }

    fn grade(&mut self, bounds: &Bounds) {
        let latency = self.latency_ms.unwrap_or(0);
        self.slowness = self
            .slowness
            .after(latency, bounds.slow_ms, bounds.too_slow_ms);
        self.failures = self.failures.after(self.failing, FAILING, TOO_FAILING);
        self.full = bounds.max_exposure.is_some_and(|most| {
            // A tenth below it there is room again.
            let again = Msat::new(most.get() - most.get() / 10);
            self.exposure > most || (self.full && self.exposure > again)
        });
    }

    fn decide(&self, bounds: &Bounds) -> (Standing, String) {
        match &self.admission {
            Admission::Unfit(why) => return (Standing::Refused, why.clone()),
            Admission::Asking => {
                let why = "it has not said yet what it offers".to_owned();
                return (Standing::Probing, why);
            }
            Admission::Unasked | Admission::Fit => {}
        }
        let worst = self.slowness.max(self.failures);
        let standing = match (worst, self.full) {
            (Grade::Worst, _) | (_, true) => Standing::Paused,
            (Grade::Bad, _) => Standing::Degraded,
            (Grade::Good, _) => Standing::Ok,
        };
        let latency = self.latency_ms.unwrap_or(0);
        let why = if self.failures != Grade::Good && self.failures == worst {
            let (failing, last) = (self.failing / 10, &self.last_failure);
            format!("of its last calls {failing} % failed; the last one: {last}")
        } else if self.slowness != Grade::Good {
            format!("its answers take {latency} ms")
        } else if let (true, Some(most)) = (self.full, bounds.max_exposure) {
            format!("{} lie there, and {most} may", self.exposure)
        } else {
            "it answers, and does all that is needed".to_owned()
        };
        (standing, why)
    }
}

/// The average after another value.
fn average(known: u64, value: u64) -> u64 {
    // By parts, so that it comes to the value in the end and never beyond it.
    if value >= known {
        known.saturating_add((value - known).div_ceil(WEIGHT))
    } else {
        known - (known - value).div_ceil(WEIGHT)
    }
}
