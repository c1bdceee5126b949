//! Random histories of money against the pure core.
//!
//! The core (`core/lease`, `core/payment`, `core/pricing`) is the real one. Around
//! it stand a provider of a few hundred lines, which makes the same commits and
//! calls in the same order as `src/provider` does, a fake of two mints and a
//! wallet, a fake backend, and a consumer who tries everything: duplicates,
//! overlapping and spent tokens, races, stops. The provider's process is a set of
//! tasks that take turns by chance; a crash drops them wherever they wait, which
//! is before and after each write and each call. What the ledger, the mints and
//! the host have survives.
//!
//! An oracle with books of its own looks at every commit; when all has settled it
//! asks whether every msat, workload and request has found its end. Everything
//! comes from one seed.

mod after;
mod answers;
mod backend;
mod consumer;
mod disk;
mod gifts;
mod handlers;
mod meter;
mod mint;
mod oracle;
mod pay;
mod refunds;
mod rng;
mod rules;
mod steps;
mod world;

use std::collections::BTreeSet;

use disk::Blank;
use rules::Rules;
use world::{State, World};

pub(crate) use rules::{MUTANTS, Mutant};

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) histories: u64,
    pub(crate) crashes: u64,
    /// Msat that are somewhere else than the books say.
    pub(crate) drift_msat: u64,
    /// What happened in some history.
    pub(crate) seen: BTreeSet<&'static str>,
}

/// A history in which something was wrong.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Replays it as the only one.
    pub(crate) seed: u64,
    pub(crate) what: String,
    /// What was run up to it, itself included.
    pub(crate) summary: Summary,
}

/// Turns after which a history has to have settled.
const TURNS: u32 = 100_000;

/// Runs so many histories, until one fails.
///
/// # Errors
/// The first history in which a rule was broken.
pub(crate) fn run(
    histories: u64,
    seed: u64,
    mutant: Option<Mutant>,
) -> Result<Summary, Box<Failure>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let stride = threads.clamp(1, histories.max(1));
    let parts: Vec<_> = std::thread::scope(|scope| {
        let part = |first| scope.spawn(move || part(first, stride, histories, seed, mutant));
        let parts: Vec<_> = (0..stride).map(part).collect();
        let ended = parts.into_iter().map(|part| part.join());
        ended.map(|part| part.expect("a history ends")).collect()
    });
    let mut all = Summary::default();
    let mut failed: Option<(u64, Failure)> = None;
    for (summary, failure) in parts {
        all.histories += summary.histories;
        all.crashes += summary.crashes;
        all.seen.extend(summary.seen);
        if let Some((n, failure)) = failure
            && failed.as_ref().is_none_or(|(first, _)| n < *first)
        {
            failed = Some((n, failure));
        }
    }
    match failed {
        None => Ok(all),
        Some((_, mut failure)) => {
            failure.summary.histories = all.histories;
            failure.summary.crashes = all.crashes;
            Err(Box::new(failure))
        }
    }
}

/// Every `stride`th history from the `first` on.
fn part(
    first: u64,
    stride: u64,
    histories: u64,
    seed: u64,
    mutant: Option<Mutant>,
) -> (Summary, Option<(u64, Failure)>) {
    let blank = Blank::new();
    let mut summary = Summary::default();
    let mut n = first;
    while n < histories {
        let seed = rng::seed_of(seed, n);
        let (crashes, failure) = history(seed, mutant, &blank, &mut summary.seen);
        summary.histories += 1;
        summary.crashes += crashes;
        if let Some((drift_msat, what)) = failure {
            summary.drift_msat = drift_msat;
            let failure = Failure {
                seed,
                what,
                summary: summary.clone(),
            };
            return (summary, Some((n, failure)));
        }
        n += stride;
    }
    (summary, None)
}

/// One history: its crashes, and what was wrong in it.
fn history(
    seed: u64,
    mutant: Option<Mutant>,
    blank: &Blank,
    seen: &mut BTreeSet<&'static str>,
) -> (u64, Option<(u64, String)>) {
    let world = World::new(State::new(seed, blank), Rules(mutant));
    let (turns, crashes) = world.with(|s| {
        let most = [0, 0, 2_000, 30_000][s.rng.below(4)];
        s.fund(most);
        let earned = s.rng.within(0, 4_000_000);
        s.disk.gifts.begin(earned);
        let turns = s.rng.within(40, 220);
        let crashes: Vec<_> = (0..s.rng.within(1, 4))
            .map(|_| s.rng.within(5, turns))
            .collect();
        (turns, crashes)
    });
    world.start();
    world.asks();
    let failed = || world.with(|s| s.failure.is_some());
    for turn in 0..=turns {
        if crashes.contains(&turn) {
            world.crash();
        }
        let quiet = world.with(|s| s.rng.chance(80));
        if !(quiet && world.turn()) {
            world.happens();
        }
        if failed() {
            break;
        }
    }
    if !failed() {
        settle(&world);
    }
    world.kill();
    world.with(|s| seen.append(&mut s.seen));
    world.with(|s| (s.crashes, s.failure.take().map(|what| (s.drift, what))))
}

/// From here on nothing goes wrong, and time passes until nothing is left to do.
fn settle(world: &std::rc::Rc<World>) {
    world.with(|s| {
        s.calm = true;
        s.money.down = Default::default();
        s.backend.down = false;
        s.fund(100_000_000);
    });
    let mut started_again = false;
    for _ in 0..TURNS {
        if world.with(|s| s.failure.is_some()) {
            return;
        }
        if world.turn() {
            continue;
        }
        if !world.with(is_quiet) {
            let secs = world.idle();
            world.with(|s| s.pass(secs));
        } else if started_again {
            return world.with(oracle::at_end);
        } else {
            // A last start takes back what was made for nobody.
            started_again = true;
            world.kill();
            world.start();
        }
    }
    world.with(|s| {
        let what = format!("it does not settle: {}", s.left());
        s.fail(0, what);
    });
}

impl State {
    /// What is left to do, in words.
    fn left(&self) -> String {
        let leases: Vec<_> = self.disk.leases.iter().map(|l| (&l.id, l.phase)).collect();
        let open = |p: &&satlet::core::payment::Payment| p.is_open();
        let payments: Vec<_> = self.disk.payments.iter().filter(open).collect();
        let inbox = self.disk.inbox.iter().filter(|(_, done)| !done);
        let messages: Vec<_> = inbox.map(|(msg, _)| msg).collect();
        let unanswered = |row: &&disk::RequestRow| row.answer.is_none();
        let requests: Vec<_> = self.disk.requests.iter().filter(unanswered).collect();
        format!(
            "leases {leases:?}, payments {payments:?}, messages {messages:?}, requests \
             {requests:?}, {} on their way",
            self.flying.len()
        )
    }
}

/// Whether nothing waits any more.
fn is_quiet(s: &mut State) -> bool {
    let answered = |row: &disk::RequestRow| row.answer.is_some();
    s.disk.leases.is_empty()
        && s.flying.is_empty()
        && s.disk.inbox.iter().all(|(_, done)| *done)
        && s.disk.requests.iter().all(answered)
}
