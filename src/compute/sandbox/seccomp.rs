//! What a tenant's processes may not ask the kernel for. A deny-list in the
//! spirit of Docker's default profile: everything that mounts, loads code into
//! the kernel, makes namespaces, reaches into the kernel's keyrings, or has
//! been the door of many a privilege escalation. It comes on top of the user
//! namespace and the small capability set, which close most of it already.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Refused with "operation not permitted" whatever the arguments.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
];

/// open_tree_attr(2) of Linux 6.15, on every architecture.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// Flags of clone(2) that make a namespace.
const NEW_NAMESPACE: &[libc::c_int] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Address families of socket(2) that a tenant may have. Asking for another
/// would have the host load the module of it, and its bugs with it; among them
/// are sockets to the hypervisor and to the kernel's crypto.
const FAMILIES: &[libc::c_int] = &[
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Protocols of the internet families that a tenant may have, for the same
/// reason. Zero is the usual one.
const PROTOCOLS: &[libc::c_int] = &[
    0,
    libc::IPPROTO_ICMP,
    libc::IPPROTO_TCP,
    libc::IPPROTO_UDP,
    libc::IPPROTO_ICMPV6,
    libc::IPPROTO_UDPLITE,
    libc::IPPROTO_RAW,
    libc::IPPROTO_MPTCP,
];

/// The filters, in the order in which they are put on.
pub(super) fn programs() -> io::Result<Vec<BpfProgram>> {
    let deny = filter(denied()?, libc::EPERM)?;
    // "No such call", so that the C library falls back to clone(2), whose
    // flags can be looked at.
    let absent = filter([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)?;
    // "Done", although nothing is: programs that keep secrets turn core files
    // off and give up where they cannot, and there are none here anyway. The
    // size that has to stay is explained at `launch::CORE`.
    let unchanged = filter(core_size()?, 0)?;
    Ok(vec![deny, absent, unchanged, foreign_abi()])
}

/// Puts the filters on this thread for ever. Needs no-new-privileges.
pub(super) fn apply() -> io::Result<()> {
    for program in programs()? {
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

fn denied() -> io::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let mut clone = Vec::new();
    for flag in NEW_NAMESPACE {
        let bits = u64::from(flag.cast_unsigned());
        clone.push(rule(0, SeccompCmpOp::MaskedEq(bits), bits)?);
    }
    rules.insert(libc::SYS_clone, clone);
    rules.insert(libc::SYS_socket, sockets()?);
    let unix = u64::from(libc::AF_UNIX.cast_unsigned());
    rules.insert(libc::SYS_socketpair, vec![rule(0, SeccompCmpOp::Ne, unix)?]);
    // Pushing characters into a terminal's input is how a program writes into
    // the shell that started it (CVE-2017-5226).
    let mut ioctl = Vec::new();
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        ioctl.push(rule(1, SeccompCmpOp::Eq, request & 0xffff_ffff)?);
    }
    rules.insert(libc::SYS_ioctl, ioctl);
    Ok(rules)
}

/// Everything but the families and protocols that there may be.
fn sockets() -> io::Result<Vec<SeccompRule>> {
    let none_of = |arg, allowed: &[libc::c_int]| {
        allowed
            .iter()
            .map(|one| condition(arg, SeccompCmpOp::Ne, u64::from(one.cast_unsigned())))
            .collect::<io::Result<Vec<_>>>()
    };
    let mut rules = vec![all_of(none_of(0, FAMILIES)?)?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut conditions = none_of(2, PROTOCOLS)?;
        let family = u64::from(family.cast_unsigned());
        conditions.push(condition(0, SeccompCmpOp::Eq, family)?);
        rules.push(all_of(conditions)?);
    }
    Ok(rules)
}

/// Setting the size of core files.
fn core_size() -> io::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let core = u64::from(libc::RLIMIT_CORE);
    let set = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)
        .map_err(io::Error::other)?;
    let prlimit = all_of(vec![condition(1, SeccompCmpOp::Eq, core)?, set])?;
    Ok([
        (libc::SYS_prlimit64, vec![prlimit]),
        (libc::SYS_setrlimit, vec![rule(0, SeccompCmpOp::Eq, core)?]),
    ]
    .into())
}

fn rule(arg: u8, op: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    all_of(vec![condition(arg, op, value)?])
}

fn condition(arg: u8, op: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value).map_err(io::Error::other)
}

fn all_of(conditions: Vec<SeccompCondition>) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(io::Error::other)
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(io::Error::other)?;
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        arch,
    )
    .and_then(TryInto::try_into)
    .map_err(io::Error::other)
}

/// Refuses the x32 calls of x86-64 (numbers with bit 30 set): they have the
/// same architecture value, and would pass a list of plain numbers by.
fn foreign_abi() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ERRNO: u32 = 0x0005_0000;
    const ALLOW: u32 = 0x7fff_0000;
    let op = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    vec![
        op(LOAD_WORD, 0, 0, 0),
        op(JUMP_IF_AT_LEAST, 0, 1, 0x4000_0000),
        op(RETURN, 0, 0, ERRNO | libc::ENOSYS.cast_unsigned()),
        op(RETURN, 0, 0, ALLOW),
    ]
}
