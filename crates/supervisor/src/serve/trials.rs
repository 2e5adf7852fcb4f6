//! Tries for `--check-config` the models that a start would check: those in directories that have no generation yet.
//! Also finds models whose generations cannot be read.
//! Called by [`check`](super::check).

use onnxd_engine::{
    models::{
        registry::ModelSource,
        sources::{self, Sources},
        store,
        update::RestoreError,
    },
    pool::executable::WorkerExecutable,
};
use onnxd_proto::{domain::Refusal, exit::Failure, layout::Layout};

use super::workers;
use crate::{
    cli::check::temporary,
    config::{Config, Problems},
};

/// Stages and checks each model in a temporary directory, or without a worker, only looks for its directory. Logs the
/// models that a start would report and not serve.
///
/// # Errors
/// A model that is required cannot be served, or none can.
pub(super) fn run(
    config: &Config,
    has_state: bool,
    executable: Option<&WorkerExecutable>,
) -> Result<(), Failure> {
    let layout = Layout::new(&config.state_dir);
    let (mut new, mut refused) = (Vec::new(), Vec::new());
    for model in config.models.iter().filter(|model| model.preload) {
        // What is wrong with the state directory itself says nothing about a model.
        let has_records =
            if has_state { store::has_records(&layout, &model.name) } else { Ok(false) };
        match has_records {
            Ok(false) if model.uri.directory().is_some() => new.push(model),
            Ok(_) => {}
            Err(refusal) => refused.push((model, refusal)),
        }
    }
    match executable {
        _ if new.is_empty() => {}
        Some(executable) => refused.extend(tried(config, executable, &new)?),
        None => refused.extend(new.iter().filter_map(|model| {
            sources::require_directory(&model.uri).err().map(|refusal| (*model, refusal))
        })),
    }
    let place =
        |model: &ModelSource| config.models.iter().position(|other| other.name == model.name);
    refused.sort_by_key(|(model, _)| place(model));
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
    let sources = Sources::new(executable.clone(), None);
    let limits = workers::check_limits(config)?;
    let refused = temporary::with_trials(
        &temporary::directory()?,
        executable.clone(),
        (sources, limits),
        async |trials| {
            let mut refused = Vec::new();
            for model in models {
                if let Err(refusal) = trials.run(&model.uri, None, |_| {}).await {
                    refused.push((*model, refusal));
                }
            }
            refused
        },
    )?;
    refused.ok_or_else(temporary::interrupted)
}
