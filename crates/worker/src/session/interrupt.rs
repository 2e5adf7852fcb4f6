//! Ends a run from another thread. Owns which group the serving thread computes and with which
//! options ONNX Runtime runs for it; who asks that a group be terminated is the affair of
//! [`crate::process::hangs`]. Runs of other threads, which load versions, are not touched.

// A run's options are set to "terminate" while the run uses them; see `Shared`.
#![allow(unsafe_code)]

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions};

use super::error::{SessionError, run_failed};

/// Has ONNX Runtime give memory of the arena back when a run ends.
const SHRINK: (&str, &str) = ("memory.enable_memory_arena_shrinkage", "cpu:0");

/// What the serving thread does now.
static PRESENT: Mutex<Present> = Mutex::new(Present { group: 0, terminate: 0, run: None });

thread_local! {
    /// Whether this thread is computing a group.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

struct Present {
    /// The group that is being computed; 0 is none.
    group: u64,
    /// The group that is to end. It may be asked for before it has begun.
    terminate: u64,
    run: Option<Arc<Shared>>,
}

/// The options of a session's runs.
pub(super) struct Options(Arc<Shared>);

struct Shared(RunOptions<HasSelectedOutputs>);

// SAFETY: `ort` withholds `Sync` because outputs that were allocated before a run may be selected,
// which two runs would write to; here none is, and one thread alone runs. The other thread calls
// nothing but `terminate`, which sets a flag that ONNX Runtime is made to be told during a run.
// This was read in `ort` 2.0.0-rc.15; a test below fails when that version changes.
unsafe impl Sync for Shared {}

/// Computes a group on this thread; [`terminate`] may end its runs.
pub(crate) fn during<T>(group: u64, compute: impl FnOnce() -> T) -> T {
    present().group = group;
    SERVES.set(true);
    let computed = compute();
    SERVES.set(false);
    present().group = 0;
    computed
}

/// Lets what runs for a group fail soon, and what would run for it later at once.
pub(crate) fn terminate(group: u64) {
    let mut present = present();
    present.terminate = group;
    if present.group == group
        && let Some(run) = &present.run
    {
        run.end();
    }
}

/// Whether what this thread computes was told to end: a run that failed may be none that fails.
pub(crate) fn is_terminated() -> bool {
    let present = present();
    SERVES.get() && present.terminate == present.group
}

impl Options {
    /// For runs that compute these outputs.
    pub(super) fn new(outputs: OutputSelector) -> Result<Self, SessionError> {
        let options = RunOptions::new().map_err(run_failed)?.with_outputs(outputs);
        Ok(Self(Arc::new(Shared(options))))
    }

    /// The same for a run after which memory that is not used goes back to the system.
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
        if !SERVES.get() {
            return run(&self.0.0).map_err(run_failed);
        }
        {
            let mut present = present();
            if present.terminate == present.group {
                self.0.end();
            }
            present.run = Some(Arc::clone(&self.0));
        }
        let ran = run(&self.0.0);
        present().run = None;
        self.0.0.unterminate().map_err(run_failed)?;
        ran.map_err(run_failed)
    }
}

impl Shared {
    fn end(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::error!(%error, "a run cannot be terminated");
        }
    }
}

fn present() -> MutexGuard<'static, Present> {
    PRESENT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    /// The version whose source the safety comment of `Shared` was checked against.
    const READ: &str = "2.0.0-rc.15";

    #[test]
    fn ort_is_the_version_whose_run_options_were_read() {
        let lock = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock"));
        let versions: Vec<&str> = lock
            .split("[[package]]")
            .filter_map(|package| {
                package.split_once("name = \"ort\"\nversion = \"")?.1.split('"').next()
            })
            .collect();
        let hint = "read ort's RunOptions again, then change READ and the safety comment";
        assert_eq!(versions, [READ], "{hint}");
    }
}
