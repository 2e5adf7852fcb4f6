//! Tasks and threads that must live as long as the server. One that ends unexpectedly would leave a
//! server that runs and does half of its work, so it ends the server instead. Whoever starts such
//! a task does it by [`EssentialTasks`]; `onnxd serve` waits for [`EssentialTasks::ended`].

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};

/// Starts essential tasks and reports the first one that ends. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EssentialTasks(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    /// Tasks may return now.
    stopping: bool,
    /// The first task that ended before that.
    ended: Option<String>,
}

/// Reports the task or thread that owns it when it panics. Tasks that may return keep one;
/// dropping it otherwise reports nothing.
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
                () = fault::panic_when_asked(&guard.name) => {}
                () = task => {}
            }
            guard.returned();
        })
    }

    /// A guard for a task or thread that may return, but must not panic.
    pub fn guard(&self, name: impl Into<String>) -> Guard {
        Guard { name: name.into(), tasks: self.clone() }
    }

    /// From now on tasks may return.
    pub fn stopping(&self) {
        self.0.send_modify(|state| state.stopping = true);
    }

    /// Returns the name of the first task that ended before [`Self::stopping`], once there is one.
    pub async fn ended(&self) -> String {
        let mut states = self.0.subscribe();
        loop {
            if let Some(name) = &states.borrow_and_update().ended {
                return name.clone();
            }
            // It cannot fail: the sender is in `self`.
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

/// Lets a test have an essential task panic. Release builds do not have it.
mod fault {
    /// Panics when the environment says `ONNXD_PANIC_TASK=name` and the file
    /// `ONNXD_PANIC_FILE=path` exists.
    #[cfg(debug_assertions)]
    pub(super) async fn panic_when_asked(name: &str) {
        let (task, file) = (std::env::var("ONNXD_PANIC_TASK"), std::env::var("ONNXD_PANIC_FILE"));
        let (Ok(task), Ok(file)) = (task, file) else { return std::future::pending().await };
        if task != name {
            return std::future::pending().await;
        }
        while !std::path::Path::new(&file).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        #[expect(clippy::panic, reason = "a test asked for it")]
        {
            panic!("a test has this task panic: {name}");
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) async fn panic_when_asked(_name: &str) {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const BRIEF: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_panic_and_an_early_return_are_reported() {
        let tasks = EssentialTasks::default();
        tasks.spawn("a", async { panic!("expected") });
        assert_eq!(tasks.ended().await, "a");
        tasks.spawn("b", async {});
        tokio::task::yield_now().await;
        assert_eq!(tasks.ended().await, "a", "the first one");
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
    async fn an_aborted_task_and_one_that_returns_at_the_end_are_not() {
        let tasks = EssentialTasks::default();
        drop(tasks.guard("done"));
        let aborted = tasks.spawn("aborted", std::future::pending());
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert!(timeout(BRIEF, tasks.ended()).await.is_err());
        tasks.stopping();
        tasks.spawn("late", async {}).await.unwrap();
        assert!(timeout(BRIEF, tasks.ended()).await.is_err());
    }
}
