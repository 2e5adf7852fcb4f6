//! Combines the files of a text model into the settings with which it is loaded.

use onnxd_proto::domain::{Activation, Guess, Refusal, Task};

use super::{Files, json::contract, late::Late, length, plan::Plan, prompts::Prompts, task};
use crate::families::config::ModelConfig;

/// Names for the values of a switch.
const WORDS_MAX: usize = 256;

/// The settings of a text model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The model's task; never tensors.
    pub(crate) task: Task,
    /// The longest text in tokens, special tokens included.
    pub(crate) max_tokens: u32,
    /// The position of a text's first token.
    pub(crate) first_position: i64,
    /// The steps from the graph's output to an answer.
    pub(crate) plan: Plan,
    /// Whether vectors are scaled to length 1 by default, if `onnxd.toml` sets it.
    pub(crate) normalize: Option<bool>,
    /// Whether texts are lower-cased before tokenization.
    pub(crate) lowercase: bool,
    /// The labels of the scores, if the files name them.
    pub(crate) labels: Vec<String>,
    /// The activation applied to scores.
    pub(crate) activation: Activation,
    /// Prompts that can be put before a text.
    pub(crate) prompts: Prompts,
    /// The late-interaction settings for queries and documents.
    pub(crate) late: Option<Late>,
    /// Names for the values of a switch, in the order of the values.
    pub(crate) words: Vec<String>,
    /// Settings that were guessed.
    pub(crate) guesses: Vec<Guess>,
}

/// Reads the files of a text model.
///
/// # Errors
/// A file is malformed, or requires something that onnxd does not support.
pub(crate) fn read(files: &Files<'_>) -> Result<Settings, Refusal> {
    let mut guesses = Vec::new();
    let (task, guess) = task::determine(files)?;
    guesses.extend(guess);
    let mut plan = Plan::read(files)?;
    require_fitting_keys(files.model_config, task)?;
    if let Some(pooling) = &files.model_config.pooling {
        plan.routes.iter_mut().for_each(|route| route.pooling = Some(pooling.clone()));
    }
    let labels = match task {
        Task::Classify | Task::Rerank | Task::TokenClassify => task::labels(files)?,
        _ => Vec::new(),
    };
    let activation = task::activation(files, task, labels.len())?;
    let late = match task {
        Task::MultiVector => Some(Late::read(files)?),
        _ => None,
    };
    let mut max_tokens = length::max_tokens(files)?;
    if let Some(late) = &late {
        max_tokens = max_tokens.min(late.query_tokens.max(late.document_tokens).max(1));
    }
    Ok(Settings {
        task,
        max_tokens,
        first_position: length::first_position(&files.config)?,
        plan,
        normalize: files.model_config.normalize,
        lowercase: files.transformer.get("do_lower_case")?.unwrap_or(false),
        labels,
        activation,
        prompts: Prompts::read(files)?,
        late,
        words: words(files)?,
        guesses,
    })
}

/// Refuses keys of `onnxd.toml` that do not apply to this task, so that no key is silently ignored.
fn require_fitting_keys(model_config: &ModelConfig, task: Task) -> Result<(), Refusal> {
    use Task::{Classify, Embed, MultiVector, Rerank, Sparse};
    let embeds = matches!(task, Embed | Sparse | MultiVector);
    let keys = [
        ("pooling", model_config.pooling.is_some(), matches!(task, Embed | Sparse)),
        ("normalize", model_config.normalize.is_some(), task == Embed),
        ("activation", model_config.activation.is_some(), matches!(task, Classify | Rerank)),
        ("template", model_config.template.is_some(), task == Rerank),
        ("true_token", model_config.true_token.is_some(), task == Rerank),
        ("false_token", model_config.false_token.is_some(), model_config.true_token.is_some()),
        ("relevant_label", model_config.relevant_label.is_some(), task == Rerank),
        ("prompts", !model_config.prompts.is_empty(), embeds || task == Rerank),
        (
            "default_prompt_name",
            model_config.default_prompt_name.is_some(),
            embeds || task == Rerank,
        ),
    ];
    match keys.iter().find(|(_, is_set, fits)| *is_set && !fits) {
        None => Ok(()),
        Some((key, ..)) => Err(contract(format!(
            "onnxd.toml: {key} does not apply to the task {}; remove it, or set another task",
            task.as_str()
        ))),
    }
}

/// Returns the names of a switch's values, as Jina's models list them.
fn words(files: &Files<'_>) -> Result<Vec<String>, Refusal> {
    let words: Vec<String> = files.config.get("lora_adaptations")?.unwrap_or_default();
    match words.len() <= WORDS_MAX {
        true => Ok(words),
        false => Err(contract(format!(
            "config.json: lora_adaptations has more than {WORDS_MAX} entries"
        ))),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
