//! The mints: whether they are fit, how they are doing, and what is taken there
//! accordingly. What is known is kept in memory: after a restart it is found out
//! anew.
//!
//! Whatever a mint is like, refunds there go on being tried, credit stays, and a
//! running lease may be paid for: only what is new is turned away, before anything
//! is taken. Nothing is taken at all where a mint is not fit.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::control::MintView;
use super::refuse::{self, Refusal};
use super::settings::{MintSetting, Settings};
use crate::core::mint::{Bounds, Mint, News, Standing};
use crate::core::payment::Purpose;
use crate::core::time::Timestamp;
use crate::protocol::reply::{DEGRADED, PAUSED, REFUSED};
use crate::wallet::{MintProbe, TokenInfo};

mod watch;

pub use watch::{at_start, look, run};

/// All mints on the operator's list.
pub struct Mints(Mutex<BTreeMap<String, Known>>);

/// One of them.
struct Known {
    setting: MintSetting,
    bounds: Bounds,
    health: Mint,
    /// What it told the last time that it was asked.
    told: Option<MintProbe>,
    /// When it was last asked and answered.
    probed_at: Option<Timestamp>,
    /// When it was last asked.
    asked_at: Option<Timestamp>,
    /// How often it has been asked in vain since it told something.
    in_vain: u32,
}

/// A mint may be this part of its longest time slow before it counts.
const SLOW: u32 = 6;
/// With this part nobody wants to wait for it any more.
const TOO_SLOW: u32 = 2;

impl Mints {
    /// Those of these settings, of which nothing is known at `now`.
    pub(super) fn new(settings: &Settings, now: Timestamp) -> Self {
        let longest = settings.timing.mint;
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let known = |setting: &MintSetting| Known {
            setting: setting.clone(),
            bounds: Bounds {
                slow_ms: ms(longest / SLOW),
                too_slow_ms: ms(longest / TOO_SLOW),
                max_exposure: setting.max_exposure,
            },
            health: Mint::new(now),
            told: None,
            probed_at: None,
            asked_at: None,
            in_vain: 0,
        };
        let mints = settings.mints.iter();
        let known = mints.map(|setting| (setting.url.clone(), known(setting)));
        Self(Mutex::new(known.collect()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this mint stands; one that is not on the list is refused.
    pub fn standing(&self, url: &str) -> Standing {
        let known = self.lock();
        known
            .get(url)
            .map_or(Standing::Refused, |known| known.health.standing())
    }

    /// How it stands, as the offer says it; `None`: well.
    pub(super) fn state(&self, url: &str) -> Option<String> {
        let state = match self.standing(url) {
            Standing::Ok => return None,
            Standing::Degraded => DEGRADED,
            Standing::Paused | Standing::Probing => PAUSED,
            Standing::Refused => REFUSED,
        };
        Some(state.to_owned())
    }

    /// URLs of those with whose tokens new leases are sold.
    fn open(&self) -> Vec<String> {
        let sells = |known: &Known| known.health.standing() <= Standing::Degraded;
        let known = self.lock();
        let open = known.iter().filter(|(_, known)| sells(known));
        open.map(|(url, _)| url.clone()).collect()
    }

    /// Whether a token is taken as it stands with its mint; the mint is not asked.
    ///
    /// # Errors
    /// The refusal, with the money untouched.
    pub(super) fn takes(&self, token: &TokenInfo, purpose: Purpose) -> Result<(), Refusal> {
        let url = &token.mint.0;
        let (standing, why) = match self.lock().get(url) {
            Some(known) => (known.health.standing(), known.health.why().to_owned()),
            // The wallet has seen to that.
            None => return Ok(()),
        };
        let locked = token.locks.iter().all(Option::is_some);
        match (standing, purpose) {
            (Standing::Refused, _) => Err(refuse::mint_unfit(url, &why, &self.open())),
            (Standing::Ok, _) | (_, Purpose::Topup) => Ok(()),
            (Standing::Degraded, _) if locked => Ok(()),
            (Standing::Degraded, _) => Err(refuse::mint_locked_only(url, &why)),
            (Standing::Paused | Standing::Probing, _) => {
                Err(refuse::mint_paused(url, &why, &self.open()))
            }
        }
    }

    /// Whether new leases are sold at all.
    ///
    /// # Errors
    /// The refusal: no mint is well enough.
    pub(super) fn any_open(&self) -> Result<(), Refusal> {
        if !self.open().is_empty() {
            return Ok(());
        }
        let known = self.lock();
        let first = known.iter().next();
        let (url, why) = first.map_or(("", ""), |(url, known)| (url, known.health.why()));
        Err(refuse::mint_paused(url, why, &[]))
    }

    /// What the operator sees, in the order of their URLs.
    pub fn views(&self) -> Vec<MintView> {
        let known = self.lock();
        known.iter().map(|(url, known)| known.view(url)).collect()
    }

    /// Takes in what was learnt of a mint. `true` where it stands otherwise now.
    fn learn(&self, url: &str, news: News, now: Timestamp) -> bool {
        let mut known = self.lock();
        let Some(known) = known.get_mut(url) else {
            return false;
        };
        let before = known.health.standing();
        if !known.health.learn(news, &known.bounds, now) {
            return false;
        }
        let (standing, why) = (known.health.standing(), known.health.why());
        // The first probe is no event.
        if before == Standing::Probing && standing == Standing::Ok {
            tracing::info!(mint = %url, "the mint is fit");
        } else {
            tracing::warn!(mint = %url, ?before, now = ?standing, %why, "mint");
        }
        true
    }
}

impl Known {
    fn view(&self, url: &str) -> MintView {
        let told = self.told.as_ref();
        MintView {
            mint: url.to_owned(),
            state: self.health.standing(),
            why: self.health.why().to_owned(),
            since: self.health.since(),
            latency_ms: self.health.latency_ms(),
            failing_per_thousand: self.health.failing(),
            input_fee_ppk: told.map(|told| told.facts.input_fee_ppk),
            max_input_fee_ppk: self.setting.max_input_fee_ppk,
            nuts: told.map(|told| told.nuts.clone()).unwrap_or_default(),
            keyset_expires_at: told.and_then(|told| told.expires_at),
            exposure_msat: self.health.exposure(),
            max_exposure_msat: self.setting.max_exposure,
            probed_at: self.probed_at,
        }
    }
}
