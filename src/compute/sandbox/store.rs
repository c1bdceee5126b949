//! What is on disk: the truth about which workloads there are.
//!
//! ```text
//! root/
//!   instance.json      names and numbers of this installation, drawn once
//!   net.lock           held while interfaces or the ruleset change
//!   slots/7            taken by the lease that is named in it
//!   images/            the image store
//!   leases/<lease>/
//!     meta.json        what it should be, and its labels; written last of all
//!                      that makes a lease, removed last
//!     lock             held by a helper that works on it
//!     run.json         what runs
//!     exit             exit code of the main process
//!     log.0 log.1      what it printed
//!     disk.img, disk/  its disk
//!     mnt/             an empty directory, mounted on in helpers only
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::image::RunConfig;
use super::wire::RunNote;
use crate::compute::{Labels, WorkloadKey, WorkloadSpec};
use crate::core::time::Timestamp;

/// The two log files.
pub(super) const LOGS: [&str; 2] = ["log.0", "log.1"];
/// Where the first process writes the exit code.
pub(super) const EXIT: &str = "exit";
/// Version of [`Meta`] written today.
pub(super) const META_VERSION: u32 = 1;
const META: &str = "meta.json";
const RUN: &str = "run.json";
/// Between looks at a lock that another has.
const LOOK: Duration = Duration::from_millis(5);
/// Leases of one installation.
const SLOTS: u32 = 256;

/// Names and numbers of this installation, so that several on one host keep
/// apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instance {
    /// Six characters of a-z and 0-9.
    pub(super) id: String,
    /// First host id of slot 0.
    pub(super) uid_base: u32,
    /// First address of the /22 of all tenants.
    pub(super) network: Ipv4Addr,
}

/// What a lease is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Version of this note.
    pub(super) version: u32,
    /// Its labels.
    pub(super) labels: Labels,
    /// What it should be.
    pub(super) spec: WorkloadSpec,
    /// Its number: ids and addresses follow from it and the instance's.
    pub(super) slot: u32,
    /// The image that it was made from, where there is one: a tag may mean
    /// another tomorrow, and this one's files are below the tenant's changes.
    pub(super) image: Option<MetaImage>,
}

/// The image of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MetaImage {
    /// Digest of its manifest.
    pub(super) digest: String,
    /// Where it is unpacked.
    pub(super) rootfs: PathBuf,
    /// What it says about running it.
    pub(super) config: RunConfig,
}

/// The state directory.
#[derive(Clone, Debug)]
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens it, and makes it where it is new.
    pub(super) fn open(
        root: &Path,
        draw: impl FnOnce() -> Instance,
    ) -> io::Result<(Self, Instance)> {
        for dir in [root.to_owned(), root.join("slots"), root.join("leases")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        let store = Self {
            root: fs::canonicalize(root)?,
        };
        let path = store.root.join("instance.json");
        let instance = match read_json(&path)? {
            Some(instance) => instance,
            None => {
                let instance = draw();
                write_json(&path, &instance)?;
                instance
            }
        };
        Ok((store, instance))
    }

    /// The state directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A lease's directory.
    pub(super) fn dir(&self, key: &WorkloadKey) -> PathBuf {
        self.root.join("leases").join(key.as_str())
    }

    /// The file that says who has a slot.
    pub(super) fn slot_path(&self, slot: u32) -> PathBuf {
        self.root.join("slots").join(slot.to_string())
    }

    /// What a lease is; `None`: there is none. A directory that cannot be
    /// looked into is an error.
    pub(super) fn meta(&self, key: &WorkloadKey) -> io::Result<Option<Meta>> {
        let found = read_json(&self.dir(key).join(META))?;
        if found.is_none() {
            // Only with the state directory there and ours is it known that
            // the lease is not: it might be an unmounted disk.
            let instance: Option<Instance> = read_json(&self.root.join("instance.json"))?;
            if instance.is_none() {
                return Err(io::Error::other("the state directory is gone"));
            }
        }
        Ok(found)
    }

    /// Makes a lease unless it is there; whether it was made now. Callers see
    /// to it that nobody else does this at the same time.
    pub(super) fn ensure(
        &self,
        key: &WorkloadKey,
        make: impl FnOnce(u32) -> Meta,
    ) -> io::Result<(Meta, bool)> {
        if let Some(meta) = self.meta(key)? {
            return Ok((meta, false));
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.dir(key))?;
        let meta = make(self.take_slot(key)?);
        write_json(&self.dir(key).join(META), &meta)?;
        Ok((meta, true))
    }

    /// Notes another end of a lease that is there.
    pub(super) fn note_end(&self, key: &WorkloadKey, end: Timestamp) -> io::Result<()> {
        match self.meta(key)? {
            Some(mut meta) if meta.labels.expires_at != end => {
                meta.labels.expires_at = end;
                write_json(&self.dir(key).join(META), &meta)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A free slot, or the one that an unfinished make of this lease took.
    fn take_slot(&self, key: &WorkloadKey) -> io::Result<u32> {
        for slot in 0..SLOTS {
            let path = self.slot_path(slot);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    file.write_all(key.as_str().as_bytes())?;
                    return Ok(slot);
                }
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                    let owner = fs::read_to_string(&path)?;
                    // An empty or foreign one whose lease is not there was left
                    // by a crash between two steps.
                    let lost = owner
                        .parse()
                        .map_or(true, |owner: WorkloadKey| !self.dir(&owner).exists());
                    if owner == key.as_str() || lost {
                        fs::write(&path, key.as_str())?;
                        return Ok(slot);
                    }
                }
                Err(err) => return Err(err),
            }
        }
        Err(io::Error::from_raw_os_error(nix::libc::ENOSPC))
    }

    /// All leases.
    pub(super) fn list(&self) -> io::Result<Vec<Meta>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.root.join("leases"))? {
            let name = entry?.file_name();
            let Some(key) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // One without a note was never finished: nobody was told of it,
            // and the next make of it or of its slot takes over.
            if let Some(meta) = self.meta(&key)? {
                all.push(meta);
            }
        }
        Ok(all)
    }
}

/// What runs, as noted.
pub(super) fn read_run(dir: &Path) -> io::Result<Option<RunNote>> {
    read_json(&dir.join(RUN))
}

/// Notes what runs.
pub(super) fn write_run(dir: &Path, note: &RunNote) -> io::Result<()> {
    write_json(&dir.join(RUN), note)
}

/// Removes the note of what ran.
pub(super) fn forget_run(dir: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(dir.join(RUN)))
}

/// Exit code that the first process left. What is no number is none: without
/// root, a tenant can write into this file and into its logs.
pub(super) fn read_exit(dir: &Path) -> io::Result<Option<i32>> {
    let bytes = read_end(&dir.join(EXIT), 16)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).trim().parse().ok())
}

/// The last `most` bytes of a file; `None`: there is none.
pub(super) fn read_end(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let start = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Takes the lease's lock; it is held until the file is closed, in every
/// process that has it. While another has it, `meanwhile` is called again and
/// again, for at most `limit`.
pub(super) fn lock(
    dir: &Path,
    limit: Duration,
    mut meanwhile: impl FnMut() -> io::Result<()>,
) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("lock"))?;
    let end = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(err)) => return Err(err),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            // flock(2) cannot wait with a limit.
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
        }
        meanwhile()?;
    }
}

/// Removes a lease's directory, its note last.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == META {
            continue;
        }
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else {
            absent_is_fine(fs::remove_file(entry.path()))?;
        }
    }
    absent_is_fine(fs::remove_file(dir.join(META)))?;
    absent_is_fine(fs::remove_dir(dir))
}

/// Removes a tree in which a tenant may have closed directories to us, and may
/// have put them deeper into each other than there are descriptors, or room on
/// a stack, or in a path. So it goes down and up by one open directory. Nobody
/// else changes the tree meanwhile.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    let mut here = open_dir(nix::fcntl::AT_FDCWD, dir.as_os_str())?;
    let mut above: Vec<OsString> = Vec::new();
    loop {
        if let Some(below) = empty_until_dir(&here)? {
            here = open_dir(&here, &below)?;
            above.push(below);
        } else if let Some(name) = above.pop() {
            here = open_dir(&here, OsStr::new(".."))?;
            unlinkat(&here, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
        } else {
            return absent_is_fine(fs::remove_dir(dir));
        }
    }
}

/// Opens a directory of a tree that is ours to remove, whatever its mode.
fn open_dir(at: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if name != ".." {
        let meta = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if meta.st_mode & 0o700 != 0o700
            && meta.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
        {
            fchmodat(&at, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
        }
    }
    openat(&at, name, flags, Mode::empty()).map_err(io::Error::from)
}

/// Removes what is no directory, or an empty one, and stops at the first that
/// has something in it.
fn empty_until_dir(here: &OwnedFd) -> io::Result<Option<OsString>> {
    let mut entries = Dir::openat(here, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    for entry in entries.iter() {
        let name = entry?.file_name().to_owned();
        let name = OsStr::from_bytes(name.to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match unlinkat(here, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(err) => return Err(err.into()),
        }
        match unlinkat(here, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => return Ok(Some(name.to_owned())),
            Err(err) => return Err(err.into()),
        }
    }
    Ok(None)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|err| io::Error::other(format!("{}: {err}", path.display()))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Replaces a file in one step, and has it on the disk.
fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&bytes)?;
    file.sync_data()?;
    fs::rename(fresh, path)
}
