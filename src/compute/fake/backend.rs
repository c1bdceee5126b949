//! The required core, on a [`FakeEngine`].

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::engine::{FakeEngine, FakeHost, Inner, observed};
use super::faults::{Defect, Op};
use super::shell;
use super::workload::{Life, Workload};
use crate::compute::{
    Backend, BackendError, Capabilities, Dial, Exec, Handle, Health, Image, Inventory, Logs,
    Observed, Owned, Pause, WorkloadKey, WorkloadSpec,
};
use crate::core::capacity::Resources;
use crate::core::ids::Name;
use crate::core::time::Timestamp;

/// Version of handles written today, `{"id": 1}`. Version 1 was `{"serial": "1"}`.
pub const HANDLE_VERSION: u32 = 2;

/// A backend on a [`FakeEngine`]. Opening a second one of the same name on the
/// same engine is what a restart of the daemon does.
pub struct FakeBackend {
    name: Name,
    pub(super) engine: FakeEngine,
    instance: u64,
    capabilities: Capabilities,
}

impl FakeBackend {
    /// A backend on a machine of its own.
    pub fn new(name: Name, host: FakeHost) -> Self {
        Self::open(name, &FakeEngine::new(host))
    }

    /// A backend on this machine.
    pub fn open(name: Name, engine: &FakeEngine) -> Self {
        let host = engine.host();
        Self {
            name,
            instance: engine.next_instance(),
            capabilities: Capabilities {
                isolation: host.isolation.clone(),
                oci_images: true,
                host_image: true,
                enforces: host.enforces,
                outgoing_network: host.outgoing_network,
                notes: Vec::new(),
            },
            engine: engine.clone(),
        }
    }

    /// The machine.
    pub fn engine(&self) -> &FakeEngine {
        &self.engine
    }

    fn handle(&self, serial: u64, key: &WorkloadKey) -> Handle {
        Handle {
            backend: self.name.clone(),
            version: HANDLE_VERSION,
            key: key.clone(),
            data: json!({ "id": serial }),
        }
    }

    /// The serial number that the handle means; `None`: none that exists.
    pub(super) fn serial(
        &self,
        inner: &Inner,
        handle: &Handle,
    ) -> Result<Option<u64>, BackendError> {
        let serial = self.read_handle(inner, handle)?;
        let ours = |w: &Workload| {
            let known = !inner.has(Defect::ForgetsHandle) || w.instance == self.instance;
            w.key == handle.key && w.backend.as_ref() == Some(&self.name) && known
        };
        Ok(inner
            .workloads
            .get(&serial)
            .is_some_and(ours)
            .then_some(serial))
    }

    fn read_handle(&self, inner: &Inner, handle: &Handle) -> Result<u64, BackendError> {
        if handle.backend != self.name {
            return Err(permanent(format!("a handle of {}", handle.backend)));
        }
        let serial = match handle.version {
            HANDLE_VERSION => handle.data.get("id").and_then(serde_json::Value::as_u64),
            1 if !inner.has(Defect::RefusesOldHandle) => {
                let text = handle.data.get("serial").and_then(|v| v.as_str());
                text.and_then(|text| text.parse().ok())
            }
            version => return Err(permanent(format!("a handle of version {version}"))),
        };
        serial.ok_or_else(|| permanent("a handle that cannot be read".to_owned()))
    }

    /// The living workload behind the handle, or `NotRunning`.
    pub(super) fn alive(&self, handle: &Handle) -> Result<(u64, Life), BackendError> {
        let inner = self.engine.lock();
        let serial = self
            .serial(&inner, handle)?
            .ok_or(BackendError::NotRunning)?;
        let life = inner.workloads.get(&serial).and_then(Workload::life);
        Ok((serial, life.ok_or(BackendError::NotRunning)?.clone()))
    }

    /// Makes the record of a workload, or finds the one that is there.
    fn make(&self, key: &WorkloadKey, spec: &WorkloadSpec) -> Result<u64, BackendError> {
        let mut inner = self.engine.lock();
        let mine = |w: &Workload| w.key == *key && w.backend.as_ref() == Some(&self.name);
        let there = inner
            .workloads
            .iter()
            .find(|(_, w)| mine(w))
            .map(|(n, _)| *n);
        if let (Some(serial), false) = (there, inner.has(Defect::CreateTwiceMakesTwo)) {
            return Ok(serial);
        }
        let refusal = self.refuse(&inner, spec);
        if let (Err(error), false) = (&refusal, inner.has(Defect::FailedCreateLeavesIt)) {
            return Err(error.clone());
        }
        let serial = inner.next_serial();
        let name = Some(self.name.clone());
        let workload = self
            .engine
            .new_workload(serial, key, spec, name, self.instance);
        inner.workloads.insert(serial, workload);
        refusal.map(|()| serial)
    }

    fn refuse(&self, inner: &Inner, spec: &WorkloadSpec) -> Result<(), BackendError> {
        if inner.missing_images.contains(&spec.image) {
            return Err(BackendError::Image("there is no such image".to_owned()));
        }
        if !spec.command.is_empty() && !shell::is_program(&spec.command) {
            return Err(permanent("there is no such program".to_owned()));
        }
        let host = self.engine.host();
        unenforced(host, spec.resources)?;
        if inner.has(Defect::NoCapacityLimit) {
            return Ok(());
        }
        let mut promised = spec.resources;
        for workload in inner.workloads.values() {
            promised = promised
                .checked_add(workload.spec.resources)
                .ok_or_else(|| BackendError::NoCapacity("numbers".to_owned()))?;
        }
        let full = |what: &str| Err(BackendError::NoCapacity(what.to_owned()));
        match host.total {
            _ if inner.workloads.len() >= host.max_workloads => full("workloads"),
            total if promised.cpu_millicores > total.cpu_millicores => full("cpu"),
            total if promised.memory_mib > total.memory_mib => full("memory"),
            total if promised.disk_mib > total.disk_mib => full("disk"),
            total if total.pids > 0 && promised.pids > total.pids => full("processes"),
            _ => Ok(()),
        }
    }

    async fn stop_life(&self, serial: u64, life: &Life, grace: Duration) {
        life.term.send_modify(|term| term.sent = true);
        let impatient = self.engine.lock().has(Defect::StopWithoutGrace);
        let grace = if impatient { Duration::ZERO } else { grace };
        // A frozen process does not see the signal before it is thawed.
        life.paused.send_replace(false);
        if tokio::time::timeout(grace, life.end.cancelled())
            .await
            .is_err()
        {
            let mut inner = self.engine.lock();
            let spared = inner.has(Defect::StopNeverKills);
            if let (Some(workload), false) = (inner.workloads.get_mut(&serial), spared) {
                workload.end(Some(137));
            }
        }
    }
}

/// A limit that does not hold here is refused, not ignored.
fn unenforced(host: &FakeHost, ask: Resources) -> Result<(), BackendError> {
    let limits = [
        ("cpu", ask.cpu_millicores, host.enforces.cpu),
        ("memory", ask.memory_mib, host.enforces.memory),
        ("pids", ask.pids, host.enforces.pids),
        ("disk", ask.disk_mib, host.enforces.disk),
    ];
    match limits.iter().find(|(_, ask, holds)| *ask > 0 && !holds) {
        Some((what, ..)) => Err(permanent(format!("this host has no limit of {what}"))),
        None => Ok(()),
    }
}

fn permanent(text: String) -> BackendError {
    BackendError::Permanent(text)
}

#[async_trait]
impl Backend for FakeBackend {
    fn name(&self) -> &Name {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn probe(&self) -> Result<Health, BackendError> {
        let engine = "fake 1".to_owned();
        let work = async { Ok(Health { engine }) };
        self.engine.call(Op::Probe, None, work).await
    }

    async fn inventory(&self) -> Result<Inventory, BackendError> {
        let total = self.engine.host().total;
        let work = async { Ok(Inventory { total }) };
        self.engine.call(Op::Inventory, None, work).await
    }

    async fn prepare(&self, image: &Image) -> Result<(), BackendError> {
        let work = async {
            match self.engine.lock().missing_images.contains(image) {
                true => Err(BackendError::Image("there is no such image".to_owned())),
                false => Ok(()),
            }
        };
        self.engine.call(Op::Prepare, None, work).await
    }

    async fn create(&self, key: &WorkloadKey, spec: &WorkloadSpec) -> Result<Handle, BackendError> {
        let work = async {
            let serial = self.make(key, spec)?;
            // Here a caller that goes away leaves a workload half made.
            tokio::task::yield_now().await;
            tokio::time::sleep(self.engine.host().create_takes).await;
            self.engine.begin(&mut self.engine.lock(), serial);
            Ok(self.handle(serial, key))
        };
        self.engine.call(Op::Create, Some(key), work).await
    }

    async fn observe(&self, handle: &Handle) -> Result<Observed, BackendError> {
        let work = async {
            let inner = self.engine.lock();
            let serial = self.serial(&inner, handle)?;
            let found = serial.and_then(|serial| inner.workloads.get(&serial));
            let mut seen = found.map_or(Observed::Absent, observed);
            if let (Observed::Running { started_at, .. }, true) =
                (&mut seen, inner.has(Defect::StartedAtMoves))
            {
                *started_at = self.engine.now();
            }
            Ok(seen)
        };
        let seen = self.engine.call(Op::Observe, Some(&handle.key), work).await;
        match seen {
            Err(_) if self.engine.lock().has(Defect::AbsentWhenDown) => Ok(Observed::Absent),
            seen => seen,
        }
    }

    async fn list_owned(&self) -> Result<Vec<Owned>, BackendError> {
        let work = async {
            let inner = self.engine.lock();
            let all = inner.has(Defect::ListsStrangers);
            let ours = |w: &Workload| all || w.backend.as_ref() == Some(&self.name);
            let owned = inner.workloads.iter().filter(|(_, w)| ours(w));
            let owned = owned.map(|(serial, workload)| Owned {
                handle: self.handle(*serial, &workload.key),
                labels: workload.labels.clone(),
            });
            Ok(owned.collect())
        };
        let owned = self.engine.call(Op::ListOwned, None, work).await;
        match owned {
            Err(_) if self.engine.lock().has(Defect::EmptyWhenDown) => Ok(Vec::new()),
            owned => owned,
        }
    }

    async fn note_end(&self, handle: &Handle, end: Timestamp) -> Result<(), BackendError> {
        let mut inner = self.engine.lock();
        let serial = self.serial(&inner, handle)?;
        if let Some(workload) = serial.and_then(|serial| inner.workloads.get_mut(&serial)) {
            workload.labels.expires_at = end;
        }
        Ok(())
    }

    async fn start(&self, handle: &Handle) -> Result<(), BackendError> {
        let work = async {
            let mut inner = self.engine.lock();
            let serial = self
                .serial(&inner, handle)?
                .ok_or(BackendError::NotRunning)?;
            let forgets = inner.has(Defect::StartLosesDisk);
            if let (Some(workload), true) = (inner.workloads.get_mut(&serial), forgets) {
                workload.files.clear();
            }
            self.engine.begin(&mut inner, serial);
            Ok(())
        };
        self.engine.call(Op::Start, Some(&handle.key), work).await
    }

    async fn stop(&self, handle: &Handle, grace: Duration) -> Result<(), BackendError> {
        let work = async {
            match self.alive(handle) {
                Ok((serial, life)) => self.stop_life(serial, &life, grace).await,
                Err(BackendError::NotRunning) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        };
        self.engine.call(Op::Stop, Some(&handle.key), work).await
    }

    async fn destroy(&self, handle: &Handle) -> Result<(), BackendError> {
        let work = async {
            let mut inner = self.engine.lock();
            let serial = self.serial(&inner, handle)?;
            let gone = serial.and_then(|serial| inner.workloads.remove(&serial));
            match gone {
                Some(mut workload) => workload.end(None),
                None if inner.has(Defect::DestroyTwiceFails) => {
                    return Err(permanent("no such workload".to_owned()));
                }
                None => {}
            }
            Ok(())
        };
        self.engine.call(Op::Destroy, Some(&handle.key), work).await
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
        Some(self)
    }
}
