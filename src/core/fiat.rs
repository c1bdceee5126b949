//! Prices in the money of states: from an amount an hour, and what a bitcoin
//! costs, to millisatoshi a second.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Millionths of a currency's unit: what amounts are counted in.
pub const MICROS: u64 = 1_000_000;

/// Millisatoshi in a bitcoin.
const MSAT_PER_BTC: u128 = 100_000_000_000;

/// Seconds in an hour.
const HOUR: u128 = 3600;

/// A currency by its three capital letters (ISO 4217).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// Why a text is no price or currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FiatError {
    /// Not three capital letters.
    #[error("a currency is three capital letters, such as EUR")]
    Currency,
    /// Not a decimal number above zero with at most six places.
    #[error("an amount is a number above 0 with at most six decimal places, such as 0.02")]
    Amount,
    /// Not an amount, a space and a currency.
    #[error("a price is an amount and a currency, such as \"0.02 EUR\"")]
    Price,
}

impl FromStr for Currency {
    type Err = FiatError;
    fn from_str(text: &str) -> Result<Self, FiatError> {
        match text.as_bytes() {
            [a, b, c] if text.bytes().all(|b| b.is_ascii_uppercase()) => Ok(Self([*a, *b, *c])),
            _ => Err(FiatError::Currency),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(f, "{}", *byte as char))
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a decimal number as millionths: digits, and a point with one to six
/// more where there are parts. `None` for anything else, zero, or what does not fit.
pub fn micros(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let part: u64 = format!("{part:0<6}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    let all = whole.checked_mul(MICROS)?.checked_add(part)?;
    (all > 0).then_some(all)
}

/// So many millionths as a decimal number.
fn show(micros: u64) -> String {
    let (whole, part) = (micros / MICROS, micros % MICROS);
    let text = format!("{whole}.{part:06}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    short.to_owned()
}

/// A price in a currency, for an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourPrice {
    /// The currency.
    pub currency: Currency,
    /// Millionths of its unit; above 0.
    pub micros: u64,
}

impl FromStr for HourPrice {
    type Err = FiatError;
    fn from_str(text: &str) -> Result<Self, FiatError> {
        let (amount, currency) = text.split_once(' ').ok_or(FiatError::Price)?;
        Ok(Self {
            currency: currency.parse()?,
            micros: micros(amount).ok_or(FiatError::Amount)?,
        })
    }
}

impl fmt::Display for HourPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", show(self.micros), self.currency)
    }
}

impl HourPrice {
    /// The price in msat per second where a bitcoin costs `per_btc` millionths:
    /// rounded up, so at least 1. `None` for a rate of 0, or what does not fit.
    pub fn msat_per_s(&self, per_btc: u64) -> Option<u64> {
        let msat = u128::from(self.micros).checked_mul(MSAT_PER_BTC)?;
        let hour = u128::from(per_btc).checked_mul(HOUR)?;
        (hour > 0).then(|| u64::try_from(msat.div_ceil(hour)).ok())?
    }
}

/// What a bitcoin was said to cost, and when that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Millionths of the currency's unit.
    pub per_btc: u64,
    /// When.
    pub at: Timestamp,
}

/// How far a rate is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// Seconds for which a rate is used.
    pub max_age: u64,
    /// A rate below this, in millionths, is taken as this.
    pub least: Option<u64>,
    /// A rate above this, in millionths, is taken as this.
    pub most: Option<u64>,
    /// The rate, in millionths, where there is none that may be used.
    pub fallback: Option<u64>,
}

impl Belief {
    /// The rate to sell by at `now`, in millionths for a bitcoin. `None`: there is
    /// no price, and nothing is sold by it. A rate from the future is one from
    /// before the clock was set back: it is not used for longer than others.
    pub fn rate(&self, heard: Option<Rate>, now: Timestamp) -> Option<u64> {
        let usable = heard.filter(|rate| {
            now.secs_since(rate.at) <= self.max_age && rate.at.secs_since(now) <= self.max_age
        });
        let Some(rate) = usable else {
            return self.fallback;
        };
        let rate = rate.per_btc.max(self.least.unwrap_or(0));
        Some(rate.min(self.most.unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(text: &str) -> HourPrice {
        text.parse().unwrap()
    }

    #[test]
    fn a_price_becomes_millisatoshi_a_second_rounded_up() {
        // 0.36 EUR an hour at 100,000 EUR for a bitcoin: 360 sat an hour, 100 msat/s.
        let btc = 100_000 * MICROS;
        assert_eq!(price("0.36 EUR").msat_per_s(btc), Some(100));
        assert_eq!(price("0.360001 EUR").msat_per_s(btc), Some(101));
        // Half the rate, twice the price.
        assert_eq!(price("0.36 EUR").msat_per_s(btc / 2), Some(200));
        assert_eq!(price("0.000001 USD").msat_per_s(btc), Some(1));
        assert_eq!(price("1 USD").msat_per_s(0), None);
        let most = HourPrice {
            micros: u64::MAX,
            ..price("1 USD")
        };
        assert_eq!(most.msat_per_s(1), None);
    }

    #[test]
    fn prices_are_read_and_shown() {
        for text in ["0.02 EUR", "12 USD", "0.000001 CHF", "1000000.5 JPY"] {
            assert_eq!(price(text).to_string(), text);
        }
        assert_eq!(price("0.500 EUR").to_string(), "0.5 EUR");
        for (text, why) in [
            ("0.02", FiatError::Price),
            ("0.02 euro", FiatError::Currency),
            ("0.02 Eur", FiatError::Currency),
            ("0 EUR", FiatError::Amount),
            ("-1 EUR", FiatError::Amount),
            ("1. EUR", FiatError::Amount),
            (".5 EUR", FiatError::Amount),
            ("1e3 EUR", FiatError::Amount),
            ("0.0000001 EUR", FiatError::Amount),
            ("99999999999999999999 EUR", FiatError::Amount),
        ] {
            assert_eq!(text.parse::<HourPrice>(), Err(why), "{text}");
        }
    }

    #[test]
    fn a_rate_is_believed_within_its_age_and_bounds() {
        let at = Timestamp::from_secs;
        let rate = |per_btc, when| {
            Some(Rate {
                per_btc,
                at: at(when),
            })
        };
        let belief = Belief {
            max_age: 600,
            least: Some(50),
            most: Some(200),
            fallback: Some(80),
        };
        assert_eq!(belief.rate(rate(100, 1000), at(1000)), Some(100));
        assert_eq!(belief.rate(rate(100, 1000), at(1600)), Some(100));
        assert_eq!(belief.rate(rate(100, 1000), at(1601)), Some(80));
        assert_eq!(belief.rate(rate(100, 1601), at(1000)), Some(80));
        assert_eq!(belief.rate(rate(1, 1000), at(1000)), Some(50));
        assert_eq!(belief.rate(rate(1_000_000, 1000), at(1000)), Some(200));
        assert_eq!(belief.rate(None, at(1000)), Some(80));
        let none = Belief {
            fallback: None,
            ..belief
        };
        assert_eq!(none.rate(None, at(1000)), None);
        assert_eq!(none.rate(rate(100, 1000), at(5000)), None);
    }

    proptest! {
        #[test]
        fn nobody_sells_below_the_price(micros in 1..1_000_000_000_u64, per_btc in 1..1_000_000_000_000_000_u64) {
            let price = HourPrice { currency: "EUR".parse().unwrap(), micros };
            let rate = u128::from(price.msat_per_s(per_btc).unwrap());
            // What an hour brings, in millionths times msat of a bitcoin.
            let brings = rate * HOUR * u128::from(per_btc);
            let wants = u128::from(micros) * MSAT_PER_BTC;
            prop_assert!(brings >= wants);
            prop_assert!(brings - wants < HOUR * u128::from(per_btc));
        }

        #[test]
        fn amounts_survive_being_shown(amount in 1..u64::MAX) {
            prop_assert_eq!(micros(&show(amount)), Some(amount));
        }
    }
}
