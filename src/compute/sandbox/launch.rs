//! The last steps of a process before it becomes the tenant's: identity,
//! capabilities, no-new-privileges, seccomp, exec. Used by the first process
//! for its command and by every exec.

use std::ffi::CString;
use std::io;

use libcontainer::oci_spec::runtime::{Capabilities, Capability};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::{Gid, Uid};

use super::user::User;
use super::{seccomp, sys};

/// Where programs are looked for when the environment does not say.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Capabilities inside the tenant's user namespace: what package managers,
/// daemons that drop to another user and servers on low ports need.
/// Numbers are of linux/capability.h.
const CAPABILITIES: &[(u64, Capability)] = &[
    (0, Capability::Chown),
    (1, Capability::DacOverride),
    (3, Capability::Fowner),
    (4, Capability::Fsetid),
    (5, Capability::Kill),
    (6, Capability::Setgid),
    (7, Capability::Setuid),
    (8, Capability::Setpcap),
    (10, Capability::NetBindService),
    (18, Capability::SysChroot),
    (29, Capability::AuditWrite),
    (31, Capability::Setfcap),
];

/// The set as bits.
pub(super) fn capability_bits() -> u64 {
    CAPABILITIES.iter().map(|(number, _)| 1 << number).sum()
}

/// The set as the OCI configuration has it.
pub(super) fn capabilities() -> Capabilities {
    CAPABILITIES.iter().map(|(_, name)| *name).collect()
}

/// What is to be run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Programs to try, in order.
    pub(super) candidates: Vec<String>,
    /// Its name for itself and its arguments.
    pub(super) argv: Vec<String>,
    /// All of its environment.
    pub(super) env: Vec<(String, String)>,
}

impl Program {
    /// A program and its arguments, found by PATH as execvp(3) does.
    pub(super) fn from_argv(argv: &[String], env: &[(String, String)]) -> Option<Self> {
        let name = argv.first()?;
        let candidates = if name.contains('/') {
            vec![name.clone()]
        } else {
            let path = env.iter().rfind(|(key, _)| key == "PATH");
            path.map_or(DEFAULT_PATH, |(_, path)| path.as_str())
                .split(':')
                .map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir }))
                .collect()
        };
        Some(Self {
            candidates,
            argv: argv.to_vec(),
            env: env.to_vec(),
        })
    }

    /// Replaces this process; comes back only with an error.
    pub(super) fn exec(&self) -> io::Error {
        match self.try_exec() {
            Ok(never) => match never {},
            Err(err) => err,
        }
    }

    fn try_exec(&self) -> io::Result<std::convert::Infallible> {
        // Nothing of ours goes along, whatever was forgotten on the way here.
        sys::close_from_on_exec(3)?;
        let argv = c_strings(self.argv.iter().cloned())?;
        let env = c_strings(self.env.iter().map(|(key, value)| format!("{key}={value}")))?;
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        for candidate in c_strings(self.candidates.iter().cloned())? {
            let Err(errno) = nix::unistd::execve(&candidate, &argv, &env);
            match errno {
                nix::Error::ENOENT | nix::Error::ENOTDIR => {}
                nix::Error::EACCES => last = errno.into(),
                _ => return Err(errno.into()),
            }
        }
        Err(last)
    }
}

fn c_strings(items: impl Iterator<Item = String>) -> io::Result<Vec<CString>> {
    items
        .map(|item| CString::new(item).map_err(io::Error::other))
        .collect()
}

/// Size of a core file, in bytes. At 1, and at no other, the kernel does not
/// call a program of the host's with it, which would run as the host's root and
/// outside of all limits of the tenant (core(5); `vfs_coredump`).
pub(super) const CORE: u64 = 1;
/// Bytes in POSIX message queues (mq_overview(7)); the kernel's own default.
pub(super) const MSGQUEUE: u64 = 819_200;

/// Limits that the tenant's processes inherit. To be called before any
/// namespace is joined, while a limit may still be raised.
pub(super) fn limit_process() -> io::Result<()> {
    let most = [
        (Resource::RLIMIT_CORE, CORE),
        (Resource::RLIMIT_MSGQUEUE, MSGQUEUE),
        (Resource::RLIMIT_RTPRIO, 0),
        (Resource::RLIMIT_NICE, 0),
    ];
    for (resource, most) in most {
        if setrlimit(resource, most, most).is_err() {
            let (_, hard) = getrlimit(resource)?;
            setrlimit(resource, hard.min(most), hard.min(most))?;
        }
    }
    Ok(())
}

/// Be the tenant's root, with all powers inside and none outside: what is made
/// or opened from here on is made and opened as the tenant.
pub(super) fn become_root_inside() -> io::Result<()> {
    // See `become_tenant`.
    let _ = nix::unistd::setgroups(&[]);
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    named("group", nix::unistd::setresgid(gid, gid, gid))?;
    named("user", nix::unistd::setresuid(uid, uid, uid))?;
    // A change of identity sets this to what the host has chosen for such.
    named("privacy", nix::sys::prctl::set_dumpable(false))
}

/// Gives up every identity and power that the tenant does not have;
/// `capabilities` are the bits of those that stay.
pub(super) fn become_tenant(user: &User, capabilities: u64) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // Where the user namespace forbids it (rootless) there is nothing to drop
    // that the tenant's root could use: unmapped groups open no file of ours.
    let _ = nix::unistd::setgroups(&[]);
    named("group", nix::unistd::setresgid(gid, gid, gid))?;
    if user.uid == 0 {
        named("user", nix::unistd::setresuid(uid, uid, uid))?;
        named("capabilities", sys::keep_capabilities(capabilities))?;
    } else {
        // The bounding set first, while that is still permitted.
        named("capabilities", sys::keep_capabilities(capabilities))?;
        named("user", nix::unistd::setresuid(uid, uid, uid))?;
    }
    // Until the exec, what is in memory and open is the sandbox's.
    named("privacy", nix::sys::prctl::set_dumpable(false))?;
    named("privileges", nix::sys::prctl::set_no_new_privs())?;
    named("seccomp", seccomp::apply())
}

/// An error that says in which step it happened.
fn named<T, E: Into<io::Error>>(step: &str, result: Result<T, E>) -> io::Result<T> {
    result.map_err(|err| {
        let err = err.into();
        io::Error::new(err.kind(), format!("{step}: {err}"))
    })
}

/// Signals as a fresh process has them: Rust programs ignore SIGPIPE, and
/// helpers block some.
pub(super) fn reset_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            set_action(signal, &default)?;
        }
    }
    nix::sys::signal::sigprocmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&SigSet::empty()),
        None,
    )?;
    Ok(())
}

#[expect(unsafe_code, reason = "sigaction with the default handler")]
fn set_action(signal: Signal, action: &SigAction) -> io::Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { nix::sys::signal::sigaction(signal, action) }?;
    Ok(())
}
