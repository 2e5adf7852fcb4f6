//! Tries a version that does not serve yet, in a process of its own: what goes wrong here goes
//! wrong for nobody. Called by `onnxd-worker check`; loads as serving does, runs the shapes that
//! serving will run, compares what comes out, and leaves the compiled form.

use onnxd_proto::{
    limits::DIMENSION_MAX,
    message::{Checked, Drift, Facts, Refusal, RefusalKind, Task},
};

use crate::{
    args::CheckArgs,
    canary, compile,
    compiled::Key,
    external, microbatch,
    probes::{self, Probes},
    session::Runtime,
    version::LoadedVersion,
};

/// What there is to say about the version, or why it cannot serve. `passed` hears of each part.
pub(crate) fn check(
    runtime: &Runtime,
    args: &CheckArgs,
    passed: &mut dyn FnMut(&str),
) -> Result<Checked, Refusal> {
    let dir = &args.version_dir;
    let opened = LoadedVersion::open(runtime, dir);
    let mut version = opened.map_err(|refusal| external::explain(dir, refusal))?;
    passed("load");
    let facts = try_shapes(&mut version)?;
    passed("shapes");
    let canaries = canary::check(&mut version, dir)?;
    if canaries > 0 {
        passed("canary");
    }
    let probes = Probes::measure(&mut version)?;
    require_finite(&version, probes.values())?;
    let drift = drift(&probes, args)?;
    if drift.is_some() {
        passed("drift");
    }
    drop(version);
    let compiled = match &args.compiled_dir {
        Some(root) => compile::compile(runtime, dir, root, &Key::of(runtime), Some(&probes)),
        None => Err("no directory was given".into()),
    };
    if compiled.is_ok() {
        passed("compile");
    }
    Ok(Checked { facts, drift, canaries, not_compiled: compiled.err() })
}

/// Runs one input of each kind that serving runs.
fn try_shapes(version: &mut LoadedVersion) -> Result<Facts, Refusal> {
    let max_tokens = version.settings().max_tokens;
    let mut dimension = None;
    for (texts, tokens) in [(1, 1), (1, 8), (2, 16), (microbatch::TEXTS_MAX, 8), (1, max_tokens)] {
        let (embeddings, components) = version.try_shape(texts, tokens.min(max_tokens), 0)?;
        require_finite(version, &embeddings)?;
        if dimension.is_some_and(|dimension| dimension != components) {
            let file = version.model_file();
            let message = "its output grows with the text, so that it is no embedding";
            return refuse(format!("{file}: {message}"));
        }
        dimension = Some(components);
    }
    let dimension = dimension.unwrap_or(0);
    if dimension > DIMENSION_MAX {
        let file = version.model_file();
        return refuse(format!("{file}: {dimension} components, and at most {DIMENSION_MAX} fit"));
    }
    try_highest_id(version)?;
    let embedding = version.embed_text(probes::ORDINARY)?;
    require_finite(version, &embedding)?;
    let settings = version.settings();
    Ok(Facts {
        task: Task::Embed,
        dimension: u32::try_from(dimension).expect("DIMENSION_MAX fits"),
        max_tokens,
        pooling: settings.pooling,
        normalize: settings.normalize,
    })
}

/// The same shape has just run with another id, so that only the id can be wrong.
fn try_highest_id(version: &mut LoadedVersion) -> Result<(), Refusal> {
    let highest = version.highest_id();
    let tokens = version.settings().max_tokens.min(8);
    let (embeddings, _) = version.try_shape(1, tokens, highest).or_else(|_| {
        refuse(format!(
            "the tokenizer has ids up to {highest}, which the model's embedding table does not have"
        ))
    })?;
    require_finite(version, &embeddings)
}

/// How far the version is from the serving one, if there is one to compare.
fn drift(probes: &Probes, args: &CheckArgs) -> Result<Option<Drift>, Refusal> {
    let serving = args.serving_compiled_dir.as_deref().and_then(Probes::read);
    let Some(drift) = serving.and_then(|serving| probes.drift(&serving)) else { return Ok(None) };
    match args.min_cosine {
        Some(min) if drift.min_cosine < min => Err(RefusalKind::Drift.because(format!(
            "over {} texts, the cosine to the serving version's embeddings is at least {:.6} and \
             {:.6} in the mean; at least {min} is demanded",
            drift.probes, drift.min_cosine, drift.mean_cosine
        ))),
        _ => Ok(Some(drift)),
    }
}

fn require_finite(version: &LoadedVersion, embeddings: &[f32]) -> Result<(), Refusal> {
    if embeddings.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    refuse(format!("{} gives embeddings that are not finite", version.model_file()))
}

fn refuse<T>(message: String) -> Result<T, Refusal> {
    Err(RefusalKind::Contract.because(message))
}
