//! Finding out how mints are: what came of the requests that are made anyway, what
//! lies there, and a probe at the start, once a day, and often while something is
//! wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::core::mint::{Found, News, Standing, admit};
use crate::core::money::Msat;
use crate::core::purse::to_try;
use crate::core::time::Timestamp;
use crate::provider::ctx::Ctx;
use crate::provider::merges::{self, Done};
use crate::provider::opening;
use crate::wallet::{MintUrl, Unit, WalletError};

/// Between two looks at what came of requests.
const EVERY: Duration = Duration::from_secs(2);
/// How long the start waits for mints to tell what they offer.
const AT_START: Duration = Duration::from_secs(15);
/// Pauses before a mint that did not tell at the start is asked once more: a lost
/// answer is no reason to turn anybody away.
const AGAIN: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];
/// Between two probes of a mint that is not well.
const SOON: u64 = 60;
/// The same of one that is not fit.
const LATER: u64 = 600;

/// Does what a start asks of mints, and then a look every few seconds.
pub async fn run(ctx: Arc<Ctx>) {
    tokio::join!(opening::run(&ctx), looks(&ctx));
}

/// A look every few seconds, once all mints were asked.
async fn looks(ctx: &Ctx) {
    ctx.opening.mints().await;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look(ctx).await;
    }
}

/// Asks all mints what they offer before anybody pays with their tokens, and waits
/// a little for them. One that does not tell is asked again later, and is not paid
/// at until it has.
pub async fn at_start(ctx: &Ctx) {
    let now = ctx.now();
    let urls: Vec<String> = ctx.mints.lock().keys().cloned().collect();
    for url in &urls {
        ctx.mints.learn(url, News::Asked, now);
    }
    // Who pays at one that has told is not to find out later that it is full.
    holdings(ctx).await;
    let probes = join_all(urls.iter().map(async |url| {
        first_probe(ctx, url).await;
        ctx.opening.told(url);
    }));
    if tokio::time::timeout(AT_START, probes).await.is_err() {
        tracing::warn!("some mints have not told what they offer; they are asked again");
    }
    // What a probe has swapped.
    if holdings(ctx).await {
        ctx.changed.notify_one();
    }
    ctx.opening.all_told();
}

async fn first_probe(ctx: &Ctx, url: &str) {
    probe(ctx, url).await;
    for pause in AGAIN {
        if ctx.mints.standing(url) != Standing::Probing {
            return;
        }
        tokio::time::sleep(pause).await;
        probe(ctx, url).await;
    }
}

/// Looks once: calls, holdings, and the probes that are due.
pub async fn look(ctx: &Ctx) {
    let mut changed = calls(ctx);
    changed |= holdings(ctx).await;
    let due = due(ctx, ctx.now());
    for probed in join_all(due.iter().map(|url| probe(ctx, url))).await {
        changed |= probed;
    }
    if changed {
        // The offer says it.
        ctx.changed.notify_one();
    }
}

/// Takes in what came of requests since the last time.
fn calls(ctx: &Ctx) -> bool {
    let (mut changed, now) = (false, ctx.now());
    for (mint, call) in ctx.parts.wallet.calls() {
        let ms = u64::try_from(call.took.as_millis()).unwrap_or(u64::MAX);
        let news = match call.failed {
            None => News::Answered(ms),
            Some(why) => News::Failed(ms, why),
        };
        changed |= ctx.mints.learn(&mint.0, news, now);
    }
    changed
}

/// Takes in what lies where.
async fn holdings(ctx: &Ctx) -> bool {
    let held = match ctx.parts.wallet.balances().await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "the wallet does not tell what it holds");
            return false;
        }
    };
    let mut sums: BTreeMap<String, Msat> = BTreeMap::new();
    for ((mint, _), msat) in held {
        let sum = sums.entry(mint.0).or_default();
        *sum = sum.checked_add(msat).unwrap_or(Msat::new(u64::MAX));
    }
    let (mut changed, now) = (false, ctx.now());
    let urls: Vec<String> = ctx.mints.lock().keys().cloned().collect();
    for url in urls {
        let sum = sums.get(&url).copied().unwrap_or_default();
        changed |= ctx.mints.learn(&url, News::Holds(sum), now);
    }
    changed
}

/// Mints that are to be probed now.
fn due(ctx: &Ctx, now: Timestamp) -> Vec<String> {
    let usual = ctx.settings().timing.mint_probe.as_secs();
    let known = ctx.mints.lock();
    let is_due = |known: &super::Known| {
        let Some(asked) = known.asked_at else {
            return true;
        };
        let wait = match known.health.standing() {
            Standing::Ok => usual,
            // Nobody is served there until it has told.
            Standing::Probing => SOON.min(1 << known.in_vain.min(6)),
            Standing::Degraded | Standing::Paused => SOON,
            Standing::Refused => LATER,
        };
        // One that lies in the future was before the clock was set back.
        now < asked || now.secs_since(asked) >= wait.min(usual)
    };
    let due = known.iter().filter(|(_, known)| is_due(known));
    due.map(|(url, _)| url.clone()).collect()
}

/// Asks a mint what it offers, and whether it swaps. `true` where it stands
/// otherwise now.
async fn probe(ctx: &Ctx, url: &str) -> bool {
    let (now, mint) = (ctx.now(), MintUrl(url.to_owned()));
    let (most_ppk, trip, was) = match ctx.mints.lock().get_mut(url) {
        Some(known) => {
            known.asked_at = Some(now);
            let setting = &known.setting;
            let was = known.health.standing();
            (setting.max_input_fee_ppk, setting.probe_amount, was)
        }
        None => return false,
    };
    let asked = ctx.parts.wallet.probe(&mint);
    let told = match tokio::time::timeout(ctx.settings().timing.mint, asked).await {
        Ok(told) => told,
        Err(_) => Err(WalletError::MintDown("no answer in time".to_owned())),
    };
    let told = match told {
        Ok(told) => Ok(told),
        // It told, and what it told cannot be used.
        Err(WalletError::Refused(why)) => Err(why),
        Err(error) => {
            tracing::debug!(mint = %url, %error, "not probed");
            if let Some(known) = ctx.mints.lock().get_mut(url) {
                known.in_vain = known.in_vain.saturating_add(1);
            }
            return calls(ctx);
        }
    };
    let mut fit = match &told {
        Ok(told) => {
            let found = Found {
                nuts: told.nuts.clone(),
                has_sat: told.facts.units.contains(&Unit::Sat),
                input_fee_ppk: told.facts.input_fee_ppk,
                expires_at: told.expires_at,
            };
            admit(&found, most_ppk, now)
        }
        Err(why) => Err(why.clone()),
    };
    if let Some(known) = ctx.mints.lock().get_mut(url) {
        known.told = told.ok();
        known.probed_at = Some(now);
        known.in_vain = 0;
    }
    // Not again and again: it costs a fee.
    let seldom = matches!(was, Standing::Ok | Standing::Probing | Standing::Refused);
    if fit.is_ok()
        && seldom
        && let Some(most) = trip
        && let Some(why) = round_trip(ctx, &mint, most).await
    {
        fit = Err(why);
    }
    let changed = calls(ctx);
    ctx.mints.learn(url, News::Probed(fit), now) || changed
}

/// Swaps one small proof of our own, which nobody else has a claim to. Gives why
/// the mint refuses that, if it does.
async fn round_trip(ctx: &Ctx, mint: &MintUrl, most: Msat) -> Option<String> {
    let place = merges::place(ctx, mint).await;
    let piece = Unit::Sat.piece();
    let pick = |pieces: &[crate::core::purse::Piece]| to_try(pieces, piece, most);
    match merges::from_earnings(ctx, mint, &Unit::Sat, &place, pick).await {
        Ok(Some(Done::Refused(why))) => Some(format!("it does not swap: {why}")),
        Ok(_) => None,
        Err(error) => {
            tracing::error!(%error, "a mint could not be tried");
            None
        }
    }
}
