//! Tries a text model: runs the shapes that serving uses, checks the outputs, and describes the
//! model.

use onnxd_proto::{
    domain::{Activation, Facts, Output, Refusal, RefusalKind, Task},
    limits::DIMENSION_MAX,
};

use super::{
    describe::describe, files::task::named_labels, microbatch, model::TextModel,
    prepare::TextRequest, readout::Numbers,
};
use crate::artifacts::probes;

/// Maximum vocabulary size whose weights can be sent.
const VOCABULARY_MAX: usize = 1 << 20;

/// Runs one input of each kind that serving runs.
pub(super) fn try_out(version: &mut TextModel) -> Result<Facts, Refusal> {
    let max_tokens = version.settings().max_tokens;
    let mut dimension = None;
    let routes = version.settings().plan.routes.len();
    // The default route comes last because the facts describe it. `longest` runs the longest text.
    let default = version.settings().plan.default;
    let routes = (0..routes).filter(|&route| route != default).chain([default]);
    let shapes = [(1, 1), (1, 8), (2, 16), (microbatch::TEXTS_MAX, 8)];
    for (route, (texts, tokens)) in routes.flat_map(|route| shapes.map(|shape| (route, shape))) {
        let numbers = version.try_route(route, texts, tokens.min(max_tokens), 0)?;
        require_finite(version, &numbers.values)?;
        let found = version.dimension();
        if dimension.is_some_and(|dimension| dimension != found) {
            let file = version.model_file();
            let message = "the size of its output changes with the length of the text or between \
                           routes, so it is not an embedding; set output or task in onnxd.toml";
            return refuse(format!("{file}: {message}"));
        }
        dimension = Some(found);
    }
    let dimension = dimension.unwrap_or(0);
    require_sendable(version, dimension)?;
    try_highest_id(version)?;
    let request = match version.settings().task {
        Task::Rerank => TextRequest::pair(probes::ORDINARY, probes::ORDINARY),
        _ => TextRequest::text(probes::ORDINARY),
    };
    let numbers = version.run_one(&request)?;
    require_finite(version, &numbers)?;
    try_pair(version)?;
    facts(version, dimension)
}

fn facts(version: &TextModel, dimension: usize) -> Result<Facts, Refusal> {
    let settings = version.settings();
    let (task, file) = (settings.task, version.model_file());
    let labels = match task {
        Task::Classify | Task::TokenClassify => {
            named_labels(settings.labels.clone(), dimension, file)?
        }
        Task::Rerank if settings.labels.len() < 2 => {
            named_labels(settings.labels.clone(), dimension, file)?
        }
        Task::Rerank => settings.labels.clone(),
        _ => Vec::new(),
    };
    let dimension = u32::try_from(dimension).expect("VOCABULARY_MAX fits");
    let output = match task {
        Task::Embed => Output::Dense { dimension },
        Task::Sparse => Output::Sparse { dimension },
        Task::MultiVector => Output::MultiVector { dimension },
        Task::TokenClassify => Output::TokenScores { labels: dimension },
        Task::Classify | Task::Rerank | Task::Tensor => Output::Scores { labels: dimension },
    };
    let description = describe(version);
    Ok(Facts {
        dimension,
        max_tokens: settings.max_tokens,
        output: Some(output),
        pooling: version.pooling(),
        normalize: version.normalizes(settings.plan.default),
        labels,
        // Softmax of a single score is always 1.
        activation: match (task, dimension, settings.activation) {
            (Task::Classify, 1, Activation::Softmax) => Activation::Sigmoid,
            (.., activation) => activation,
        },
        prompts: settings.prompts.named.keys().cloned().collect(),
        file: version.model_file().to_owned(),
        inputs: description.inputs,
        pipeline: description.pipeline,
        switches: description.switches,
        guesses: version.guesses.clone(),
        ..Facts::new(task)
    })
}

fn require_sendable(version: &TextModel, dimension: usize) -> Result<(), Refusal> {
    let file = version.model_file();
    let max = match version.settings().task {
        Task::Sparse => VOCABULARY_MAX,
        _ => DIMENSION_MAX,
    };
    if dimension > max {
        return refuse(format!(
            "{file}: output has {dimension} components, more than the limit of {max}"
        ));
    }
    if version.settings().task == Task::Embed && dimension == 1 {
        return refuse(format!(
            "{file}: output has one component, so it is not an embedding; the model seems to be a \
             reranker (set task = \"rerank\" in onnxd.toml) or a classifier (set task = \
             \"classify\")"
        ));
    }
    if version.settings().task == Task::Rerank && dimension != 1 {
        return refuse(format!(
            "{file} has {dimension} scores, but a reranker has one or two; set task = \"classify\" \
             in onnxd.toml"
        ));
    }
    Ok(())
}

/// Classifiers also take pairs, whose second text has another type id.
fn try_pair(version: &mut TextModel) -> Result<(), Refusal> {
    if version.settings().task != Task::Classify {
        return Ok(());
    }
    let numbers = version.run_one(&TextRequest::pair(probes::ORDINARY, probes::ORDINARY))?;
    require_finite(version, &numbers)
}

/// The same shape has just run with another id, so only the id can fail.
fn try_highest_id(version: &mut TextModel) -> Result<(), Refusal> {
    let highest = version.tokenizer().highest_id();
    let tokens = version.settings().max_tokens.min(8);
    let Numbers { values, .. } = version.try_shape(1, tokens, highest).or_else(|_| {
        refuse(format!(
            "tokenizer.json has ids up to {highest}, which exceed the model's embedding table: \
             they belong to different models; use files of the same model"
        ))
    })?;
    require_finite(version, &values)
}

pub(super) fn require_finite(version: &TextModel, numbers: &[f32]) -> Result<(), Refusal> {
    if numbers.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    refuse(format!("{}: the output is not finite", version.model_file()))
}

fn refuse<T>(message: String) -> Result<T, Refusal> {
    Err(RefusalKind::Contract.because(message))
}
