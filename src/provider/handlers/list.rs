//! My leases.

use super::{Handled, describe};
use crate::core::ids::PublicKey;
use crate::protocol::reply::Answer;
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};

/// Most leases in one answer, so that it fits a message.
const MAX_LISTED: usize = 24;

pub(super) fn handle(ctx: &Ctx, owner: PublicKey) -> Result<Handled, Refusal> {
    let mut own = ctx
        .ledger()
        .leases_of(&owner, MAX_LISTED)
        .map_err(|error| refuse::internal(&error))?;
    own.retain(|lease| lease.sold_seconds > 0);
    own.sort_by_key(|lease| std::cmp::Reverse((!lease.has_ended(), lease.created_at)));
    own.truncate(MAX_LISTED);
    let mut leases: Vec<_> = own.iter().map(|lease| describe(ctx, lease)).collect();
    // Tokens are long; a status of the lease has them.
    leases.iter_mut().for_each(|lease| lease.refunds.clear());
    Ok(Answer::List { leases }.into())
}
