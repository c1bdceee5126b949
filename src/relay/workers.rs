//! Work for the processor (signatures, encryption), away from the threads that
//! wait for sockets. As much of it at once as there are processors, one piece
//! after the other on the same thread: handing each piece to a thread of its own
//! costs two switches between threads, as much as half of the work itself.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The work that waits, and those who do it.
pub(super) struct Workers {
    queue: Mutex<Queue>,
    most: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    at_work: usize,
}

impl Workers {
    /// As many workers as there are processors for this process.
    pub(super) fn new() -> Arc<Self> {
        Self::of(std::thread::available_parallelism().map_or(2, usize::from))
    }

    fn of(most: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            most: most.max(1),
        })
    }

    /// Has `work` done, the oldest first; `None` where it panicked or the runtime
    /// ends. What nobody waits for any more is not begun. How much may wait is the
    /// callers' to bound. Must be called inside a tokio runtime.
    pub(super) async fn run<T, F>(self: &Arc<Self>, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.push(Box::new(move || {
            if !tell.is_closed() {
                // Whoever waited may have gone meanwhile.
                drop(tell.send(work()));
            }
        }));
        told.await.ok()
    }

    fn push(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        if queue.at_work >= self.most {
            return;
        }
        queue.at_work += 1;
        drop(queue);
        let shift = Shift {
            workers: Arc::clone(self),
            ended: false,
        };
        // A task of the blocking pool, not a thread of our own: a runtime with a
        // paused clock (tests) knows then that something is going on.
        drop(tokio::task::spawn_blocking(move || shift.work()));
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the workers' turn at the queue.
struct Shift {
    workers: Arc<Workers>,
    ended: bool,
}

impl Shift {
    fn work(mut self) {
        while let Some(job) = self.next() {
            // Whoever waits for it sees that nothing comes.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }

    /// The next piece of work. Where there is none this turn ends in the same
    /// moment: what is pushed later begins another.
    fn next(&mut self) -> Option<Job> {
        if let Some(job) = self.workers.queue().jobs.pop_front() {
            return Some(job);
        }
        // Those who bring work may wait for this processor with more of it, and
        // to go and be called again costs more than to step aside once.
        std::thread::yield_now();
        let mut queue = self.workers.queue();
        let job = queue.jobs.pop_front();
        if job.is_none() {
            queue.at_work = queue.at_work.saturating_sub(1);
            self.ended = true;
        }
        job
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Never begun: the runtime ends. Nobody is to wait for ever.
        let mut queue = self.workers.queue();
        queue.at_work = queue.at_work.saturating_sub(1);
        let left = match queue.at_work {
            0 => std::mem::take(&mut queue.jobs),
            _ => VecDeque::new(),
        };
        drop(queue);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn all_is_done_and_no_more_at_once_than_there_are_places() {
        let workers = Workers::of(2);
        let busy = Arc::new(Mutex::new((0, 0)));
        let all = (0..200_u64).map(|n| {
            let busy = Arc::clone(&busy);
            workers.run(move || {
                let mut now = busy.lock().unwrap();
                now.0 += 1;
                now.1 = now.1.max(now.0);
                drop(now);
                std::thread::yield_now();
                busy.lock().unwrap().0 -= 1;
                n
            })
        });
        let done = futures::future::join_all(all).await;
        assert_eq!(done, (0..200).map(Some).collect::<Vec<_>>());
        let most = busy.lock().unwrap().1;
        assert!((1..=2).contains(&most), "{most}");
    }

    #[tokio::test]
    async fn a_panic_is_the_end_of_one_piece_of_work_only() {
        let workers = Workers::of(1);
        let (bad, good) = tokio::join!(
            workers.run(|| -> u32 { panic!("as intended") }),
            workers.run(|| 7)
        );
        assert_eq!((bad, good), (None, Some(7)));
        assert_eq!(workers.run(|| 8).await, Some(8));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_begun() {
        let workers = Workers::of(1);
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let workers = Arc::clone(&workers);
            async move { workers.run(move || gone.recv().is_ok()).await }
        });
        tokio::task::yield_now().await;
        let begun = Arc::new(Mutex::new(false));
        let second = tokio::spawn({
            let (workers, begun) = (Arc::clone(&workers), Arc::clone(&begun));
            async move { workers.run(move || *begun.lock().unwrap() = true).await }
        });
        tokio::task::yield_now().await;
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Some(true));
        assert_eq!(workers.run(|| ()).await, Some(()));
        assert!(!*begun.lock().unwrap());
    }

    #[test]
    fn the_end_of_the_runtime_leaves_nobody_waiting() {
        let workers = Workers::of(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        // The one blocking thread is held, so no turn begins.
        runtime.spawn_blocking(move || gone.recv());
        let (tell, told) = oneshot::channel::<()>();
        runtime.block_on(async {
            workers.push(Box::new(move || tell.send(()).unwrap_or(())));
        });
        drop(go);
        runtime.shutdown_background();
        // Done in the last moment or dropped: either way it is known.
        drop(told.blocking_recv());
        assert_eq!(workers.queue().jobs.len(), 0);
    }
}
