//! Determines the task of a text model from `onnxd.toml`, from the files of sentence-transformers
//! and its relatives, or from the architecture in `config.json`.

use std::collections::BTreeMap;

use onnxd_proto::domain::{Activation, Guess, Refusal, RefusalKind, Task};

use super::{
    Files, assume, guess,
    json::contract,
    modules::{Kind, Module},
};

/// Maximum labels of one model.
const LABELS_MAX: usize = 65_536;
/// Label names that mean relevant or not relevant.
const RELEVANT: [&str; 6] = ["relevant", "yes", "true", "positive", "match", "duplicate"];
const IRRELEVANT: [&str; 11] = [
    "not_relevant",
    "not relevant",
    "irrelevant",
    "non_relevant",
    "non-relevant",
    "nonrelevant",
    "no",
    "false",
    "negative",
    "no_match",
    "not_duplicate",
];
/// Parts of the names of rerankers.
const RERANKERS: [&str; 5] = ["rerank", "monobert", "ranker", "cross-encoder", "ms-marco"];

/// Returns the model's task, with a guess if it was assumed.
///
/// # Errors
/// A file is malformed.
pub(crate) fn determine(files: &Files<'_>) -> Result<(Task, Option<Guess>), Refusal> {
    if let Some(task) = files.model_config.task {
        return Ok((task, None));
    }
    if let Some(task) = by_library(files)? {
        return Ok(task);
    }
    if let Some(modules) = &files.modules {
        return by_modules(files, modules);
    }
    by_architecture(files)
}

/// Returns the task that belongs to the library that saved the model.
fn by_library(files: &Files<'_>) -> Result<Option<(Task, Option<Guess>)>, Refusal> {
    let library: Option<String> = files.sentence.get("model_type")?;
    Ok(match library.as_deref() {
        Some("SentenceTransformer") => Some((Task::Embed, None)),
        Some("SparseEncoder") => Some((Task::Sparse, None)),
        Some("ColBERT" | "MultiVectorEncoder") => Some((Task::MultiVector, None)),
        Some("CrossEncoder") => Some(scoring(files, true)?),
        _ => None,
    })
}

fn by_modules(files: &Files<'_>, modules: &[Module]) -> Result<(Task, Option<Guess>), Refusal> {
    let has = |kind: Kind| modules.iter().any(|module| module.kind == kind);
    if has(Kind::LogitScore) {
        return Ok((Task::Rerank, None));
    }
    if has(Kind::SpladePooling) || has(Kind::SparseStaticEmbedding) {
        return Ok((Task::Sparse, None));
    }
    if modules.iter().any(|module| module.class.starts_with("pylate.")) {
        return Ok((Task::MultiVector, None));
    }
    let task: Option<String> = files.transformer.get("transformer_task")?;
    if task.as_deref() == Some("sequence-classification") {
        return scoring(files, true);
    }
    Ok((Task::Embed, None))
}

fn by_architecture(files: &Files<'_>) -> Result<(Task, Option<Guess>), Refusal> {
    let architectures: Vec<String> = files.config.get("architectures")?.unwrap_or_default();
    let ends = |end: &str| architectures.iter().any(|name| name.ends_with(end));
    if ends("ForSequenceClassification") {
        let is_cross_encoder = files.config.object("sentence_transformers")?.is_some();
        return scoring(files, is_cross_encoder);
    }
    if ends("ForTokenClassification") {
        return Ok((Task::TokenClassify, None));
    }
    Ok((Task::Embed, None))
}

/// Chooses between classifying and reranking for a model with one score per label.
fn scoring(files: &Files<'_>, is_cross_encoder: bool) -> Result<(Task, Option<Guess>), Refusal> {
    let labels = labels(files)?;
    let count = label_count(files, &labels)?;
    let name = assume::name(&files.config)?;
    let is_named = RERANKERS.iter().any(|part| name.contains(part));
    let problem: Option<String> = files.config.get("problem_type")?;
    let assumed = |task: Task, reason: &str| Ok((task, Some(guess("task", task.as_str(), reason))));
    match count {
        Some(1)
            if !is_cross_encoder
                && matches!(
                    problem.as_deref(),
                    Some("regression" | "multi_label_classification")
                ) =>
        {
            Ok((Task::Classify, None))
        }
        Some(1) => Ok((Task::Rerank, None)),
        Some(2) if relevant(&labels).is_some_and(|found| found.1) => {
            assumed(Task::Rerank, "its labels distinguish relevant documents")
        }
        Some(2) if is_named => assumed(Task::Rerank, "its name looks like that of a reranker"),
        None if is_cross_encoder => Ok((Task::Rerank, None)),
        _ => Ok((Task::Classify, None)),
    }
}

/// Returns which of two labels means relevant, and whether the label says so literally.
pub(crate) fn relevant(labels: &[String]) -> Option<(usize, bool)> {
    let [first, second] = labels else { return None };
    let is = |label: &str, words: &[&str]| words.contains(&label.to_lowercase().as_str());
    if is(first, &RELEVANT) && is(second, &IRRELEVANT) {
        return Some((0, is(first, &RELEVANT[..1])));
    }
    if is(second, &RELEVANT) && is(first, &IRRELEVANT) {
        return Some((1, is(second, &RELEVANT[..1])));
    }
    None
}

/// Returns how many labels the files name or count.
fn label_count(files: &Files<'_>, labels: &[String]) -> Result<Option<usize>, Refusal> {
    match labels.len() {
        0 => files.config.get("num_labels"),
        count => Ok(Some(count)),
    }
}

/// Returns the labels in `id2label`; empty if the file has none.
///
/// # Errors
/// The labels are not numbered from 0 without gaps.
pub(crate) fn labels(files: &Files<'_>) -> Result<Vec<String>, Refusal> {
    let named: BTreeMap<String, String> = files.config.get("id2label")?.unwrap_or_default();
    let invalid = |what: &str| Err(contract(format!("config.json: id2label {what}")));
    if named.len() > LABELS_MAX {
        return invalid(&format!("has more than {LABELS_MAX} labels"));
    }
    let mut labels = vec![None; named.len()];
    for (number, label) in named {
        let slot = number.parse().ok().and_then(|index: usize| labels.get_mut(index));
        let Some(slot) = slot else {
            return invalid("is not numbered from 0 without gaps");
        };
        *slot = Some(label);
    }
    match labels.into_iter().collect() {
        Some(labels) => Ok(labels),
        None => invalid("has a number twice"),
    }
}

/// Returns the activation of scores: the one in `onnxd.toml`, else the one used in training.
///
/// # Errors
/// A file is malformed.
pub(crate) fn activation(
    files: &Files<'_>,
    task: Task,
    labels: usize,
) -> Result<Activation, Refusal> {
    if let Some(activation) = files.model_config.activation {
        return Ok(activation);
    }
    if task == Task::Rerank {
        return match pair_activation(files)?.as_deref() {
            None => Ok(Activation::Sigmoid),
            Some(class) if class.ends_with("Sigmoid") => Ok(Activation::Sigmoid),
            Some(class) if class.ends_with("Identity") => Ok(Activation::Identity),
            Some(class) => Err(contract(format!(
                "config_sentence_transformers.json or config.json: activation {class:?} is not \
                 supported; set activation in onnxd.toml"
            ))),
        };
    }
    let problem: Option<String> = files.config.get("problem_type")?;
    Ok(match problem.as_deref() {
        Some("regression") => Activation::Identity,
        Some("multi_label_classification") => Activation::Sigmoid,
        _ if labels == 1 && task == Task::Classify => Activation::Sigmoid,
        _ => Activation::Softmax,
    })
}

/// Returns the activation class of a cross-encoder, from the field of the release that saved it.
fn pair_activation(files: &Files<'_>) -> Result<Option<String>, Refusal> {
    if let Some(class) = files.sentence.get("activation_fn")? {
        return Ok(Some(class));
    }
    if let Some(old) = files.config.object("sentence_transformers")?
        && let Some(class) = old.get("activation_fn")?
    {
        return Ok(Some(class));
    }
    files.config.get("sbert_ce_default_activation_function")
}

/// Returns a name for each score. Without names in the files, the names are those that Hugging Face
/// assigns.
///
/// # Errors
/// The number of labels in the files differs from the number of scores.
pub(crate) fn named_labels(
    named: Vec<String>,
    scores: usize,
    file: &str,
) -> Result<Vec<String>, Refusal> {
    match named.len() {
        0 => Ok((0..scores).map(|label| format!("LABEL_{label}")).collect()),
        count if count == scores => Ok(named),
        count => Err(RefusalKind::Contract.because(format!(
            "{file} has {scores} scores, but id2label in config.json has {count} labels: they \
             belong to different models; use files of the same model"
        ))),
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
