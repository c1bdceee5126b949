//! The one writer. Changes wait in a queue; whoever finds nobody at work takes all
//! that wait, carries them out one after the other, commits them together with
//! one sync of the disk, and answers. What comes meanwhile is the next batch, so
//! that the slower the disk is, the more changes share a sync.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use redb::{Database, Durability, ReadableDatabase};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::LedgerError;
use super::table::{Batch, Reader, Rows, Tx};
use super::views::Views;

/// Changes that wait at once; who comes later waits outside.
const QUEUE: usize = 4096;

/// Changes in one batch, at most: a bound for memory, and for how long the first
/// one waits.
const BATCH: usize = 512;

/// A batch of so many changes tells of many askers; where it was one, the next
/// one waits until as many again are there, but no longer than [`GATHER`]: a sync
/// of the disk costs the same for one change as for fifty.
const MANY: usize = 8;
/// Changes that are not let wait for more.
const ENOUGH: usize = 64;
/// What many askers wait for each other at most.
const GATHER: Duration = Duration::from_millis(8);

/// Says what became of a change, once the batch is committed or not.
type Answer = Box<dyn FnOnce(&Result<(), LedgerError>) + Send>;

/// A change that waits. Without a batch it is not carried out.
type Job = Box<dyn FnOnce(Option<&mut Batch>) -> Answer + Send>;

/// Told of the tables that a commit changes, before it and after it.
pub(super) type Watch = Box<dyn Fn(&[&str], bool) + Send + Sync>;

/// The database, its views, and the changes that wait.
pub(super) struct Writer {
    db: Database,
    views: RwLock<Views>,
    queue: Mutex<Queue>,
    /// Told when there are [`ENOUGH`].
    enough: Condvar,
    watch: OnceLock<Watch>,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    at_work: bool,
}

impl Writer {
    pub(super) fn new(db: Database) -> Result<Self, LedgerError> {
        let views = Views::load(&Reader::new(db.begin_read()?))?;
        Ok(Self {
            db,
            views: RwLock::new(views),
            queue: Mutex::default(),
            enough: Condvar::new(),
            watch: OnceLock::new(),
            places: Arc::new(Semaphore::new(QUEUE)),
        })
    }

    pub(super) fn read(&self) -> Result<Reader, LedgerError> {
        Ok(Reader::new(self.db.begin_read()?))
    }

    /// A look at the views.
    pub(super) fn views<T>(&self, look: impl FnOnce(&Views) -> T) -> T {
        look(&self.views.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues a change, and waits until it is on disk or refused. It is carried
    /// out also where nobody waits for it any more.
    pub(super) async fn write<T, F>(self: &Arc<Self>, change: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| LedgerError::Writer)?;
        let (tell, told) = oneshot::channel();
        self.push(job(change, tell, place));
        told.await.map_err(|_| LedgerError::Writer)?
    }

    fn push(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        if queue.at_work {
            if queue.jobs.len() == ENOUGH {
                self.enough.notify_one();
            }
            return;
        }
        queue.at_work = true;
        drop(queue);
        let shift = Shift {
            writer: Arc::clone(self),
            ended: false,
        };
        // A task of the blocking pool, not a thread of our own: a runtime with a
        // paused clock (tests) knows then that something is going on.
        drop(tokio::task::spawn_blocking(move || shift.work()));
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch after one of `before` changes, the oldest ones first.
    fn next(&self, before: usize) -> Vec<Job> {
        let mut queue = self.queue();
        if before >= MANY {
            let few = |queue: &mut Queue| queue.jobs.len() < ENOUGH;
            let gathered = self.enough.wait_timeout_while(queue, GATHER, few);
            (queue, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        }
        let count = queue.jobs.len().min(BATCH);
        queue.jobs.drain(..count).collect()
    }

    /// Whether nothing waits; then nobody is at work any more.
    fn is_over(&self) -> bool {
        let mut queue = self.queue();
        queue.at_work = !queue.jobs.is_empty();
        !queue.at_work
    }

    /// Has `watch` told of every commit; the first one stays.
    pub(super) fn watch(&self, watch: Watch) {
        drop(self.watch.set(watch));
    }

    fn tell(&self, rows: &Rows, done: bool) {
        if let Some(watch) = self.watch.get()
            && !rows.is_empty()
        {
            watch(&rows.tables(), done);
        }
    }

    /// Carries out a batch and commits it.
    fn run(&self, jobs: Vec<Job>) -> (Vec<Answer>, Result<(), LedgerError>) {
        let base = match self.read() {
            Ok(base) => base,
            Err(error) => {
                let answers = jobs.into_iter().map(|job| job(None));
                return (answers.collect(), Err(error));
            }
        };
        let mut batch = Batch::new(base);
        let answers = jobs.into_iter().map(|job| job(Some(&mut batch))).collect();
        // The look at what was there ends here, so that its pages can be freed.
        let rows = batch.into_rows();
        self.tell(&rows, false);
        let done = commit(&self.db, &rows);
        self.tell(&rows, true);
        if done.is_ok() {
            let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
            views.apply(&rows);
        }
        (answers, done)
    }
}

/// Somebody's turn at the queue.
struct Shift {
    writer: Arc<Writer>,
    ended: bool,
}

impl Shift {
    fn work(mut self) {
        let mut before = 0;
        loop {
            let jobs = self.writer.next(before);
            before = jobs.len();
            let (answers, done) = self.writer.run(jobs);
            let answer = || answers.into_iter().for_each(|answer| answer(&done));
            if self.writer.is_over() {
                self.ended = true;
                // Who is answered may close the file at once.
                drop(self);
                return answer();
            }
            answer();
        }
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Cut off, as by the end of the runtime: who waits is told so, and the
        // next change begins another shift.
        let mut queue = self.writer.queue();
        queue.at_work = false;
        let left = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(left);
    }
}

/// A change, with all that is to do for it.
fn job<T, F>(
    change: F,
    tell: oneshot::Sender<Result<T, LedgerError>>,
    place: OwnedSemaphorePermit,
) -> Job
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>) -> Result<T, LedgerError> + Send + 'static,
{
    Box::new(move |batch| {
        let out = batch.map(|batch| {
            let out = catch_unwind(AssertUnwindSafe(|| batch.run(change)));
            out.unwrap_or_else(|panic| Err(LedgerError::Died(text_of(&*panic))))
        });
        Box::new(move |done| {
            drop(place);
            // What was refused may have been refused because of a change beside
            // it that is not on disk now.
            let out = done.clone().and(out.unwrap_or(Err(LedgerError::Writer)));
            // Nobody may wait any more.
            drop(tell.send(out));
        })
    })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason given").to_owned()
}

/// Writes rows to disk; they are there when this returns.
pub(super) fn commit(db: &Database, rows: &Rows) -> Result<(), LedgerError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut tx = db.begin_write()?;
    tx.set_durability(Durability::Immediate)?;
    rows.write(&tx)?;
    Ok(tx.commit()?)
}
