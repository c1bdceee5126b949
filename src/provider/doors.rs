//! Who may enter which workload: the gateway asks, the ledger answers.

use std::sync::Arc;

use async_trait::async_trait;

use super::ctx::Ctx;
use crate::compute::Handle;
use crate::core::ids::LeaseId;
use crate::gateway::{Door, Doors};
use crate::ledger::{LEASES, WORKLOADS};

/// The provider's doors.
pub struct LedgerDoors(pub Arc<Ctx>);

#[async_trait]
impl Doors for LedgerDoors {
    async fn open(&self, user: &str, openssh: &str) -> Option<Door> {
        let ctx = &self.0;
        let id: LeaseId = user.parse().ok()?;
        let (lease, row) = ctx
            .ledger()
            .read(|reader| {
                Ok((
                    reader.get(&LEASES, id.as_str())?,
                    reader.get(&WORKLOADS, id.as_str())?,
                ))
            })
            .inspect_err(|error| tracing::error!(%error, "the gateway could not read the ledger"))
            .ok()?;
        let lease = lease.filter(|lease| lease.is_open(ctx.now()))?;
        let known = lease.ssh_keys.iter().any(|key| key == openssh.trim());
        let handle: Handle = serde_json::from_value(row?.handle?).ok()?;
        known.then(|| Door {
            lease: lease.id,
            owner: lease.owner,
            backend: Arc::clone(&ctx.parts.backend),
            handle,
        })
    }

    async fn still_open(&self, lease: &LeaseId) -> bool {
        let ctx = &self.0;
        match ctx
            .ledger()
            .read(|reader| reader.get(&LEASES, lease.as_str()))
        {
            Ok(lease) => lease.is_some_and(|lease| lease.is_open(ctx.now())),
            // Not known is not closed.
            Err(_) => true,
        }
    }
}
