//! An SFTP server, version 3 (draft-ietf-secsh-filexfer-02, with the
//! extensions of OpenSSH's PROTOCOL file that clients ask for), so that files
//! can be copied into a workload whose image has none.
//!
//! It runs inside the workload, with the rights of the workload's root: a
//! blocking loop over plain file calls, one request at a time, no threads.
//! What it opens and how much it holds in memory is bounded.

mod attrs;
mod files;
#[cfg(test)]
mod tests;
mod wire;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use files::{Failure, Files};
use wire::{Body, Fields};

/// Bytes in a packet at most, without its length field; as OpenSSH's server.
pub const MAX_PACKET: usize = 256 * 1024;

/// Bytes of content in one packet: the packet less room for its other fields.
const MAX_DATA: usize = MAX_PACKET - 1024;

/// The version of the protocol.
const VERSION: u32 = 3;

mod request {
    pub(super) const INIT: u8 = 1;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const REALPATH: u8 = 16;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const EXTENDED: u8 = 200;
}

mod reply {
    pub(super) const VERSION: u8 = 2;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED: u8 = 201;
}

/// Names and versions of extensions that are announced.
const EXTENSIONS: [(&str, &str); 5] = [
    ("posix-rename@openssh.com", "1"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// Serves standard input and output until the client ends. Relative paths
/// start at `home`.
///
/// # Errors
/// Standard input or output broke, or the client does not speak SFTP.
pub fn serve_stdio(home: &Path) -> io::Result<()> {
    // Not std's own: they buffer and lock, and this may be a forked process.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    serve_at(input, output, home)
}

/// Serves a client on these streams until it ends. Relative paths start at
/// `$HOME`, or at `/` without one.
///
/// # Errors
/// A stream broke, or the client does not speak SFTP.
pub fn serve<R: Read, W: Write>(reader: R, writer: W) -> io::Result<()> {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    serve_at(reader, writer, &home)
}

/// Serves a client on these streams until it ends. Relative paths start at `home`.
///
/// # Errors
/// A stream broke, or the client does not speak SFTP.
pub fn serve_at<R: Read, W: Write>(reader: R, mut writer: W, home: &Path) -> io::Result<()> {
    let mut reader = io::BufReader::with_capacity(64 * 1024, reader);
    let mut files = Files::new(home);
    let mut packet = Vec::new();
    while wire::read_packet(&mut reader, &mut packet, MAX_PACKET)? {
        let answer = answer(&mut files, &packet)?;
        writer.write_all(&answer.finish())?;
        writer.flush()?;
    }
    Ok(())
}

/// The answer to one packet. An error is a client that does not speak SFTP.
fn answer(files: &mut Files, packet: &[u8]) -> io::Result<Body> {
    let mut fields = Fields::new(packet);
    let kind = fields.u8()?;
    // The version that the client offers does not matter: 3 is what all have.
    let number = fields.u32()?;
    if kind == request::INIT {
        let mut body = Body::new(reply::VERSION).u32(VERSION);
        for (name, version) in EXTENSIONS {
            body = body.text(name).text(version);
        }
        return Ok(body);
    }
    Ok(match handle(files, kind, number, &mut fields) {
        Ok(body) => body,
        Err(failure) => status(number, &failure),
    })
}

fn status(number: u32, failure: &Failure) -> Body {
    Body::new(reply::STATUS)
        .u32(number)
        .u32(failure.code())
        .text(&failure.to_string())
        .text("en")
}

fn handle(
    files: &mut Files,
    kind: u8,
    number: u32,
    fields: &mut Fields<'_>,
) -> Result<Body, Failure> {
    let body = |kind| Body::new(kind).u32(number);
    match kind {
        request::OPEN => {
            let (path, flags) = (files.path(fields.bytes()?), fields.u32()?);
            let handle = files.open(&path, flags, &fields.attrs()?)?;
            Ok(body(reply::HANDLE).text(&handle))
        }
        request::OPENDIR => {
            let handle = files.open_dir(&files.path(fields.bytes()?))?;
            Ok(body(reply::HANDLE).text(&handle))
        }
        request::READ => {
            let (handle, offset, length) = (fields.bytes()?, fields.u64()?, fields.u32()?);
            let length = usize::try_from(length).unwrap_or(MAX_DATA).min(MAX_DATA);
            Ok(body(reply::DATA).bytes(&files.read(handle, offset, length)?))
        }
        request::READDIR => {
            let entries = files.read_dir(fields.bytes()?)?;
            let count = u32::try_from(entries.len()).unwrap_or(0);
            let start = body(reply::NAME).u32(count);
            Ok(entries.iter().fold(start, |body, entry| {
                body.bytes(&entry.name)
                    .bytes(&entry.long_name())
                    .attrs(&entry.attrs)
            }))
        }
        request::STAT => {
            let path = files.path(fields.bytes()?);
            Ok(body(reply::ATTRS).attrs(&files.stat(&path)?))
        }
        request::LSTAT => {
            let path = files.path(fields.bytes()?);
            Ok(body(reply::ATTRS).attrs(&files.lstat(&path)?))
        }
        request::FSTAT => Ok(body(reply::ATTRS).attrs(&files.fstat(fields.bytes()?)?)),
        request::REALPATH => {
            let path = files.real_path(&files.path(fields.bytes()?))?;
            Ok(one_name(number, &path))
        }
        request::READLINK => {
            let target = files.read_link(&files.path(fields.bytes()?))?;
            Ok(one_name(number, &target))
        }
        request::EXTENDED => extended(files, number, fields),
        _ => change(files, kind, fields).map(|()| status(number, &Failure::Ok)),
    }
}

/// Requests that are answered by a status and nothing else.
fn change(files: &mut Files, kind: u8, fields: &mut Fields<'_>) -> Result<(), Failure> {
    if matches!(kind, request::CLOSE | request::WRITE | request::FSETSTAT) {
        let handle = fields.bytes()?;
        return match kind {
            request::CLOSE => files.close(handle),
            request::WRITE => files.write(handle, fields.u64()?, fields.bytes()?),
            _ => files.fsetstat(handle, &fields.attrs()?),
        };
    }
    let first = fields.bytes();
    let path = |files: &Files, bytes| files.path(bytes);
    match kind {
        request::SETSTAT => files.setstat(&path(files, first?), &fields.attrs()?),
        request::MKDIR => files.mkdir(&path(files, first?), &fields.attrs()?),
        request::RMDIR => Ok(std::fs::remove_dir(path(files, first?))?),
        request::REMOVE => files.remove(&path(files, first?)),
        request::RENAME => {
            let (from, to) = (path(files, first?), path(files, fields.bytes()?));
            files.rename_new(&from, &to)
        }
        // The draft says link, then target; OpenSSH sends target, then link,
        // and everyone follows it (PROTOCOL, section 4.1).
        request::SYMLINK => files.symlink(first?, &path(files, fields.bytes()?)),
        _ => Err(Failure::Unsupported),
    }
}

fn extended(files: &mut Files, number: u32, fields: &mut Fields<'_>) -> Result<Body, Failure> {
    let ok = || status(number, &Failure::Ok);
    match fields.bytes()? {
        b"posix-rename@openssh.com" => {
            let (from, to) = (files.path(fields.bytes()?), files.path(fields.bytes()?));
            std::fs::rename(from, to)?;
            Ok(ok())
        }
        b"hardlink@openssh.com" => {
            let (from, to) = (files.path(fields.bytes()?), files.path(fields.bytes()?));
            std::fs::hard_link(from, to)?;
            Ok(ok())
        }
        b"fsync@openssh.com" => {
            files.sync(fields.bytes()?)?;
            Ok(ok())
        }
        b"expand-path@openssh.com" => {
            let path = files.real_path(&files.expand(fields.bytes()?))?;
            Ok(one_name(number, &path))
        }
        b"limits@openssh.com" => Ok(Body::new(reply::EXTENDED)
            .u32(number)
            .u64(MAX_PACKET as u64)
            .u64(MAX_DATA as u64)
            .u64(MAX_DATA as u64)
            .u64(files::MAX_HANDLES as u64)),
        _ => Err(Failure::Unsupported),
    }
}

fn one_name(number: u32, path: &Path) -> Body {
    let bytes = path.as_os_str().as_encoded_bytes();
    Body::new(reply::NAME)
        .u32(number)
        .u32(1)
        .bytes(bytes)
        .bytes(bytes)
        .attrs(&attrs::Attrs::default())
}
