//! Attributes of a file (section 5), and the line that `ls -l` shows.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

pub(super) const SIZE: u32 = 1;
pub(super) const UIDGID: u32 = 2;
pub(super) const PERMISSIONS: u32 = 4;
pub(super) const ACMODTIME: u32 = 8;
pub(super) const EXTENDED: u32 = 0x8000_0000;

/// What is known, or to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attrs {
    /// Bytes.
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    /// File type and permissions, as in `st_mode`.
    pub(super) mode: Option<u32>,
    /// Access and modification, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

impl Attrs {
    pub(super) fn flags(&self) -> u32 {
        let flag = |known: bool, flag| if known { flag } else { 0 };
        flag(self.size.is_some(), SIZE)
            | flag(self.owner.is_some(), UIDGID)
            | flag(self.mode.is_some(), PERMISSIONS)
            | flag(self.times.is_some(), ACMODTIME)
    }

    /// Permissions alone.
    pub(super) fn permissions(&self) -> Option<u32> {
        self.mode.map(|mode| mode & 0o7777)
    }
}

impl From<&Metadata> for Attrs {
    fn from(meta: &Metadata) -> Self {
        // The protocol has 32 bits for a time; it ends in 2106.
        let time = |seconds: i64| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
        Self {
            size: Some(meta.size()),
            owner: Some((meta.uid(), meta.gid())),
            mode: Some(meta.mode()),
            times: Some((time(meta.atime()), time(meta.mtime()))),
        }
    }
}

/// A name in a directory.
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) attrs: Attrs,
}

impl Entry {
    /// A line as `ls -l` prints it; users and groups as numbers.
    pub(super) fn long_name(&self) -> Vec<u8> {
        let (user, group) = self.attrs.owner.unwrap_or_default();
        let (_, modified) = self.attrs.times.unwrap_or_default();
        let when = chrono::DateTime::from_timestamp(i64::from(modified), 0)
            .map(|time| time.format("%b %e  %Y").to_string())
            .unwrap_or_default();
        let mode = mode_text(self.attrs.mode.unwrap_or_default());
        let size = self.attrs.size.unwrap_or_default();
        let mut line = format!("{mode} ? {user:<8} {group:<8} {size:>8} {when} ").into_bytes();
        line.extend_from_slice(&self.name);
        line
    }
}

fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o060_000 => 'b',
        0o020_000 => 'c',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let bits = (0..9).rev().zip("rwxrwxrwx".chars());
    let shown = bits.map(|(bit, letter)| if mode >> bit & 1 == 1 { letter } else { '-' });
    std::iter::once(kind).chain(shown).collect()
}
