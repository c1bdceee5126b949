//! The machine behind the fake: it outlives backends that are opened on it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::faults::{Defect, Event, Faults, Hang, Happened, Op};
use super::workload::{Life, State, Workload};
use crate::compute::{
    BackendError, Enforced, Image, LABEL_SCHEMA, Labels, Observed, WorkloadKey, WorkloadSpec,
};
use crate::core::capacity::Resources;
use crate::core::ids::{Name, PublicKey};
use crate::core::time::Timestamp;

/// Tells the time; called from any task.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The clock of an engine that was given none starts here (2027-01-15).
const EPOCH: Timestamp = Timestamp::from_secs(1_800_000_000);

/// What the machine is like.
#[derive(Clone, Debug)]
pub struct FakeHost {
    /// What it has in all; workloads that do not fit are refused.
    pub total: Resources,
    /// Room for so many workloads.
    pub max_workloads: usize,
    /// Which limits hold; one that is asked for and does not hold is refused.
    pub enforces: Enforced,
    /// Whether workloads reach the outside.
    pub outgoing_network: bool,
    /// What goes into the offer.
    pub isolation: String,
    /// Ports on which every workload echoes what it is sent.
    pub echo_ports: BTreeSet<u16>,
    /// How long `create` takes between making a workload and starting it.
    pub create_takes: Duration,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self {
            total: Resources {
                cpu_millicores: 64_000,
                memory_mib: 256 * 1024,
                disk_mib: 4096 * 1024,
                pids: 0,
            },
            max_workloads: 1000,
            enforces: Enforced {
                cpu: true,
                memory: true,
                pids: true,
                disk: true,
            },
            outgoing_network: true,
            isolation: "shared-kernel".to_owned(),
            echo_ports: BTreeSet::from([7]),
            create_takes: Duration::ZERO,
        }
    }
}

/// A workload as a test may look at it, without asking the backend.
#[derive(Clone, Debug)]
pub struct WorkloadView {
    /// The engine's number of it.
    pub serial: u64,
    /// Its key.
    pub key: WorkloadKey,
    /// What was asked for.
    pub spec: WorkloadSpec,
    /// Runs, or does not.
    pub state: Observed,
    /// Its files.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The machine. Clones are the same machine.
#[derive(Clone)]
pub struct FakeEngine(Arc<Shared>);

struct Shared {
    host: FakeHost,
    clock: Clock,
    inner: Mutex<Inner>,
    /// Goes up with every release of hanging calls.
    released: watch::Sender<u64>,
    /// Goes up with every call.
    calls: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) workloads: BTreeMap<u64, Workload>,
    pub(super) faults: Faults,
    pub(super) missing_images: HashSet<Image>,
    last_serial: u64,
    last_instance: u64,
    events: Vec<Event>,
}

impl Inner {
    pub(super) fn next_serial(&mut self) -> u64 {
        self.last_serial = self.last_serial.saturating_add(1);
        self.last_serial
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.faults.defects.contains(&defect)
    }

    fn by_key(&mut self, key: &WorkloadKey) -> Option<&mut Workload> {
        self.workloads.values_mut().find(|w| w.key == *key)
    }
}

impl FakeEngine {
    /// A machine with nothing on it. Its clock starts at a fixed instant and
    /// follows tokio's.
    pub fn new(host: FakeHost) -> Self {
        let start = tokio::time::Instant::now();
        Self::with_clock(host, Arc::new(move || EPOCH.plus(start.elapsed())))
    }

    /// A machine that takes start times from `clock`.
    pub fn with_clock(host: FakeHost, clock: Clock) -> Self {
        Self(Arc::new(Shared {
            host,
            clock,
            inner: Mutex::default(),
            released: watch::Sender::new(0),
            calls: watch::Sender::new(0),
        }))
    }

    /// What the machine is like.
    pub fn host(&self) -> &FakeHost {
        &self.0.host
    }

    /// The machine's time.
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_instance(&self) -> u64 {
        let mut inner = self.lock();
        inner.last_instance = inner.last_instance.saturating_add(1);
        inner.last_instance
    }

    /// The next `times` calls of `op` fail with `error` and do nothing.
    pub fn fail_next(&self, op: Op, times: usize, error: BackendError) {
        self.lock().faults.fail(op, times, &error);
    }

    /// The next `times` calls of `op` that succeed are answered
    /// [`BackendError::OutcomeUnknown`].
    pub fn lose_reply(&self, op: Op, times: u64) {
        self.lock().faults.lose(op, times);
    }

    /// Calls of `op` do nothing and do not return until [`Self::release`].
    pub fn hang(&self, op: Op) {
        self.lock().faults.hang(op, Hang::Always, true);
    }

    /// The next `calls` calls of `op` hang as with [`Self::hang`].
    pub fn hang_next(&self, op: Op, calls: u64) {
        self.lock().faults.hang(op, Hang::Next(calls), true);
    }

    /// Calls of `op` do their work, and do not return until [`Self::release`].
    pub fn hang_reply(&self, op: Op) {
        self.lock().faults.hang(op, Hang::Always, false);
    }

    /// Lets all hanging calls go on; none hangs any more.
    pub fn release(&self) {
        self.lock().faults.release(None);
        self.bump_released();
    }

    /// No further call of `op` hangs, and those that hang go on. Calls of other
    /// operations that hang already go on too; new ones hang.
    pub fn release_op(&self, op: Op) {
        self.lock().faults.release(Some(op));
        self.bump_released();
    }

    fn bump_released(&self) {
        self.0.released.send_modify(|n| *n = n.saturating_add(1));
    }

    /// With `true`, every call is an error and changes nothing; what runs goes on.
    pub fn set_down(&self, down: bool) {
        self.lock().faults.down = down;
    }

    /// Every call takes this much longer (tokio's time).
    pub fn set_slow(&self, by: Duration) {
        self.lock().faults.slow = by;
    }

    /// Makes the backend wrong in this way, so that tests of tests can see it.
    pub fn inject(&self, defect: Defect) {
        self.lock().faults.defects.insert(defect);
    }

    /// This image cannot be had.
    pub fn lose_image(&self, image: Image) {
        self.lock().missing_images.insert(image);
    }

    /// The workload is gone without anybody having asked for it.
    pub fn vanish(&self, key: &WorkloadKey) {
        let mut inner = self.lock();
        inner.workloads.retain(|_, workload| {
            let goes = workload.key == *key;
            if goes {
                workload.end(None);
            }
            !goes
        });
    }

    /// The workload's main process ends by itself with this code.
    pub fn end_main(&self, key: &WorkloadKey, code: i32) {
        if let Some(workload) = self.lock().by_key(key) {
            workload.end(Some(code));
        }
    }

    /// Puts a workload there that is not ours.
    pub fn plant_stranger(&self, key: WorkloadKey) {
        let owner = PublicKey::from_bytes([0; 32]);
        let spec = WorkloadSpec {
            owner,
            image: Image::Host,
            resources: Resources::default(),
            command: Vec::new(),
            env: Vec::new(),
            expires_at: self.now(),
            note: String::new(),
        };
        let mut inner = self.lock();
        let serial = inner.next_serial();
        let workload = self.new_workload(serial, &key, &spec, None, 0);
        inner.workloads.insert(serial, workload);
    }

    pub(super) fn new_workload(
        &self,
        serial: u64,
        key: &WorkloadKey,
        spec: &WorkloadSpec,
        backend: Option<Name>,
        instance: u64,
    ) -> Workload {
        Workload {
            key: key.clone(),
            spec: spec.clone(),
            backend,
            instance,
            labels: Labels {
                lease: key.clone(),
                owner: spec.owner,
                expires_at: spec.expires_at,
                schema: LABEL_SCHEMA,
                note: spec.note.clone(),
            },
            address: format!("10.99.{}.{}", (serial / 250) % 250, serial % 250 + 2),
            state: State::Stopped { exit_code: None },
            files: super::shell::first_files(key),
            ports: BTreeMap::new(),
            fixed_ports: self.0.host.echo_ports.clone(),
            log: Vec::new(),
        }
    }

    /// Begins a life of the workload and runs its main command.
    pub(super) fn begin(&self, inner: &mut Inner, serial: u64) {
        let now = self.now();
        let Some(workload) = inner.workloads.get_mut(&serial) else {
            return;
        };
        if workload.life().is_none() {
            let life: Life = workload.begin(now);
            tokio::spawn(super::shell::run_main(self.clone(), serial, life));
        }
    }

    /// How often `op` was called.
    pub fn count(&self, op: Op) -> usize {
        self.count_where(|event| event.op == op)
    }

    /// How often `op` was called for this workload.
    pub fn count_for(&self, op: Op, key: &WorkloadKey) -> usize {
        self.count_where(|event| event.op == op && event.key.as_ref() == Some(key))
    }

    fn count_where(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        let calls = |event: &&Event| event.what == Happened::Called && wanted(event);
        self.lock().events.iter().filter(calls).count()
    }

    /// Comes back once `op` has been called `times` times since the beginning.
    pub async fn called(&self, op: Op, times: usize) {
        let mut calls = self.0.calls.subscribe();
        while self.count(op) < times {
            if calls.changed().await.is_err() {
                return;
            }
        }
    }

    /// All that was asked and how it ended, in order.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// The workload with this key, if there is one.
    pub fn workload(&self, key: &WorkloadKey) -> Option<WorkloadView> {
        self.workloads().into_iter().find(|view| view.key == *key)
    }

    /// All workloads, strangers' too.
    pub fn workloads(&self) -> Vec<WorkloadView> {
        let inner = self.lock();
        inner.workloads.iter().map(view).collect()
    }

    /// Runs one call of a backend: record, faults, work, faults, record.
    pub(super) async fn call<T>(
        &self,
        op: Op,
        key: Option<&WorkloadKey>,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        self.note(op, key, Happened::Called);
        let slow = self.lock().faults.slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        self.hang_here(op, true).await;
        let refused = self.lock().faults.failure(op);
        let result = match refused {
            Some(error) => Err(error),
            None => self.answer(op, work.await).await,
        };
        let what = match &result {
            Ok(_) => Happened::Done,
            Err(error) => Happened::Failed(error.clone()),
        };
        self.note(op, key, what);
        result
    }

    async fn answer<T>(&self, op: Op, result: Result<T, BackendError>) -> Result<T, BackendError> {
        let value = result?;
        self.hang_here(op, false).await;
        if self.lock().faults.loses_reply(op) {
            let text = "the engine did not answer in time".to_owned();
            return Err(BackendError::OutcomeUnknown(text));
        }
        Ok(value)
    }

    async fn hang_here(&self, op: Op, before: bool) {
        // Subscribed first, so that a release in between is seen.
        let mut released = self.0.released.subscribe();
        let hangs = self.lock().faults.hangs(op, before);
        if hangs && released.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn note(&self, op: Op, key: Option<&WorkloadKey>, what: Happened) {
        let event = Event {
            at: self.now(),
            op,
            key: key.cloned(),
            what,
        };
        self.lock().events.push(event);
        self.0.calls.send_modify(|n| *n = n.saturating_add(1));
    }
}

fn view((serial, workload): (&u64, &Workload)) -> WorkloadView {
    WorkloadView {
        serial: *serial,
        key: workload.key.clone(),
        spec: workload.spec.clone(),
        state: observed(workload),
        files: workload.files.clone(),
    }
}

pub(super) fn observed(workload: &Workload) -> Observed {
    match &workload.state {
        State::Running(life) => Observed::Running {
            started_at: life.started_at,
            paused: *life.paused.borrow(),
        },
        State::Stopped { exit_code } => Observed::Stopped {
            exit_code: *exit_code,
        },
    }
}
