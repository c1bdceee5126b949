//! Whether a process that was written down is still that process: process ids
//! are used again, and a boot gives all of them anew.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::wire::RunNote;

/// The text that differs with each boot of the host.
pub(super) fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// State letter and start time (clock ticks since boot) of a process;
/// `None` where there is none.
fn stat(pid: i32) -> io::Result<Option<(char, u64)>> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text)
            .map(Some)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood"))),
        Err(err) if is_gone(&err) => Ok(None),
        Err(err) => Err(err),
    }
}

fn is_gone(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::NotFound || err.raw_os_error() == Some(nix::libc::ESRCH)
}

/// Fields 3 and 22 of proc_pid_stat(5). The name before them is in brackets
/// and may hold anything, brackets too.
pub(super) fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// Writes down a process that runs now.
pub(super) fn note(pid: i32) -> io::Result<RunNote> {
    let (_, start_ticks) =
        stat(pid)?.ok_or_else(|| io::Error::other("the first process ended at once"))?;
    let started_at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(io::Error::other)?
        .as_secs();
    Ok(RunNote {
        pid,
        start_ticks,
        boot_id: boot_id()?,
        started_at,
    })
}

/// Whether the process that was written down is there. A zombie is not.
///
/// # Errors
/// It could not be looked at, which says nothing.
pub(super) fn alive(note: &RunNote) -> io::Result<bool> {
    if !Path::new("/proc/self/stat").exists() {
        return Err(io::Error::other("/proc is not mounted"));
    }
    if boot_id()? != note.boot_id {
        return Ok(false);
    }
    Ok(stat(note.pid)?
        .is_some_and(|(state, start)| start == note.start_ticks && !matches!(state, 'Z' | 'X')))
}

/// Whether a process is in the control group `path`, in one hierarchy at least.
pub(super) fn in_group(note: &RunNote, path: &Path) -> io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", note.pid))?;
    // `4:memory:/group`, `0::/group` (cgroups(7)).
    Ok(text
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|group| Path::new(group) == path))
}

/// A descriptor of the process that was written down, or `None` where it is gone.
///
/// # Errors
/// It could not be looked at.
pub(super) fn open(note: &RunNote) -> io::Result<Option<std::os::fd::OwnedFd>> {
    let pidfd = match super::sys::pidfd_open(nix::unistd::Pid::from_raw(note.pid)) {
        Ok(pidfd) => pidfd,
        Err(err) if is_gone(&err) => return Ok(None),
        Err(err) => return Err(err),
    };
    // Only now: the descriptor pins whichever process has the number.
    Ok(alive(note)?.then_some(pidfd))
}
