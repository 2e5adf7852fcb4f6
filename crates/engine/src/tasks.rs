//! Tasks and threads that must run for as long as the server does. If one ended early, the server
//! would keep running with half of its work undone, so it shuts down instead. Start such tasks with
//! [`EssentialTasks`]; `onnxd serve` waits for [`EssentialTasks::ended`].

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};

/// Starts essential tasks and reports the first one that ends. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EssentialTasks(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    /// Set during shutdown, when tasks may return.
    stopping: bool,
    /// The first task that ended before shutdown.
    ended: Option<String>,
}

/// Reports the task or thread that owns it if that panics. Dropping it normally reports nothing.
#[derive(Debug)]
pub struct Guard {
    name: String,
    tasks: EssentialTasks,
}

impl Default for EssentialTasks {
    fn default() -> Self {
        Self(Arc::new(watch::channel(State::default()).0))
    }
}

impl EssentialTasks {
    /// Starts a task that runs until the server stops. Aborting it is not reported.
    pub fn spawn(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let guard = self.guard(name);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = fault::panic_on_request(&guard.name) => {}
                () = task => {}
            }
            guard.returned();
        })
    }

    /// Returns a guard for a task or thread that may return but must not panic.
    pub fn guard(&self, name: impl Into<String>) -> Guard {
        Guard { name: name.into(), tasks: self.clone() }
    }

    /// Marks the start of shutdown: from now on, tasks may return.
    pub fn stopping(&self) {
        self.0.send_modify(|state| state.stopping = true);
    }

    /// Waits for a task to end before [`Self::stopping`] and returns its name.
    pub async fn ended(&self) -> String {
        let mut states = self.0.subscribe();
        loop {
            if let Some(name) = &states.borrow_and_update().ended {
                return name.clone();
            }
            // Cannot fail: `self` owns the sender.
            let _ = states.changed().await;
        }
    }

    fn report(&self, name: &str) {
        self.0.send_if_modified(|state| {
            let reported = !state.stopping && state.ended.is_none();
            if reported {
                state.ended = Some(name.to_owned());
            }
            reported
        });
    }
}

impl Guard {
    fn returned(self) {
        self.tasks.report(&self.name);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tasks.report(&self.name);
        }
    }
}

/// Makes an essential task panic on request. Compiled only into debug builds, for tests.
mod fault {
    /// Panics if `ONNXD_PANIC_TASK` names this task, once the file in `ONNXD_PANIC_FILE` exists.
    #[cfg(debug_assertions)]
    pub(super) async fn panic_on_request(name: &str) {
        let (task, file) = (std::env::var("ONNXD_PANIC_TASK"), std::env::var("ONNXD_PANIC_FILE"));
        let (Ok(task), Ok(file)) = (task, file) else { return std::future::pending().await };
        if task != name {
            return std::future::pending().await;
        }
        while !std::path::Path::new(&file).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        #[expect(clippy::panic, reason = "requested by a test")]
        {
            panic!("panic requested by a test: {name}");
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) async fn panic_on_request(_name: &str) {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SETTLE_TIME: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn panics_and_early_returns_are_reported() {
        let tasks = EssentialTasks::default();
        tasks.spawn("a", async { panic!("expected") });
        assert_eq!(tasks.ended().await, "a");
        tasks.spawn("b", async {});
        tokio::task::yield_now().await;
        assert_eq!(tasks.ended().await, "a", "only the first is reported");
        let tasks = EssentialTasks::default();
        tasks.spawn("b", async {});
        assert_eq!(tasks.ended().await, "b");
        let tasks = EssentialTasks::default();
        let guard = tasks.guard("thread");
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("expected");
        });
        assert!(thread.join().is_err());
        assert_eq!(tasks.ended().await, "thread");
    }

    #[tokio::test]
    async fn aborts_and_returns_during_shutdown_are_not_reported() {
        let tasks = EssentialTasks::default();
        drop(tasks.guard("done"));
        let aborted = tasks.spawn("aborted", std::future::pending());
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert!(timeout(SETTLE_TIME, tasks.ended()).await.is_err());
        tasks.stopping();
        tasks.spawn("late", async {}).await.unwrap();
        assert!(timeout(SETTLE_TIME, tasks.ended()).await.is_err());
    }
}
