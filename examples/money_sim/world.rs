//! The world of one history: what outlives the provider's process, the process
//! itself as a set of tasks, and the clock. A crash drops the tasks wherever they
//! wait; they wait before and after every write, and before and after whatever a
//! mint or the backend does.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use satlet::core::ids::{LeaseId, RequestId};
use satlet::core::lease::Pace;

use super::backend::{Backend, BackendError};
use super::disk::{Blank, Disk};
use super::meter::Meter;
use super::mint::{Money, Op, Spender, WalletError};
use super::oracle;
use super::rng::Rng;
use super::rules::Rules;

/// Durations in seconds, as in `provider/settings`; looks and sweeps are rarer.
pub(super) const MINT: u64 = 30;
pub(super) const OPERATION: u64 = 4 * MINT;
pub(super) const CALL: u64 = 30;
pub(super) const PROVISION: u64 = 300;
pub(super) const STOP_GRACE: u64 = 10;
pub(super) const GRACE: u64 = 600;
pub(super) const SWEEP: u64 = 300;
pub(super) const ROUND: u64 = 600;

/// Where the wall clock starts.
const EPOCH: u64 = 1_000_000;

/// What came of an operation.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Redeemed(Result<(u64, u64), WalletError>),
    Sent(Result<super::mint::Sent, WalletError>),
    Host(Result<(), BackendError>),
}

/// What a process has in memory.
#[derive(Default)]
pub(super) struct Process {
    /// Relays are listened to: what the wallet left open has been looked at.
    pub(super) open: bool,
    /// Leases that have a task, and whether its bell was rung.
    pub(super) actors: Vec<(LeaseId, bool)>,
    /// Requests that are being handled, each with the message that brought it.
    pub(super) busy: Vec<(RequestId, u64)>,
    spawned: Vec<Task>,
    /// Something happened that a task may wait for.
    stirred: bool,
    /// Answers to operations that were waited for.
    results: Vec<(u64, Reply)>,
}

/// All but the tasks.
pub(super) struct State {
    pub(super) rng: Rng,
    /// Seconds since the start; never set back.
    pub(super) mono: u64,
    /// By how much the wall clock was set.
    pub(super) skew: i64,
    pub(super) disk: Disk,
    pub(super) money: Money,
    pub(super) backend: Backend,
    /// What is on its way: when it acts, its number, and itself.
    pub(super) flying: Vec<(u64, u64, Op)>,
    pub(super) process: Process,
    pub(super) meters: Vec<Meter>,
    pub(super) consumer: super::consumer::Consumer,
    pub(super) blank: Blank,
    pub(super) pace: Pace,
    pub(super) rate: u64,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    pub(super) failure: Option<String>,
    pub(super) drift: u64,
    pub(super) crashes: u64,
    /// What happened at least once.
    pub(super) seen: BTreeSet<&'static str>,
    hint: u64,
    steps: u64,
}

type Task = (Pin<Box<dyn Future<Output = ()>>>, u64);

/// One history.
pub(super) struct World {
    state: RefCell<State>,
    tasks: RefCell<Vec<Task>>,
    pub(super) rules: Rules,
}

impl State {
    pub(super) fn new(seed: u64, blank: &Blank) -> Self {
        let mut rng = Rng::new(seed);
        let rate = [1_000, 333, 100, 7_000][rng.below(4)];
        Self {
            rng,
            mono: 0,
            skew: 0,
            disk: Disk::default(),
            money: Money::default(),
            backend: Backend::default(),
            flying: Vec::new(),
            process: Process::default(),
            meters: Vec::new(),
            consumer: super::consumer::Consumer::default(),
            blank: blank.clone(),
            pace: Pace {
                warnings: vec![60],
                look_every: 120,
                patience: GRACE,
            },
            rate,
            calm: false,
            failure: None,
            drift: 0,
            crashes: 0,
            seen: BTreeSet::new(),
            hint: 0,
            steps: 0,
        }
    }

    /// The wall clock.
    pub(super) fn now(&self) -> u64 {
        (EPOCH + self.mono).saturating_add_signed(self.skew)
    }

    pub(super) fn fail(&mut self, drift: u64, what: String) {
        if self.failure.is_none() {
            self.failure = Some(what);
            self.drift = drift;
        }
    }

    pub(super) fn meter(&mut self, lease: &LeaseId) -> &mut Meter {
        let meter = self.meters.iter_mut().find(|meter| meter.lease == *lease);
        meter.expect("each lease has a meter")
    }

    /// Makes a task look at the ledger.
    pub(super) fn ring(&mut self, lease: &LeaseId) -> bool {
        let actor = self.process.actors.iter_mut().find(|(id, _)| id == lease);
        let there = actor.map(|(_, rung)| *rung = true).is_some();
        self.process.stirred |= there;
        there
    }

    /// How long an answer takes.
    fn latency(&mut self) -> u64 {
        match self.rng.below(100) {
            _ if self.calm => 0,
            0..80 => 0,
            80..92 => self.rng.within(1, 20),
            92..98 => self.rng.within(20, 400),
            _ => self.rng.within(400, 2_000),
        }
    }

    /// Does what was on its way until now.
    fn land(&mut self) {
        while let Some(n) = self.flying.iter().position(|(at, ..)| *at <= self.mono) {
            let (_, number, op) = self.flying.remove(n);
            let reply = self.act(&op);
            if let Op::Host { order, lease } = &op
                && *order == super::backend::Order::Create
            {
                self.backend.late.push(lease.clone());
            }
            self.process.results.push((number, reply));
            self.process.stirred = true;
        }
    }

    fn act(&mut self, op: &Op) -> Reply {
        match op {
            Op::Redeem { request, token } => Reply::Redeemed(self.money.redeem(*request, token)),
            Op::Send {
                purse,
                msat,
                inputs,
            } => Reply::Sent(self.money.send(*purse, *msat, *inputs)),
            Op::TakeBack { token } => Reply::Redeemed(self.money.take_back_token(token)),
            Op::Host { order, lease } => Reply::Host(self.backend.obey(*order, lease)),
        }
    }

    /// Whether a redemption of these proofs is on its way.
    pub(super) fn is_flying(&self, payment: &satlet::core::ids::PaymentId) -> bool {
        let same = |op: &Op| {
            matches!(op, Op::Redeem { token, .. } | Op::TakeBack { token }
                if token.payment() == *payment)
        };
        self.flying.iter().any(|(_, _, op)| same(op))
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, secs: u64) {
        let until = self.mono + secs;
        while let Some(next) = self.flying.iter().map(|(at, ..)| *at).min() {
            if next > until {
                break;
            }
            self.mono = self.mono.max(next);
            self.land();
        }
        self.mono = until;
    }

    /// Takes back what the wallet made and no row of the ledger knows.
    pub(super) fn take_back_orphans(&mut self) {
        let orphan = |n: &usize| !self.money.sent[*n].booked && self.money.sent[*n].back.is_none();
        let orphans: Vec<_> = (0..self.money.sent.len()).filter(orphan).collect();
        for n in orphans {
            self.money.take_back(n);
            self.seen.insert("a token was taken back");
        }
    }

    pub(super) fn spend_elsewhere(&mut self, token: &super::disk::Token) {
        self.money.spend(token, Spender::Consumer);
    }
}

impl World {
    pub(super) fn new(state: State, rules: Rules) -> Rc<Self> {
        Rc::new(Self {
            state: RefCell::new(state),
            tasks: RefCell::default(),
            rules,
        })
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.borrow_mut())
    }

    /// Starts a task of the process.
    pub(super) fn spawn<F>(self: &Rc<Self>, task: impl FnOnce(Rc<Self>) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let task: Task = (Box::pin(task(Rc::clone(self))), 0);
        self.with(|s| s.process.spawned.push(task));
    }

    /// Ends the process, wherever its tasks are.
    pub(super) fn kill(&self) {
        self.tasks.borrow_mut().clear();
        let process = self.with(|s| std::mem::take(&mut s.process));
        drop(process);
    }

    /// Waits until `ready` gives something, to be asked again when something
    /// happened, at `until` by the clock at the latest.
    pub(super) async fn wait<T>(&self, until: u64, ready: impl Fn(&mut State) -> Option<T>) -> T {
        poll_fn(|_| {
            self.with(|s| match ready(s) {
                Some(done) => Poll::Ready(done),
                None => {
                    s.hint = until;
                    Poll::Pending
                }
            })
        })
        .await
    }

    /// Here the process may be cut off, and others have their turn.
    pub(super) async fn pause(&self) {
        let mut waited = false;
        poll_fn(|_| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.with(|s| s.hint = 0);
            Poll::Pending
        })
        .await;
    }

    pub(super) async fn sleep(&self, secs: u64) {
        let until = self.with(|s| s.mono) + secs;
        self.wait(until, |s| (s.mono >= until).then_some(())).await;
    }

    /// A question to the outside, which changes nothing; `None` where no answer
    /// comes within `patience` seconds.
    pub(super) async fn ask<T>(
        &self,
        patience: u64,
        what: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        self.pause().await;
        let wait = self.with(State::latency);
        if wait > patience {
            self.sleep(patience).await;
            return None;
        }
        if wait > 0 {
            self.sleep(wait).await;
        }
        let got = self.with(what);
        self.pause().await;
        Some(got)
    }

    /// Has something done outside. `None`: it may have been, or may yet be.
    pub(super) async fn act(&self, patience: u64, op: Op) -> Option<Reply> {
        self.pause().await;
        let (number, late) = self.with(|s| {
            s.steps += 1;
            (s.steps, s.latency())
        });
        if late > 0 {
            let until = self.with(|s| {
                s.flying.push((s.mono + late, number, op));
                s.mono + patience
            });
            let come = |s: &mut State| {
                let found = s.process.results.iter().position(|(n, _)| *n == number);
                match found {
                    Some(n) => Some(Some(s.process.results.swap_remove(n).1)),
                    None => (s.mono >= until).then_some(None),
                }
            };
            return self.wait(until, come).await;
        }
        let fate = self.with(|s| if s.calm { 0 } else { s.rng.below(100) });
        let reply = match fate {
            90..95 => None,
            _ => Some(self.with(|s| s.act(&op))),
        };
        self.pause().await;
        reply.filter(|_| fate < 95)
    }

    /// One turn of the `n`th task.
    fn poll(&self, n: usize) {
        let idle: Task = (Box::pin(std::future::pending()), u64::MAX);
        let mut task = std::mem::replace(&mut self.tasks.borrow_mut()[n], idle);
        let polled = task
            .0
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        task.1 = self.with(|s| s.hint);
        let mut tasks = self.tasks.borrow_mut();
        match polled {
            Poll::Pending => tasks[n] = task,
            Poll::Ready(()) => drop(tasks.swap_remove(n)),
        }
    }

    /// One turn of a task that can go on; `false` where all wait.
    pub(super) fn turn(&self) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        self.with(|s| {
            tasks.append(&mut s.process.spawned);
            if std::mem::take(&mut s.process.stirred) {
                tasks.iter_mut().for_each(|(_, wake)| *wake = 0);
            }
        });
        let mono = self.with(|s| s.mono);
        let ready = tasks.iter().filter(|(_, wake)| *wake <= mono).count();
        if ready == 0 {
            return false;
        }
        let pick = self.with(|s| s.rng.below(ready));
        let mut all = tasks.iter().enumerate();
        let picked = all
            .by_ref()
            .filter(|(_, (_, wake))| *wake <= mono)
            .nth(pick);
        let n = picked.map_or(0, |(n, _)| n);
        drop(tasks);
        self.poll(n);
        true
    }

    /// Seconds until a task or something on its way goes on.
    pub(super) fn idle(&self) -> u64 {
        let tasks = self.tasks.borrow();
        let task = tasks.iter().map(|(_, wake)| *wake).min();
        self.with(|s| {
            let flying = s.flying.iter().map(|(at, ..)| *at).min();
            let next = task.into_iter().chain(flying).min();
            next.map_or(1, |at| at.saturating_sub(s.mono).clamp(1, SWEEP))
        })
    }

    /// Writes to the ledger: all of it or nothing, with the books looked at.
    pub(super) fn commit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.with(|s| {
            let done = change(s);
            oracle::after_commit(s);
            done
        })
    }
}
