//! The checker: a process of its own that tries a candidate, so that whatever a model file does
//! to ONNX Runtime, no worker and no supervisor suffers it. This file starts it and turns its
//! end into a verdict; what is checked is the worker executable's affair.

use std::{os::unix::process::ExitStatusExt, path::Path, process::Stdio, time::Duration};

use onnxd_proto::message::{Facts, Refusal, RefusalKind, Verdict};
use tokio::time;

use crate::pool::executable::WorkerExecutable;

/// Starts checkers.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    executable: WorkerExecutable,
    timeout: Duration,
}

impl Checker {
    /// A checker that takes at most `timeout` for a candidate.
    pub(crate) fn new(executable: WorkerExecutable, timeout: Duration) -> Self {
        Self { executable, timeout }
    }

    /// Tries the candidate in `folder`.
    ///
    /// # Errors
    /// Why it cannot serve. `Crash`, `Timeout` and `Memory` say that the checker itself ended.
    pub(crate) async fn check(&self, folder: &Path) -> Result<Facts, Refusal> {
        let mut command = tokio::process::Command::from(self.executable.command());
        command
            .arg("check")
            .arg("--onnxruntime")
            .arg(self.executable.onnxruntime())
            .arg("--version-dir")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let failed =
            |error: std::io::Error| RefusalKind::Internal.because(format!("the checker: {error}"));
        let child = command.spawn().map_err(failed)?;
        let output = match time::timeout(self.timeout, child.wait_with_output()).await {
            Ok(output) => output.map_err(failed)?,
            Err(_) => {
                let message = format!("the check took longer than {} s", self.timeout.as_secs());
                return Err(RefusalKind::Timeout.because(message));
            }
        };
        match serde_json::from_slice(&output.stdout) {
            Ok(Verdict::Accepted(facts)) => Ok(facts),
            Ok(Verdict::Refused(refusal)) => Err(refusal),
            Err(_) => Err(RefusalKind::Crash.because(match output.status.signal() {
                Some(signal) => format!("the checker was ended by signal {signal}"),
                None => format!("the checker ended without a verdict: {}", output.status),
            })),
        }
    }
}
