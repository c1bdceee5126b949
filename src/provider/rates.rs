//! What a bitcoin costs, for tiers with a price in another money: asked of the
//! operator's feeds once a minute, believed within bounds, and frozen in a quote.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ctx::Ctx;
use super::settings::{FeedSetting, Fiat};
use crate::core::fiat::{Currency, Rate, micros};
use crate::core::ids::Name;
use crate::core::pricing::Tier;
use crate::core::time::Timestamp;

/// Between two questions to a feed.
const EVERY: Duration = Duration::from_secs(60);

/// How long a feed may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer of a feed that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The rates that were heard last.
#[derive(Default)]
pub struct Rates(Mutex<BTreeMap<Currency, Rate>>);

impl Rates {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Currency, Rate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a feed said.
    pub fn note(&self, currency: Currency, rate: Rate) {
        self.lock().insert(currency, rate);
    }

    /// `tier` as it is sold at `now`: with its price in msat where that follows
    /// from a rate. `None` where no rate may be used.
    pub fn priced(&self, fiat: &Fiat, tier: &Tier, now: Timestamp) -> Option<Tier> {
        let Some(price) = fiat.prices.get(&tier.id) else {
            return Some(tier.clone());
        };
        let heard = self.lock().get(&price.currency).copied();
        let feed = fiat.feeds.get(&price.currency)?;
        let rate = price.msat_per_s(feed.belief.rate(heard, now)?)?;
        Some(Tier {
            rate_msat_per_s: rate,
            ..tier.clone()
        })
    }
}

/// Asks all feeds again and again; the offer follows when a price has moved.
pub(super) async fn run(ctx: Arc<Ctx>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = BTreeMap::new();
    loop {
        tick.tick().await;
        let feeds = &ctx.settings().fiat.feeds;
        let asked = feeds
            .iter()
            .map(|(currency, feed)| ask(&ctx, *currency, feed));
        futures::future::join_all(asked).await;
        let prices = prices(&ctx);
        if moved(&told, &prices) {
            ctx.changed.notify_one();
            told = prices;
        }
    }
}

fn prices(ctx: &Ctx) -> BTreeMap<Name, u64> {
    let tiers = ctx.tiers().into_iter();
    tiers.map(|tier| (tier.id, tier.rate_msat_per_s)).collect()
}

/// Whether a price appeared, went, or moved by a hundredth or more.
fn moved(told: &BTreeMap<Name, u64>, prices: &BTreeMap<Name, u64>) -> bool {
    told.len() != prices.len()
        || prices.iter().any(|(tier, price)| {
            told.get(tier)
                .is_none_or(|before| price.abs_diff(*before).saturating_mul(100) >= *before)
        })
}

async fn ask(ctx: &Ctx, currency: Currency, feed: &FeedSetting) {
    let Some(url) = &feed.url else { return };
    match fetch(url, &feed.pointer).await {
        Ok(per_btc) => {
            let at = ctx.now();
            ctx.rates.note(currency, Rate { per_btc, at });
        }
        Err(why) => tracing::warn!(%currency, feed = %url, %why, "no rate"),
    }
}

/// What a feed says now, in millionths.
async fn fetch(url: &str, pointer: &str) -> Result<u64, String> {
    let asked = tokio::time::timeout(PATIENCE, body(url)).await;
    let text = asked.map_err(|_| "no answer in time".to_owned())??;
    read(&text, pointer).ok_or_else(|| format!("there is no price at {pointer:?}"))
}

async fn body(url: &str) -> Result<Vec<u8>, String> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| error.to_string())?;
    let answer = client.get(url).send().await;
    let answer = answer.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(|error| error.without_url().to_string())?;
    let mut text = Vec::new();
    while let Some(part) = answer
        .chunk()
        .await
        .map_err(|e| e.without_url().to_string())?
    {
        text.extend_from_slice(&part);
        if text.len() > MAX_ANSWER {
            return Err(format!("it says more than {MAX_ANSWER} bytes"));
        }
    }
    Ok(text)
}

/// The number at `pointer` (RFC 6901), as a JSON number or text. What is beyond
/// millionths is left out.
fn read(text: &[u8], pointer: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let number = match value.pointer(pointer)? {
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((&number, "0"));
    let part: String = part.chars().take(6).collect();
    let part_is_number = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    part_is_number.then(|| micros(&format!("{whole}.{part}")))?
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::core::fiat::MICROS;

    #[test]
    fn a_price_is_found_where_the_operator_says() {
        let text = br#"{"a":{"EUR":97123.45},"b":["88000.1234567"],"c":null,"d":1e5,"e":-3}"#;
        assert_eq!(read(text, "/a/EUR"), Some(97_123_450_000));
        assert_eq!(read(text, "/b/0"), Some(88_000_123_456));
        assert_eq!(read(text, "/d"), Some(100_000 * MICROS));
        for nothing in ["/c", "/e", "/x", "", "/a"] {
            assert_eq!(read(text, nothing), None, "{nothing}");
        }
        assert_eq!(read(b"<html>", "/a"), None);
    }

    #[test]
    fn an_offer_follows_a_hundredth_and_not_less() {
        let one = |price| BTreeMap::from([("small".parse().unwrap(), price)]);
        assert!(!moved(&one(1000), &one(1009)));
        assert!(moved(&one(1000), &one(1010)));
        assert!(moved(&one(1000), &one(990)));
        assert!(moved(&one(1000), &BTreeMap::new()));
        assert!(moved(&BTreeMap::new(), &one(1000)));
    }

    /// A server that answers each connection with `answer`.
    async fn feed(answer: String) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/rate", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    fn said(status: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn a_feed_is_asked_and_its_lies_are_refused() {
        let good = feed(said("200 OK", r#"{"EUR": 90000}"#)).await;
        assert_eq!(fetch(&good, "/EUR").await, Ok(90_000 * MICROS));
        assert!(fetch(&good, "/USD").await.is_err());
        let error = feed(said("500 Oops", r#"{"EUR": 90000}"#)).await;
        assert!(fetch(&error, "/EUR").await.is_err());
        let long = feed(said("200 OK", &"9".repeat(MAX_ANSWER + 1))).await;
        assert!(fetch(&long, "").await.unwrap_err().contains("more than"));
        let away = said("302 Found\r\nlocation: http://127.0.0.1:1/", "");
        assert!(fetch(&feed(away).await, "/EUR").await.is_err());
    }
}
