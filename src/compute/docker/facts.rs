//! What an engine can hold, from what it says of itself. Pure.

use bollard::models::{
    SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemVersion,
};

use crate::compute::{BackendError, Capabilities, Enforced, Inventory};
use crate::core::capacity::Resources;

/// The first version of the protocol with all that is used: Docker 20.10.
const OLDEST: (u32, u32) = (1, 41);

/// What is known of this host beside the engine's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Here {
    /// Whether the wall can be put up: we are root, with `ip` and `nft`.
    pub(super) wall: bool,
    /// Whether we may go into containers: we are root.
    pub(super) root: bool,
    /// Whether the operator wants a way out for tenants.
    pub(super) network: bool,
    /// Whether the engine took a size for a root file system.
    pub(super) quota: bool,
}

/// `major.minor` of the protocol.
fn api(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// # Errors
/// `Permanent`: it may not be used, and why.
pub(super) fn check(version: &SystemVersion, info: &SystemInfo) -> Result<(), BackendError> {
    let refuse = |why: String| Err(BackendError::Permanent(why));
    let spoken = version.api_version.as_deref().unwrap_or_default();
    if api(spoken).is_none_or(|spoken| spoken < OLDEST) {
        return refuse(format!(
            "the engine speaks version {spoken:?} of its protocol; 1.41 (Docker 20.10) is needed"
        ));
    }
    if info.os_type.as_deref().is_some_and(|os| os != "linux") {
        return refuse("the engine does not run Linux containers".to_owned());
    }
    let options = info.security_options.as_deref().unwrap_or_default();
    let seccomp = options.iter().find(|option| option.contains("seccomp"));
    match seccomp {
        Some(option) if !option.contains("unconfined") => Ok(()),
        _ => refuse(
            "the engine filters no system calls (seccomp); set its default profile".to_owned(),
        ),
    }
}

/// What the engine can do here.
pub(super) fn capabilities(info: &SystemInfo, here: Here) -> Capabilities {
    let holds = |flag: Option<bool>| flag.unwrap_or(false);
    let enforces = Enforced {
        cpu: holds(info.cpu_cfs_quota),
        memory: holds(info.memory_limit) && holds(info.swap_limit),
        pids: holds(info.pids_limit),
        disk: here.quota,
    };
    Capabilities {
        isolation: "shared-kernel".to_owned(),
        oci_images: true,
        host_image: false,
        enforces,
        outgoing_network: here.network && here.wall,
        notes: notes(info, here, enforces),
    }
}

fn notes(info: &SystemInfo, here: Here, enforces: Enforced) -> Vec<String> {
    let driver = info.driver.as_deref().unwrap_or("unknown");
    let backing = info.driver_status.iter().flatten();
    let backing = backing
        .filter(|pair| {
            pair.first()
                .is_some_and(|name| name == "Backing Filesystem")
        })
        .find_map(|pair| pair.get(1).cloned())
        .unwrap_or_else(|| "an unknown file system".to_owned());
    let cgroup = matches!(info.cgroup_version, Some(SystemInfoCgroupVersionEnum::_2));
    let mut notes = Vec::new();
    let mut say = |when: bool, text: String| {
        if when {
            notes.push(text);
        }
    };
    say(
        !enforces.disk,
        format!(
            "The engine holds no disk quota ({driver} on {backing}): disk is not enforced. Put \
             its data on xfs mounted with `pquota`, or use a driver with quotas"
        ),
    );
    say(
        !enforces.memory,
        match cgroup {
            true => "The engine does not limit memory with swap".to_owned(),
            false => "The engine does not limit memory with swap: boot with \
                      `swapaccount=1`, or with cgroup version 2"
                .to_owned(),
        },
    );
    say(
        !enforces.cpu || !enforces.pids,
        "The engine does not limit CPU or processes on this kernel".to_owned(),
    );
    say(
        matches!(info.cgroup_driver, Some(SystemInfoCgroupDriverEnum::NONE)),
        "The engine has no control groups: give its user a delegated cgroup version 2".to_owned(),
    );
    say(
        here.network && !here.wall,
        "Workloads get no network: the wall around them needs root, `ip` and `nft`".to_owned(),
    );
    say(
        !here.root,
        "Files cannot be copied and ports not forwarded where an image brings no server for \
         it: going into containers needs root"
            .to_owned(),
    );
    notes
}

/// What the engine's host has. `disk_mib` is of the engine's data directory.
///
/// # Errors
/// The engine does not say.
pub(super) fn inventory(info: &SystemInfo, disk_mib: u32) -> Result<Inventory, BackendError> {
    let odd = || BackendError::Retry("the engine does not say what its host has".to_owned());
    let small = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok());
    let cpus = small(info.ncpu).ok_or_else(odd)?;
    let memory = small(info.mem_total).ok_or_else(odd)?;
    let fit = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(Inventory {
        total: Resources {
            cpu_millicores: fit(cpus.saturating_mul(1000)),
            memory_mib: fit(memory / (1024 * 1024)),
            disk_mib,
            pids: PIDS,
        },
    })
}

/// What kernels allow by default in all.
const PIDS: u32 = 32_768;
