//! The control group of a workload, in whichever hierarchies the host has.
//! libcontainer makes it and sets its limits; here it is joined, frozen,
//! killed and removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the kernel may take to freeze or to let go of a group.
const SETTLE: Duration = Duration::from_secs(5);
/// Between looks; the version 1 interface has nothing to wait on.
const LOOK: Duration = Duration::from_millis(2);

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// Version 2, or one of version 1.
    pub(super) v2: bool,
    /// Options of its super block; of version 1 these name the controllers.
    pub(super) options: Vec<String>,
}

/// The hierarchies in a text as of /proc/self/mountinfo.
pub(super) fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    text.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let kind = right.next()?;
    if kind != "cgroup" && kind != "cgroup2" {
        return None;
    }
    Some(Hierarchy {
        mount: PathBuf::from(left.split(' ').nth(4)?),
        v2: kind == "cgroup2",
        options: right.nth(1)?.split(',').map(str::to_owned).collect(),
    })
}

/// The hierarchies of this host.
pub(super) fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    Ok(parse_mountinfo(&fs::read_to_string(
        "/proc/self/mountinfo",
    )?))
}

/// A workload's group: its directory in each hierarchy that has one.
#[derive(Debug)]
pub(super) struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// Finds it by its path from the root.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let mut dirs: Vec<PathBuf> = hierarchies()?
            .into_iter()
            .map(|hierarchy| hierarchy.mount.join(relative))
            .filter(|dir| dir.is_dir())
            .collect();
        dirs.sort();
        dirs.dedup();
        Ok(Self { dirs })
    }

    /// Files which take a process in when "0" is written by it. Open them
    /// before entering a namespace from which they cannot be reached.
    pub(super) fn doors(&self) -> io::Result<Vec<File>> {
        self.dirs
            .iter()
            .map(|dir| {
                OpenOptions::new()
                    .write(true)
                    .open(dir.join("cgroup.procs"))
            })
            .collect()
    }

    /// Whether it has less than `spare` processes over its limit. The kernel
    /// lets processes in whatever the limit says; it only stops them from
    /// having children.
    pub(super) fn has_room(&self, spare: u64) -> bool {
        let number =
            |file: PathBuf| -> Option<u64> { fs::read_to_string(file).ok()?.trim().parse().ok() };
        // Where there is no limit it says "max".
        self.dirs.iter().all(|dir| {
            let limit = number(dir.join("pids.max"));
            let count = number(dir.join("pids.current"));
            !matches!((limit, count), (Some(limit), Some(count)) if count >= limit.saturating_add(spare))
        })
    }

    /// Freezes or thaws, and waits until it is so.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let Some((file, yes, no)) = self.freezer() else {
            return Err(io::Error::other("the host has no freezer for it"));
        };
        fs::write(&file, if frozen { yes } else { no })?;
        if wait_until(|| Ok(self.frozen()? == frozen))? {
            Ok(())
        } else {
            Err(io::Error::other("the kernel has not finished freezing it"))
        }
    }

    /// Whether it is frozen; false where nothing can freeze it.
    pub(super) fn frozen(&self) -> io::Result<bool> {
        let Some((file, yes, _)) = self.freezer() else {
            return Ok(false);
        };
        if file.ends_with("cgroup.freeze") {
            let events = fs::read_to_string(file.with_file_name("cgroup.events"))?;
            return Ok(events.lines().any(|line| line == "frozen 1"));
        }
        Ok(fs::read_to_string(&file)?.trim() == yes)
    }

    fn freezer(&self) -> Option<(PathBuf, &'static str, &'static str)> {
        let find = |name: &str| {
            self.dirs
                .iter()
                .map(|dir| dir.join(name))
                .find(|file| file.exists())
        };
        find("freezer.state")
            .map(|file| (file, "FROZEN", "THAWED"))
            .or_else(|| find("cgroup.freeze").map(|file| (file, "1", "0")))
    }

    /// Kills everything in it, frozen or not.
    pub(super) fn kill(&self) -> io::Result<()> {
        for dir in &self.dirs {
            let switch = dir.join("cgroup.kill");
            if switch.exists() {
                fs::write(&switch, "1")?;
                continue;
            }
            for pid in pids(dir)? {
                // Gone in between is as good.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        if self.freezer().is_some() && self.frozen()? {
            self.freeze(false)?;
        }
        Ok(())
    }

    /// Kills what is in it until nothing is, and removes it.
    pub(super) fn remove(&self) -> io::Result<()> {
        for dir in &self.dirs {
            let mut last = None;
            let gone = wait_until(|| match fs::remove_dir(dir) {
                Ok(()) => Ok(true),
                Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(true),
                Err(err) if err.raw_os_error() == Some(nix::libc::EBUSY) => {
                    last = Some(err);
                    self.kill()?;
                    Ok(false)
                }
                Err(err) => Err(err),
            })?;
            if let (false, Some(err)) = (gone, last) {
                return Err(err);
            }
            // The installation's own group goes with its last workload; it
            // stays while it has others.
            if let Some(parent) = dir.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }
}

/// Goes in, by doors opened before.
pub(super) fn enter(doors: &mut [File]) -> io::Result<()> {
    doors.iter_mut().try_for_each(|door| door.write_all(b"0"))
}

fn pids(dir: &Path) -> io::Result<Vec<i32>> {
    match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(err),
    }
}

/// Looks again and again, for [`SETTLE`]. False: still not so.
fn wait_until(mut done: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let end = std::time::Instant::now() + SETTLE;
    loop {
        if done()? {
            return Ok(true);
        }
        if std::time::Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
}
