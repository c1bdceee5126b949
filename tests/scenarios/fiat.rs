//! Tiers with a price in another money: the rate is frozen in the quote, believed
//! within its bounds, and where there is none nothing is sold.

use std::time::Duration;

use satlet::core::fiat::{Belief, MICROS, Rate};
use satlet::core::money::Msat;
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::reply::{Answer, QuoteAnswer};
use satlet::protocol::request::{Ask, Quote, Wanted};
use satlet::provider::offer;
use satlet::provider::settings::{FeedSetting, Settings};

use crate::support::shop::{Shop, key, spawn};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

/// The default tier at 0.36 EUR an hour: 100 msat/s at 100,000 EUR for a bitcoin.
fn in_euro(settings: &mut Settings, fallback: Option<u64>) {
    let tier = settings.tiers[0].id.clone();
    let currency = "EUR".parse().unwrap();
    settings
        .fiat
        .prices
        .insert(tier, "0.36 EUR".parse().unwrap());
    let belief = Belief {
        max_age: 600,
        least: Some(10_000 * MICROS),
        most: Some(1_000_000 * MICROS),
        fallback: fallback.map(|whole| whole * MICROS),
    };
    let feed = FeedSetting {
        url: None,
        pointer: String::new(),
        belief,
    };
    settings.fiat.feeds.insert(currency, feed);
}

fn hear(shop: &Shop, whole: u64) {
    let at = shop.ctx().now();
    let per_btc = whole * MICROS;
    let rate = Rate { per_btc, at };
    shop.ctx().rates.note("EUR".parse().unwrap(), rate);
}

async fn quote(shop: &Shop) -> Result<QuoteAnswer, WireError> {
    let wanted = Wanted::default();
    let ask = Quote {
        wanted,
        seconds: Some(60),
    };
    match shop.ask(key(1), Ask::Quote(ask)).await? {
        Answer::Quote(quote) => Ok(quote),
        other => panic!("{other:?}"),
    }
}

fn citing(quote: &QuoteAnswer, token: String) -> Ask {
    let Ask::Spawn(mut ask) = spawn(token) else {
        unreachable!()
    };
    ask.quote_id = Some(quote.quote_id);
    Ask::Spawn(ask)
}

#[tokio::test(start_paused = true)]
async fn a_quote_freezes_the_rate_and_the_lease_keeps_it() {
    let shop = Shop::open_with(|settings| in_euro(settings, None)).await;
    hear(&shop, 100_000);
    let first = quote(&shop).await.unwrap();
    assert_eq!(first.rate_msat_per_s, 100);
    assert_eq!(first.price_msat, sat(6));
    assert_eq!(first.price_per_hour.as_deref(), Some("0.36 EUR"));
    // A bitcoin is worth half: the next one pays twice, who has a quote does not.
    hear(&shop, 50_000);
    assert_eq!(quote(&shop).await.unwrap().rate_msat_per_s, 200);
    let ask = citing(&first, shop.mint.token(sat(10)));
    let Ok(Answer::Spawn(bought)) = shop.ask(key(1), ask).await else {
        panic!("not sold")
    };
    assert_eq!(bought.status.rate_msat_per_s, 100);
    let fresh = shop.ask(key(2), spawn(shop.mint.token(sat(20)))).await;
    let Ok(Answer::Spawn(fresh)) = fresh else {
        panic!("{fresh:?}")
    };
    assert_eq!(fresh.status.rate_msat_per_s, 200);
    let offered = offer::current(shop.ctx()).await.unwrap();
    assert_eq!(offered.specs[0].rate_msats_per_sec, 200);
    assert_eq!(shop.lease(&bought.status.lease).tier.rate_msat_per_s, 100);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_lies_is_taken_at_the_nearest_bound() {
    let shop = Shop::open_with(|settings| in_euro(settings, None)).await;
    hear(&shop, 1);
    assert_eq!(quote(&shop).await.unwrap().rate_msat_per_s, 1000);
    hear(&shop, 900_000_000);
    assert_eq!(quote(&shop).await.unwrap().rate_msat_per_s, 10);
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_nothing_is_sold_and_no_money_is_touched() {
    let shop = Shop::open_with(|settings| in_euro(settings, None)).await;
    let refused = quote(&shop).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.money),
        (Code::NoPrice, Money::Untouched)
    );
    let token = shop.mint.token(sat(10));
    let refused = shop.ask(key(1), spawn(token.clone())).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.money),
        (Code::NoPrice, Money::Untouched)
    );
    let offered = offer::current(shop.ctx()).await.unwrap();
    let first = &shop.settings.tiers[0].id;
    assert!(offered.specs.iter().all(|spec| spec.id != first.as_str()));
    // The token is still good when the feed is back.
    hear(&shop, 100_000);
    let quoted = quote(&shop).await.unwrap();
    tokio::time::advance(Duration::from_secs(100)).await;
    let ask = citing(&quoted, token);
    assert!(matches!(shop.ask(key(1), ask).await, Ok(Answer::Spawn(_))));
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_is_too_old_gives_way_to_the_fallback() {
    let shop = Shop::open_with(|settings| in_euro(settings, Some(80_000))).await;
    assert_eq!(quote(&shop).await.unwrap().rate_msat_per_s, 125);
    hear(&shop, 100_000);
    assert_eq!(quote(&shop).await.unwrap().rate_msat_per_s, 100);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(quote(&shop).await.unwrap().rate_msat_per_s, 125);
}
