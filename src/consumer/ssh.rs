//! The built-in SSH client: enters a lease where there is no system `ssh`, and
//! is what `exec`, `cp` and the demo are made of. The host key is the one the
//! provider published; no other is accepted.

mod client;
mod copy;
mod forward;
mod terminal;

use std::path::PathBuf;

use russh::keys::PrivateKey;
use tokio::io::AsyncWrite;

pub use client::{Input, SshClient, Tty, host_key};
pub use forward::Forward;

/// Where a lease is entered.
#[derive(Clone, Debug)]
pub struct SshTarget {
    /// Name or address of the gateway.
    pub host: String,
    /// TCP port of the gateway.
    pub port: u16,
    /// User name at the gateway: the lease id.
    pub user: String,
    /// The only host key that is accepted, as `ssh-ed25519 AAAA…` (a comment
    /// behind it does not matter).
    pub host_key: String,
    /// What opens the lease.
    pub key: SshKey,
}

/// A private SSH key, or a password where there is none.
#[derive(Clone)]
pub enum SshKey {
    /// A file in OpenSSH's format, without a passphrase.
    File(PathBuf),
    /// The key itself.
    Key(Box<PrivateKey>),
    /// A password: only older providers' hosts ask for one.
    Password(Box<str>),
}

impl std::fmt::Debug for SshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Key(_) => f.write_str("Key(…)"),
            Self::Password(_) => f.write_str("Password(…)"),
        }
    }
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyPath {
    /// A path on this machine.
    Local(PathBuf),
    /// A path in the workload; relative ones start at its home directory.
    Remote(String),
}

/// Why an SSH operation did not work.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The host key in [`SshTarget`] cannot be read.
    #[error("the provider's host key is malformed")]
    BadHostKey,
    /// The private key cannot be read.
    #[error("the SSH key cannot be read: {0}")]
    BadKey(String),
    /// The gateway was not reached, or not in time.
    #[error("cannot connect to {host}:{port}: {why}")]
    Connect {
        /// Name or address that was tried.
        host: String,
        /// Port that was tried.
        port: u16,
        /// What went wrong.
        why: String,
    },
    /// The gateway showed another host key than the provider published.
    #[error("the gateway's host key is not the one the provider published")]
    WrongHostKey,
    /// The key or password does not open this lease (any more).
    #[error("the gateway refused the key or password of this lease")]
    Refused,
    /// The connection broke, or the gateway said no to a request.
    #[error("ssh: {0}")]
    Session(String),
    /// A file could not be copied.
    #[error("{path}: {why}")]
    Copy {
        /// The path, as given or found below it.
        path: String,
        /// What went wrong.
        why: String,
    },
    /// Reading or writing on this machine failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Bytes of one stream that [`output`] keeps.
const MAX_OUTPUT: usize = 16 * 1024 * 1024;

/// Runs a command, or a shell without one, on this process's own standard
/// input, output and error. With `tty` the terminal is switched to raw mode for
/// as long as it takes and its size follows. Gives the exit code; a command
/// that was ended by signal n gives 128 + n.
///
/// # Errors
/// Any [`SshError`]; the command's own failure is an exit code, not an error.
pub async fn run(target: &SshTarget, command: Option<&str>, tty: bool) -> Result<i32, SshError> {
    let client = SshClient::connect(target).await?;
    let (out, err) = (tokio::io::stdout(), tokio::io::stderr());
    let input = Input::standard();
    let code = if tty {
        let (_raw, tty) = terminal::raw()?;
        client.exec(command, Some(tty), input, out, err).await
    } else {
        client.exec(command, None, input, out, err).await
    };
    client.close().await;
    code
}

/// Runs a command with `stdin` and gives exit code, standard output and
/// standard error, each cut at 16 MiB.
///
/// # Errors
/// Any [`SshError`]; the command's own failure is an exit code, not an error.
pub async fn output(
    target: &SshTarget,
    command: &str,
    stdin: &[u8],
) -> Result<(i32, Vec<u8>, Vec<u8>), SshError> {
    let client = SshClient::connect(target).await?;
    let (mut out, mut err) = (Cut::default(), Cut::default());
    let input = Input::bytes(stdin.to_vec());
    let code = client
        .exec(Some(command), None, input, &mut out, &mut err)
        .await?;
    client.close().await;
    Ok((code, out.0, err.0))
}

/// Copies a file, or with `recursive` a directory, into the workload or out of
/// it; permissions are kept. A target that is a directory gets the file in it.
/// Gives the bytes of content that were copied.
///
/// # Errors
/// Any [`SshError`]. Both ends local or both remote is [`SshError::Copy`].
pub async fn copy(
    target: &SshTarget,
    from: CopyPath,
    to: CopyPath,
    recursive: bool,
) -> Result<u64, SshError> {
    let wrong = |path: String, why: &str| SshError::Copy {
        path,
        why: why.to_owned(),
    };
    match (from, to) {
        (CopyPath::Local(from), CopyPath::Remote(to)) => {
            let client = SshClient::connect(target).await?;
            let bytes = copy::up(&client.sftp().await?, &from, &to, recursive).await;
            client.close().await;
            bytes
        }
        (CopyPath::Remote(from), CopyPath::Local(to)) => {
            let client = SshClient::connect(target).await?;
            let bytes = copy::down(&client.sftp().await?, &from, &to, recursive).await;
            client.close().await;
            bytes
        }
        (CopyPath::Local(from), CopyPath::Local(_)) => {
            Err(wrong(from.display().to_string(), "both ends are here"))
        }
        (CopyPath::Remote(from), CopyPath::Remote(_)) => {
            Err(wrong(from, "both ends are in the workload"))
        }
    }
}

/// Keeps the first [`MAX_OUTPUT`] bytes and takes the rest.
#[derive(Default)]
struct Cut(Vec<u8>);

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let room = MAX_OUTPUT.saturating_sub(self.0.len());
        let kept = data.get(..room.min(data.len())).unwrap_or_default();
        self.0.extend_from_slice(kept);
        std::task::Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
