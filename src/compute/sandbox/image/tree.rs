//! A directory tree that nothing can leave: every path is walked component by
//! component from the root's file descriptor, never following a link by way of
//! the kernel. Links on the way are read and followed here, with the tree's
//! root as `/`, as a process inside would see them.
//!
//! Assumes that nobody else changes the tree meanwhile.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::budget::{Budget, UnpackError, shown};
use super::entries::bad;

/// Directories above each other. Removing a tree keeps one open for each.
const MAX_DEPTH: usize = 128;
/// Links on the way of one path (the kernel's own limit, path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Bytes of a path from the root, so that tools that take paths can handle it.
const MAX_PATH: usize = 3072;

/// An open directory of the tree.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    ino: u64,
}

/// What a name in a directory is.
enum Child {
    Dir(OwnedFd),
    Link(Vec<u8>),
    Other,
    Absent,
}

/// The tree while one layer is put on it.
pub(super) struct Tree {
    root: OwnedFd,
    /// Owners are kept where we may give files away.
    pub(super) keep_owner: bool,
    /// Names that this layer made (whiteouts are for those below), as keyed
    /// hashes of directory and name: half a million names take little room.
    made: HashSet<u64>,
    keys: RandomState,
    /// The directory of the last entry; the next is mostly in the same.
    last: Option<(Vec<u8>, Rc<Place>)>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self, UnpackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(root, flags, Mode::empty()).map_err(failed(b"/"))?;
        Ok(Self {
            root,
            keep_owner: Uid::effective().is_root(),
            made: HashSet::new(),
            keys: RandomState::new(),
            last: None,
        })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory that these components lead to. Missing ones are made with
    /// a `budget`; without, they give `None`.
    pub(super) fn walk(
        &mut self,
        path: &[&[u8]],
        budget: Option<&mut Budget>,
    ) -> Result<Option<Rc<Place>>, UnpackError> {
        let key = path.join(&b'/');
        if let Some((last, place)) = &self.last
            && *last == key
        {
            return Ok(Some(Rc::clone(place)));
        }
        let Some(place) = self.walk_slowly(path, budget)? else {
            return Ok(None);
        };
        let place = Rc::new(place);
        self.last = Some((key, Rc::clone(&place)));
        Ok(Some(place))
    }

    fn walk_slowly(
        &mut self,
        path: &[&[u8]],
        mut budget: Option<&mut Budget>,
    ) -> Result<Option<Place>, UnpackError> {
        let all = path.join(&b'/');
        let mut todo: VecDeque<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        // Real directories only, so that `..` is the one before.
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut here = self.reopen(&done)?;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                done.pop();
                here = self.reopen(&done)?;
                continue;
            }
            let next = match child(&here, &name)? {
                Child::Dir(fd) => fd,
                Child::Absent => match &mut budget {
                    Some(budget) => self.make(&here, &name, budget)?,
                    None => return Ok(None),
                },
                Child::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(bad(format!("{} has too many links", shown(&all))));
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    here = self.reopen(&done)?;
                    for part in target.split(|b| *b == b'/').rev() {
                        if !part.is_empty() && part != b"." {
                            todo.push_front(part.to_vec());
                        }
                    }
                    continue;
                }
                Child::Other => {
                    return Err(bad(format!("{} leads through a file", shown(&all))));
                }
            };
            here = place(next, &name)?;
            done.push(name);
            let length = done.iter().map(|name| name.len().saturating_add(1)).sum();
            if done.len() > MAX_DEPTH || MAX_PATH < length {
                return Err(bad(format!("{} is too deep", shown(&all))));
            }
        }
        Ok(Some(here))
    }

    /// The directory at a path of real directories.
    fn reopen(&self, path: &[Vec<u8>]) -> Result<Place, UnpackError> {
        let root = self.root.try_clone().map_err(|source| UnpackError::Io {
            path: "/".to_owned(),
            source,
        })?;
        let mut here = place(root, b"/")?;
        for name in path {
            let fd = openat(&here.fd, OsStr::from_bytes(name), path_dir(), Mode::empty());
            here = place(fd.map_err(failed(name))?, name)?;
        }
        Ok(here)
    }

    /// A parent that no entry announced.
    fn make(
        &mut self,
        at: &Place,
        name: &[u8],
        budget: &mut Budget,
    ) -> Result<OwnedFd, UnpackError> {
        budget.take_file()?;
        let os = OsStr::from_bytes(name);
        mkdirat(&at.fd, os, Mode::from_bits_truncate(0o755)).map_err(failed(name))?;
        // The process's umask shall not decide what is in an image.
        let mode = Mode::from_bits_truncate(0o755);
        fchmodat(&at.fd, os, mode, FchmodatFlags::FollowSymlink).map_err(failed(name))?;
        if self.keep_owner {
            own(at, name, 0, 0)?;
        }
        self.note(at, name);
        openat(&at.fd, os, path_dir(), Mode::empty()).map_err(failed(name))
    }

    /// Remembers that this layer made `name`.
    pub(super) fn note(&mut self, at: &Place, name: &[u8]) {
        let key = self.keys.hash_one((at.ino, name));
        self.made.insert(key);
    }

    /// Forgets what the walk remembers: a name on its way may be gone. (A new
    /// name changes nothing, as all names on the way were there.)
    fn moved(&mut self) {
        self.last = None;
    }

    /// Removes `name` with all that is below it. Absent is success.
    pub(super) fn remove(&mut self, at: &Place, name: &[u8]) -> Result<(), UnpackError> {
        let os = OsStr::from_bytes(name);
        let removed = unlinkat(&at.fd, os, UnlinkatFlags::NoRemoveDir);
        if removed == Err(Errno::ENOENT) {
            return Ok(());
        }
        self.moved();
        match removed {
            Ok(()) => return Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(error) => return Err(failed(name)(error)),
        }
        let Child::Dir(fd) = child(at, name)? else {
            return Err(failed(name)(Errno::EPERM));
        };
        let below = place(fd, name)?;
        for inner in names(&below)? {
            self.remove(&below, &inner)?;
        }
        unlinkat(&at.fd, os, UnlinkatFlags::RemoveDir).map_err(failed(name))
    }

    /// Removes what lower layers have at `name`, and keeps what this layer
    /// made there or below it. Absent is success.
    pub(super) fn hide(&mut self, at: &Place, name: &[u8]) -> Result<(), UnpackError> {
        let ours = self.made.contains(&self.keys.hash_one((at.ino, name)));
        let Child::Dir(fd) = child(at, name)? else {
            return if ours { Ok(()) } else { self.remove(at, name) };
        };
        self.hide_all(&place(fd, name)?)?;
        if ours {
            return Ok(());
        }
        self.moved();
        match unlinkat(&at.fd, OsStr::from_bytes(name), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOTEMPTY) => Ok(()),
            Err(error) => Err(failed(name)(error)),
        }
    }

    /// [`Tree::hide`] for everything in a directory.
    pub(super) fn hide_all(&mut self, at: &Place) -> Result<(), UnpackError> {
        for name in names(at)? {
            self.hide(at, &name)?;
        }
        Ok(())
    }
}

fn path_dir() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn place(fd: OwnedFd, name: &[u8]) -> Result<Place, UnpackError> {
    let ino = fstat(fd.as_fd()).map_err(failed(name))?.st_ino;
    Ok(Place { fd, ino })
}

fn child(at: &Place, name: &[u8]) -> Result<Child, UnpackError> {
    let os = OsStr::from_bytes(name);
    let stat = match fstatat(&at.fd, os, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(Child::Absent),
        Err(error) => return Err(failed(name)(error)),
    };
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => {
            let fd = openat(&at.fd, os, path_dir(), Mode::empty()).map_err(failed(name))?;
            Ok(Child::Dir(fd))
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(&at.fd, os).map_err(failed(name))?;
            Ok(Child::Link(target.as_bytes().to_vec()))
        }
        _ => Ok(Child::Other),
    }
}

/// Whether `name` is a directory itself, no link to one.
pub(super) fn is_dir(at: &Place, name: &[u8]) -> Result<bool, UnpackError> {
    Ok(matches!(child(at, name)?, Child::Dir(_)))
}

/// Whether `name` is something that can have another name: no directory.
pub(super) fn is_linkable(at: &Place, name: &[u8]) -> Result<bool, UnpackError> {
    Ok(matches!(child(at, name)?, Child::Link(_) | Child::Other))
}

/// Whether two names are one.
pub(super) fn same(a: &Place, a_name: &[u8], b: &Place, b_name: &[u8]) -> bool {
    a.ino == b.ino && a_name == b_name
}

/// Gives `name` itself to an owner, also where it is a link.
pub(super) fn own(at: &Place, name: &[u8], uid: u32, gid: u32) -> Result<(), UnpackError> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let os = OsStr::from_bytes(name);
    fchownat(&at.fd, os, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed(name))
}

/// All names in a directory, read before any of them is removed.
fn names(at: &Place) -> Result<Vec<Vec<u8>>, UnpackError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(&at.fd, ".", flags, Mode::empty()).map_err(failed(b"."))?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(failed(b"."))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Makes a new file; nothing may be there.
pub(super) fn create(at: &Place, name: &[u8]) -> Result<File, UnpackError> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    let fd = openat(&at.fd, OsStr::from_bytes(name), flags, mode).map_err(failed(name))?;
    Ok(File::from(fd))
}

/// The error of a system call on `path`.
pub(super) fn failed(path: &[u8]) -> impl Fn(Errno) -> UnpackError {
    let path = shown(path);
    move |errno| UnpackError::Io {
        path: path.clone(),
        source: io::Error::from(errno),
    }
}
