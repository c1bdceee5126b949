//! One task for each (mint, unit): what changes the wallet there runs one after
//! the other. A caller that stops waiting does not stop the operation: cut in
//! the middle it would leave a saga behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Operations that wait for their turn; more are turned away.
const QUEUE: usize = 64;

type Job<A> = Box<dyn FnOnce(Arc<A>) -> BoxFuture<'static, ()> + Send>;

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It was not begun and will not be.
    NotBegun,
    /// It was begun; it goes on, or its task died.
    Begun,
}

/// Decides, when it is dropped, that an operation does not begin any more.
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// An account and the task that works on it. The task ends with the last
/// sender, after what it had begun.
#[derive(Debug)]
pub(super) struct Actor<A> {
    account: Arc<A>,
    jobs: mpsc::Sender<Job<A>>,
}

impl<A> Clone for Actor<A> {
    fn clone(&self) -> Self {
        Self {
            account: Arc::clone(&self.account),
            jobs: self.jobs.clone(),
        }
    }
}

impl<A: Send + Sync + 'static> Actor<A> {
    /// Starts the task. Needs a tokio runtime. The handle ends with the task.
    pub(super) fn start(account: A) -> (Self, JoinHandle<()>) {
        let account = Arc::new(account);
        let (jobs, mut queue) = mpsc::channel::<Job<A>>(QUEUE);
        let worker = Arc::clone(&account);
        let task = tokio::spawn(async move {
            while let Some(job) = queue.recv().await {
                // A task of its own, so that a panic in there ends that job only.
                if tokio::spawn(job(Arc::clone(&worker))).await.is_err() {
                    tracing::error!("a wallet operation panicked");
                }
            }
        });
        (Self { account, jobs }, task)
    }

    /// What the task works on, for questions that change nothing.
    pub(super) fn account(&self) -> &Arc<A> {
        &self.account
    }

    /// Runs `op` when its turn comes and waits at most `wait` for its result.
    pub(super) async fn run<T, F>(&self, wait: Duration, op: F) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: FnOnce(Arc<A>) -> BoxFuture<'static, T> + Send + 'static,
    {
        // Whoever sets it first decides: the task begins, or the caller left before.
        let decided = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&decided);
        // A caller that is dropped has left too: what it asked for must not begin
        // when nobody takes the result.
        let _left = Left(Arc::clone(&decided));
        let (reply, answer) = oneshot::channel();
        let job: Job<A> = Box::new(move |account| {
            Box::pin(async move {
                if !begun.swap(true, Ordering::SeqCst) {
                    let _ = reply.send(op(account).await);
                }
            })
        });
        if self.jobs.try_send(job).is_err() {
            return Err(Lost::NotBegun);
        }
        match tokio::time::timeout(wait, answer).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Lost::Begun),
            Err(_) if decided.swap(true, Ordering::SeqCst) => Err(Lost::Begun),
            Err(_) => Err(Lost::NotBegun),
        }
    }
}
