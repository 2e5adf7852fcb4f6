//! Tries a candidate in a separate process, where a crash harms no worker. Called by `onnxd-worker
//! check`. Loads the version as serving does, runs the shapes that serving will run, compares the
//! outputs, and writes the compiled form.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use onnxd_proto::domain::{Checked, Drift, Facts, Output, Refusal, RefusalKind, cost::CostTable};

use super::{
    canary,
    compile::{self, NotCompiled},
    external, weights,
};
use crate::{
    artifacts::{
        compiled::{self, Key},
        costs::Costs,
        probes::Probes,
    },
    families::{
        LoadedVersion,
        config::ModelConfig,
        family::{Budget, Fit, Trial},
    },
    process::args::CheckArgs,
    session::Runtime,
};

/// Checks the version and returns its facts. `started` is the start of this process. `passed` is
/// called for each part.
///
/// # Errors
/// Why the version cannot serve.
pub(crate) fn check(
    runtime: &Runtime,
    args: &CheckArgs,
    started: Instant,
    passed: &mut dyn FnMut(&str),
) -> Result<Checked, Refusal> {
    let dir = &args.version_dir;
    let opened = LoadedVersion::open(runtime, dir);
    let mut version = opened.map_err(|refusal| external::explain(dir, refusal))?;
    passed("load");
    let Trial { facts, untried } = version.try_out()?;
    let facts = match version.fit(&budget(args, started)?)? {
        Some(Fit { tokens, shortened }) => Facts { max_tokens: tokens, shortened, ..facts },
        None => facts,
    };
    if args.strict {
        facts.require_certain()?;
    }
    if untried.is_none() {
        passed("shapes");
    }
    let canaries = canary::check(&mut version, facts.output(), dir)?;
    if canaries > 0 {
        passed("canary");
    }
    let probes = match untried {
        Some(reason) => Err(reason),
        None => Ok(probe(&mut version)?),
    };
    let drift = match &probes {
        Ok(probes) => drift(probes, facts.output(), args)?,
        Err(_) => None,
    };
    if drift.is_some() {
        passed("drift");
    }
    drop(version);
    let facts = Facts { weights: weights::datatype(dir), ..facts };
    let compiled = match (&args.compiled_dir, &probes) {
        (_, Err(untried)) => Err(NotCompiled::Failed(untried.clone())),
        (None, _) => Err(NotCompiled::Failed("--compiled-dir is not set".into())),
        (Some(root), Ok(probes)) => compile::compile(
            runtime,
            (dir, Some(facts.max_tokens)),
            root,
            &Key::new(runtime),
            Some(probes),
        ),
    };
    let not_compiled = match compiled {
        Ok(_) => None,
        Err(NotCompiled::Failed(reason)) => Some(reason),
        Err(NotCompiled::Damaged(refusal)) => return Err(refusal),
    };
    if not_compiled.is_none() {
        passed("compile");
    }
    let costs = args.compiled_dir.as_deref().and_then(|root| costs(root, runtime));
    Ok(Checked { facts, drift, canaries, costs, not_compiled })
}

/// Returns the costs measured when the version was compiled.
fn costs(root: &Path, runtime: &Runtime) -> Option<CostTable> {
    let model = compiled::find(root, &Key::new(runtime))?;
    Costs::read(model.parent()?).map(|costs| costs.reported_table())
}

/// Returns the memory and time that the longest text may use.
fn budget(args: &CheckArgs, started: Instant) -> Result<Budget, Refusal> {
    Ok(Budget {
        check_bytes: args.memory_limit_bytes,
        worker_bytes: args.worker_limit_bytes,
        text_time: args.text_limit_millis.map(Duration::from_millis),
        deadline: args
            .cpu_limit_seconds
            .and_then(|seconds| started.checked_add(Duration::from_secs(seconds))),
        is_explicit: ModelConfig::read(&args.version_dir)?.max_tokens.is_some(),
    })
}

/// Runs the fixed inputs and returns the outputs.
fn probe(version: &mut LoadedVersion) -> Result<Probes, Refusal> {
    let probes = version.probe()?;
    if probes.values().iter().all(|value| value.is_finite()) {
        return Ok(probes);
    }
    let message = format!("{} returns an output that is not finite", version.model_file());
    Err(RefusalKind::Contract.because(message))
}

/// Returns the drift from the serving version, if there is one to compare with.
fn drift(probes: &Probes, output: Output, args: &CheckArgs) -> Result<Option<Drift>, Refusal> {
    let serving = args.serving_compiled_dir.as_deref().and_then(Probes::read);
    let Some(drift) = serving.and_then(|serving| probes.drift(&serving)) else { return Ok(None) };
    match args.min_cosine {
        // Cosines of scores or tensors mean little.
        Some(min) if matches!(output, Output::Dense { .. }) && drift.min_cosine < min => Err(RefusalKind::Drift.because(format!(
            "cosine to the serving version's embeddings over {} texts: minimum {:.6}, mean {:.6}; \
             --min-cosine requires at least {min}",
            drift.probes, drift.min_cosine, drift.mean_cosine
        ))),
        _ => Ok(Some(drift)),
    }
}
