//! The helper's side of the socket to the daemon: lines of JSON, and
//! descriptors that travel with one (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags};

use super::wire::{MAX_LINE, Reply};

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Channel {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            stream: UnixStream::from(fd),
            pending: Vec::new(),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.stream.as_fd()
    }

    /// The next line; `None` at the end.
    pub(super) fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.buffered_line() {
                return Ok(Some(line));
            }
            if self.pending.len() > MAX_LINE {
                return Err(io::Error::other("line too long"));
            }
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => self
                    .pending
                    .extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// A line that is here already.
    pub(super) fn buffered_line(&mut self) -> Option<Vec<u8>> {
        let end = self.pending.iter().position(|byte| *byte == b'\n')?;
        let rest = self.pending.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.pending, rest);
        line.pop();
        Some(line)
    }

    /// Sends an answer, and descriptors with it.
    pub(super) fn send(&self, reply: &Reply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply).map_err(io::Error::other)?;
        line.push(b'\n');
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let mut control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            let sent = nix::sys::socket::sendmsg::<()>(
                self.stream.as_raw_fd(),
                &[IoSlice::new(rest)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            )?;
            rest = rest.get(sent..).unwrap_or_default();
            control = &[];
        }
        Ok(())
    }
}
