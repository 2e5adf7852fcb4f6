//! Tries a model for texts: runs the shapes that serving will run, looks at what comes out, and says
//! what the model turned out to be.

use onnxd_proto::{
    domain::{Facts, Output, Refusal, RefusalKind, Task},
    limits::DIMENSION_MAX,
    wire::ask::Side,
};

use super::{
    microbatch,
    model::{Rows, TextModel},
    tokenize::Text,
};
use crate::artifacts::probes;

/// Runs one input of each kind that serving runs.
pub(super) fn try_out(version: &mut TextModel) -> Result<Facts, Refusal> {
    let max_tokens = version.settings().max_tokens;
    let mut dimension = None;
    // The longest text is run by `longest`.
    for (texts, tokens) in [(1, 1), (1, 8), (2, 16), (microbatch::TEXTS_MAX, 8)] {
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
    let dimension = u32::try_from(dimension).expect("DIMENSION_MAX fits");
    let output = match settings.task {
        Task::Embed => Output::Dense { dimension },
        _ => Output::Scores { labels: dimension },
    };
    Ok(Facts {
        dimension,
        max_tokens,
        output: Some(output),
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

pub(super) fn require_finite(version: &TextModel, embeddings: &[f32]) -> Result<(), Refusal> {
    if embeddings.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    refuse(format!("{} gives an output that is not finite", version.model_file()))
}

fn refuse<T>(message: String) -> Result<T, Refusal> {
    Err(RefusalKind::Contract.because(message))
}
