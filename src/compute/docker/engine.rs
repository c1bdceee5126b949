//! One call of the engine: bounded in time, and its failure by class.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::errors::Error;

use crate::compute::BackendError;

/// How long the engine may take to say something.
pub(super) const READ: Duration = Duration::from_secs(30);
/// How long the engine may take to do something.
pub(super) const CHANGE: Duration = Duration::from_secs(120);
/// The client's own limit; each call here has a shorter one.
const CLIENT: Duration = Duration::from_secs(24 * 3600);

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The engine has no such thing (404).
    NotFound(String),
    /// It is so already (304).
    Unmodified,
    /// It is in the way of something else (409).
    Conflict(String),
    /// The engine will not do it (other 4xx).
    Refused(String),
    /// The engine could not do it (5xx).
    Failed(String),
    /// The engine was not reached: nothing happened.
    Unreachable(String),
    /// No whole answer came: it may have happened.
    Unknown(String),
}

impl Trouble {
    /// As the failure of a question, after which nothing is different.
    pub(super) fn asking(self, what: &str) -> BackendError {
        match self {
            Self::Refused(text) => BackendError::Permanent(said(what, &text)),
            other => BackendError::Retry(said(what, &other.text())),
        }
    }

    /// As the failure of a deed.
    pub(super) fn doing(self, what: &str) -> BackendError {
        match self {
            Self::Refused(text) | Self::NotFound(text) => {
                BackendError::Permanent(said(what, &text))
            }
            Self::Failed(text) if is_full(&text) => BackendError::NoCapacity(said(what, &text)),
            Self::Unknown(text) => BackendError::OutcomeUnknown(said(what, &text)),
            other => BackendError::Retry(said(what, &other.text())),
        }
    }

    /// What the engine said.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Unmodified => "nothing to do".to_owned(),
            Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Refused(text)
            | Self::Failed(text)
            | Self::Unreachable(text)
            | Self::Unknown(text) => text.clone(),
        }
    }
}

fn is_full(text: &str) -> bool {
    text.contains("no space left on device") || text.contains("disk quota exceeded")
}

/// Bounded and on one line: it goes to logs and to consumers.
fn said(what: &str, text: &str) -> String {
    const MOST: usize = 300;
    let line: String = text.trim().chars().take(MOST).collect();
    format!(
        "{what}: {}",
        line.escape_debug().to_string().replace("\\\"", "\"")
    )
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => match status_code {
                304 => Self::Unmodified,
                // A proxy's own 404 says nothing about what the engine has.
                404 if message.to_lowercase().contains("no such")
                    || message.contains("not found") && !message.contains("page not found") =>
                {
                    Self::NotFound(message)
                }
                409 => Self::Conflict(message),
                400..=499 => Self::Refused(message),
                _ => Self::Failed(message),
            },
            Error::DockerStreamError { error } => Self::Failed(error),
            Error::SocketNotFoundError(path) => Self::Unreachable(format!("no socket {path}")),
            Error::HyperLegacyError { err } if err.is_connect() => {
                Self::Unreachable(format!("the engine is not reached: {}", source(&err)))
            }
            other => Self::Unknown(format!("no answer: {}", source(&other))),
        }
    }
}

/// The innermost reason, which says most.
fn source(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// What the call gives within `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Trouble> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(Trouble::from),
        Err(_) => Err(Trouble::Unknown(format!(
            "no answer within {} s",
            limit.as_secs()
        ))),
    }
}

/// Connects, and agrees on a version of the protocol.
pub(super) async fn connect(socket: &Path) -> Result<bollard::Docker, BackendError> {
    let path = socket
        .to_str()
        .ok_or_else(|| BackendError::Permanent("the socket's path is not text".to_owned()))?;
    let what = format!("the engine at {path}");
    if let Err(error) = std::os::unix::net::UnixStream::connect(socket) {
        return Err(match error.kind() {
            std::io::ErrorKind::PermissionDenied => BackendError::Permanent(format!(
                "{what}: permission denied; run satletd as root or in the socket's group"
            )),
            std::io::ErrorKind::NotFound => BackendError::Retry(format!(
                "{what}: there is no socket; is the engine started, and is backend.socket right?"
            )),
            _ => BackendError::Retry(format!("{what}: {error}; is the engine started?")),
        });
    }
    let client = bollard::Docker::connect_with_unix(path, CLIENT.as_secs(), API_DEFAULT_VERSION);
    let client = client.map_err(|error| Trouble::from(error).asking(&what))?;
    within(READ, client.negotiate_version())
        .await
        .map_err(|trouble| trouble.asking(&what))
}
