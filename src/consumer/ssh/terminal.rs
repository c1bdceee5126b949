//! This process's terminal: raw while a command has it, and its size.
#![expect(
    unsafe_code,
    reason = "nix has the size of a terminal only as an ioctl"
)]

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Tty;

mod ioctl {
    nix::ioctl_read_bad!(
        /// `TIOCGWINSZ`, see ioctl_tty(2).
        window_size,
        nix::libc::TIOCGWINSZ,
        nix::libc::winsize
    );
}

/// Puts the terminal back as it was when dropped.
pub(super) struct Raw(Option<Termios>);

/// Switches standard input to raw mode, where it is a terminal. The terminal's
/// size is followed for as long as the [`Tty`] is held.
///
/// # Errors
/// The terminal refuses.
pub(super) fn raw() -> io::Result<(Raw, Tty)> {
    let (sender, receiver) = watch::channel(size());
    let mut changes = signal(SignalKind::window_change())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                change = changes.recv() => if change.is_none() { return },
            }
            sender.send_replace(size());
        }
    });
    let tty = Tty {
        term: std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()),
        size: receiver,
    };
    let Ok(before) = tcgetattr(io::stdin()) else {
        // Not a terminal: a terminal over there all the same.
        return Ok((Raw(None), tty));
    };
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
    Ok((Raw(Some(before)), tty))
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // There is nobody left to tell.
            let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Columns and rows; 80 and 24 where there is no terminal.
fn size() -> (u16, u16) {
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the call fills the structure it is given and keeps no pointer.
    let known = unsafe { ioctl::window_size(io::stdin().as_raw_fd(), &raw mut size) };
    match (known, size.ws_col, size.ws_row) {
        (Ok(_), 1.., 1..) => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}
