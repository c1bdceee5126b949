//! What the operator sells in all, what is promised, and what still fits.
//! Promises count, measurements do not: a tenant who sleeps keeps its share.

use serde::{Deserialize, Serialize};

/// What one workload is given, or what a host has to give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub cpu_millicores: u32,
    /// Memory (swap included) in MiB.
    pub memory_mib: u32,
    /// Writable disk in MiB; 0 means that none is promised.
    pub disk_mib: u32,
    /// Processes and threads at once; 0 in a host's total means "not counted".
    pub pids: u32,
}

impl Resources {
    /// The sum, or `None` where a number does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            cpu_millicores: self.cpu_millicores.checked_add(other.cpu_millicores)?,
            memory_mib: self.memory_mib.checked_add(other.memory_mib)?,
            disk_mib: self.disk_mib.checked_add(other.disk_mib)?,
            pids: self.pids.checked_add(other.pids)?,
        })
    }

    /// What is left of `self` once `used` is taken, each part not below zero.
    pub fn saturating_sub(self, used: Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores.saturating_sub(used.cpu_millicores),
            memory_mib: self.memory_mib.saturating_sub(used.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(used.disk_mib),
            pids: self.pids.saturating_sub(used.pids),
        }
    }
}

/// What the operator sells in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// The sum of what all workloads together may be promised.
    pub total: Resources,
    /// How many workloads there may be at once.
    pub max_leases: u32,
}

impl Capacity {
    /// Whether one more workload of size `ask` fits beside `promised`
    /// (the sum over `leases` workloads).
    pub fn fits(&self, promised: Resources, leases: u32, ask: Resources) -> bool {
        let Some(after) = promised.checked_add(ask) else {
            return false;
        };
        leases < self.max_leases
            && after.cpu_millicores <= self.total.cpu_millicores
            && after.memory_mib <= self.total.memory_mib
            && after.disk_mib <= self.total.disk_mib
            && (self.total.pids == 0 || after.pids <= self.total.pids)
    }

    /// How many more workloads of size `ask` fit beside `promised`.
    pub fn free_slots(&self, promised: Resources, leases: u32, ask: Resources) -> u32 {
        let free = self.total.saturating_sub(promised);
        let slots = |free: u32, ask: u32| free.checked_div(ask).unwrap_or(u32::MAX);
        let by_pids = if self.total.pids == 0 {
            u32::MAX
        } else {
            slots(free.pids, ask.pids)
        };
        self.max_leases
            .saturating_sub(leases)
            .min(slots(free.cpu_millicores, ask.cpu_millicores))
            .min(slots(free.memory_mib, ask.memory_mib))
            .min(slots(free.disk_mib, ask.disk_mib))
            .min(by_pids)
    }
}
