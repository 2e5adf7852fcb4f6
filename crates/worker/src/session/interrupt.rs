//! Terminates a run from another thread. Tracks the group that the serving thread computes and the
//! options of its current run. [`crate::process::terminations`] receives the orders. Runs on other
//! threads, which load versions, are unaffected.

// Sets a run's options to "terminate" while the run uses them; see `Shared`.
#![allow(unsafe_code)]

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions};

use super::error::{SessionError, run_failed};

/// Has ONNX Runtime release unused arena memory after a run.
const SHRINK: (&str, &str) = ("memory.enable_memory_arena_shrinkage", "cpu:0");

/// The current work of the serving thread.
static CURRENT: Mutex<Current> = Mutex::new(Current { group: 0, terminate: 0, run: None });

thread_local! {
    /// Whether this thread is computing a group.
    static IN_GROUP: Cell<bool> = const { Cell::new(false) };
}

struct Current {
    /// The group being computed; 0 means none.
    group: u64,
    /// The group to terminate. The order may arrive before the group begins.
    terminate: u64,
    run: Option<Arc<Shared>>,
}

/// The options of a session's runs.
pub(super) struct Options(Arc<Shared>);

struct Shared(RunOptions<HasSelectedOutputs>);

// SAFETY: `ort` withholds `Sync` because a caller may select preallocated outputs, to which two
// runs would write. Here none are selected, and only one thread runs. The other thread only calls
// `terminate`, which sets a flag that ONNX Runtime supports setting during a run. Checked against
// the source of `ort` 2.0.0-rc.15; a test below fails when that version changes.
unsafe impl Sync for Shared {}

/// Computes a group on this thread; [`terminate`] may end its runs.
pub(crate) fn compute_group<T>(group: u64, compute: impl FnOnce() -> T) -> T {
    current().group = group;
    IN_GROUP.set(true);
    let computed = compute();
    IN_GROUP.set(false);
    current().group = 0;
    computed
}

/// Makes the current run of a group fail soon, and its later runs at once.
pub(crate) fn terminate(group: u64) {
    let mut current = current();
    current.terminate = group;
    if current.group == group
        && let Some(run) = &current.run
    {
        run.end();
    }
}

/// Returns whether this thread's group was terminated, in which case its failed run says nothing
/// about the model.
pub(crate) fn is_terminated() -> bool {
    let current = current();
    IN_GROUP.get() && current.terminate == current.group
}

impl Options {
    /// Creates options for runs that compute these outputs.
    pub(super) fn new(outputs: OutputSelector) -> Result<Self, SessionError> {
        let options = RunOptions::new().map_err(run_failed)?.with_outputs(outputs);
        Ok(Self(Arc::new(Shared(options))))
    }

    /// Creates options for runs that release unused memory to the system afterwards.
    pub(super) fn releasing(outputs: OutputSelector) -> Result<Self, SessionError> {
        let mut options = RunOptions::new().map_err(run_failed)?.with_outputs(outputs);
        options.set(SHRINK.0, SHRINK.1).map_err(run_failed)?;
        Ok(Self(Arc::new(Shared(options))))
    }

    /// Runs with these options.
    pub(super) fn run<'a, T>(
        &'a self,
        run: impl FnOnce(&'a RunOptions<HasSelectedOutputs>) -> Result<T, ort::Error>,
    ) -> Result<T, SessionError> {
        if !IN_GROUP.get() {
            return run(&self.0.0).map_err(run_failed);
        }
        {
            let mut current = current();
            if current.terminate == current.group {
                self.0.end();
            }
            current.run = Some(Arc::clone(&self.0));
        }
        let ran = run(&self.0.0);
        current().run = None;
        self.0.0.unterminate().map_err(run_failed)?;
        ran.map_err(run_failed)
    }
}

impl Shared {
    fn end(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::error!(%error, "failed to terminate a run");
        }
    }
}

fn current() -> MutexGuard<'static, Current> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    /// The version against which the safety comment of `Shared` was checked.
    const REVIEWED: &str = "2.0.0-rc.15";

    #[test]
    fn ort_is_the_version_whose_safety_was_reviewed() {
        let lock = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock"));
        let versions: Vec<&str> = lock
            .split("[[package]]")
            .filter_map(|package| {
                package.split_once("name = \"ort\"\nversion = \"")?.1.split('"').next()
            })
            .collect();
        let hint = "review ort's RunOptions again, then update REVIEWED and the safety comment";
        assert_eq!(versions, [REVIEWED], "{hint}");
    }
}
