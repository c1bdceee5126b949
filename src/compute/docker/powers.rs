//! What can be done with a container that runs.

use async_trait::async_trait;
use bollard::query_parameters::LogsOptions;
use futures::StreamExt;

use super::engine::{CHANGE, READ, Trouble, within};
use super::observe::Found;
use super::{Docker, Inner, exec};
use crate::compute::sandbox::door::Target;
use crate::compute::{
    BackendError, Dial, Duplex, Exec, ExecRequest, ExecSession, Handle, Logs, Pause, WorkloadKey,
};

/// Most lines that are asked for: a line is a byte at least.
const MAX_LINES: usize = 100_000;

impl Inner {
    /// What runs, or `NotRunning`.
    async fn live(&self, handle: &Handle) -> Result<(WorkloadKey, Found), BackendError> {
        let key = self.key(handle)?;
        match self.find(key).await? {
            Some(found) if found.running() => Ok((key.clone(), found)),
            _ => Err(BackendError::NotRunning),
        }
    }

    async fn target(found: &Found) -> Result<Target, BackendError> {
        let pid = found.pid.ok_or(BackendError::NotRunning)?;
        Target::find(pid, &found.id).await
    }
}

#[async_trait]
impl Exec for Docker {
    async fn exec(
        &self,
        handle: &Handle,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let (key, found) = self.inner.live(handle).await?;
        if found.paused() {
            return Err(BackendError::Retry("the workload is paused".to_owned()));
        }
        match &self.inner.door {
            Some(door) => {
                let target = Inner::target(&found).await?;
                door.exec(&key, target, found.env, request).await
            }
            None => exec::run(&self.inner.docker, &found.id, request).await,
        }
    }
}

#[async_trait]
impl Dial for Docker {
    async fn dial(
        &self,
        handle: &Handle,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, BackendError> {
        let (key, found) = self.inner.live(handle).await?;
        let door = self.inner.door.as_ref().ok_or_else(|| {
            BackendError::Permanent("connecting into a container needs root".to_owned())
        })?;
        let target = Inner::target(&found).await?;
        door.dial(&key, target, host, port).await
    }
}

#[async_trait]
impl Logs for Docker {
    async fn logs(&self, handle: &Handle, max_bytes: usize) -> Result<Vec<u8>, BackendError> {
        let key = self.inner.key(handle)?;
        let found = self.inner.find(key).await?;
        let found = found.ok_or(BackendError::NotRunning)?;
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: max_bytes.clamp(1, MAX_LINES).to_string(),
            ..LogsOptions::default()
        };
        let mut pieces = self.inner.docker.logs(&found.id, Some(options));
        let read = async {
            let mut all: Vec<u8> = Vec::new();
            while let Some(piece) = pieces.next().await {
                all.extend_from_slice(&piece?.into_bytes());
                // Only the end counts; twice of it is kept while reading.
                let over = all.len().saturating_sub(max_bytes.saturating_add(1));
                if over > max_bytes {
                    all.drain(..over);
                }
            }
            Ok(all)
        };
        let all = within(READ, read)
            .await
            .map_err(|trouble| trouble.asking("reading the log"))?;
        Ok(crate::compute::sandbox::tail(all, max_bytes))
    }
}

#[async_trait]
impl Pause for Docker {
    async fn pause(&self, handle: &Handle) -> Result<(), BackendError> {
        let key = self.inner.key(handle)?;
        let _turn = self.inner.flights.turn(key).await;
        let (_, found) = self.inner.live(handle).await?;
        if found.paused() {
            return Ok(());
        }
        match within(CHANGE, self.inner.docker.pause_container(&found.id)).await {
            Ok(()) | Err(Trouble::Unmodified) => Ok(()),
            Err(Trouble::NotFound(_)) => Err(BackendError::NotRunning),
            Err(trouble) => Err(trouble.doing("pausing the container")),
        }
    }

    async fn resume(&self, handle: &Handle) -> Result<(), BackendError> {
        let key = self.inner.key(handle)?;
        let _turn = self.inner.flights.turn(key).await;
        let (_, found) = self.inner.live(handle).await?;
        self.inner.thaw(&found).await
    }
}
