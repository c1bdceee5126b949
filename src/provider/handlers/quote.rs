//! What would it cost, and would it be accepted? Without side effects.

use std::time::Duration;

use super::Handled;
use crate::compute::Image;
use crate::core::ids::{PublicKey, RequestId};
use crate::core::pricing::{PriceError, Tier, price};
use crate::ledger::Held;
use crate::protocol::error::{Code, WireError};
use crate::protocol::reply::{Answer, LockTerms, MintTerms, QuoteAnswer};
use crate::protocol::request::Quote;
use crate::provider::ctx::{Ctx, holds, promised};
use crate::provider::pool;
use crate::provider::refuse::{self, Refusal};
use crate::provider::validate::{self, Price};
use crate::wallet::{MintUrl, Unit};

/// How long a quote waits for mints that have not told their fees yet.
const FACTS_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) async fn handle(
    ctx: &Ctx,
    owner: PublicKey,
    id: RequestId,
    ask: &Quote,
) -> Result<Handled, Refusal> {
    let accepted = validate::wanted(ctx, &ask.wanted, false, Price::AsOfNow)?;
    let tier = &accepted.tier;
    let seconds = ask.seconds.unwrap_or(tier.min_seconds);
    let cost = price(seconds, tier.rate_msat_per_s).ok_or_else(too_large)?;
    tier.sell(cost)
        .map_err(|error| refuse::price(error, crate::core::money::Msat::ZERO))?;
    room(ctx, &ctx.ledger().held(), owner, tier)?;
    ctx.mints.any_open()?;
    let can = ctx.parts.backend.capabilities();
    Ok(Handled::from(Answer::Quote(QuoteAnswer {
        quote_id: id,
        expires_at: ctx.now().plus(ctx.settings().timing.quote),
        tier: tier.id.clone(),
        image: shown(&accepted.image_name, &accepted.image),
        rate_msat_per_s: tier.rate_msat_per_s,
        price_per_hour: ctx
            .settings()
            .fiat
            .prices
            .get(&tier.id)
            .map(ToString::to_string),
        min_seconds: tier.min_seconds,
        max_seconds: tier.max_seconds,
        price_msat: cost,
        min_msat: tier.min_price().ok_or_else(too_large)?,
        max_msat: tier.max_price().ok_or_else(too_large)?,
        seconds,
        gift_seconds: pool::quoted(ctx, &owner, tier),
        mints: mint_terms(ctx).await,
        lock: Some(LockTerms {
            key: ctx.parts.wallet.lock_key(),
            min_seconds: ctx.settings().timing.lock_margin().as_secs(),
            hold_seconds: (ctx.settings().requests.holds_per_key > 0)
                .then(|| ctx.settings().timing.hold.as_secs()),
        }),
        lightning: super::lightning_terms(ctx.settings()),
        gives: tier.resources,
        not_enforced: ctx.not_enforced(tier),
        outgoing_network: can.outgoing_network,
    })))
}

fn shown(name: &str, image: &Image) -> String {
    match image {
        Image::Reference(reference) => reference.clone(),
        Image::Host | Image::Layout(_) => name.to_owned(),
    }
}

fn too_large() -> Refusal {
    refuse::price(PriceError::Overflow, crate::core::money::Msat::ZERO)
}

/// Whether one more lease of `tier` fits for `owner`.
pub(super) fn room(
    ctx: &Ctx,
    leases: &[Held],
    owner: PublicKey,
    tier: &Tier,
) -> Result<(), Refusal> {
    let settings = ctx.settings();
    let (taken, count) = promised(leases);
    if !settings.capacity.fits(taken, count, tier.resources) {
        return Err(WireError::new(
            Code::NoCapacity,
            format!("there is no room for a {} now", tier.id),
            "choose a smaller tier, another provider, or try again later",
        ));
    }
    let own = leases
        .iter()
        .filter(|held| held.owner == owner && holds(held))
        .count();
    let per_key = ctx.policy().leases_per_key;
    if own >= per_key as usize {
        return Err(WireError::new(
            Code::NoCapacity,
            format!("one key may have {per_key} leases here"),
            "stop one of your leases first",
        ));
    }
    Ok(())
}

/// Accepted mints with their fees; a mint that does not tell in time is listed
/// without.
pub(in crate::provider) async fn mint_terms(ctx: &Ctx) -> Vec<MintTerms> {
    let one = |url: String| async move {
        let mint = MintUrl(url.clone());
        let asked = tokio::time::timeout(FACTS_TIMEOUT, ctx.parts.wallet.facts(&mint)).await;
        let facts = asked.ok().and_then(Result::ok);
        let units = facts
            .as_ref()
            .map_or(vec![Unit::Sat], |facts| facts.units.clone());
        MintTerms {
            state: ctx.mints.state(&url),
            url,
            units: units.iter().map(unit_name).collect(),
            input_fee_ppk: facts.map(|facts| facts.input_fee_ppk),
        }
    };
    let mints = ctx
        .settings()
        .mints
        .iter()
        .map(|mint| one(mint.url.clone()));
    futures::future::join_all(mints).await
}

/// A unit's name on the wire.
pub(in crate::provider) fn unit_name(unit: &Unit) -> String {
    match unit {
        Unit::Sat => "sat",
        Unit::Msat => "msat",
    }
    .to_owned()
}
