//! What is refused: each with its own code, a usable suggestion, and the money
//! untouched.

use std::time::Duration;

use satlet::core::money::Msat;
use satlet::protocol::error::{Code, Money, WireError};
use satlet::protocol::reply::Answer;
use satlet::protocol::request::{Ask, Quote, Spawn, Wanted};

use crate::support::shop::{SSH_KEY, Shop, body, key, new_id, spawn};

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).unwrap()
}

/// A spawn with what is wanted changed.
fn wanting(token: String, change: impl FnOnce(&mut Wanted)) -> Ask {
    let mut wanted = Wanted {
        ssh_keys: vec![SSH_KEY.to_owned()],
        ..Wanted::default()
    };
    change(&mut wanted);
    Ask::Spawn(Spawn {
        wanted,
        token,
        invoice: None,
        quote_id: None,
    })
}

/// The refusal of `ask`, which took nothing.
async fn refused(shop: &Shop, ask: Ask, code: Code) -> WireError {
    let error = shop.ask(key(1), ask).await.expect_err("refused");
    assert_eq!(error.code, code, "{error:?}");
    assert_eq!(error.money, Money::Untouched, "{error:?}");
    assert!(error.refund.is_none());
    assert!(
        error.suggestion.len() > 10 && error.suggestion != error.message,
        "{error:?}"
    );
    assert_eq!(shop.mint.total_redeem_calls(), 0, "nothing was redeemed");
    assert!(shop.engine.workloads().is_empty());
    error
}

#[tokio::test(start_paused = true)]
async fn tokens_that_cannot_be_taken() {
    let shop = Shop::open().await;
    refused(
        &shop,
        spawn("cashuBgarbage".to_owned()),
        Code::MalformedToken,
    )
    .await;
    let foreign = satlet::wallet::fake::FakeMint::new("https://other.test");
    let error = refused(&shop, spawn(foreign.token(sat(100))), Code::MintNotAccepted).await;
    assert!(
        error.suggestion.contains("https://mint.test"),
        "says which: {}",
        error.suggestion
    );
    refused(
        &shop,
        spawn(shop.mint.token_in("usd", 100)),
        Code::WrongUnit,
    )
    .await;
    let spent = shop.mint.token(sat(100));
    shop.mint.spend(&spent);
    refused(&shop, spawn(spent), Code::TokenSpent).await;
    let error = refused(&shop, spawn(shop.mint.token(sat(1))), Code::AmountTooSmall).await;
    assert!(
        error.suggestion.contains("6 sat"),
        "says how much: {}",
        error.suggestion
    );
    refused(
        &shop,
        spawn(shop.mint.token(sat(100_000))),
        Code::DurationTooLong,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn things_that_are_not_sold() {
    let shop = Shop::open().await;
    let token = || shop.mint.token(sat(100));
    let tier = |w: &mut Wanted| w.tier = Some("huge".parse().unwrap());
    let error = refused(&shop, wanting(token(), tier), Code::UnknownTier).await;
    assert!(error.suggestion.contains("small"), "{}", error.suggestion);
    let template = |w: &mut Wanted| w.template = Some("db".parse().unwrap());
    refused(&shop, wanting(token(), template), Code::UnknownTemplate).await;
    for image in ["ghcr.example/evil/image:1", "../etc", "UPPER/case", ""] {
        let change = |w: &mut Wanted| w.image = Some(image.to_owned());
        refused(&shop, wanting(token(), change), Code::ImageNotAllowed).await;
    }
    for keys in [
        vec![],
        vec!["ssh-ed25519 nonsense".to_owned()],
        vec![SSH_KEY.to_owned(); 17],
    ] {
        let change = |w: &mut Wanted| w.ssh_keys = keys;
        refused(&shop, wanting(token(), change), Code::BadSshKey).await;
    }
    let long = |w: &mut Wanted| w.command = vec!["x".repeat(20_000)];
    refused(&shop, wanting(token(), long), Code::BadSpec).await;
}

#[tokio::test(start_paused = true)]
async fn no_room() {
    let shop = Shop::open().await;
    let large = |token| wanting(token, |w| w.tier = Some("large".parse().unwrap()));
    let first = shop.ask(key(1), large(shop.mint.token(sat(100)))).await;
    assert!(matches!(first, Ok(Answer::Spawn(_))), "{first:?}");
    let token = shop.mint.token(sat(100));
    let error = shop.ask(key(2), large(token.clone())).await.unwrap_err();
    assert_eq!(
        (error.code, error.money),
        (Code::NoCapacity, Money::Untouched)
    );
    assert!(!shop.mint.is_spent(&token));
    let quote = Ask::Quote(Quote {
        wanted: Wanted {
            tier: Some("large".parse().unwrap()),
            ..Wanted::default()
        },
        seconds: None,
    });
    let quoted = shop.ask(key(2), quote).await.unwrap_err();
    assert_eq!(
        quoted.code,
        Code::NoCapacity,
        "a quote validates as the purchase does"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large() {
    let shop = Shop::open().await;
    let ask = wanting(shop.mint.token(sat(100)), |w| {
        w.env = vec![("A".to_owned(), "x".repeat(40_000))];
    });
    refused(&shop, ask, Code::MessageTooLarge).await;
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_and_the_same_id_is_served_a_minute_later() {
    let shop = Shop::open_with(|s| s.requests.per_key_per_minute = 3).await;
    for _ in 0..3 {
        shop.ask(key(1), Ask::List).await.unwrap();
    }
    let id = new_id();
    let ask = spawn(shop.mint.token(sat(100)));
    let error = shop.ask_as(key(1), id, ask.clone()).await.unwrap_err();
    assert_eq!(
        (error.code, error.money),
        (Code::TooManyRequests, Money::Untouched)
    );
    assert!(
        shop.ask(key(2), Ask::List).await.is_ok(),
        "others are not affected"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    shop.deliver(key(1), body(id, ask)).await;
    crate::support::shop::until("it is served", || !shop.engine.workloads().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_is_down() {
    let shop = Shop::open().await;
    shop.mint.set_down(true);
    let token = shop.mint.token(sat(100));
    refused(&shop, spawn(token.clone()), Code::MintDown).await;
    shop.mint.set_down(false);
    // The same token buys with a new request.
    let answer = shop.ask(key(1), spawn(token)).await;
    assert!(matches!(answer, Ok(Answer::Spawn(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_no_work() {
    let shop = Shop::open().await;
    shop.engine.set_down(true);
    let token = shop.mint.token(sat(100));
    let error = shop.ask(key(1), spawn(token.clone())).await.unwrap_err();
    assert_eq!(
        (error.code, error.money),
        (Code::NoCapacity, Money::Untouched)
    );
    assert!(!shop.mint.is_spent(&token));
    let image = satlet::compute::Image::Reference("docker.io/library/gone:1".to_owned());
    shop.engine.set_down(false);
    shop.engine.lose_image(image);
    let gone = |w: &mut Wanted| w.image = Some("gone:1".to_owned());
    refused(&shop, wanting(token, gone), Code::ImageUnavailable).await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_not_served() {
    let shop = Shop::open_with(|s| s.requests.deny = vec![key(1)]).await;
    refused(&shop, spawn(shop.mint.token(sat(100))), Code::NotAllowed).await;
    assert!(shop.ask(key(2), Ask::List).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_no_requests() {
    let shop = Shop::open().await;
    let id = new_id();
    for (text, code) in [
        (
            format!(r#"{{"satlet":1,"type":"dance","request_id":"{id}"}}"#),
            Code::InvalidRequest,
        ),
        (
            format!(
                r#"{{"satlet":2,"type":"list","request_id":"{}"}}"#,
                new_id()
            ),
            Code::UnsupportedVersion,
        ),
    ] {
        let id = serde_json::from_str::<serde_json::Value>(&text).unwrap()["request_id"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        shop.deliver(key(1), text).await;
        assert_eq!(shop.answer(key(1), id).await.unwrap_err().code, code);
    }
    // A friendly word is no request, and gets no answer.
    let before = shop.sent().len();
    shop.deliver(key(1), "hello!".to_owned()).await;
    shop.ask(key(2), Ask::List).await.unwrap();
    assert_eq!(shop.sent().len(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn an_old_message_brought_again_buys_nothing() {
    let shop = Shop::open().await;
    let token = shop.mint.token(sat(100));
    let old = shop.ctx().now().minus(Duration::from_secs(6 * 24 * 3600));
    shop.deliver_written(key(1), body(new_id(), spawn(token.clone())), old)
        .await;
    shop.ask(key(2), Ask::List).await.unwrap();
    assert_eq!(shop.sent().len(), 1, "only the second one is answered");
    assert!(!shop.mint.is_spent(&token));
}

#[tokio::test(start_paused = true)]
async fn one_token_pays_one_request() {
    let shop = Shop::open().await;
    let token = shop.mint.token(sat(100));
    let (one, two) = (new_id(), new_id());
    shop.deliver(key(1), body(one, spawn(token.clone()))).await;
    shop.deliver(key(2), body(two, spawn(token))).await;
    let answers = [
        shop.answer(key(1), one).await,
        shop.answer(key(2), two).await,
    ];
    assert_eq!(
        answers.iter().filter(|a| a.is_ok()).count(),
        1,
        "{answers:?}"
    );
    let error = answers.into_iter().find_map(Result::err).unwrap();
    assert!(
        matches!(error.code, Code::TokenInUse | Code::TokenSpent),
        "{error:?}"
    );
    assert_eq!(error.money, Money::Untouched);
    assert_eq!(shop.mint.total_redeem_calls(), 1);
    assert_eq!(shop.engine.workloads().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_quote_holds_its_price_and_then_expires() {
    let mut shop = Shop::open().await;
    let id = new_id();
    let quote = Ask::Quote(Quote {
        wanted: Wanted::default(),
        seconds: Some(500),
    });
    let Ok(Answer::Quote(quoted)) = shop.ask_as(key(1), id, quote).await else {
        panic!()
    };
    assert_eq!((quoted.seconds, quoted.price_msat), (500, sat(50)));
    assert_eq!(quoted.mints[0].url, "https://mint.test");
    shop.crash().await;
    shop.settings.tiers[0].rate_msat_per_s = 1000;
    shop.start().await;
    let cite = |token: String, id| match wanting(token, |_| {}) {
        Ask::Spawn(spawn) => Ask::Spawn(Spawn {
            quote_id: Some(id),
            ..spawn
        }),
        other => other,
    };
    let Ok(Answer::Spawn(sold)) = shop.ask(key(1), cite(shop.mint.token(sat(50)), id)).await else {
        panic!()
    };
    assert_eq!(sold.status.remaining_seconds, 500, "at the quoted price");
    let strangers = shop
        .ask(key(2), cite(shop.mint.token(sat(50)), id))
        .await
        .unwrap_err();
    assert_eq!(strangers.code, Code::QuoteExpired, "another one's quote");
    tokio::time::sleep(shop.settings.timing.quote + Duration::from_secs(1)).await;
    let late = shop
        .ask(key(1), cite(shop.mint.token(sat(50)), id))
        .await
        .unwrap_err();
    assert_eq!(
        (late.code, late.money),
        (Code::QuoteExpired, Money::Untouched)
    );
}
