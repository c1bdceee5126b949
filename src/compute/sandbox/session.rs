//! A command that runs inside: the daemon's side.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::client::Helper;
use super::seats::Seat;
use super::sys;
use super::wire::{EnterControl, Reply};
use crate::compute::{BackendError, ExecControl, ExecSession, ExitStatus, TtySize};

/// How long a helper has to end a command whose session was dropped.
const HANG_UP: Duration = Duration::from_secs(5);
/// Control messages that may wait.
const CONTROLS: usize = 16;

/// Makes the session of a helper that has started its command.
pub(super) fn open(mut helper: Helper, fds: Vec<OwnedFd>, seat: Seat) -> io::Result<ExecSession> {
    helper.let_go();
    let mut fds = fds.into_iter();
    let first = fds.next().ok_or_else(|| io::Error::other("no streams"))?;
    let (control_in, control) = mpsc::channel(CONTROLS);
    let (exit_in, exit) = oneshot::channel();
    let mut terminal = None;
    let (stdin, stdout, stderr): (_, crate::compute::BoxRead, Option<crate::compute::BoxRead>) =
        match (fds.next(), fds.next()) {
            (Some(second), Some(third)) => (
                Box::new(pipe::Sender::from_owned_fd(first)?) as crate::compute::BoxWrite,
                Box::new(pipe::Receiver::from_owned_fd(second)?),
                Some(Box::new(pipe::Receiver::from_owned_fd(third)?)),
            ),
            _ => {
                terminal = Some(first.try_clone()?);
                (
                    Box::new(Terminal::new(first.try_clone()?)?),
                    Box::new(Terminal::new(first)?),
                    None,
                )
            }
        };
    tokio::spawn(async move {
        attend(helper, control, exit_in, terminal).await;
        drop(seat);
    });
    Ok(ExecSession {
        stdin,
        stdout,
        stderr,
        control: control_in,
        exit,
    })
}

/// Until the command has ended or its session was dropped.
async fn attend(
    mut helper: Helper,
    mut control: mpsc::Receiver<ExecControl>,
    mut exit: oneshot::Sender<Result<ExitStatus, BackendError>>,
    terminal: Option<OwnedFd>,
) {
    let mut told = true;
    loop {
        tokio::select! {
            reply = helper.next() => {
                let _ = exit.send(status(reply));
                return;
            }
            word = control.recv(), if told => match word {
                Some(word) => pass_on(&mut helper, terminal.as_ref(), word).await,
                None => told = false,
            },
            () = exit.closed(), if !told => {
                drop(terminal);
                helper.hang_up(HANG_UP).await;
                return;
            }
        }
    }
}

fn status(reply: io::Result<Option<(Reply, Vec<OwnedFd>)>>) -> Result<ExitStatus, BackendError> {
    match reply {
        Ok(Some((
            Reply::Ended {
                code: Some(code), ..
            },
            _,
        ))) => Ok(ExitStatus::Code(code)),
        Ok(Some((
            Reply::Ended {
                signal: Some(signal),
                ..
            },
            _,
        ))) => Ok(ExitStatus::Signal(signal)),
        _ => Err(BackendError::OutcomeUnknown(
            "the sandbox helper ended before its command".to_owned(),
        )),
    }
}

/// A resize of a terminal is done here; a session without one has no size.
async fn pass_on(helper: &mut Helper, terminal: Option<&OwnedFd>, word: ExecControl) {
    match (word, terminal) {
        (ExecControl::Resize(TtySize { cols, rows }), Some(terminal)) => {
            let _ = sys::set_winsize(terminal.as_fd(), cols.max(1), rows.max(1));
        }
        (ExecControl::Resize(_), None) => {}
        (ExecControl::Signal(number), _) => {
            let _ = helper.tell(&EnterControl::Signal(number)).await;
        }
    }
}

/// The master side of a terminal.
struct Terminal {
    fd: AsyncFd<OwnedFd>,
}

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(nix::fcntl::fcntl(&fd, FcntlArg::F_GETFL)?);
        nix::fcntl::fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            fd: sys::watch(
                fd,
                tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE,
            )?,
        })
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let read = guard.try_io(|fd| {
                nix::unistd::read(fd.get_ref(), buf.initialize_unfilled()).map_err(io::Error::from)
            });
            match read {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The last user of the other side is gone: that is the end.
                Ok(Err(err)) if err.raw_os_error() == Some(nix::libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(err)) if err.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(err)) => return Poll::Ready(Err(err)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            let written =
                guard.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(io::Error::from));
            match written {
                Ok(Err(err)) if err.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal has no half-close: the end-of-file character says it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        const END_OF_TRANSMISSION: &[u8] = &[4];
        self.poll_write(cx, END_OF_TRANSMISSION).map_ok(drop)
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal")
            .field("fd", &self.fd.as_raw_fd())
            .finish()
    }
}
