//! The OCI runtime configuration of a workload, as libcontainer wants it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    Capabilities, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Mount,
    MountBuilder, PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, UserBuilder,
};

use super::launch;
use super::wire::RunRequest;
use crate::core::capacity::Resources;

/// Ids that a tenant gets when the daemon is root.
pub(super) const ID_RANGE: u32 = 65_536;
/// Period of the cpu limit, in microseconds; the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// Processes where no limit is promised: enough for anything but a fork bomb.
const DEFAULT_PIDS: u32 = 4096;
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The configuration for `request`, in the user namespace
/// `userns` where there is one. Its descriptor must stay open until the
/// workload is made.
pub(super) fn build(
    request: &RunRequest,
    userns: Option<BorrowedFd<'_>>,
) -> Result<Spec, OciSpecError> {
    let own_ids = request.uid_base.is_some();
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(userns, request.cgroup.is_some())?)
        .masked_paths(owned(MASKED))
        .readonly_paths(owned(READ_ONLY));
    if let Some(base) = request.uid_base {
        linux = linux
            .uid_mappings(vec![mapping(base)?])
            .gid_mappings(vec![mapping(base)?]);
    }
    if let Some(path) = &request.cgroup {
        linux = linux
            .cgroups_path(path.clone())
            .resources(resources(&request.resources, request.swap_limit)?);
    } else {
        linux = linux.cgroups_path(PathBuf::from("/satlet"));
    }
    let mut linux = linux.build()?;
    if request.cgroup.is_none() {
        linux.set_resources(None);
    }
    SpecBuilder::default()
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path("/rootfs")
                .readonly(false)
                .build()?,
        )
        .mounts(mounts(own_ids)?)
        .process(process(own_ids)?)
        .hostname(request.key.clone())
        .linux(linux)
        .build()
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn namespaces(
    userns: Option<BorrowedFd<'_>>,
    cgroup: bool,
) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let mut kinds = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
    ];
    if cgroup {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    let mut all = kinds
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect::<Result<Vec<_>, _>>()?;
    // Rootless, the helper is in the tenant's user namespace already.
    if let Some(userns) = userns {
        all.push(
            LinuxNamespaceBuilder::default()
                .typ(LinuxNamespaceType::User)
                .path(format!("/proc/self/fd/{}", userns.as_raw_fd()))
                .build()?,
        );
    }
    Ok(all)
}

fn mapping(base: u32) -> Result<LinuxIdMapping, OciSpecError> {
    LinuxIdMappingBuilder::default()
        .host_id(base)
        .container_id(0_u32)
        .size(ID_RANGE)
        .build()
}

/// Limits; what is zero is not promised.
pub(super) fn resources(
    wanted: &Resources,
    swap_limit: bool,
) -> Result<LinuxResources, OciSpecError> {
    let pids = if wanted.pids == 0 {
        DEFAULT_PIDS
    } else {
        wanted.pids
    };
    let mut resources = LinuxResourcesBuilder::default()
        .pids(LinuxPidsBuilder::default().limit(i64::from(pids)).build()?);
    if wanted.memory_mib > 0 {
        let bytes = i64::from(wanted.memory_mib) * 1024 * 1024;
        let mut memory = LinuxMemoryBuilder::default().limit(bytes);
        if swap_limit {
            // Memory and swap together: the same number is no swap at all.
            memory = memory.swap(bytes);
        }
        resources = resources.memory(memory.build()?);
    }
    if wanted.cpu_millicores > 0 {
        let quota = i64::from(wanted.cpu_millicores) * 100;
        resources = resources.cpu(
            LinuxCpuBuilder::default()
                // The kernel takes no less than a millisecond.
                .quota(quota.max(1000))
                .period(CPU_PERIOD)
                .shares(u64::from(wanted.cpu_millicores).saturating_mul(1024) / 1000 + 2)
                .build()?,
        );
    }
    resources.build()
}

fn mounts(own_ids: bool) -> Result<Vec<Mount>, OciSpecError> {
    let pts = if own_ids {
        "newinstance,ptmxmode=0666,mode=0620,gid=5,max=64"
    } else {
        "newinstance,ptmxmode=0666,mode=0620,max=64"
    };
    // All of these are in memory, which the memory limit counts, and bounded.
    let all = [
        ("/proc", "proc", "nosuid,noexec,nodev"),
        (
            "/dev",
            "tmpfs",
            "nosuid,noexec,mode=755,size=64k,nr_inodes=256",
        ),
        ("/dev/pts", "devpts", pts),
        (
            "/dev/shm",
            "tmpfs",
            "nosuid,nodev,mode=1777,size=64m,nr_inodes=4096",
        ),
        ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        (
            "/run",
            "tmpfs",
            "nosuid,nodev,mode=755,size=16m,nr_inodes=4096",
        ),
    ];
    all.into_iter()
        .map(|(path, kind, options)| {
            MountBuilder::default()
                .destination(path)
                .typ(kind)
                .source(kind)
                .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
                .build()
        })
        .collect()
}

fn process(own_ids: bool) -> Result<libcontainer::oci_spec::runtime::Process, OciSpecError> {
    let set = launch::capabilities();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?;
    let rlimit = |kind, hard: u64, soft: u64| {
        PosixRlimitBuilder::default()
            .typ(kind)
            .hard(hard)
            .soft(soft)
            .build()
    };
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build()?)
        .args(vec!["init".to_owned()])
        // With HOME set nobody looks a user up in the tenant's files.
        .env(vec![
            format!("PATH={}", launch::DEFAULT_PATH),
            "HOME=/".to_owned(),
        ])
        .cwd("/")
        .capabilities(capabilities)
        .no_new_privileges(true);
    if own_ids {
        process = process.rlimits(vec![
            rlimit(PosixRlimitType::RlimitCore, launch::CORE, launch::CORE)?,
            rlimit(
                PosixRlimitType::RlimitMsgqueue,
                launch::MSGQUEUE,
                launch::MSGQUEUE,
            )?,
        ]);
    }
    process.build()
}
