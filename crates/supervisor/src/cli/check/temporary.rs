//! Tries models in a temporary directory, without a server. Used by `onnxd check` and by
//! `onnxd serve --check-config`.

use std::sync::Arc;

use onnxd_engine::{
    models::{
        sources::Sources,
        store::Store,
        update::{
            background::Background,
            checker::{CheckLimits, Checker},
            trial::Trials,
        },
    },
    pool::executable::WorkerExecutable,
    tasks::EssentialTasks,
};
use onnxd_proto::exit::Failure;
use tempfile::TempDir;

use crate::process::{confinement, signals::Signals};

/// Creates a directory for [`with_trials`].
///
/// # Errors
/// There is no place for it.
pub(crate) fn directory() -> Result<TempDir, Failure> {
    tempfile::Builder::new().prefix("onnxd-check-").tempdir().map_err(|error| {
        Failure::configuration(format!("cannot create a temporary directory: {error}"))
    })
}

/// Runs trials in a directory, which is removed afterwards. Returns `None` if a signal ends them.
///
/// # Errors
/// The process cannot be set up.
pub(crate) fn with_trials<T>(
    directory: &TempDir,
    executable: WorkerExecutable,
    (sources, limits): (Sources, CheckLimits),
    run: impl AsyncFnOnce(&Trials) -> T,
) -> Result<Option<T>, Failure> {
    let store = Arc::new(Store::open(directory.path(), 1, sources, None)?);
    confinement::drop_privileges();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start the async runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        let mut signals =
            Signals::install().map_err(|error| Failure::internal(error.to_string()))?;
        let background = Background::default();
        let checker = Checker::new(executable, limits, &EssentialTasks::default())?;
        let trials = Trials { store, checker, background: background.clone() };
        let outcome = tokio::select! {
            outcome = run(&trials) => Some(outcome),
            () = signals.stop() => None,
        };
        drop(trials);
        background.finish().await;
        Ok(outcome)
    });
    // Its threads may use files in the temporary directory, which is removed next.
    drop(runtime);
    outcome
}

/// Says that a signal ended the trials.
pub(crate) fn interrupted() -> Failure {
    Failure::refused("interrupted")
}
