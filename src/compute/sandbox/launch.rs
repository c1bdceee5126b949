//! The last steps of a process before it becomes the tenant's: identity,
//! capabilities, no-new-privileges, seccomp, exec. Used by the first process
//! for its command and by every exec.

use std::ffi::CString;
use std::io;

use nix::libc;
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
const CAPABILITIES: &[(u64, &str)] = &[
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (10, "CAP_NET_BIND_SERVICE"),
    (18, "CAP_SYS_CHROOT"),
    (29, "CAP_AUDIT_WRITE"),
    (31, "CAP_SETFCAP"),
];

/// The set as bits.
pub(super) fn capability_bits() -> u64 {
    CAPABILITIES.iter().map(|(number, _)| 1 << number).sum()
}

/// The set as OCI names.
pub(super) fn capability_names() -> impl Iterator<Item = &'static str> {
    CAPABILITIES.iter().map(|(_, name)| *name)
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

/// Gives up every identity and power that the tenant does not have.
pub(super) fn become_tenant(user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // Where the user namespace forbids it (rootless) there is nothing to drop
    // that the tenant's root could use: unmapped groups open no file of ours.
    let _ = nix::unistd::setgroups(&[]);
    nix::unistd::setresgid(gid, gid, gid)?;
    if user.uid == 0 {
        nix::unistd::setresuid(uid, uid, uid)?;
        sys::keep_capabilities(capability_bits())?;
    } else {
        // The bounding set first, while that is still permitted.
        sys::keep_capabilities(capability_bits())?;
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    seccomp::apply()
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
