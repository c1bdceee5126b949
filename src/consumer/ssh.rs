//! The built-in SSH client: enters a lease where there is no system `ssh`, and
//! is what `exec`, `cp` and the demo are made of. The host key is the one the
//! provider published; no other is accepted.

use std::path::PathBuf;

use russh::keys::PrivateKey;

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
    /// The key that opens the lease.
    pub key: SshKey,
}

/// A private SSH key.
#[derive(Clone)]
pub enum SshKey {
    /// A file in OpenSSH's format, without a passphrase.
    File(PathBuf),
    /// The key itself.
    Key(Box<PrivateKey>),
}

impl std::fmt::Debug for SshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Key(_) => f.write_str("Key(…)"),
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
    /// The key does not open this lease (any more).
    #[error("the gateway refused the key for this lease")]
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

/// Runs a command, or a shell without one, on this process's own standard
/// input, output and error. With `tty` the terminal is switched to raw mode for
/// as long as it takes and its size follows. Gives the exit code; a command
/// that was ended by signal n gives 128 + n.
///
/// # Errors
/// Any [`SshError`]; the command's own failure is an exit code, not an error.
pub async fn run(target: &SshTarget, command: Option<&str>, tty: bool) -> Result<i32, SshError> {
    let _ = (target, command, tty);
    Err(SshError::Session("not built in".to_owned()))
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
    let _ = (target, command, stdin);
    Err(SshError::Session("not built in".to_owned()))
}

/// Copies a file, or with `recursive` a directory, into the workload or out of
/// it; modes are kept. Gives the bytes of content that were copied.
///
/// # Errors
/// Any [`SshError`]. Both ends local or both remote is [`SshError::Copy`].
pub async fn copy(
    target: &SshTarget,
    from: CopyPath,
    to: CopyPath,
    recursive: bool,
) -> Result<u64, SshError> {
    let _ = (target, from, to, recursive);
    Err(SshError::Session("not built in".to_owned()))
}
