//! Open files and directories, and what is done with paths.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, ReadDir};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use super::attrs::{Attrs, Entry};

/// Files and directories open at once.
pub(super) const MAX_HANDLES: usize = 128;

/// Entries in one answer to a directory read. With the longest names (255
/// bytes, twice) and attributes that is below 40 KiB.
const MAX_ENTRIES: usize = 64;

const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 0x10;
const EXCLUSIVE: u32 = 0x20;

/// How a request ended (section 7); `Ok` because a success is a status too.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("ok")]
    Ok,
    #[error("end of file")]
    Eof,
    #[error("malformed request")]
    BadMessage,
    #[error("no such handle")]
    BadHandle,
    #[error("too many open files")]
    TooMany,
    #[error("not supported")]
    Unsupported,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Failure {
    /// The number on the wire.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::Eof => 1,
            Self::Io(e) if e.kind() == io::ErrorKind::NotFound => 2,
            Self::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => 3,
            Self::BadHandle | Self::TooMany | Self::Io(_) => 4,
            Self::BadMessage => 5,
            Self::Unsupported => 8,
        }
    }
}

enum Open {
    File(File),
    Dir(Dir),
}

struct Dir {
    path: PathBuf,
    /// `.` and `..`, which std leaves out.
    dots: Vec<&'static str>,
    entries: ReadDir,
}

/// The state of one client.
pub(super) struct Files {
    home: PathBuf,
    open: HashMap<u32, Open>,
    next: u32,
}

impl Files {
    pub(super) fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            open: HashMap::new(),
            next: 0,
        }
    }

    /// A path as the client means it.
    pub(super) fn path(&self, bytes: &[u8]) -> PathBuf {
        self.home.join(OsStr::from_bytes(bytes))
    }

    /// The same, with a leading `~` as the home directory.
    pub(super) fn expand(&self, bytes: &[u8]) -> PathBuf {
        match bytes.strip_prefix(b"~") {
            Some(b"") => self.home.clone(),
            Some(rest) if rest.starts_with(b"/") => {
                let rest = rest.iter().skip_while(|b| **b == b'/').copied();
                self.path(&rest.collect::<Vec<u8>>())
            }
            _ => self.path(bytes),
        }
    }

    fn insert(&mut self, open: Open) -> Result<String, Failure> {
        if self.open.len() >= MAX_HANDLES {
            return Err(Failure::TooMany);
        }
        while self.open.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let handle = self.next;
        self.next = handle.wrapping_add(1);
        self.open.insert(handle, open);
        Ok(handle.to_string())
    }

    fn get(&mut self, handle: &[u8]) -> Result<&mut Open, Failure> {
        self.open
            .get_mut(&number(handle)?)
            .ok_or(Failure::BadHandle)
    }

    fn file(&mut self, handle: &[u8]) -> Result<&File, Failure> {
        match self.get(handle)? {
            Open::File(file) => Ok(file),
            Open::Dir(_) => Err(Failure::BadHandle),
        }
    }

    pub(super) fn open(
        &mut self,
        path: &Path,
        flags: u32,
        attrs: &Attrs,
    ) -> Result<String, Failure> {
        if self.open.len() >= MAX_HANDLES {
            return Err(Failure::TooMany);
        }
        let has = |flag| flags & flag != 0;
        let append = has(APPEND);
        let extra = if has(EXCLUSIVE) && has(CREATE) {
            libc::O_EXCL | libc::O_CREAT
        } else {
            0
        };
        let file = OpenOptions::new()
            .read(has(READ))
            .write(has(WRITE) && !append)
            .append(append)
            .create(has(CREATE) && (has(WRITE) || append))
            .truncate(has(TRUNCATE) && has(WRITE) && !append)
            .mode(attrs.permissions().unwrap_or(0o666))
            .custom_flags(extra | libc::O_NOCTTY)
            .open(path)?;
        if has(TRUNCATE) && append {
            file.set_len(0)?;
        }
        self.insert(Open::File(file))
    }

    pub(super) fn open_dir(&mut self, path: &Path) -> Result<String, Failure> {
        let entries = fs::read_dir(path)?;
        self.insert(Open::Dir(Dir {
            path: path.to_owned(),
            dots: vec!["..", "."],
            entries,
        }))
    }

    pub(super) fn close(&mut self, handle: &[u8]) -> Result<(), Failure> {
        let open = self.open.remove(&number(handle)?);
        open.map(drop).ok_or(Failure::BadHandle)
    }

    pub(super) fn read(
        &mut self,
        handle: &[u8],
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Failure> {
        let file = self.file(handle)?;
        let mut data = vec![0; length];
        let read = file.read_at(&mut data, offset)?;
        if read == 0 && length > 0 {
            return Err(Failure::Eof);
        }
        data.truncate(read);
        Ok(data)
    }

    pub(super) fn write(&mut self, handle: &[u8], offset: u64, data: &[u8]) -> Result<(), Failure> {
        Ok(self.file(handle)?.write_all_at(data, offset)?)
    }

    pub(super) fn sync(&mut self, handle: &[u8]) -> Result<(), Failure> {
        Ok(self.file(handle)?.sync_all()?)
    }

    pub(super) fn read_dir(&mut self, handle: &[u8]) -> Result<Vec<Entry>, Failure> {
        let Open::Dir(dir) = self.get(handle)? else {
            return Err(Failure::BadHandle);
        };
        let mut names: Vec<OsString> = Vec::new();
        while let Some(dot) = dir.dots.pop() {
            names.push(dot.into());
        }
        for entry in dir.entries.by_ref().take(MAX_ENTRIES) {
            names.push(entry?.file_name());
        }
        if names.is_empty() {
            return Err(Failure::Eof);
        }
        let entry = |name: OsString| Entry {
            // A file that went away since is shown by its name alone.
            attrs: fs::symlink_metadata(dir.path.join(&name))
                .map(|meta| Attrs::from(&meta))
                .unwrap_or_default(),
            name: name.as_bytes().to_vec(),
        };
        Ok(names.into_iter().map(entry).collect())
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Attrs, Failure> {
        Ok(Attrs::from(&fs::metadata(path)?))
    }

    pub(super) fn lstat(&self, path: &Path) -> Result<Attrs, Failure> {
        Ok(Attrs::from(&fs::symlink_metadata(path)?))
    }

    pub(super) fn fstat(&mut self, handle: &[u8]) -> Result<Attrs, Failure> {
        match self.get(handle)? {
            Open::File(file) => Ok(Attrs::from(&file.metadata()?)),
            Open::Dir(dir) => Ok(Attrs::from(&fs::metadata(&dir.path)?)),
        }
    }

    pub(super) fn setstat(&self, path: &Path, attrs: &Attrs) -> Result<(), Failure> {
        if let Some(size) = attrs.size {
            OpenOptions::new().write(true).open(path)?.set_len(size)?;
        }
        if let Some((user, group)) = attrs.owner {
            std::os::unix::fs::chown(path, Some(user), Some(group))?;
        }
        if let Some(mode) = attrs.permissions() {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        if let Some((accessed, modified)) = attrs.times {
            let follow = UtimensatFlags::FollowSymlink;
            let at = nix::fcntl::AT_FDCWD;
            utimensat(at, path, &time(accessed), &time(modified), follow)?;
        }
        Ok(())
    }

    pub(super) fn fsetstat(&mut self, handle: &[u8], attrs: &Attrs) -> Result<(), Failure> {
        let file = match self.get(handle)? {
            Open::File(file) => &*file,
            Open::Dir(dir) => {
                let path = dir.path.clone();
                return self.setstat(&path, attrs);
            }
        };
        if let Some(size) = attrs.size {
            file.set_len(size)?;
        }
        if let Some((user, group)) = attrs.owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            nix::unistd::fchown(file, Some(user), Some(group))?;
        }
        if let Some(mode) = attrs.permissions() {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        if let Some((accessed, modified)) = attrs.times {
            futimens(file, &time(accessed), &time(modified))?;
        }
        Ok(())
    }

    pub(super) fn mkdir(&self, path: &Path, attrs: &Attrs) -> Result<(), Failure> {
        let mode = attrs.permissions().unwrap_or(0o777);
        Ok(DirBuilder::new().mode(mode).create(path)?)
    }

    /// A file, never a directory: that is what the protocol says.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Failure> {
        Ok(fs::remove_file(path)?)
    }

    /// The rename of version 3, which replaces nothing.
    pub(super) fn rename_new(&self, from: &Path, to: &Path) -> Result<(), Failure> {
        match fs::symlink_metadata(to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(fs::rename(from, to)?),
            Ok(_) => Err(io::Error::from(io::ErrorKind::AlreadyExists).into()),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn symlink(&self, target: &[u8], link: &Path) -> Result<(), Failure> {
        Ok(std::os::unix::fs::symlink(OsStr::from_bytes(target), link)?)
    }

    pub(super) fn read_link(&self, path: &Path) -> Result<PathBuf, Failure> {
        Ok(fs::read_link(path)?)
    }

    /// The absolute path without symbolic links and dots. The last part need
    /// not be there: clients ask before they create.
    pub(super) fn real_path(&self, path: &Path) -> Result<PathBuf, Failure> {
        match fs::canonicalize(path) {
            Ok(real) => Ok(real),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(plain(path)),
            Err(e) => Err(e.into()),
        }
    }
}

/// A handle is a number as text: some clients take handles for text.
fn number(handle: &[u8]) -> Result<u32, Failure> {
    std::str::from_utf8(handle)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Failure::BadHandle)
}

/// The path with its dots worked out as text.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

fn time(seconds: u32) -> TimeSpec {
    TimeSpec::new(i64::from(seconds), 0)
}
