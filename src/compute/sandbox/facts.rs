//! What this host permits, found out once, and what the offer may say of it.

use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::{self, Hierarchy};
use super::wire::Probed;
use crate::compute::{Capabilities, Enforced, Inventory};
use crate::core::capacity::Resources;

/// Facts about the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether the daemon is root.
    pub(super) root: bool,
    /// Which limits its control groups hold; `None`: there are none to use.
    pub(super) groups: Option<Groups>,
    /// Whether `ip` and `nft` are there.
    pub(super) net_tools: bool,
    /// What the helper's trials showed.
    pub(super) probed: Probed,
}

/// What control groups hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    pub(super) cpu: bool,
    pub(super) memory: bool,
    pub(super) pids: bool,
    /// Whether swap can be limited with memory.
    pub(super) swap: bool,
    /// The group that ours stand in, from the root of the hierarchy.
    pub(super) parent: PathBuf,
}

/// Which limits the groups of `hierarchies` hold for the host's root.
pub(super) fn groups(hierarchies: &[Hierarchy], exists: impl Fn(&Path) -> bool) -> Option<Groups> {
    let unified = hierarchies
        .iter()
        .find(|one| one.v2 && one.mount == Path::new("/sys/fs/cgroup"));
    if let Some(unified) = unified {
        let listed = std::fs::read_to_string(unified.mount.join("cgroup.controllers"));
        let listed = listed.unwrap_or_default();
        let has = |name: &str| listed.split_ascii_whitespace().any(|one| one == name);
        return Some(Groups {
            cpu: has("cpu"),
            memory: has("memory"),
            pids: has("pids"),
            swap: has("memory"),
            parent: PathBuf::from("/"),
        });
    }
    let find = |name: &str| {
        hierarchies
            .iter()
            .find(|one| !one.v2 && one.options.iter().any(|option| option == name))
    };
    find("freezer")?;
    let memory = find("memory");
    Some(Groups {
        cpu: find("cpu").is_some(),
        memory: memory.is_some(),
        pids: find("pids").is_some(),
        swap: memory.is_some_and(|one| exists(&one.mount.join("memory.memsw.limit_in_bytes"))),
        parent: PathBuf::from("/"),
    })
}

/// The groups that this process may make, tried by making one.
pub(super) fn usable_groups(instance: &str, root: bool) -> io::Result<Option<Groups>> {
    let hierarchies = cgroup::hierarchies()?;
    let groups = if root {
        groups(&hierarchies, Path::exists)
    } else {
        delegated(&hierarchies)
    };
    let Some(groups) = groups else {
        return Ok(None);
    };
    let name = groups.parent.join(format!("satlet-{instance}-trial"));
    let relative = name.strip_prefix("/").unwrap_or(&name).to_owned();
    let usable = hierarchies
        .iter()
        .filter(|one| needed(one, &groups))
        .all(|one| {
            let dir = one.mount.join(&relative);
            let made = std::fs::create_dir(&dir).is_ok();
            let _ = std::fs::remove_dir(&dir);
            made
        });
    Ok(usable.then_some(groups))
}

fn needed(one: &Hierarchy, groups: &Groups) -> bool {
    if one.v2 {
        return one.mount == Path::new("/sys/fs/cgroup");
    }
    let uses = |name: &str| one.options.iter().any(|option| option == name);
    uses("freezer")
        || (groups.cpu && uses("cpu"))
        || (groups.memory && uses("memory"))
        || (groups.pids && uses("pids"))
}

/// A version 2 group that was given to us (systemd's `Delegate=`), with this
/// process moved into a leaf of it, so that the rest may be divided: a group
/// with processes of its own cannot give limits to groups below it.
fn delegated(hierarchies: &[Hierarchy]) -> Option<Groups> {
    let unified = hierarchies
        .iter()
        .find(|one| one.v2 && one.mount == Path::new("/sys/fs/cgroup"))?;
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // A daemon that was started again is in its leaf already.
    let own = Path::new("/").join(own.strip_suffix("/satletd").unwrap_or(own));
    let dir = unified.mount.join(own.strip_prefix("/").ok()?);
    let leaf = dir.join("satletd");
    if !leaf.is_dir() {
        std::fs::create_dir(&leaf).ok()?;
    }
    std::fs::write(leaf.join("cgroup.procs"), "0").ok()?;
    let listed = std::fs::read_to_string(dir.join("cgroup.controllers")).ok()?;
    let has = |name: &str| {
        listed.split_ascii_whitespace().any(|one| one == name)
            && std::fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")).is_ok()
    };
    let memory = has("memory");
    Some(Groups {
        cpu: has("cpu"),
        memory,
        pids: has("pids"),
        swap: memory,
        parent: own,
    })
}

/// Whether a program is where programs of the host are.
pub(super) fn has_program(name: &str) -> bool {
    super::launch::DEFAULT_PATH
        .split(':')
        .any(|dir| Path::new(dir).join(name).exists())
}

impl Facts {
    /// Whether tenants can have a way out.
    pub(super) fn network(&self, wanted: bool) -> bool {
        wanted && self.root && self.net_tools
    }

    /// What the offer may say. `wanted` is whether the operator wants tenants
    /// to have a way out.
    pub(super) fn capabilities(&self, wanted: bool) -> Capabilities {
        let held = self.groups.clone().unwrap_or_default();
        Capabilities {
            isolation: "shared-kernel".to_owned(),
            oci_images: true,
            host_image: true,
            enforces: Enforced {
                cpu: held.cpu,
                memory: held.memory,
                pids: held.pids,
                disk: self.probed.disk.is_none(),
            },
            outgoing_network: self.network(wanted),
            notes: self.notes(wanted),
        }
    }

    fn notes(&self, wanted: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.probed.userns {
            notes.push(no_userns(why));
        }
        self.note_groups(&mut notes);
        if let Some(why) = &self.probed.disk {
            notes.push(format!(
                "Disk limits do not hold ({why}). Run satletd as root, with mkfs.ext4 \
                 (e2fsprogs) and loop devices."
            ));
        }
        if wanted && !self.network(true) {
            notes.push(
                "Workloads have no way out to the network. Run satletd as root, with ip \
                 (iproute2) and nft (nftables)."
                    .to_owned(),
            );
        }
        if self.root && self.probed.disk.is_none() && self.probed.idmap.is_some() {
            notes.push(
                "Images are copied for each workload: the kernel or the data directory's file \
                 system has no id-mapped mounts."
                    .to_owned(),
            );
        }
        notes
    }

    fn note_groups(&self, notes: &mut Vec<String>) {
        let Some(groups) = &self.groups else {
            notes.push(
                "Limits of cpu, memory and processes do not hold: no control group can be made. \
                 Run satletd as root, or on a host with cgroup version 2 as a user service with \
                 Delegate=yes."
                    .to_owned(),
            );
            return;
        };
        let missing: Vec<_> = [
            ("cpu", groups.cpu),
            ("memory", groups.memory),
            ("pids", groups.pids),
        ]
        .into_iter()
        .filter_map(|(name, held)| (!held).then_some(name))
        .collect();
        if !missing.is_empty() {
            notes.push(format!(
                "The control group controllers {} are not there for satletd: delegate them \
                 (Delegate=cpu memory pids), or enable them on the kernel's command line.",
                missing.join(", ")
            ));
        }
        if groups.memory && !groups.swap && has_swap() {
            notes.push(
                "Swap is not counted with memory: boot with swapaccount=1, or turn swap off."
                    .to_owned(),
            );
        }
    }
}

fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// What the host has in all; disk is that of the file system of `dir`.
pub(super) fn inventory(dir: &Path) -> io::Result<Inventory> {
    let cpus = std::thread::available_parallelism()?.get();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/meminfo names no MemTotal"))?;
    let disk = nix::sys::statvfs::statvfs(dir)?;
    let disk_bytes = disk.blocks().saturating_mul(disk.fragment_size());
    let pids = std::fs::read_to_string("/proc/sys/kernel/pid_max")?;
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(Inventory {
        total: Resources {
            cpu_millicores: small(u64::try_from(cpus).unwrap_or(1).saturating_mul(1000)),
            memory_mib: small(kib / 1024),
            disk_mib: small(disk_bytes / (1024 * 1024)),
            pids: pids.trim().parse().unwrap_or(32_768),
        },
    })
}

/// Why no workload can run where user namespaces cannot be made, and the fix.
pub(super) fn no_userns(why: &str) -> String {
    format!(
        "User namespaces cannot be made ({why}): no workload can run. Allow them \
         (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns) or run satletd as root."
    )
}
