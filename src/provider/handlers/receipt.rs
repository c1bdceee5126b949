//! What was paid for my lease, served and given back? Answered from the ledger.

use super::{Handled, own_lease};
use crate::core::ids::{LeaseId, PublicKey};
use crate::protocol::reply::Answer;
use crate::provider::ctx::Ctx;
use crate::provider::receipts;
use crate::provider::refuse::{self, Refusal};

pub(super) fn handle(ctx: &Ctx, owner: PublicKey, id: &LeaseId) -> Result<Handled, Refusal> {
    // For everybody but its owner there is none.
    own_lease(ctx, &owner, id)?;
    let receipt = receipts::current(ctx, id).map_err(|error| refuse::internal(&error))?;
    let answer = receipt.map(|receipt| Answer::Receipt {
        lease: id.clone(),
        receipt: *receipt,
    });
    Ok(answer.ok_or_else(refuse::no_receipt)?.into())
}
