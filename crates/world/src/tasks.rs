use std::{future::Future, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the end of a task by failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Say so in the log; the rest goes on.
    Log,
    /// Nothing works without it: stop the gateway.
    StopGateway,
}

/// The kind of a background task: its name for logs and what its failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskKind {
    /// Its name in logs.
    pub name: &'static str,
    /// What its failure means.
    pub on_failure: OnFailure,
}

impl TaskKind {
    /// A task whose failure is logged.
    #[must_use]
    pub const fn logged(name: &'static str) -> Self {
        Self { name, on_failure: OnFailure::Log }
    }

    /// A task without which the gateway cannot go on.
    #[must_use]
    pub const fn vital(name: &'static str) -> Self {
        Self { name, on_failure: OnFailure::StopGateway }
    }
}

/// Supervises background tasks: a panic is logged with the task's name, a vital task's end stops everything,
/// a stop is awaited.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: CancellationToken,
    blocking: Blocking,
}

/// Where work that blocks is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Blocking {
    #[default]
    OnAThread,
    InPlace,
}

impl Tasks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty set for simulations: [`Self::blocking`] works in place, because a thread ends at a moment that no
    /// seed decides.
    #[must_use]
    pub fn simulated() -> Self {
        Self { blocking: Blocking::InPlace, ..Self::default() }
    }

    /// Does work that blocks (files), off the threads that serve. None when it panicked or the runtime ends.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self.blocking {
            Blocking::OnAThread => tokio::task::spawn_blocking(work).await.ok(),
            Blocking::InPlace => Some(work()),
        }
    }

    /// Cancelled when the gateway stops; long-running tasks watch it.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when a vital task failed.
    #[must_use]
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Starts a task. Its `Err` or panic is handled as `kind` says.
    pub fn spawn<F, E>(&self, kind: TaskKind, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let failed = self.failed.clone();
        let handle = crate::spawn(task);
        self.tracker.spawn(crate::penned(async move {
            let problem = match handle.await {
                Ok(Ok(())) => return,
                Ok(Err(err)) => err.to_string(),
                Err(join) if join.is_panic() => format!("panicked: {}", panic_text(join.into_panic().as_ref())),
                Err(_) => return,
            };
            tracing::error!(task = kind.name, err = %problem, "a background task failed");
            if kind.on_failure == OnFailure::StopGateway {
                failed.cancel();
            }
        }));
    }

    /// Asks all tasks to stop and waits, at most `limit`. Answers whether all ended in time.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{TaskKind, Tasks};

    #[tokio::test]
    async fn a_vital_panic_is_noticed_and_a_stop_is_awaited() {
        let tasks = Tasks::new();
        tasks.spawn::<_, String>(TaskKind::vital("boom"), async { panic!("on purpose") });
        tasks.failed().cancelled().await;
        let stop = tasks.stopping();
        tasks.spawn::<_, String>(TaskKind::logged("waits"), async move {
            stop.cancelled().await;
            Ok(())
        });
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }
}
