//! A workload that the pool pays for. There is no money to be asked about, so the
//! lease, its room and the gift are one commit.

use std::sync::Arc;

use super::quote::room;
use super::spawn::{new_lease, spec};
use super::{Handled, Stopped, commit};
use crate::core::ids::{PublicKey, RequestId};
use crate::core::lease::Event;
use crate::core::payment::lock::LockKey;
use crate::ledger::{LEASES, LedgerError, REQUESTS, WORKLOADS, WorkloadRow, request_key};
use crate::provider::ctx::Ctx;
use crate::provider::pool;
use crate::provider::refuse::Refusal;
use crate::provider::validate::Accepted;

pub(super) async fn handle(
    ctx: &Arc<Ctx>,
    owner: PublicKey,
    id: RequestId,
    accepted: Accepted,
    refund_key: Option<LockKey>,
) -> Result<Handled, Refusal> {
    pool::must_be_cheapest(ctx, &accepted.tier)?;
    let now = ctx.now();
    let mut lease = new_lease(now, owner, id, &accepted);
    lease.refund_key = refund_key;
    let name = lease.id.clone();
    let shared = Arc::clone(ctx);
    commit(ctx, move |tx| {
        let leases = shared.ledger().held_in(tx)?;
        room(&shared, &leases, owner, &lease.tier)?;
        let gift = pool::promise::<Stopped>(&shared, tx, &owner, &lease.tier, now)?;
        let patience = shared.settings().timing.provision.as_secs();
        let given = Event::Given { gift, patience };
        lease.on(given, now).map_err(LedgerError::from)?;
        let key = request_key(&owner, id);
        let Some(mut row) = tx.get(&REQUESTS, &key)? else {
            return Err(LedgerError::Rule("a request that was not written down".to_owned()).into());
        };
        row.lease = Some(lease.id.clone());
        tx.put(&REQUESTS, &key, &row)?;
        let spec = serde_json::to_value(spec(&shared, &lease, &accepted))
            .map_err(|error| LedgerError::Rule(error.to_string()))?;
        tx.put(&LEASES, lease.id.as_str(), &lease)?;
        let workload = WorkloadRow { spec, handle: None };
        Ok(tx.put(&WORKLOADS, lease.id.as_str(), &workload)?)
    })
    .await?;
    ctx.changed.notify_one();
    Ok(Handled::Later(name))
}
