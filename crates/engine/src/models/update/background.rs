//! Low-priority threads for the blocking work of updates: disk access and digests. On shutdown the
//! supervisor waits for them, so that each cleans up after itself.

use std::{thread, time::Duration};

use onnxd_proto::domain::{Refusal, RefusalKind};
use tokio::{sync::oneshot, time};
use tokio_util::task::TaskTracker;

/// The nice(2) value of these threads, which yield to serving.
const NICENESS: i32 = 10;

/// Spawns and tracks these threads.
#[derive(Clone, Debug, Default)]
pub struct Background(TaskTracker);

impl Background {
    /// Runs `work` on a dedicated thread.
    ///
    /// # Errors
    /// Those of `work`, `Busy` after [`Background::finish`], or `Internal` if no thread can be started.
    pub(in crate::models) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        // Before the comparison: work that begins now is waited for, or does not begin.
        let token = self.0.token();
        if self.0.is_closed() {
            return Err(RefusalKind::Busy.because("onnxd is stopping"));
        }
        let spawned = thread::Builder::new().name("update".into()).spawn(move || {
            // On Linux this affects only the calling thread. Ignore errors: the work just runs at
            // normal priority.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            // If the update was aborted, the receiver no longer exists and the result is dropped
            // here.
            let _ = reply.send(work());
            drop(token);
        });
        let failed = |reason: String| RefusalKind::Internal.because(reason);
        spawned.map_err(|error| failed(format!("failed to start an update thread: {error}")))?;
        answer
            .await
            .unwrap_or_else(|_| Err(failed("internal error: an update thread panicked".to_owned())))
    }

    /// Waits until no thread runs. Others may start later.
    pub async fn wait_until_idle(&self) {
        while !self.0.is_empty() {
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts no more threads, and waits for the last one to finish.
    pub async fn finish(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_work_begins_once_its_end_is_awaited() {
        let background = Background::default();
        assert_eq!(background.run(|| Ok(1)).await.ok(), Some(1));
        background.finish().await;
        let late = background.run(|| Ok(2)).await;
        assert_eq!(late.map_err(|refusal| refusal.kind), Err(RefusalKind::Busy));
    }
}
