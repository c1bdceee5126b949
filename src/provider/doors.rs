//! Who may enter which workload: the gateway asks, the ledger answers.

use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::ctx::Ctx;
use crate::compute::Handle;
use crate::core::ids::LeaseId;
use crate::gateway::{Door, Doors};
use crate::ledger::{CONTAINER_OF, CONTAINERS, LEASES, PORTS, WORKLOADS, container_key};

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

    async fn open_port(&self, port: u16, user: &str, password: &str) -> Option<Door> {
        let ctx = &self.0;
        let found = ctx.ledger().read(|reader| {
            let Some(id) = reader.get(&PORTS, &port.to_string())?.and_then(|p| p.lease) else {
                return Ok(None);
            };
            let n = reader.get(&CONTAINER_OF, id.as_str())?;
            let Some(n) = n else { return Ok(None) };
            let container = reader.get(&CONTAINERS, &container_key(n))?;
            let lease = reader.get(&LEASES, id.as_str())?;
            let row = reader.get(&WORKLOADS, id.as_str())?;
            Ok(container.zip(lease).zip(row))
        });
        let found = found
            .inspect_err(|error| tracing::error!(%error, "the gateway could not read the ledger"));
        let ((container, lease), row) = found.ok().flatten()?;
        let right = same(&container.password, password) && user == "root";
        let open = right && container.port == port && lease.is_open(ctx.now());
        let handle: Handle = serde_json::from_value(row.handle?).ok()?;
        open.then(|| Door {
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

/// Whether two passwords are the same, in a time that says nothing about where
/// they differ.
fn same(right: &str, tried: &str) -> bool {
    let (right, tried) = (Sha256::digest(right), Sha256::digest(tried));
    let differ = right
        .iter()
        .zip(&tried)
        .fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differ) == 0
}
