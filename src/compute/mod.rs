//! What runs workloads. A backend is small: create, observe, start, stop,
//! destroy, list what is ours. Everything else is a power of its own that a
//! backend may have ([`Exec`], [`Dial`], [`Logs`], [`Pause`]).
//!
//! The rule that every backend keeps and the conformance suite checks: **"I
//! could not ask" is an error, never [`Observed::Absent`]**. Only a backend that
//! looked and found nothing says `Absent`.

#[cfg(any(test, feature = "demo"))]
pub mod conformance;
pub mod docker;
#[cfg(any(test, feature = "demo"))]
pub mod fake;
pub mod registry;
pub mod sandbox;
pub mod sftp_server;
#[cfg(test)]
mod tests;
mod wall;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use crate::core::capacity::Resources;
use crate::core::ids::{LeaseId, Name, PublicKey};
use crate::core::time::Timestamp;

/// Which workload: its lease. `create` twice with one key gives one workload.
pub type WorkloadKey = LeaseId;

/// What a workload should be. Everything in it has been validated and may be
/// relied on; secrets of tenants are not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    /// Who pays for it.
    pub owner: PublicKey,
    /// Where the root file system comes from.
    pub image: Image,
    /// Limits, all of them enforced or refused; a zero is "not promised".
    pub resources: Resources,
    /// Command line of the workload's main process; empty: what the image
    /// says, or nothing at all (the workload stays up and waits for exec).
    pub command: Vec<String>,
    /// Environment added to the image's own.
    pub env: Vec<(String, String)>,
    /// When the lease ends, as known at creation: a label, so that the lease
    /// table can be rebuilt. The backend does not act on it.
    pub expires_at: Timestamp,
    /// What else the lease table can be rebuilt from: a label. The backend carries
    /// it and does not read it. At most a few KiB, no secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Image {
    /// The host's own `/usr`, read-only, with private `/etc`, `/tmp` and `/home`.
    Host,
    /// An OCI reference such as `docker.io/library/debian:12` or `…@sha256:…`.
    Reference(String),
    /// An OCI layout directory, or a tarball of one, on the provider's disk.
    /// Never from a consumer: the operator's allow-list maps names to paths.
    Layout(std::path::PathBuf),
}

/// A backend's own, versioned note of a workload; stored in the ledger as it
/// is and given back to the same backend, perhaps years and releases later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// Which backend made it.
    pub backend: Name,
    /// Version of `data`; a backend reads its current version and the one before.
    pub version: u32,
    /// Whose workload it is.
    pub key: WorkloadKey,
    /// Opaque to everyone else.
    pub data: serde_json::Value,
}

/// What a look at a workload showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Observed {
    /// Its main process is there (paused counts).
    Running {
        /// When the main process started; the same for as long as it lives.
        started_at: Timestamp,
        /// Frozen by [`Pause::pause`].
        paused: bool,
    },
    /// It exists and does not run; `start` may bring it back with its disk.
    Stopped {
        /// Exit status of the main process, where the backend knows it.
        exit_code: Option<i32>,
    },
    /// The backend looked, and there is no such workload.
    Absent,
}

/// A workload that carries our label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Enough to observe and destroy it.
    pub handle: Handle,
    /// Labels that were put on at creation.
    pub labels: Labels,
}

/// Labels on a workload: enough to rebuild the lease table from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// The lease.
    pub lease: LeaseId,
    /// Who pays.
    pub owner: PublicKey,
    /// End of the lease, as known at creation, or as noted since by
    /// [`Backend::note_end`].
    pub expires_at: Timestamp,
    /// Version of this set of labels, now 1.
    pub schema: u32,
    /// The spec's note; empty on workloads of an older version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Version of [`Labels`] written today.
pub const LABEL_SCHEMA: u32 = 1;

/// Static facts about a backend on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `shared-kernel`, `vm`, `dedicated-host`: goes into the offer.
    pub isolation: String,
    /// Whether OCI references can be run.
    pub oci_images: bool,
    /// Whether [`Image::Host`] can be run.
    pub host_image: bool,
    /// Which limits the kernel holds on this host.
    pub enforces: Enforced,
    /// Whether tenants reach the outside (NAT), never the host or each other.
    pub outgoing_network: bool,
    /// What was found missing, a sentence each with how to get it.
    pub notes: Vec<String>,
}

impl Enforced {
    /// `asked` without what does not hold: a backend refuses to promise that.
    pub fn of(self, asked: Resources) -> Resources {
        let keep = |holds: bool, amount: u32| if holds { amount } else { 0 };
        Resources {
            cpu_millicores: keep(self.cpu, asked.cpu_millicores),
            memory_mib: keep(self.memory, asked.memory_mib),
            disk_mib: keep(self.disk, asked.disk_mib),
            pids: keep(self.pids, asked.pids),
        }
    }
}

/// Which limits of [`Resources`] hold. What does not hold is not sold, unless
/// the operator says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// `cpu_millicores`.
    pub cpu: bool,
    /// `memory_mib`, swap included.
    pub memory: bool,
    /// `pids`.
    pub pids: bool,
    /// `disk_mib`.
    pub disk: bool,
}

/// Whether the backend can take work now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Name and version of what answers, for people.
    pub engine: String,
}

/// What the host has, for `satletd init` and `check` to propose a capacity from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// All of it, used or not.
    pub total: Resources,
}

/// What went wrong, by what may be done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Nothing happened, or doing it again is safe: try again later.
    #[error("{0}")]
    Retry(String),
    /// It will not work however often it is tried.
    #[error("{0}")]
    Permanent(String),
    /// It may have happened. Observe; never repeat blindly.
    #[error("{0} (the outcome is not known)")]
    OutcomeUnknown(String),
    /// The image cannot be had or is not what it claims to be.
    #[error("image: {0}")]
    Image(String),
    /// The host has no room for it (ports, memory, disk, ids).
    #[error("no capacity: {0}")]
    NoCapacity(String),
    /// No such workload, or it does not run, where one was needed.
    #[error("the workload is not running")]
    NotRunning,
}

/// The required core of a backend. Every method may be called at any time from
/// any task; calls for different keys run side by side. A call that is dropped
/// in the middle (cancelled) leaves nothing that one `destroy` does not remove.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The name it is configured under and that handles carry.
    fn name(&self) -> &Name;

    /// Static facts, found out once.
    fn capabilities(&self) -> &Capabilities;

    /// Asks the engine whether it can take work.
    ///
    /// # Errors
    /// The engine does not answer, or says no.
    async fn probe(&self) -> Result<Health, BackendError>;

    /// What the host has.
    ///
    /// # Errors
    /// It could not be asked.
    async fn inventory(&self) -> Result<Inventory, BackendError>;

    /// Fetches what `create` will need (an image), so that `create` is quick.
    /// Safe to call twice and side by side.
    ///
    /// # Errors
    /// [`BackendError::Image`] where the image cannot be had.
    async fn prepare(&self, image: &Image) -> Result<(), BackendError>;

    /// Makes the workload, running. Idempotent by key: with a workload of this
    /// key there already (also one left half made by a crash), its handle is
    /// given, and it is brought to running. A failure leaves nothing behind.
    ///
    /// # Errors
    /// Any class; after `OutcomeUnknown` the caller observes.
    async fn create(&self, key: &WorkloadKey, spec: &WorkloadSpec) -> Result<Handle, BackendError>;

    /// Looks at a workload.
    ///
    /// # Errors
    /// It could not be asked: nothing is known, nothing follows.
    async fn observe(&self, handle: &Handle) -> Result<Observed, BackendError>;

    /// All workloads with our label, and no stranger's.
    ///
    /// # Errors
    /// It could not be asked. Never an empty list instead.
    async fn list_owned(&self) -> Result<Vec<Owned>, BackendError>;

    /// Brings a stopped workload back, with its disk. Running is success.
    ///
    /// # Errors
    /// `NotRunning` where it is absent; else any class.
    async fn start(&self, handle: &Handle) -> Result<(), BackendError>;

    /// Asks its main process to end (SIGTERM), and kills everything in it after
    /// `grace`. Its disk stays. Stopped or absent is success.
    ///
    /// # Errors
    /// Any class.
    async fn stop(&self, handle: &Handle, grace: Duration) -> Result<(), BackendError>;

    /// Removes it and all it holds. Absent is success.
    ///
    /// # Errors
    /// Any class.
    async fn destroy(&self, handle: &Handle) -> Result<(), BackendError>;

    /// Writes another end of the lease on a workload, where its labels can be
    /// changed; where they cannot, this does nothing. Absent is success.
    ///
    /// # Errors
    /// Any class; the next look notes it.
    async fn note_end(&self, _handle: &Handle, _end: Timestamp) -> Result<(), BackendError> {
        Ok(())
    }

    /// Gives back what no workload needs any more, such as images, and puts
    /// right on the host what others may have changed, such as the rules that
    /// wall workloads off. Called every minute; safe beside everything else.
    ///
    /// # Errors
    /// Something could not be given back; it is tried again.
    async fn tidy(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Running commands inside, where the backend can.
    fn exec(&self) -> Option<&dyn Exec> {
        None
    }

    /// Connecting to the workload's own network, where the backend can.
    fn dial(&self) -> Option<&dyn Dial> {
        None
    }

    /// What the main process printed, where the backend keeps it.
    fn logs(&self) -> Option<&dyn Logs> {
        None
    }

    /// Freezing, where the backend can.
    fn pause(&self) -> Option<&dyn Pause> {
        None
    }
}

/// What to run inside a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecCommand {
    /// A login shell: the user's, else the first of /bin/bash, /bin/sh there is.
    Shell,
    /// A line for the shell (`sh -c`), as SSH sends it.
    Line(String),
    /// A program and its arguments, with no shell between.
    Argv(Vec<String>),
    /// An SFTP server (version 3) on standard input and output. A backend that
    /// cannot bring its own runs the image's `sftp-server`.
    Sftp,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtySize {
    /// Columns, at least 1.
    pub cols: u16,
    /// Rows, at least 1.
    pub rows: u16,
}

/// One run of a command inside a workload, always as the workload's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// What to run.
    pub command: ExecCommand,
    /// Environment added to the workload's own (`TERM`, `LANG`, …).
    pub env: Vec<(String, String)>,
    /// With a terminal of this size; standard error then comes with standard output.
    pub tty: Option<TtySize>,
}

/// What can be told to a running command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecControl {
    /// The terminal has a new size.
    Resize(TtySize),
    /// Send this signal number to the command's process group.
    Signal(i32),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// This signal number ended it.
    Signal(i32),
}

/// Bytes into something that runs elsewhere.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;
/// Bytes out of something that runs elsewhere.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;

/// A stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A command that runs inside a workload. Dropping all of it ends the command
/// (SIGHUP, then SIGKILL).
pub struct ExecSession {
    /// Standard input; shutting it down or dropping it is end of file.
    pub stdin: BoxWrite,
    /// Standard output, and with a terminal standard error too.
    pub stdout: BoxRead,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<BoxRead>,
    /// Resize and signals; sending after the end is an error that means nothing.
    pub control: mpsc::Sender<ExecControl>,
    /// The end of the command. Output may still be waiting to be read.
    pub exit: oneshot::Receiver<Result<ExitStatus, BackendError>>,
}

/// Running commands inside a workload.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Starts a command.
    ///
    /// # Errors
    /// `NotRunning`, `Permanent` where there is no such program, else any class.
    async fn exec(
        &self,
        handle: &Handle,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError>;
}

/// Connecting to a port in the workload's own network, from inside it: a
/// server that listens on the workload's loopback is reached, the host's and a
/// neighbour's are not.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Opens a TCP connection to `host:port` as seen from inside the workload.
    ///
    /// # Errors
    /// `NotRunning`, or `Permanent` where nobody listens.
    async fn dial(
        &self,
        handle: &Handle,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, BackendError>;
}

/// What the main process printed.
#[async_trait]
pub trait Logs: Send + Sync {
    /// The last `max_bytes` of standard output and standard error together, as
    /// they came, starting at a line where the cut allows it.
    ///
    /// # Errors
    /// The workload is absent, or it could not be asked.
    async fn logs(&self, handle: &Handle, max_bytes: usize) -> Result<Vec<u8>, BackendError>;
}

/// Freezing a workload: it keeps memory and connections and gets no CPU.
#[async_trait]
pub trait Pause: Send + Sync {
    /// Freezes it. Frozen is success.
    ///
    /// # Errors
    /// Any class.
    async fn pause(&self, handle: &Handle) -> Result<(), BackendError>;

    /// Thaws it. Thawed is success.
    ///
    /// # Errors
    /// Any class.
    async fn resume(&self, handle: &Handle) -> Result<(), BackendError>;
}

/// A backend, shared.
pub type SharedBackend = Arc<dyn Backend>;
