//! Tries a version that does not serve yet, in a process of its own: what goes wrong here goes
//! wrong for nobody. Called by `onnxd-worker check`; loads as serving does, then runs the shapes
//! that serving will run.

use std::path::Path;

use nix::unistd::Pid;
use onnxd_proto::{
    exit::ExitStatus,
    limits::DIMENSION_MAX,
    message::{Facts, Refusal, RefusalKind, Task, Verdict},
};

use crate::{fault::Fault, guard, microbatch, session::Runtime, version::LoadedVersion};

/// Goes through the tokenizer, unlike the shapes.
const TEXT: &str = "The first text that a version embeds.";

/// The verdict on the version in `dir`, and the exit code that goes with it.
pub(crate) fn verdict(onnxruntime: &Path, dir: &Path, parent: Pid) -> (Verdict, ExitStatus) {
    let opened = guard::die_with(parent).map_err(Fault::from);
    match opened.and_then(|()| Ok(Runtime::open(onnxruntime)?)) {
        Ok(runtime) => match check(&runtime, dir) {
            Ok(facts) => (Verdict::Accepted(facts), ExitStatus::Fine),
            Err(refusal) => (Verdict::Refused(refusal), ExitStatus::Refused),
        },
        // Not the version's fault: the exit code says that none can be checked.
        Err(fault) => {
            let refusal = RefusalKind::Internal.because(fault.to_string());
            (Verdict::Refused(refusal), fault.status())
        }
    }
}

/// The facts about the version in `dir`, or why it cannot serve.
fn check(runtime: &Runtime, dir: &Path) -> Result<Facts, Refusal> {
    let mut version = LoadedVersion::open(runtime, dir)?;
    let max_tokens = version.settings().max_tokens;
    let mut dimension = 0;
    for (texts, tokens) in [(1, 1), (1, 8), (2, 16), (microbatch::TEXTS_MAX, 8), (1, max_tokens)] {
        let (embeddings, components) = version.try_shape(texts, tokens.min(max_tokens), 0)?;
        require_finite(&version, &embeddings)?;
        dimension = components;
    }
    if dimension > DIMENSION_MAX {
        let file = version.model_file();
        return refuse(format!("{file}: {dimension} components, and at most {DIMENSION_MAX} fit"));
    }
    try_highest_id(&mut version)?;
    try_text(&mut version)?;
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

fn try_text(version: &mut LoadedVersion) -> Result<(), Refusal> {
    let tokens = version.tokenize(TEXT, true).or_else(|rejection| {
        refuse(format!("tokenizer.json fails on an ordinary text: {rejection:?}"))
    })?;
    let mut embeddings = Vec::new();
    version.embed(&[&tokens], &mut embeddings).or_else(|error| {
        refuse(format!("{} fails on an ordinary text: {error}", version.model_file()))
    })?;
    require_finite(version, &embeddings)
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
