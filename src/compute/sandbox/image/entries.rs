//! The entries of a tar archive, one after the other, with bounded memory.
//!
//! The crate `tar` reads headers and keeps the place. Long names and pax
//! headers are read here: the crate would take their size on trust, and it
//! splits pax records at newlines, which binary values have.

use std::io::{self, Read};

use super::budget::{Metered, UnpackError, read_error, shown};

/// Largest long name or pax header, in bytes. Extended attributes may fill one.
const MAX_EXTRA: u64 = 1024 * 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// An entry with everything that its headers say.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    /// Path as written, not checked.
    pub(super) path: Vec<u8>,
    /// Target of a link as written, not checked.
    pub(super) link: Vec<u8>,
    /// Permissions with setuid, setgid and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Unix seconds.
    pub(super) mtime: i64,
    /// Bytes that follow.
    pub(super) size: u64,
}

/// Calls `each` for every entry, reads to the very end (so that checksums of
/// the compression are checked) and says how much the reader has left.
pub(super) fn walk<R: Read>(
    reader: Metered<R>,
    mut each: impl FnMut(&Item, &mut dyn Read) -> Result<(), UnpackError>,
) -> Result<u64, UnpackError> {
    let mut archive = tar::Archive::new(reader);
    let mut extra = Extra::default();
    for entry in archive.entries().map_err(read_error)?.raw(true) {
        let mut entry = entry.map_err(read_error)?;
        match entry.header().entry_type().as_byte() {
            b'L' => extra.long_path = Some(read_text(&mut entry)?),
            b'K' => extra.long_link = Some(read_text(&mut entry)?),
            b'x' => extra.read_pax(&read_extra(&mut entry)?)?,
            // Defaults for all that follows: comments, in practice.
            b'g' => {}
            _ => {
                let item = Item::new(&entry, std::mem::take(&mut extra))?;
                each(&item, &mut entry)?;
            }
        }
    }
    if !extra.is_empty() {
        return Err(bad("a layer ends after a header that announces a file"));
    }
    let mut reader = archive.into_inner();
    io::copy(&mut reader, &mut io::sink()).map_err(read_error)?;
    Ok(reader.left())
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    size: Option<u64>,
    seen_pax: bool,
}

impl Extra {
    fn is_empty(&self) -> bool {
        !self.seen_pax && self.long_path.is_none() && self.long_link.is_none()
    }

    /// Records of the form `length key=value\n` (pax(1), "pax Extended Header").
    fn read_pax(&mut self, mut data: &[u8]) -> Result<(), UnpackError> {
        let broken = || bad("a layer has a broken pax header");
        self.seen_pax = true;
        while !data.is_empty() {
            let (record, rest) = split_record(data).ok_or_else(broken)?;
            data = rest;
            let at = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            let (key, value) = record.split_at_checked(at).ok_or_else(broken)?;
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.uid = Some(number(value).ok_or_else(broken)?),
                b"gid" => self.gid = Some(number(value).ok_or_else(broken)?),
                b"size" => self.size = Some(number(value).ok_or_else(broken)?),
                _ if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The first record without its length and newline, and what follows it.
fn split_record(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = data.iter().take(21).position(|b| *b == b' ')?;
    let length = usize::try_from(number(data.get(..space)?)?).ok()?;
    let (record, rest) = data.split_at_checked(length)?;
    let record = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    Some((record, rest))
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

impl Item {
    fn new<R: Read>(entry: &tar::Entry<'_, R>, extra: Extra) -> Result<Self, UnpackError> {
        let header = entry.header();
        let path = extra.path.or(extra.long_path);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extra.link.or(extra.long_link);
        let link = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into());
        let kind = kind(header.entry_type().as_byte(), &path)?;
        let size = entry.size();
        if extra.size.is_some_and(|said| said != size) {
            return Err(bad(format!("{} is too large a file", shown(&path))));
        }
        let id = |pax: Option<u64>, plain: io::Result<u64>| {
            let id = pax
                .map_or(plain, Ok)
                .ok()
                .and_then(|id| u32::try_from(id).ok());
            id.filter(|id| *id != u32::MAX)
                .ok_or_else(|| bad(format!("{} belongs to nobody", shown(&path))))
        };
        let uid = id(extra.uid, header.uid())?;
        let gid = id(extra.gid, header.gid())?;
        let mode = header.mode().map_err(read_error)? & 0o7777;
        let mtime = header.mtime().ok().and_then(|secs| secs.try_into().ok());
        Ok(Self {
            kind,
            link,
            mode,
            uid,
            gid,
            mtime: mtime.unwrap_or_default(),
            size,
            path,
        })
    }
}

fn kind(byte: u8, path: &[u8]) -> Result<Kind, UnpackError> {
    Ok(match byte {
        // Before POSIX a directory was a file whose name ends with a slash.
        0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        b'S' => return Err(sparse()),
        other => {
            let path = shown(path);
            return Err(bad(format!("{path} is of the unknown kind {other:#04x}")));
        }
    })
}

/// A long name: ends at the first NUL, as tar(5) has it.
fn read_text(entry: &mut impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut text = read_extra(entry)?;
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

fn read_extra(entry: &mut impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut data = Vec::new();
    let read = entry.take(MAX_EXTRA + 1).read_to_end(&mut data);
    match read.map_err(read_error)? as u64 {
        0..=MAX_EXTRA => Ok(data),
        _ => Err(bad("a layer has a header of more than 1 MiB")),
    }
}

fn sparse() -> UnpackError {
    bad("a layer has a sparse file, which is not supported")
}

pub(super) fn bad(text: impl Into<String>) -> UnpackError {
    UnpackError::Bad(text.into())
}
