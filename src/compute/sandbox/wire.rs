//! What the daemon and its helper processes say to each other: one JSON object
//! a line, over a socket pair that is the helper's standard input. Never over
//! argv, which every user of the host can read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::compute::BackendError;
use crate::core::capacity::Resources;

/// Longest line either side accepts.
pub(super) const MAX_LINE: usize = 1024 * 1024;

/// What a helper is asked to do; one for each helper process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Find out what this host permits.
    Probe {
        /// A directory of ours to try things in.
        dir: PathBuf,
    },
    /// Bring a workload to running.
    Run(Box<RunRequest>),
    /// Run a command inside a workload.
    Enter(Box<EnterRequest>),
    /// Connect to an address as seen from inside a workload.
    Dial(DialRequest),
    /// Remove a workload and all it holds.
    Destroy(DestroyRequest),
}

/// A helper's answer. `Enter` gives `Started`, and later `Ended`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// What the host permits.
    Probed(Probed),
    /// The workload runs.
    Running(RunNote),
    /// The command runs; its descriptors came with this line.
    Started,
    /// The command has ended.
    Ended {
        /// Exit code, where it returned.
        code: Option<i32>,
        /// Signal number, where one ended it.
        signal: Option<i32>,
    },
    /// Connected; the socket came with this line.
    Connected,
    /// Nothing is left of it.
    Destroyed,
    /// It failed.
    Failed(Failure),
}

/// A [`BackendError`] that can travel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Which class.
    pub(super) class: Class,
    /// A sentence.
    pub(super) text: String,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Class {
    /// [`BackendError::Retry`].
    Retry,
    /// [`BackendError::Permanent`].
    Permanent,
    /// [`BackendError::NoCapacity`].
    NoCapacity,
    /// [`BackendError::NotRunning`].
    NotRunning,
}

impl Failure {
    pub(super) fn new(class: Class, text: impl Into<String>) -> Self {
        Self {
            class,
            text: text.into(),
        }
    }
    pub(super) fn retry(text: impl Into<String>) -> Self {
        Self::new(Class::Retry, text)
    }
    pub(super) fn permanent(text: impl Into<String>) -> Self {
        Self::new(Class::Permanent, text)
    }
    pub(super) fn not_running() -> Self {
        Self::new(Class::NotRunning, "the workload is not running")
    }
    /// An I/O error while doing `what`: no space is no capacity, the rest may
    /// be tried again.
    pub(super) fn io(what: impl std::fmt::Display, err: &std::io::Error) -> Self {
        let class = match err.raw_os_error() {
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT | nix::libc::EMFILE | nix::libc::ENFILE) => {
                Class::NoCapacity
            }
            _ => Class::Retry,
        };
        Self::new(class, format!("{what}: {err}"))
    }
}

impl From<Failure> for BackendError {
    fn from(failure: Failure) -> Self {
        match failure.class {
            Class::Retry => Self::Retry(failure.text),
            Class::Permanent => Self::Permanent(failure.text),
            Class::NoCapacity => Self::NoCapacity(failure.text),
            Class::NotRunning => Self::NotRunning,
        }
    }
}

/// What the host permits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probed {
    /// A user namespace with a mount namespace in it can be made; else why not.
    pub(super) userns: Option<String>,
    /// A loop device can be had and mounted; else why not.
    pub(super) disk: Option<String>,
    /// An id-mapped mount of the image store's file system can be made; else why not.
    pub(super) idmap: Option<String>,
}

/// Bring a workload to running.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RunRequest {
    /// The lease's directory.
    pub(super) dir: PathBuf,
    /// The lease, for the host name and messages.
    pub(super) key: String,
    /// First host id of the range of 65536 that the tenant gets; `None`: the
    /// tenant's root is whoever runs the daemon.
    pub(super) uid_base: Option<u32>,
    /// Where the root file system comes from.
    pub(super) image: ImageSource,
    /// Size of the disk image in MiB; `None`: a plain directory.
    pub(super) disk_mib: Option<u32>,
    /// Limits.
    pub(super) resources: Resources,
    /// The cgroup, absolute from the root of the hierarchy; `None`: none.
    pub(super) cgroup: Option<PathBuf>,
    /// Whether cgroup limits can be put on the disk cache of swap too.
    pub(super) swap_limit: bool,
    /// Its way out; `None`: loopback only.
    pub(super) net: Option<NetPlan>,
    /// Main process; empty: none.
    pub(super) argv: Vec<String>,
    /// Environment of everything in it.
    pub(super) env: Vec<(String, String)>,
    /// Working directory of the main process.
    pub(super) cwd: String,
    /// `user[:group]` of the main process, names or numbers; empty: root.
    pub(super) user: String,
    /// Name servers for resolv.conf.
    pub(super) resolvers: Vec<std::net::Ipv4Addr>,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ImageSource {
    /// The host's `/usr`.
    Host,
    /// An unpacked image, read-only.
    Unpacked(PathBuf),
}

/// A tenant's way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetPlan {
    /// Short random name of this installation; names of table and interfaces.
    pub(super) instance: String,
    /// The host's end of the pair.
    pub(super) interface: String,
    /// Address of the host's end, of a /30.
    pub(super) host: std::net::Ipv4Addr,
    /// Address of the tenant's end.
    pub(super) guest: std::net::Ipv4Addr,
    /// Network of all tenants of this installation, as `10.1.2.0/22`.
    pub(super) network: String,
    /// Name servers, reachable on port 53 wherever they are.
    pub(super) resolvers: Vec<std::net::Ipv4Addr>,
    /// A file that is locked while the ruleset or interfaces change.
    pub(super) lock: PathBuf,
}

/// What is written down about a running workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunNote {
    /// Its first process, as the host sees it.
    pub(super) pid: i32,
    /// When that process started, in clock ticks since boot (proc_pid_stat(5)).
    pub(super) start_ticks: u64,
    /// Which boot of the host.
    pub(super) boot_id: String,
    /// When it started, Unix seconds; written once, so it never wavers.
    pub(super) started_at: u64,
}

/// Run a command inside a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EnterRequest {
    /// Which process's namespaces.
    pub(super) target: RunNote,
    /// Its cgroup.
    pub(super) cgroup: Option<PathBuf>,
    /// What to run.
    pub(super) command: EnterCommand,
    /// Environment.
    pub(super) env: Vec<(String, String)>,
    /// Columns and rows of a terminal.
    pub(super) tty: Option<(u16, u16)>,
    /// Another engine made the workload: it may have no user namespace of its
    /// own, fewer capabilities, and a label of a security module.
    #[serde(default)]
    pub(super) foreign: bool,
}

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum EnterCommand {
    /// A login shell.
    Shell,
    /// A line for the shell.
    Line(String),
    /// A program and its arguments.
    Argv(Vec<String>),
    /// The SFTP server of this program.
    Sftp,
}

/// What may be told to a helper that runs a command.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum EnterControl {
    /// Send this signal to the command's process group.
    Signal(i32),
}

/// Connect to an address as seen from inside a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DialRequest {
    /// Which process's namespaces.
    pub(super) target: RunNote,
    /// Addresses to try, in order.
    pub(super) addresses: Vec<std::net::SocketAddr>,
    /// Another engine made the workload: it may have no user namespace of its own.
    #[serde(default)]
    pub(super) foreign: bool,
}

/// Remove a workload and all it holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DestroyRequest {
    /// The lease's directory.
    pub(super) dir: PathBuf,
    /// Its cgroup.
    pub(super) cgroup: Option<PathBuf>,
    /// Its way out.
    pub(super) net: Option<NetPlan>,
    /// Whether it is the last one with a way out: the ruleset goes too.
    pub(super) slot: PathBuf,
}
