//! Tries for `--check-config` the models that a start would check: those in directories that have no generation yet.
//! Called by [`check`](super::check).

use std::{fs, sync::Arc};

use onnxd_engine::{
    models::{
        registry::ModelSource,
        sources::Sources,
        store::Store,
        update::{RestoreError, background::Background, checker::Checker, trial::Trials},
    },
    pool::executable::WorkerExecutable,
    tasks::EssentialTasks,
};
use onnxd_proto::{domain::Refusal, exit::Failure, layout::Layout};

use super::start;
use crate::{
    config::{Config, Problems},
    process::confinement,
};

/// Stages and checks each model in a temporary directory. Logs those that a start would report and not serve.
///
/// # Errors
/// A model that is required cannot be served, or none can.
pub(super) fn run(config: &Config, executable: &WorkerExecutable) -> Result<(), Failure> {
    let layout = Layout::new(&config.state_dir);
    let is_new = |model: &&ModelSource| {
        let kept = fs::read_dir(layout.generations(&model.name));
        let is_kept = kept.is_ok_and(|mut records| records.next().is_some());
        model.preload && model.uri.directory().is_some() && !is_kept
    };
    let new: Vec<&ModelSource> = config.models.iter().filter(is_new).collect();
    if new.is_empty() {
        return Ok(());
    }
    let refused = tried(config, executable, &new)?;
    let none_serves = refused.len() == config.models.len();
    let mut problems = Problems::default();
    for (index, (model, refusal)) in refused.into_iter().enumerate() {
        if model.required || none_serves && index == 0 {
            let error = RestoreError::Refused { model: model.name.to_string(), refusal };
            problems.keep::<()>(Err(Failure::configuration(error.to_string())));
        } else {
            let (model, reason) = (model.name.as_str(), refusal.message);
            tracing::warn!(model, reason, "a start would not serve this model, only the others");
        }
    }
    problems.finish()
}

/// Returns the models that cannot be served, with the reason.
fn tried<'a>(
    config: &Config,
    executable: &WorkerExecutable,
    models: &[&'a ModelSource],
) -> Result<Vec<(&'a ModelSource, Refusal)>, Failure> {
    let directory = tempfile::Builder::new().prefix("onnxd-check-").tempdir().map_err(|error| {
        Failure::configuration(format!("cannot create a temporary directory: {error}"))
    })?;
    let sources = Sources::new(executable.clone(), None);
    let store = Arc::new(Store::open(directory.path(), 1, sources, None)?);
    let limits = start::check_limits(config)?;
    confinement::drop_privileges();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(async {
        let background = Background::default();
        let checker = Checker::new(executable.clone(), limits, &EssentialTasks::default())?;
        let trials = Trials { store, checker, background: background.clone() };
        let mut refused = Vec::new();
        for model in models {
            if let Err(refusal) = trials.run(&model.uri, None, |_| {}).await {
                refused.push((*model, refusal));
            }
        }
        drop(trials);
        background.finish().await;
        Ok(refused)
    })
}
