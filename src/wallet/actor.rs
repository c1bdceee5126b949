//! One task for each (mint, unit): what changes the wallet there runs one after
//! the other. A caller that stops waiting does not stop the operation: cut in
//! the middle it would leave a saga behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::account::Account;

/// Operations that wait for their turn; more are turned away.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(Arc<Account>) -> BoxFuture<'static, ()> + Send>;

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It was not begun and will not be.
    NotBegun,
    /// It was begun; it goes on, or its task died.
    Begun,
}

/// A (mint, unit) and the task that works on it. The task ends with the last
/// sender, after what it had begun.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    account: Arc<Account>,
    jobs: mpsc::Sender<Job>,
}

impl Actor {
    /// Starts the task. Needs a tokio runtime.
    pub(super) fn start(account: Account) -> Self {
        let account = Arc::new(account);
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let worker = Arc::clone(&account);
        tokio::spawn(async move {
            while let Some(job) = queue.recv().await {
                // A task of its own, so that a panic in there ends that job only.
                if tokio::spawn(job(Arc::clone(&worker))).await.is_err() {
                    tracing::error!(mint = %worker.mint().0, "a wallet operation panicked");
                }
            }
        });
        Self { account, jobs }
    }

    /// What the task works on, for questions that change nothing.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Runs `op` when its turn comes and waits at most `wait` for its result.
    pub(super) async fn run<T, F>(&self, wait: Duration, op: F) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Account>) -> BoxFuture<'static, T> + Send + 'static,
    {
        // Whoever sets it first decides: the task begins, or the caller left before.
        let decided = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&decided);
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |account| {
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
