//! End my lease and give back what was not served.

use std::sync::Arc;

use super::{Handled, Stopped, commit, own_lease};
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::Event;
use crate::ledger::{LEASES, LedgerError, REQUESTS, request_key};
use crate::protocol::request::Stop;
use crate::provider::ctx::Ctx;
use crate::provider::refuse::{self, Refusal};
use crate::provider::validate;

pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    ask: &Stop,
) -> Result<Handled, Refusal> {
    let refund_key = validate::refund_key(ask.refund_key.as_ref())?;
    let lease = own_lease(ctx, &owner, &ask.lease)?;
    let (name, now) = (lease.id, ctx.now());
    let key = name.clone();
    commit(ctx, move |tx| {
        let Some(mut lease) = tx.get(&LEASES, key.as_str())? else {
            return Err(Stopped::from(refuse::stopped()));
        };
        lease
            .on(Event::StopAsked(id), now)
            .map_err(|_| refuse::stopped())?;
        lease.refund_key = refund_key.or(lease.refund_key);
        tx.put(&LEASES, key.as_str(), &lease)?;
        let row_key = request_key(&owner, id);
        let Some(mut row) = tx.get(&REQUESTS, &row_key)? else {
            return Err(LedgerError::Rule("a request that was not written down".to_owned()).into());
        };
        row.lease = Some(key);
        Ok(tx.put(&REQUESTS, &row_key, &row)?)
    })
    .await?;
    Ok(Handled::Later(name))
}
