//! Layers onto a directory (OCI image specification, "Image Layer Filesystem
//! Changeset").

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, futimens, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, linkat, symlinkat};

use super::budget::{Budget, UnpackError, read_error, shown};
use super::entries::{self, Item, Kind, bad};
use super::tree::{Place, Tree, create, failed, is_dir, is_linkable, own, same};

/// Longest path or link target, in bytes (`PATH_MAX` without its NUL).
const MAX_PATH: usize = 4095;
/// Longest name, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// Bytes copied at once.
const COPY: usize = 64 * 1024;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that AUFS kept for itself and some old images carry.
const AUFS: &[u8] = b".wh..wh.";

/// Puts one layer, a tar archive that may be compressed with gzip or zstd, on
/// the directory `root`, which nobody else may change meanwhile. Nothing
/// outside `root` is read or written, whatever the archive says.
///
/// Whiteouts are applied. Devices and extended attributes are left out. As
/// root, owners and all mode bits are kept; as another user everything is
/// ours, without setuid and setgid, and readable and writable by us, so that it
/// can be changed and removed again. After an error `root` is in no good state.
///
/// # Errors
/// A broken or harmful archive, one over the `budget`, or the disk's own.
pub fn unpack_layer(
    reader: impl Read,
    root: &Path,
    budget: &mut Budget,
) -> Result<(), UnpackError> {
    let reader = budget.meter(decompress(reader)?);
    let mut layer = Layer {
        tree: Tree::open(root)?,
        budget,
    };
    let left = entries::walk(reader, |item, data| layer.apply(item, data))?;
    budget.settle(left);
    Ok(())
}

/// What the first bytes say it is; media types are often wrong about that.
pub(super) fn decompress<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, UnpackError> {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let start = reader.fill_buf().map_err(read_error)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        // Several members one after the other are one stream (RFC 1952, 2.2).
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    // A frame, or one of those to be skipped that may come first (RFC 8878, 3.1).
    let skip = matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if skip || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(reader);
        return Ok(Box::new(decoder.map_err(read_error)?));
    }
    Ok(Box::new(reader))
}

/// The components of a path in an archive; an absolute one counts from the root.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let refuse = |why: &str| Err(bad(format!("the path {} {why}", shown(path))));
    if path.len() > MAX_PATH {
        return refuse("is too long");
    }
    if path.contains(&0) {
        return refuse("has a NUL");
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("has '..'"),
            _ if part.len() > MAX_NAME => return refuse("has too long a name"),
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

struct Layer<'b> {
    tree: Tree,
    budget: &'b mut Budget,
}

impl Layer<'_> {
    fn apply(&mut self, item: &Item, data: &mut dyn Read) -> Result<(), UnpackError> {
        self.budget.take_file()?;
        let path = components(&item.path)?;
        let Some((name, parents)) = path.split_last() else {
            return self.apply_root(item);
        };
        if path
            .iter()
            .any(|part| part.starts_with(AUFS) && *part != OPAQUE)
        {
            return Ok(());
        }
        if parents.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(bad(format!("{} is below a whiteout", shown(&item.path))));
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(parents, name);
        }
        if item.kind == Kind::Device {
            return Ok(());
        }
        let Some(at) = self.tree.walk(parents, Some(self.budget))? else {
            return Err(bad(format!("{} has no directory", shown(&item.path))));
        };
        match item.kind {
            Kind::Dir => self.dir(&at, name, item),
            Kind::File => self.file(&at, name, item, data),
            Kind::Symlink => self.symlink(&at, name, item),
            Kind::HardLink => self.hard_link(at, name, item),
            Kind::Fifo => self.fifo(&at, name, item),
            Kind::Device => Ok(()),
        }
    }

    /// The entry `./`: mode and owner of the root itself.
    fn apply_root(&mut self, item: &Item) -> Result<(), UnpackError> {
        if item.kind != Kind::Dir {
            return Err(bad("a layer replaces the root directory by a file"));
        }
        let root = self.tree.root();
        if self.tree.keep_owner {
            let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
            fchown(root, Some(uid), Some(gid)).map_err(failed(b"/"))?;
        }
        fchmod(root, self.mode(item)).map_err(failed(b"/"))
    }

    fn whiteout(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), UnpackError> {
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
        let opaque = name == OPAQUE;
        if !opaque && matches!(hidden, b"" | b"." | b"..") {
            return Err(bad("a layer has a whiteout of no name"));
        }
        let Some(at) = self.tree.walk(parents, None)? else {
            return Ok(());
        };
        if opaque {
            self.tree.hide_all(&at)
        } else {
            self.tree.hide(&at, hidden)
        }
    }

    fn dir(&mut self, at: &Place, name: &[u8], item: &Item) -> Result<(), UnpackError> {
        let os = OsStr::from_bytes(name);
        if !is_dir(at, name)? {
            self.tree.remove(at, name)?;
            mkdirat(&at.fd, os, Mode::from_bits_truncate(0o700)).map_err(failed(name))?;
        }
        self.tree.note(at, name);
        self.own(at, name, item)?;
        fchmodat(&at.fd, os, self.mode(item), FchmodatFlags::FollowSymlink).map_err(failed(name))
    }

    fn file(
        &mut self,
        at: &Place,
        name: &[u8],
        item: &Item,
        data: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        // Refused before the first byte is written.
        self.budget.take_bytes(item.size)?;
        self.tree.remove(at, name)?;
        let mut file = create(at, name)?;
        copy(data, &mut file, item)?;
        if self.tree.keep_owner {
            let (uid, gid) = (Uid::from_raw(item.uid), Gid::from_raw(item.gid));
            fchown(&file, Some(uid), Some(gid)).map_err(failed(name))?;
        }
        // After the owner: giving a file away takes its setuid bit.
        fchmod(&file, self.mode(item)).map_err(failed(name))?;
        let when = TimeSpec::new(item.mtime, 0);
        // A stamp that the file system cannot keep is no reason to refuse an image.
        let _ = futimens(&file, &when, &when);
        self.tree.note(at, name);
        Ok(())
    }

    /// The target is kept as it is: it means something only inside.
    fn symlink(&mut self, at: &Place, name: &[u8], item: &Item) -> Result<(), UnpackError> {
        let target = item.link.as_slice();
        if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
            let path = shown(&item.path);
            return Err(bad(format!("the link {path} has no good target")));
        }
        self.tree.remove(at, name)?;
        symlinkat(OsStr::from_bytes(target), &at.fd, OsStr::from_bytes(name))
            .map_err(failed(name))?;
        self.tree.note(at, name);
        self.own(at, name, item)
    }

    fn hard_link(&mut self, at: Rc<Place>, name: &[u8], item: &Item) -> Result<(), UnpackError> {
        let path = components(&item.link)?;
        let no_target = || {
            let (path, link) = (shown(&item.path), shown(&item.link));
            bad(format!(
                "{path} links to {link}, which is not a file of the image"
            ))
        };
        let (target, parents) = path.split_last().ok_or_else(no_target)?;
        let from = self.tree.walk(parents, None)?.ok_or_else(no_target)?;
        if !is_linkable(&from, target)? {
            return Err(no_target());
        }
        if same(&from, target, &at, name) {
            return Ok(());
        }
        self.tree.remove(&at, name)?;
        let (old, new) = (OsStr::from_bytes(target), OsStr::from_bytes(name));
        match linkat(&from.fd, old, &at.fd, new, AtFlags::empty()) {
            Ok(()) => {}
            Err(nix::errno::Errno::ENOENT) => return Err(no_target()),
            Err(error) => return Err(failed(name)(error)),
        }
        self.tree.note(&at, name);
        Ok(())
    }

    fn fifo(&mut self, at: &Place, name: &[u8], item: &Item) -> Result<(), UnpackError> {
        self.tree.remove(at, name)?;
        let os = OsStr::from_bytes(name);
        let mode = Mode::from_bits_truncate(0o600);
        mknodat(&at.fd, os, SFlag::S_IFIFO, mode, 0).map_err(failed(name))?;
        self.tree.note(at, name);
        self.own(at, name, item)?;
        fchmodat(&at.fd, os, self.mode(item), FchmodatFlags::FollowSymlink).map_err(failed(name))
    }

    fn own(&self, at: &Place, name: &[u8], item: &Item) -> Result<(), UnpackError> {
        if self.tree.keep_owner {
            own(at, name, item.uid, item.gid)?;
        }
        Ok(())
    }

    fn mode(&self, item: &Item) -> Mode {
        let mode = if self.tree.keep_owner {
            item.mode
        } else if item.kind == Kind::Dir {
            item.mode & 0o1777 | 0o700
        } else {
            item.mode & 0o777 | 0o600
        };
        Mode::from_bits_truncate(mode)
    }
}

/// Exactly the bytes that the header announced.
pub(super) fn copy(data: &mut dyn Read, file: &mut File, item: &Item) -> Result<(), UnpackError> {
    let mut left = item.size;
    let mut buffer = vec![0; usize::try_from(left).map_or(COPY, |left| left.clamp(1, COPY))];
    loop {
        let read = data.read(&mut buffer).map_err(read_error)?;
        let piece = buffer.get(..read).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        let path = || shown(&item.path);
        left = left
            .checked_sub(read as u64)
            .ok_or_else(|| bad(format!("{} is longer than announced", path())))?;
        file.write_all(piece).map_err(|source| UnpackError::Io {
            path: path(),
            source,
        })?;
    }
    if left > 0 {
        let path = shown(&item.path);
        return Err(bad(format!("a layer is broken: it ends within {path}")));
    }
    Ok(())
}
