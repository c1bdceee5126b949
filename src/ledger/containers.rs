//! What leases of the dialect in use have beside a lease: a number, a port, a
//! password.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rows::{ENDED, LEASES};
use super::table::Table;
use super::{LedgerError, Reader, Tx};
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::time::Timestamp;
use crate::protocol::paygress::FIRST_CONTAINER;

/// A workload's number, and how to get in. Kept as long as its lease.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    /// Its lease.
    pub lease: LeaseId,
    /// Whose it is.
    pub owner: PublicKey,
    /// Its port at the gateway; another lease's once this one has ended.
    pub port: u16,
    /// The password of `root` at that port.
    pub password: String,
    /// Whether no refund of it waits to be fetched any more.
    #[serde(default)]
    pub claimed: bool,
}

/// Without the password.
impl fmt::Debug for ContainerRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerRow")
            .field("lease", &self.lease)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Who has a port, or had it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// The lease that has it.
    pub lease: Option<LeaseId>,
    /// When it was taken or freed.
    pub since: Timestamp,
}

/// What a request in that dialect needs to be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldAsk {
    /// What the asker waits for.
    pub wants: OldWants,
    /// The workload as the request names it; empty for a spawn.
    pub name: String,
    /// Since when the asker waits, by our clock.
    pub asked_at: Timestamp,
    /// The request's own time.
    pub written_at: Timestamp,
}

/// What an asker of that dialect waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldWants {
    /// A workload.
    Spawn,
    /// More time.
    TopUp,
    /// A status; or an error, where the request cannot be read.
    Status,
}

/// Workloads by [`container_key`].
pub const CONTAINERS: Table<ContainerRow> = Table::new("containers");
/// A workload's number by lease.
pub const CONTAINER_OF: Table<u32> = Table::new("container_of");
/// Ports of single leases, by number.
pub const PORTS: Table<PortRow> = Table::new("ports");
/// Numbers that are not given out again.
const COUNTERS: Table<u32> = Table::new("counters");

const NEXT_CONTAINER: &str = "container";

/// The key of workload `n`: rows stand in the order of their numbers.
pub fn container_key(n: u32) -> String {
    format!("{n:010}")
}

/// A number that no workload ever had.
///
/// # Errors
/// The disk, or all numbers are given out.
pub fn next_container(tx: &Tx) -> Result<u32, LedgerError> {
    let next = tx.get(&COUNTERS, NEXT_CONTAINER)?;
    let n = next.unwrap_or(FIRST_CONTAINER);
    let after = n
        .checked_add(1)
        .ok_or_else(|| LedgerError::Rule("no workload number is left".to_owned()))?;
    tx.put(&COUNTERS, NEXT_CONTAINER, &after)?;
    Ok(n)
}

/// The number and row of a lease's workload, where it has one.
///
/// # Errors
/// A row cannot be read, or the disk.
pub fn container_of(tx: &Tx, lease: &LeaseId) -> Result<Option<(u32, ContainerRow)>, LedgerError> {
    let Some(n) = tx.get(&CONTAINER_OF, lease.as_str())? else {
        return Ok(None);
    };
    Ok(tx.get(&CONTAINERS, &container_key(n))?.map(|row| (n, row)))
}

/// Keys of workloads whose lease is forgotten.
///
/// # Errors
/// A row cannot be read, or the disk.
pub fn forgotten_containers(reader: &Reader) -> Result<Vec<(String, LeaseId)>, LedgerError> {
    let mut gone = Vec::new();
    for (key, row) in reader.all(&CONTAINERS)? {
        let id = row.lease.as_str();
        if reader.get(&LEASES, id)?.is_none() && reader.get(&ENDED, id)?.is_none() {
            gone.push((key, row.lease));
        }
    }
    Ok(gone)
}
