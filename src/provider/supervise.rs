//! Tasks that must not end: one that does is started again, with backoff.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// First wait before a task is started again; doubles up to [`WAIT_MAX`].
const WAIT: Duration = Duration::from_secs(1);
/// Longest wait before a task is started again.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A task that ran for this long had started well.
const WELL: Duration = Duration::from_secs(300);

/// The daemon's tasks.
#[derive(Clone, Default)]
pub struct Supervisor {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Supervisor {
    /// Runs what `make` makes, again and again, until [`stop`](Self::stop).
    pub fn keep<F, T>(&self, name: &'static str, mut make: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks
            .spawn(stop.clone().run_until_cancelled_owned(async move {
                let mut wait = WAIT;
                loop {
                    let began = tokio::time::Instant::now();
                    // The guard ends the inner task when this one is cancelled.
                    let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(make()));
                    match task.await {
                        Ok(()) => tracing::warn!(task = name, "a task ended; starting it again"),
                        Err(panic) => {
                            tracing::error!(task = name, %panic, "a task died; starting it again")
                        }
                    }
                    if began.elapsed() > WELL {
                        wait = WAIT;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }));
    }

    /// Ends all tasks and waits until they are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_dies_is_started_again() {
        let runs = Arc::new(AtomicU32::new(0));
        let supervisor = Supervisor::default();
        let (tell, mut told) = tokio::sync::mpsc::channel(8);
        let counter = Arc::clone(&runs);
        supervisor.keep("test", move || {
            let (counter, tell) = (Arc::clone(&counter), tell.clone());
            async move {
                let run = counter.fetch_add(1, Ordering::SeqCst);
                tell.send(run).await.unwrap();
                assert!(run != 0, "the first run dies");
                std::future::pending::<()>().await;
            }
        });
        assert_eq!(told.recv().await, Some(0));
        assert_eq!(told.recv().await, Some(1));
        supervisor.stop().await;
    }
}
