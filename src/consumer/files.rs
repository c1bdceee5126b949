//! Files that only the owner may read, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest file of ours that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Makes a directory (and those above it) for the owner alone; one that is
/// there and open to others is closed to them.
///
/// # Errors
/// What the file system says.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Writes a file (0600) so that after a crash there is the old content or the
/// new, never a part: temporary file, fsync, rename, fsync of the directory.
///
/// # Errors
/// What the file system says; the old content is still there.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    // tempfile makes it 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

/// Makes a file (0600) with this content unless there is one; `false` if there was.
///
/// # Errors
/// What the file system says.
pub fn create_private(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(dir)?.sync_all().map(|()| true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Reads a file of at most 1 MiB; `None` where there is none.
///
/// # Errors
/// What the file system says; too large; not UTF-8.
pub fn read_text(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(io::Error::other(format!("{} is too large", path.display())));
    }
    Ok(Some(text))
}

/// Reads a JSON file; `None` where there is none.
///
/// # Errors
/// As [`read_text`]; not the JSON that is expected.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// Writes a JSON file as [`write_private`] does.
///
/// # Errors
/// What the file system says.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write_private(path, &bytes)
}

/// Holds a file lock (flock(2)) until it is dropped or the process ends.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn attempt(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Takes the lock, waiting at most `limit`; `None` if it was not to be had.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn within(path: &Path, limit: Duration) -> io::Result<Option<Self>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(lock) = Self::attempt(path)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            // Another process has it: flock(2) has no notification that can be
            // given up, so it is tried again.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
