//! The generosity pool as the provider keeps it: filled by what is served,
//! debited by the commit that promises a gift, and given back by the commit that
//! ends its lease.

use super::control::PoolView;
use super::ctx::Ctx;
use super::handlers::describe;
use super::refuse::Refusal;
use super::settings::Settings;
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::{EndCause, Lease, Phase};
use crate::core::money::Msat;
use crate::core::pool::{Gift, Grant, NoGift};
use crate::core::pricing::Tier;
use crate::core::time::Timestamp;
use crate::ledger::{LedgerError, Tx, change_pool, pool_of, the_pool};
use crate::protocol::error::{Code, WireError};
use crate::protocol::offer::PoolTerms;
use crate::protocol::reply::{Answer, SpawnAnswer};

/// The tier that is given: the cheapest of these, the first of several.
pub(super) fn tier<'a>(tiers: impl IntoIterator<Item = &'a Tier>) -> Option<&'a Tier> {
    tiers.into_iter().min_by_key(|tier| tier.rate_msat_per_s)
}

/// What the offer says of it, where there is one.
pub(super) fn terms(settings: &Settings, tiers: &[&Tier]) -> Option<PoolTerms> {
    let tier = tier(tiers.iter().copied())?;
    settings.pool.is_on().then(|| PoolTerms {
        tier: tier.id.clone(),
        max_seconds: settings.pool.max_seconds.min(tier.max_seconds),
    })
}

/// What `owner` would be given of `tier` now, in seconds, if anything.
pub(super) fn quoted(ctx: &Ctx, owner: &PublicKey, tier: &Tier) -> Option<u64> {
    let settings = &ctx.settings().pool;
    let now = ctx.now();
    if !settings.is_on() || must_be_cheapest(ctx, tier).is_err() {
        return None;
    }
    let read = ctx.ledger().read(|reader| pool_of(reader, owner, now));
    let (pool, key) = read.ok()?;
    let grant = pool.gift(settings, &key, tier, now);
    grant.ok().map(|grant| grant.gift.seconds)
}

/// Only the cheapest tier is given.
pub(super) fn must_be_cheapest(ctx: &Ctx, wanted: &Tier) -> Result<(), Refusal> {
    if !ctx.settings().pool.is_on() {
        return Err(refusal(NoGift::Off));
    }
    let tiers = ctx.tiers();
    match tier(&tiers) {
        Some(tier) if tier.id == wanted.id => Ok(()),
        Some(tier) => Err(WireError::new(
            Code::NoGift,
            format!("only the tier {} is given", tier.id),
            format!("ask for {}, or pay for the other", tier.id),
        )),
        None => Err(refusal(NoGift::Settings)),
    }
}

/// Why nothing is given, for the asker.
pub(super) fn refusal(why: NoGift) -> Refusal {
    let next = match why {
        NoGift::Open => "use that lease, or stop it first",
        NoGift::Trust | NoGift::Day => "try again tomorrow, or pay for the lease",
        NoGift::Off | NoGift::Key(_) | NoGift::Empty | NoGift::Settings => {
            "pay for the lease, or choose another provider"
        }
    };
    WireError::new(Code::NoGift, why.to_string(), next)
}

/// Promises `owner` a gift of `tier`, in the commit that makes the lease.
pub(super) fn promise<E: From<LedgerError> + From<Refusal>>(
    ctx: &Ctx,
    tx: &Tx<'_>,
    owner: &PublicKey,
    tier: &Tier,
    now: Timestamp,
) -> Result<Gift, E> {
    let settings = &ctx.settings().pool;
    change_pool(tx, owner, now, |pool, key| {
        let grant: Grant = pool.gift(settings, key, tier, now).map_err(refusal)?;
        let promised = pool.promise(settings, key, &grant);
        promised.ok_or_else(|| E::from(does_not_fit()))?;
        tracing::info!(%owner, msat = %grant.msat, trust = ?grant.gift.trust, "a gift");
        Ok(grant.gift)
    })
}

/// What a change of a lease means for the pool and for what we know of its owner,
/// in the same commit: the unserved part of a gift comes back when its end
/// begins, and when it is over its owner is known better and the pool has its
/// share.
pub(super) fn settle(
    ctx: &Ctx,
    tx: &Tx<'_>,
    before: &Lease,
    lease: &Lease,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let back = lease
        .money
        .returned
        .checked_sub(before.money.returned)
        .ok_or_else(does_not_fit)?;
    let over = lease.has_ended() && !before.has_ended();
    let served = if over {
        lease.paid_served()
    } else {
        Msat::ZERO
    };
    let gift_over = lease.gift.filter(|_| over).is_some();
    if back.is_zero() && served.is_zero() && !gift_over {
        return Ok(());
    }
    let settings = &ctx.settings().pool;
    change_pool(tx, &lease.owner, now, |pool, key| {
        if let Some(gift) = lease.gift.filter(|_| !back.is_zero()) {
            pool.take_back(key, &gift, back).ok_or_else(does_not_fit)?;
            tracing::info!(lease = %lease.id, msat = %back, "of its gift, back in the pool");
        }
        if gift_over {
            key.gift_over();
        }
        key.paid_for(settings, served, now);
        pool.earn(settings, served).ok_or_else(does_not_fit)
    })
}

fn does_not_fit() -> LedgerError {
    LedgerError::Rule("the pool's books do not balance".to_owned())
}

/// What the request that asked for this lease as a gift is told now, if it is
/// time. No money was taken whatever comes of it.
pub(super) fn told(
    ctx: &Ctx,
    lease: &Lease,
    request: RequestId,
    late: bool,
) -> Option<Result<Answer, Refusal>> {
    if lease.gift.is_none() || lease.request != request {
        return None;
    }
    if lease.started_at.is_some() {
        return Some(Ok(Answer::Spawn(SpawnAnswer {
            status: describe(ctx, lease),
            paid_msat: Msat::ZERO,
            mint_fee_msat: Msat::ZERO,
        })));
    }
    let at_end = matches!(lease.phase, Phase::Ending | Phase::Ended { .. });
    if !(lease.has_ended() || late && at_end) {
        return None;
    }
    let code = match lease.cause {
        Some(EndCause::ProvisioningFailed) => Code::ProvisioningFailed,
        _ => Code::LeaseEnded,
    };
    let next = "choose another image, tier or provider";
    Some(Err(WireError::new(code, lease.why.clone(), next)))
}

/// How it stands, for the operator; `None` where there is none and was none.
pub(super) fn view(ctx: &Ctx) -> Result<Option<PoolView>, LedgerError> {
    let settings = &ctx.settings().pool;
    let pool = ctx.ledger().read(the_pool)?;
    let today = pool.given_today(ctx.now()).ok_or_else(does_not_fit)?;
    if !settings.is_on() && pool.given.is_zero() {
        return Ok(None);
    }
    Ok(Some(PoolView {
        share_percent: settings.share_percent,
        balance_msat: pool.balance(),
        earned_msat: pool.earned,
        credited_msat: pool.credited,
        given_msat: pool.given,
        returned_msat: pool.returned,
        today_msat: today,
    }))
}
