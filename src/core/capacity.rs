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
        // More may be promised than there is, after the operator gave less.
        if !self.fits(promised, leases, ask) {
            return 0;
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(cpu: u32, memory: u32, disk: u32, pids: u32) -> Resources {
        Resources {
            cpu_millicores: cpu,
            memory_mib: memory,
            disk_mib: disk,
            pids,
        }
    }

    #[test]
    fn each_part_alone_can_be_what_does_not_fit() {
        let host = Capacity {
            total: size(10, 10, 10, 10),
            max_leases: 2,
        };
        let taken = size(5, 5, 5, 5);
        assert!(host.fits(taken, 1, size(5, 5, 5, 5)));
        for ask in [
            size(6, 5, 5, 5),
            size(5, 6, 5, 5),
            size(5, 5, 6, 5),
            size(5, 5, 5, 6),
        ] {
            assert!(!host.fits(taken, 1, ask), "{ask:?}");
        }
        assert!(!host.fits(Resources::default(), 2, size(1, 1, 1, 1)));
        let uncounted = Capacity {
            total: size(10, 10, 10, 0),
            ..host
        };
        assert!(uncounted.fits(taken, 1, size(5, 5, 5, 6)));
        assert!(!host.fits(size(u32::MAX, 0, 0, 0), 1, size(1, 0, 0, 0)));
    }

    prop_compose! {
        fn any_size()(cpu in 0u32..40, memory in 0u32..40, disk in 0u32..40, pids in 0u32..40)
            -> Resources { size(cpu, memory, disk, pids) }
    }

    proptest! {
        #[test]
        fn as_many_fit_as_there_are_free_slots(
            total in any_size(), ask in any_size(), taken in any_size(),
            max_leases in 0u32..20, leases in 0u32..20,
        ) {
            let host = Capacity { total, max_leases };
            let slots = host.free_slots(taken, leases, ask);
            let (mut taken, mut leases, mut sold) = (taken, leases, 0);
            while host.fits(taken, leases, ask) {
                taken = taken.checked_add(ask).unwrap();
                leases += 1;
                sold += 1;
            }
            prop_assert_eq!(sold, slots);
        }
    }
}
