//! Top-up and status of a workload that is there, or was.

use std::sync::Arc;

use super::{Done, errors, refunds, render, wait};
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::{EndCause, Lease, Phase};
use crate::ledger::{CONTAINERS, ContainerRow, OldAsk, container_key, find_lease};
use crate::protocol::paygress::container_number;
use crate::protocol::paygress::reply::{ErrorReply, ErrorType, Reply};
use crate::protocol::paygress::request::{Status, TopUp};
use crate::protocol::request::Topup;
use crate::provider::ctx::Ctx;
use crate::provider::handlers::{self, Handled};
use crate::provider::refuse::{self, Refusal};

/// The sender's workload of this name. Somebody else's is as good as none, so
/// that nobody learns which numbers are in use.
fn own(
    ctx: &Ctx,
    owner: &PublicKey,
    name: &str,
) -> Result<Option<(u32, ContainerRow, Lease)>, Refusal> {
    let Some(n) = container_number(name) else {
        return Ok(None);
    };
    let found = ctx.ledger().read(|reader| {
        let Some(row) = reader.get(&CONTAINERS, &container_key(n))? else {
            return Ok(None);
        };
        Ok(find_lease(reader, &row.lease)?.map(|lease| (n, row, lease)))
    });
    let found = found.map_err(|error| refuse::internal(&error))?;
    // One that was never paid never was.
    let sold = |lease: &Lease| lease.cause != Some(EndCause::NotPaid);
    Ok(found.filter(|(_, row, lease)| row.owner == *owner && sold(lease)))
}

/// An error at which a client gives the workload up, with the refunds that wait
/// for it.
fn gone(kind: ErrorType, what: &str, refunds: &[String]) -> ErrorReply {
    if refunds.is_empty() {
        return ErrorReply::new(kind, what);
    }
    let what = format!("{what}; refunds of your leases are in details, a token a line");
    ErrorReply {
        details: Some(refunds.join("\n")),
        ..ErrorReply::new(kind, what)
    }
}

const UNKNOWN: &str = "you have no workload of this name here";

pub(super) async fn status(ctx: &Ctx, owner: PublicKey, ask: &Status) -> Result<Done, ErrorReply> {
    let found = own(ctx, &owner, &ask.pod_id).map_err(|refusal| errors::reply(&refusal))?;
    let Some((n, row, lease)) = found else {
        let refunds = refunds::waiting(ctx, &owner).await;
        return Err(gone(ErrorType::NotFound, UNKNOWN, &refunds));
    };
    if lease.has_ended() {
        let refunds = refunds::waiting(ctx, &owner).await;
        if !refunds.is_empty() {
            let what = format!("the lease has ended: {}", lease.why);
            return Err(gone(ErrorType::LeaseExpired, &what, &refunds));
        }
    }
    let status = render::status(ctx, &lease, n, &row);
    Ok(Done::Reply(Reply::Status(status)))
}

pub(super) async fn topup(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &OldAsk,
    wanted: &TopUp,
) -> Result<Done, ErrorReply> {
    if container_number(&wanted.pod_npub).is_none() {
        let what = "a workload is named container-<number>, or by the number alone";
        return Err(ErrorReply::new(ErrorType::InvalidPodId, what));
    }
    let found = own(ctx, &owner, &wanted.pod_npub).map_err(|refusal| errors::reply(&refusal))?;
    let Some((_, _, lease)) = found else {
        let refunds = refunds::waiting(ctx, &owner).await;
        return Err(gone(ErrorType::NotFound, UNKNOWN, &refunds));
    };
    if lease.phase != Phase::Reserved && !lease.takes_topup() {
        let what = "the lease has ended; the token is still yours";
        let refunds = refunds::waiting(ctx, &owner).await;
        return Err(gone(ErrorType::LeaseExpired, what, &refunds));
    }
    let ours = Topup {
        lease: lease.id,
        token: wanted.cashu_token.clone(),
        invoice: None,
    };
    match handlers::topup(
        ctx,
        owner,
        id,
        &ours,
        Some(wait::pay_by(ask)),
        handlers::Locks::None,
    )
    .await
    {
        Ok(Handled::Later(lease)) => Ok(Done::Later(lease)),
        Ok(Handled::Answer(_)) => Err(ErrorReply::new(ErrorType::BackendError, "no answer")),
        Err(refusal) => Err(errors::reply(&refusal)),
    }
}
