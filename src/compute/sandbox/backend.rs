//! The contract of `compute`, kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use super::client::{self, Helper};
use super::wire::{DialRequest, Reply, Request, RunNote};
use super::wrong_answer;
use super::{ENTER, Sandbox, blocking, cgroup, facts, process, read_logs, session, store, sys};
use crate::compute::{
    Backend, BackendError, Capabilities, Dial, Duplex, Exec, ExecRequest, ExecSession, Handle,
    Health, Image, Inventory, Logs, Observed, Owned, Pause, WorkloadKey, WorkloadSpec,
};
use crate::core::capacity::Resources;
use crate::core::ids::Name;
use crate::core::time::Timestamp;

/// How long the kernel may take to end a workload that was killed.
const KILL: Duration = Duration::from_secs(15);

/// Images are removed in each of so many rounds of tidying.
const PRUNE_EVERY: u32 = 60;

#[async_trait]
impl Backend for Sandbox {
    fn name(&self) -> &Name {
        &self.config.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn probe(&self) -> Result<Health, BackendError> {
        if let Some(why) = &self.facts.probed.userns {
            return Err(BackendError::Permanent(facts::no_userns(why)));
        }
        self.books(|store| store.list())?;
        let as_whom = if self.facts.root { "root" } else { "rootless" };
        Ok(Health {
            engine: format!("sandbox {} ({as_whom})", env!("CARGO_PKG_VERSION")),
        })
    }

    async fn inventory(&self) -> Result<Inventory, BackendError> {
        let root = self.store.root().to_owned();
        blocking(move || facts::inventory(&root))
            .await
            .map_err(|err| BackendError::Retry(format!("looking at the host: {err}")))
    }

    async fn prepare(&self, image: &Image) -> Result<(), BackendError> {
        self.prepared(image).await.map(drop)
    }

    async fn create(&self, key: &WorkloadKey, spec: &WorkloadSpec) -> Result<Handle, BackendError> {
        let (meta, fresh) = match self.meta(key)? {
            Some(meta) => (meta, false),
            None => {
                self.refuse_unenforced(&spec.resources)?;
                let image = self.prepared(&spec.image).await?;
                self.ensure(key, spec, image.as_deref())?
            }
        };
        match self.bring_up(&meta).await {
            Ok(_) => Ok(self.handle(&meta)),
            Err(err @ BackendError::OutcomeUnknown(_)) => Err(err),
            Err(err) => {
                // What ran before keeps its disk: only what this call made goes.
                if fresh {
                    self.remove(key, meta.slot).await?;
                }
                Err(err)
            }
        }
    }

    async fn observe(&self, handle: &Handle) -> Result<Observed, BackendError> {
        let key = self.key(handle)?;
        let (meta, note) = self.running(key)?;
        if meta.is_none() {
            return Ok(Observed::Absent);
        }
        let look = |err| BackendError::Retry(format!("looking at the workload: {err}"));
        let Some(note) = note else {
            let dir = self.store.dir(key);
            let exit_code = store::read_exit(&dir).map_err(look)?;
            return Ok(Observed::Stopped { exit_code });
        };
        let paused = self.frozen(key)?;
        Ok(Observed::Running {
            started_at: Timestamp::from_secs(note.started_at),
            paused,
        })
    }

    async fn list_owned(&self) -> Result<Vec<Owned>, BackendError> {
        let all = self.books(|store| store.list())?;
        Ok(all
            .into_iter()
            .map(|meta| Owned {
                handle: self.handle(&meta),
                labels: meta.labels,
            })
            .collect())
    }

    async fn note_end(&self, handle: &Handle, end: Timestamp) -> Result<(), BackendError> {
        let key = self.key(handle)?;
        self.books(|store| store.note_end(key, end))
    }

    async fn start(&self, handle: &Handle) -> Result<(), BackendError> {
        let key = self.key(handle)?;
        match self.running(key)? {
            (None, _) => Err(BackendError::NotRunning),
            (Some(_), Some(_)) => Ok(()),
            (Some(meta), None) => self.bring_up(&meta).await.map(drop),
        }
    }

    async fn stop(&self, handle: &Handle, grace: Duration) -> Result<(), BackendError> {
        let key = self.key(handle)?;
        let (_, Some(note)) = self.running(key)? else {
            return Ok(());
        };
        self.end(key, &note, grace).await
    }

    async fn destroy(&self, handle: &Handle) -> Result<(), BackendError> {
        let key = self.key(handle)?;
        match self.meta(key)? {
            Some(meta) => self.remove(key, meta.slot).await,
            None => {
                // A make that was cut short before its note: its slot is named
                // in no note, and is taken over by whoever finds it.
                let dir = self.store.dir(key);
                blocking(move || store::remove(&dir))
                    .await
                    .map_err(|err| BackendError::Retry(format!("removing the workload: {err}")))
            }
        }
    }

    async fn tidy(&self) -> Result<(), BackendError> {
        self.uphold_network().await?;
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        // Not each time: an image that was just fetched may have no lease yet.
        if round.is_multiple_of(PRUNE_EVERY) {
            let gone = self.prune_images().await?;
            if !gone.is_empty() {
                tracing::info!(images = gone.len(), "images that nobody uses were removed");
            }
        }
        Ok(())
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn dial(&self) -> Option<&dyn Dial> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn pause(&self) -> Option<&dyn Pause> {
        self.facts.groups.is_some().then_some(self)
    }
}

impl Sandbox {
    /// SIGTERM, a grace, then SIGKILL to the first process, with which the
    /// kernel ends everything in its process namespace.
    async fn end(
        &self,
        key: &WorkloadKey,
        note: &RunNote,
        grace: Duration,
    ) -> Result<(), BackendError> {
        let what = |err| BackendError::Retry(format!("stopping the workload: {err}"));
        let Some(pidfd) = process::open(note).map_err(what)? else {
            return Ok(());
        };
        let group = match self.cgroup(key) {
            Some(path) => Some(cgroup::Cgroup::find(&path).map_err(what)?),
            None => None,
        };
        let pidfd = sys::watch(pidfd, tokio::io::Interest::READABLE).map_err(what)?;
        sys::pidfd_signal(pidfd.get_ref().as_fd(), nix::libc::SIGTERM).map_err(what)?;
        if let Some(group) = &group
            && group.frozen().map_err(what)?
        {
            group.freeze(false).map_err(what)?;
        }
        if ended(&pidfd, grace).await {
            return Ok(());
        }
        sys::pidfd_signal(pidfd.get_ref().as_fd(), nix::libc::SIGKILL).map_err(what)?;
        if let Some(group) = &group {
            group.kill().map_err(what)?;
        }
        if ended(&pidfd, KILL).await {
            return Ok(());
        }
        Err(BackendError::OutcomeUnknown(
            "the kernel has not ended the workload yet".to_owned(),
        ))
    }

    /// A limit that does not hold here is not promised.
    fn refuse_unenforced(&self, ask: &Resources) -> Result<(), BackendError> {
        let holds = self.capabilities.enforces;
        let missing: Vec<_> = [
            ("cpu", ask.cpu_millicores, holds.cpu),
            ("memory", ask.memory_mib, holds.memory),
            ("pids", ask.pids, holds.pids),
            ("disk", ask.disk_mib, holds.disk),
        ]
        .into_iter()
        .filter_map(|(name, asked, holds)| (asked > 0 && !holds).then_some(name))
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(BackendError::Permanent(format!(
            "limits that do not hold on this host: {}",
            missing.join(", ")
        )))
    }

    fn frozen(&self, key: &WorkloadKey) -> Result<bool, BackendError> {
        match self.cgroup(key) {
            Some(path) => cgroup::Cgroup::find(&path)
                .and_then(|group| group.frozen())
                .map_err(|err| BackendError::Retry(format!("looking at the workload: {err}"))),
            None => Ok(false),
        }
    }

    fn set_frozen(&self, handle: &Handle, frozen: bool) -> Result<(), BackendError> {
        let key = self.key(handle)?;
        let (_, Some(_)) = self.running(key)? else {
            return Err(BackendError::NotRunning);
        };
        let path = self.cgroup(key).ok_or_else(|| {
            BackendError::Permanent("no control group to freeze it with".to_owned())
        })?;
        cgroup::Cgroup::find(&path)
            .and_then(|group| group.freeze(frozen))
            .map_err(|err| BackendError::Retry(format!("freezing the workload: {err}")))
    }

    /// What runs, or `NotRunning`.
    fn target(&self, handle: &Handle) -> Result<(super::Meta, RunNote), BackendError> {
        match self.running(self.key(handle)?)? {
            (Some(meta), Some(note)) => Ok((meta, note)),
            _ => Err(BackendError::NotRunning),
        }
    }
}

/// Whether the process ends within `limit`. A pidfd is readable once it has.
async fn ended(pidfd: &AsyncFd<std::os::fd::OwnedFd>, limit: Duration) -> bool {
    tokio::time::timeout(limit, pidfd.readable())
        .await
        .is_ok_and(|ready| ready.is_ok())
}

#[async_trait]
impl Exec for Sandbox {
    async fn exec(
        &self,
        handle: &Handle,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let (meta, note) = self.target(handle)?;
        if self.frozen(&meta.labels.lease)? {
            return Err(BackendError::Retry("the workload is paused".to_owned()));
        }
        let seat = self.seats.take(&meta.labels.lease)?;
        let request = self.enter_request(&meta, note, request);
        let failed = |err| BackendError::Retry(format!("the sandbox helper: {err}"));
        let start = async {
            let request = Request::Enter(Box::new(request));
            let mut helper = Helper::start(&self.program, &request)
                .await
                .map_err(failed)?;
            match helper.next().await.map_err(failed)? {
                Some((Reply::Started, fds)) => session::open(helper, fds, seat).map_err(failed),
                Some((Reply::Failed(failure), _)) => Err(failure.into()),
                // The workload was killed with the command that was starting.
                None => Err(BackendError::NotRunning),
                Some(_) => Err(wrong_answer()),
            }
        };
        tokio::time::timeout(ENTER, start)
            .await
            .unwrap_or_else(|_| {
                Err(BackendError::OutcomeUnknown(
                    "the command did not start in time".to_owned(),
                ))
            })
    }
}

#[async_trait]
impl Dial for Sandbox {
    async fn dial(
        &self,
        handle: &Handle,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, BackendError> {
        let (meta, target) = self.target(handle)?;
        let _seat = self.seats.take(&meta.labels.lease)?;
        let addresses = addresses(host, port, meta.labels.lease.as_str())?;
        let request = Request::Dial(DialRequest {
            target,
            addresses,
            foreign: false,
        });
        let (_, fds) = match client::call(&self.program, &request, ENTER).await? {
            answer @ (Reply::Connected, _) => answer,
            _ => return Err(wrong_answer()),
        };
        let failed = |err| BackendError::Retry(format!("the connection: {err}"));
        let fd = fds.into_iter().next().ok_or_else(wrong_answer)?;
        let stream = std::net::TcpStream::from(fd);
        stream.set_nonblocking(true).map_err(failed)?;
        Ok(Box::new(TcpStream::from_std(stream).map_err(failed)?))
    }
}

/// Addresses of `host` as seen from inside. Names are not looked up: that
/// would be the host asking on a stranger's behalf, or a stranger's files
/// telling the host where to go.
pub(super) fn addresses(
    host: &str,
    port: u16,
    own_name: &str,
) -> Result<Vec<SocketAddr>, BackendError> {
    let local = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.eq_ignore_ascii_case("localhost") || host == own_name {
        return Ok(local.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    match bare.parse::<IpAddr>() {
        Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
        Err(_) => Err(BackendError::Permanent(format!(
            "{}: only localhost and addresses can be connected to",
            host.escape_default()
        ))),
    }
}

#[async_trait]
impl Logs for Sandbox {
    async fn logs(&self, handle: &Handle, max_bytes: usize) -> Result<Vec<u8>, BackendError> {
        let key = self.key(handle)?;
        if self.meta(key)?.is_none() {
            return Err(BackendError::NotRunning);
        }
        let dir = self.store.dir(key);
        blocking(move || read_logs(&dir, max_bytes))
            .await
            .map_err(|err| BackendError::Retry(format!("reading the log: {err}")))
    }
}

#[async_trait]
impl Pause for Sandbox {
    async fn pause(&self, handle: &Handle) -> Result<(), BackendError> {
        self.set_frozen(handle, true)
    }

    async fn resume(&self, handle: &Handle) -> Result<(), BackendError> {
        self.set_frozen(handle, false)
    }
}
