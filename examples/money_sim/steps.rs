//! The steps of a lease, carried out: the same commits and effects in the same
//! order as `src/provider/actors.rs` and `src/provider/steps.rs`.

use std::rc::Rc;

use satlet::core::ids::LeaseId;
use satlet::core::lease::{Event, Lease, Phase, Plan, Step};
use satlet::core::payment::Payment;

use super::answers;
use super::backend::{BackendError, Observed, Order};
use super::gifts;
use super::mint::Op;
use super::oracle;
use super::rules::Mutant;
use super::world::{CALL, GRACE, OPERATION, Reply, STOP_GRACE, SWEEP, State, World};

impl State {
    fn see(&mut self, event: &Event, lease: &Lease) {
        self.seen.insert(match event {
            Event::NotPaid(_) => "room was given up",
            Event::Up if lease.sold_seconds > 0 && lease.payments.len() > 1 => "up, paid twice",
            Event::Up => "up",
            Event::Failed(_) => "could not be made",
            Event::TimeOver => "time over",
            Event::Stopped { .. } => "stopped in time",
            Event::GraceOver => "grace over",
            Event::StopBegun => "stop begun",
            Event::Gone => "gone",
            Event::Destroyed => "destroyed",
            _ => "looked at",
        });
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Done,
    TryLater,
}

/// Seconds before the first and the longest wait for another try.
const RETRY: (u64, u64) = (1, 30);

/// Steps that failed, when each is tried again, and how long it waited.
#[derive(Default)]
struct Waits(Vec<(Step, u64, u64)>);

impl Waits {
    fn holds(&self, step: &Step, mono: u64) -> bool {
        self.0
            .iter()
            .any(|(s, until, _)| s == step && *until > mono)
    }

    fn put(&mut self, step: Step, mono: u64) {
        let waited = self.0.iter().find(|(s, ..)| *s == step);
        let wait = waited.map_or(RETRY.0, |(_, _, wait)| (wait * 2).min(RETRY.1));
        self.drop(&step);
        self.0.push((step, mono + wait, wait));
    }

    fn drop(&mut self, step: &Step) {
        self.0.retain(|(s, ..)| s != step);
    }

    fn next(&self, mono: u64) -> Option<u64> {
        let ahead = self.0.iter().map(|(_, until, _)| *until);
        ahead.filter(|until| *until > mono).min()
    }
}

impl World {
    /// Makes the lease's task look; starts it where there is none.
    pub(super) fn wake(self: &Rc<Self>, id: &LeaseId) {
        if self.with(|s| s.ring(id)) {
            return;
        }
        self.with(|s| s.process.actors.push((id.clone(), false)));
        let id = id.clone();
        self.spawn(|world| async move { world.actor(id).await });
    }

    /// The lease with its payments, while it is not archived.
    pub(super) fn load(&self, id: &LeaseId) -> Option<(Lease, Vec<Payment>)> {
        self.with(|s| {
            let lease = s.disk.lease(id)?.clone();
            let payments = s.disk.payments_of(&lease);
            Some((lease, payments))
        })
    }

    async fn actor(self: Rc<Self>, id: LeaseId) {
        self.run(&id).await;
        self.with(|s| s.process.actors.retain(|(lease, _)| *lease != id));
        let Some((lease, payments)) = self.load(&id) else {
            return;
        };
        let plan = self.with(|s| {
            let now = s.now();
            self.rules.plan(&lease, &payments, &s.pace, now, |_| false)
        });
        if plan != Plan::Over {
            self.wake(&id);
        }
    }

    async fn run(self: &Rc<Self>, id: &LeaseId) {
        let mut waits = Waits::default();
        loop {
            self.pause().await;
            let Some((lease, payments)) = self.load(id) else {
                return;
            };
            let plan = self.with(|s| {
                let (now, mono) = (s.now(), s.mono);
                self.rules.plan(&lease, &payments, &s.pace, now, |step| {
                    waits.holds(step, mono)
                })
            });
            match plan {
                Plan::Over => return self.archive(id),
                Plan::WaitUntil(at) => self.wait_until(id, at.as_secs(), &waits).await,
                Plan::Do(step) => {
                    if self.take(lease, payments, step.clone()).await == Taken::Done {
                        waits.drop(&step);
                        continue;
                    }
                    waits.put(step, self.with(|s| s.mono));
                    self.answer_late(id).await;
                }
            }
        }
    }

    async fn wait_until(&self, id: &LeaseId, at: u64, waits: &Waits) {
        let until = self.with(|s| {
            let wait = at.saturating_sub(s.now()).clamp(1, 3_600);
            let retry = waits.next(s.mono).unwrap_or(u64::MAX);
            retry.min(s.mono + wait)
        });
        let rung = |s: &mut State| {
            let mut actors = s.process.actors.iter_mut();
            let bell = actors.find(|(lease, _)| lease == id);
            let rung = bell.is_none_or(|(_, rung)| std::mem::take(rung));
            (rung || s.mono >= until).then_some(())
        };
        self.wait(until, rung).await;
    }

    /// Moves a lease that is over to where sweeps do not look.
    fn archive(&self, id: &LeaseId) {
        self.commit(|s| {
            let found = s.disk.leases.iter().position(|lease| lease.id == *id);
            if let Some(n) = found {
                let lease = s.disk.leases.remove(n);
                s.disk.ended.push(lease);
                s.disk.workloads.retain(|(lease, _)| lease != id);
            }
        });
    }

    async fn take(self: &Rc<Self>, lease: Lease, payments: Vec<Payment>, step: Step) -> Taken {
        let paid = |id| payments.into_iter().find(|payment| payment.id == id);
        let id = lease.id.clone();
        match step {
            Step::Redeem(id) => match paid(id) {
                Some(payment) => self.redeem(&lease, payment).await,
                None => Taken::TryLater,
            },
            Step::Resolve(id) => match paid(id) {
                Some(payment) => self.resolve(payment).await,
                None => Taken::TryLater,
            },
            // Nobody orders by Lightning or holds room in these histories.
            Step::Collect(_) | Step::EndHold(_) => Taken::TryLater,
            Step::Provision => self.provision(&lease).await,
            Step::Revive => {
                self.with(|s| s.seen.insert("revived"));
                self.revive(&id).await
            }
            Step::GiveUp if lease.phase == Phase::Reserved => {
                self.tell(&id, Event::NotPaid("nobody can tell".to_owned()))
                    .await
            }
            Step::GiveUp => self.tell(&id, Event::Failed("too late".to_owned())).await,
            Step::BeginStop => {
                if self.rules.is(Mutant::RefundUnowed) {
                    self.send_unowed(&lease).await;
                }
                self.tell(&id, Event::StopBegun).await
            }
            Step::TimeOver => self.tell(&id, Event::TimeOver).await,
            Step::StopWorkload => self.stop_workload(&id).await,
            Step::GraceOver => self.tell(&id, Event::GraceOver).await,
            Step::Destroy if self.rules.is(Mutant::EndUndestroyed) => {
                self.tell(&id, Event::Destroyed).await
            }
            Step::Destroy => self.destroy(&id).await,
            Step::MakeRefund(refund) => self.make_refund(&lease, &refund).await,
            Step::Warn(lead) => self.tell(&id, Event::Warned(lead)).await,
            Step::Look => self.look(&lease).await,
        }
    }

    /// Commits a change of a lease, with the answers that follow. A change that
    /// the core refuses is a defect: the history ends there.
    pub(super) async fn change(
        &self,
        id: &LeaseId,
        late: bool,
        edit: impl FnOnce(&mut State, &mut Lease) -> Result<(), String>,
    ) {
        self.pause().await;
        let rules = self.rules;
        self.commit(|s| {
            let Some(before) = s.disk.lease(id).cloned() else {
                return s.fail(0, format!("lease {id} is not there"));
            };
            let mut lease = before.clone();
            if let Err(what) = edit(s, &mut lease) {
                return s.fail(0, what);
            }
            if gifts::settle(s, rules, &before, &lease).is_none() {
                return s.fail(0, format!("lease {id} does not go with the pool"));
            }
            if let Some(row) = s.disk.lease_mut(id) {
                row.clone_from(&lease);
            }
            let payments = s.disk.payments_of(&lease);
            answers::settle(s, rules, &lease, &payments, late);
        });
        self.pause().await;
    }

    /// After a step that failed: answers whoever has waited long enough.
    async fn answer_late(&self, id: &LeaseId) {
        let Some((lease, payments)) = self.load(id) else {
            return;
        };
        if self.with(|s| answers::someone_waits(s, &lease, &payments)) {
            self.change(id, true, |_, _| Ok(())).await;
        }
    }

    /// Tells the lease what happened.
    pub(super) async fn tell(&self, id: &LeaseId, event: Event) -> Taken {
        let rules = self.rules;
        self.change(id, false, |s, lease| {
            let now = s.now();
            rules
                .on(lease, event.clone(), now)
                .map_err(|e| e.to_string())?;
            if matches!(event, Event::NotPaid(_)) {
                rules.given_up(&mut s.disk.payments, &lease.id);
            }
            if event == Event::Up
                && let Some(row) = s.disk.workloads.iter_mut().find(|(id, _)| *id == lease.id)
            {
                row.1 = true;
            }
            if event == Event::Destroyed {
                oracle::at_destroyed(s, &lease.id);
            }
            s.see(&event, lease);
            s.meter(&lease.id).on(&event, now);
            Ok(())
        })
        .await;
        Taken::Done
    }

    /// A call of the backend, bounded in time.
    async fn order(&self, order: Order, id: &LeaseId, patience: u64) -> Result<(), BackendError> {
        let lease = id.clone();
        match self.act(patience, Op::Host { order, lease }).await {
            Some(Reply::Host(done)) => done,
            _ => Err(BackendError::OutcomeUnknown),
        }
    }

    async fn provision(self: &Rc<Self>, lease: &Lease) -> Taken {
        let id = &lease.id;
        if self.rules.is(Mutant::ServeBeforeUp) {
            return self.tell(id, Event::Up).await;
        }
        let Phase::Provisioning { deadline } = lease.phase else {
            return Taken::TryLater;
        };
        let patience = self.with(|s| deadline.as_secs().saturating_sub(s.now()));
        // Asked before each try here; the provider drops a try that is running.
        let stopped = |s: &State| s.disk.lease(id).is_some_and(|l| l.stop_request.is_some());
        if self.with(|s| stopped(s)) {
            return Taken::Done;
        }
        if self.with(|s| !s.calm && s.rng.chance(9)) {
            return self
                .tell(id, Event::Failed("no such image".to_owned()))
                .await;
        }
        let made = self.order(Order::Create, id, patience.min(OPERATION)).await;
        match made {
            Ok(()) => self.tell(id, Event::Up).await,
            Err(BackendError::Permanent) => self.tell(id, Event::Failed("no".to_owned())).await,
            Err(_) if self.with(|s| stopped(s) || s.now() >= deadline.as_secs()) => Taken::Done,
            Err(_) => Taken::TryLater,
        }
    }

    async fn revive(&self, id: &LeaseId) -> Taken {
        if self.with(|s| s.disk.handle(id)) != Some(true) {
            let why = "its workload is not there".to_owned();
            return self.tell(id, Event::Failed(why)).await;
        }
        match self.order(Order::Start, id, CALL).await {
            Ok(()) => self.tell(id, Event::Up).await,
            Err(BackendError::Permanent) => self.tell(id, Event::Failed("no".to_owned())).await,
            Err(_) => Taken::TryLater,
        }
    }

    async fn stop_workload(&self, id: &LeaseId) -> Taken {
        if self.with(|s| s.disk.handle(id)) == Some(true)
            && self
                .order(Order::Stop, id, STOP_GRACE + CALL)
                .await
                .is_err()
        {
            return Taken::TryLater;
        }
        self.tell(id, Event::Stopped { grace: GRACE }).await
    }

    async fn destroy(&self, id: &LeaseId) -> Taken {
        if self.with(|s| s.disk.handle(id)) != Some(true) {
            match self.ask(CALL, |s| s.backend.list()).await {
                Some(Ok(owned)) if !owned.contains(id) => {
                    return self.tell(id, Event::Destroyed).await;
                }
                Some(Ok(_)) => {}
                _ => return Taken::TryLater,
            }
        }
        if self.order(Order::Destroy, id, CALL).await.is_err() {
            return Taken::TryLater;
        }
        self.tell(id, Event::Destroyed).await
    }

    async fn look(&self, lease: &Lease) -> Taken {
        let id = &lease.id;
        if self.with(|s| s.disk.handle(id)) != Some(true) {
            return self.tell(id, Event::Gone).await;
        }
        let seen = self.ask(CALL, |s| s.backend.observe(id)).await;
        let event = match seen {
            Some(Ok(Observed::Absent)) => Event::Gone,
            Some(Ok(Observed::Running)) => Event::Looked("its time runs".to_owned()),
            Some(Ok(Observed::Stopped)) => match self.order(Order::Start, id, CALL).await {
                Ok(()) => Event::Looked("started again after its host".to_owned()),
                Err(_) => Event::Looked("it is down; trying again".to_owned()),
            },
            _ => Event::Looked(lease.why.clone()),
        };
        self.tell(id, event).await
    }

    /// Rings for every lease that is not over, now and then.
    pub(super) async fn sweep(self: Rc<Self>) {
        loop {
            let ids = self.with(|s| {
                s.disk
                    .leases
                    .iter()
                    .map(|l| l.id.clone())
                    .collect::<Vec<_>>()
            });
            for id in ids {
                self.wake(&id);
            }
            self.sleep(SWEEP).await;
        }
    }

    /// Removes workloads whose lease is over.
    pub(super) async fn upkeep(self: Rc<Self>) {
        loop {
            if let Some(Ok(owned)) = self.ask(CALL, |s| s.backend.list()).await {
                for id in owned {
                    let over = |s: &mut State| s.disk.ended.iter().any(|lease| lease.id == id);
                    if self.with(over) {
                        self.with(|s| s.seen.insert("a workload was nobody's"));
                        let _ = self.order(Order::Destroy, &id, CALL).await;
                    }
                }
            }
            self.sleep(super::world::ROUND).await;
        }
    }
}
