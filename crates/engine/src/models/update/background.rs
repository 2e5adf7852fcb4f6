//! Threads for the work of updates that waits for the disk or computes digests. They yield to
//! workers, and they are waited for when the supervisor stops, so that each removes what it made.

use std::{thread, time::Duration};

use onnxd_proto::domain::{Refusal, RefusalKind};
use tokio::{sync::oneshot, time};
use tokio_util::task::TaskTracker;

/// How much less urgent than serving this work is, as nice(2) counts.
const NICENESS: i32 = 10;

/// The way to such threads.
#[derive(Clone, Debug, Default)]
pub struct Background(TaskTracker);

impl Background {
    /// Runs `work` on a thread of its own.
    ///
    /// # Errors
    /// Those of `work`, or `Internal` where no thread can be had.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let token = self.0.token();
        let spawned = thread::Builder::new().name("update".into()).spawn(move || {
            // On Linux this is the calling thread's alone. Where it fails the work is only less
            // polite.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            // Whoever asked may have been given up; then the result is dropped here.
            let _ = reply.send(work());
            drop(token);
        });
        let failed = |reason: String| RefusalKind::Internal.because(reason);
        spawned.map_err(|error| failed(format!("a thread: {error}")))?;
        answer.await.unwrap_or_else(|_| Err(failed("a step of the update ended".to_owned())))
    }

    /// Waits until no thread works, though another may begin later.
    pub async fn rest(&self) {
        while !self.0.is_empty() {
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until no thread works any more.
    pub async fn finish(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
