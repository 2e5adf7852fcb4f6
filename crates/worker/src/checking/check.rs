//! Tries a version that does not serve yet, in a process of its own: what goes wrong here goes
//! wrong for nobody. Called by `onnxd-worker check`; loads as serving does, runs the shapes that
//! serving will run, compares what comes out, and leaves the compiled form.

use onnxd_proto::{
    domain::{Checked, Drift, Facts, Refusal, RefusalKind, Task},
    limits::DIMENSION_MAX,
    wire::ask::Side,
};

use crate::{
    artifacts::{
        compiled::Key,
        probes::{self, Probes},
    },
    checking::{canary, compile, external},
    families::{
        LoadedVersion,
        tensor::model::TensorModel,
        text::{
            microbatch,
            model::{Rows, TextModel},
            tokenize::Text,
        },
    },
    process::args::CheckArgs,
    session::Runtime,
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
    let (facts, canaries, probes) = match &mut version {
        LoadedVersion::Text(model) => try_texts(model, args, passed)?,
        LoadedVersion::Tensor(model) => try_tensors(model, passed),
    };
    let drift = match &probes {
        Ok(probes) => drift(probes, facts.task, args)?,
        Err(_) => None,
    };
    if drift.is_some() {
        passed("drift");
    }
    drop(version);
    let compiled = match (&args.compiled_dir, &probes) {
        (_, Err(untried)) => Err(untried.clone()),
        (None, _) => Err("no directory was given".into()),
        (Some(root), Ok(probes)) => {
            compile::compile(runtime, dir, root, &Key::of(runtime), Some(probes))
        }
    };
    if compiled.is_ok() {
        passed("compile");
    }
    Ok(Checked { facts, drift, canaries, not_compiled: compiled.err() })
}

/// What a model turns out to be: its facts, how many canary texts came out, and what it makes of
/// fixed inputs, or why that is not known.
type Tried = (Facts, u32, Result<Probes, String>);

fn try_texts(
    model: &mut TextModel,
    args: &CheckArgs,
    passed: &mut dyn FnMut(&str),
) -> Result<Tried, Refusal> {
    let facts = try_shapes(model)?;
    passed("shapes");
    let canaries = canary::check(model, &args.version_dir)?;
    if canaries > 0 {
        passed("canary");
    }
    let probes = Probes::measure(model)?;
    require_finite(model, probes.values())?;
    Ok((facts, canaries, Ok(probes)))
}

/// A model for tensors may need inputs that nobody can guess: then it serves untried.
fn try_tensors(model: &mut TensorModel, passed: &mut dyn FnMut(&str)) -> Tried {
    let probes = model.probe().map_err(|refusal| refusal.message);
    if probes.is_ok() {
        passed("shapes");
    }
    let signature = model.signature().clone();
    let facts = Facts { signature, ..Facts::of(Task::Tensor) };
    (facts, 0, probes)
}

/// Runs one input of each kind that serving runs.
fn try_shapes(version: &mut TextModel) -> Result<Facts, Refusal> {
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
    try_pair(version)?;
    let settings = version.settings().clone();
    let labels = match settings.task {
        Task::Embed => Vec::new(),
        _ => labels(settings.labels, dimension, settings.task)?,
    };
    Ok(Facts {
        dimension: u32::try_from(dimension).expect("DIMENSION_MAX fits"),
        max_tokens,
        pooling: settings.pooling,
        normalize: settings.normalize,
        labels,
        activation: settings.activation,
        prompts: settings.prompts.named.into_keys().collect(),
        ..Facts::of(settings.task)
    })
}

/// A name for each score; those that Hugging Face gives where no file does.
fn labels(named: Vec<String>, scores: usize, task: Task) -> Result<Vec<String>, Refusal> {
    if task == Task::Rerank && scores != 1 {
        return refuse(format!("it gives {scores} scores, and a model that reranks gives one"));
    }
    match named.len() {
        0 => Ok((0..scores).map(|label| format!("LABEL_{label}")).collect()),
        count if count == scores => Ok(named),
        count => refuse(format!(
            "config.json: id2label has {count} labels, and the model gives {scores} scores"
        )),
    }
}

/// Models that score are given pairs, whose second text has a type of its own.
fn try_pair(version: &mut TextModel) -> Result<(), Refusal> {
    if version.settings().task == Task::Embed {
        return Ok(());
    }
    let pair = Text::Pair(probes::ORDINARY, probes::ORDINARY);
    let file = version.model_file();
    let tokens = version.tokenize(&pair, Some(Side::Right)).map_err(|rejection| {
        RefusalKind::Contract.because(format!("tokenizer.json fails on a pair: {rejection:?}"))
    })?;
    let mut scores = Vec::new();
    version
        .embed(&[&tokens], Rows::Pooled, &mut scores)
        .map_err(|error| error.refuse(&format!("{file} fails on a pair of texts")))?;
    require_finite(version, &scores)
}

/// The same shape has just run with another id, so that only the id can be wrong.
fn try_highest_id(version: &mut TextModel) -> Result<(), Refusal> {
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
fn drift(probes: &Probes, task: Task, args: &CheckArgs) -> Result<Option<Drift>, Refusal> {
    let serving = args.serving_compiled_dir.as_deref().and_then(Probes::read);
    let Some(drift) = serving.and_then(|serving| probes.drift(&serving)) else { return Ok(None) };
    match args.min_cosine {
        // A cosine of scores or tensors says little.
        Some(min) if task == Task::Embed && drift.min_cosine < min => Err(RefusalKind::Drift.because(format!(
            "over {} texts, the cosine to the serving version's embeddings is at least {:.6} and \
             {:.6} in the mean; at least {min} is demanded",
            drift.probes, drift.min_cosine, drift.mean_cosine
        ))),
        _ => Ok(Some(drift)),
    }
}

fn require_finite(version: &TextModel, embeddings: &[f32]) -> Result<(), Refusal> {
    if embeddings.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    refuse(format!("{} gives an output that is not finite", version.model_file()))
}

fn refuse<T>(message: String) -> Result<T, Refusal> {
    Err(RefusalKind::Contract.because(message))
}
