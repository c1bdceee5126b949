//! How is my lease? Answered from the ledger alone.

use super::{Handled, own_lease};
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::lease::{Lease, Phase, Refund, RefundState};
use crate::protocol::reply::{self, Answer, LeaseState, LeaseStatus};
use crate::provider::ctx::Ctx;
use crate::provider::refuse::Refusal;

pub(super) fn handle(ctx: &Ctx, owner: PublicKey, id: &LeaseId) -> Result<Handled, Refusal> {
    let lease = own_lease(ctx, &owner, id)?;
    Ok(Answer::Status(describe(ctx, &lease)).into())
}

/// A lease, for its owner.
pub(in crate::provider) fn describe(ctx: &Ctx, lease: &Lease) -> LeaseStatus {
    let now = ctx.now();
    let (state, destroy_at) = match lease.phase {
        Phase::Reserved | Phase::Provisioning { .. } | Phase::Reviving { .. } => {
            (LeaseState::Starting, None)
        }
        Phase::Active => (LeaseState::Active, None),
        Phase::Expiring => (LeaseState::Grace, None),
        Phase::Grace { destroy_at } => (LeaseState::Grace, Some(destroy_at)),
        Phase::Ending | Phase::Ended { .. } => (LeaseState::Ended, None),
    };
    LeaseStatus {
        lease: lease.id.clone(),
        state,
        why: lease.why.clone(),
        tier: lease.tier.id.clone(),
        image: lease.image.clone(),
        rate_msat_per_s: lease.tier.rate_msat_per_s,
        gives: lease.tier.resources,
        created_at: lease.created_at,
        started_at: lease.started_at,
        expires_at: lease.expires_at,
        destroy_at,
        remaining_seconds: lease.unserved_seconds(now),
        credit_msat: lease.money.credit,
        gift_seconds: lease.gift.map(|gift| gift.seconds),
        access: ctx.access(lease),
        refunds: lease.refunds.iter().filter_map(refund).collect(),
    }
}

/// A refund that has been made and is not known to be taken, as it goes over the
/// wire.
pub(in crate::provider) fn refund(refund: &Refund) -> Option<reply::Refund> {
    match &refund.state {
        RefundState::Made { token, face, .. } => Some(reply::Refund {
            refund_id: refund.id.clone(),
            token: token.clone(),
            amount_msat: *face,
            mint: refund.mint.clone(),
            unit: refund.unit.clone(),
            why: refund.why.clone(),
        }),
        RefundState::Owed
        | RefundState::Locking { .. }
        | RefundState::Claimed { .. }
        | RefundState::TakingBack { .. }
        | RefundState::TakenBack { .. }
        | RefundState::Credited => None,
    }
}
