//! All that a version's files say of a model for texts, put together: the settings with which it is
//! loaded.

use onnxd_proto::domain::{Activation, Guess, Refusal, Task};

use super::{Files, json::contract, late::Late, length, plan::Plan, prompts::Prompts, task};
use crate::families::own::Own;

/// Words for the values of one switch.
const WORDS_MAX: usize = 256;

/// What the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What the model is for; not tensors.
    pub(crate) task: Task,
    /// Tokens of the longest text, special tokens included.
    pub(crate) max_tokens: u32,
    /// Where the positions of a text begin.
    pub(crate) first_position: i64,
    /// What is made of the graph's output.
    pub(crate) plan: Plan,
    /// Whether vectors have length 1 unless a request says otherwise, if `onnxd.toml` says it.
    pub(crate) normalize: Option<bool>,
    /// Whether letters are made small before anything else.
    pub(crate) lowercase: bool,
    /// What scores are of, where the files say it.
    pub(crate) labels: Vec<String>,
    /// What becomes of scores.
    pub(crate) activation: Activation,
    /// What may be put before a text.
    pub(crate) prompts: Prompts,
    /// How both sides of a search are prepared, for late interaction.
    pub(crate) late: Option<Late>,
    /// Words for the values of a switch, in the order of the values.
    pub(crate) words: Vec<String>,
    /// What was assumed.
    pub(crate) guesses: Vec<Guess>,
}

/// Reads the files of a model for texts.
///
/// # Errors
/// A file is malformed, or asks for what onnxd does not do.
pub(crate) fn read(files: &Files<'_>) -> Result<Settings, Refusal> {
    let mut guesses = Vec::new();
    let (task, guess) = task::of(files)?;
    guesses.extend(guess);
    let mut plan = Plan::read(files)?;
    require_fitting_keys(files.own, task)?;
    if let Some(pooling) = &files.own.pooling {
        plan.ways.iter_mut().for_each(|way| way.pooling = Some(pooling.clone()));
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
        normalize: files.own.normalize,
        lowercase: files.transformer.get("do_lower_case")?.unwrap_or(false),
        labels,
        activation,
        prompts: Prompts::read(files)?,
        late,
        words: words(files)?,
        guesses,
    })
}

/// Refuses keys of `onnxd.toml` that say nothing for this task, so that none is ignored.
fn require_fitting_keys(own: &Own, task: Task) -> Result<(), Refusal> {
    use Task::{Classify, Embed, MultiVector, Rerank, Sparse};
    let embeds = matches!(task, Embed | Sparse | MultiVector);
    let keys = [
        ("pooling", own.pooling.is_some(), matches!(task, Embed | Sparse)),
        ("normalize", own.normalize.is_some(), task == Embed),
        ("activation", own.activation.is_some(), matches!(task, Classify | Rerank)),
        ("template", own.template.is_some(), task == Rerank),
        ("true_token", own.true_token.is_some(), task == Rerank),
        ("false_token", own.false_token.is_some(), own.true_token.is_some()),
        ("relevant_label", own.relevant_label.is_some(), task == Rerank),
        ("prompts", !own.prompts.is_empty(), embeds || task == Rerank),
        ("default_prompt_name", own.default_prompt_name.is_some(), embeds || task == Rerank),
    ];
    match keys.iter().find(|(_, is_set, fits)| *is_set && !fits) {
        None => Ok(()),
        Some((key, ..)) => Err(contract(format!(
            "onnxd.toml: {key} says nothing for a model that is for {}; leave it away, or set task",
            task.as_str()
        ))),
    }
}

/// Words for the number of an adapter, as Jina's models list them.
fn words(files: &Files<'_>) -> Result<Vec<String>, Refusal> {
    let words: Vec<String> = files.config.get("lora_adaptations")?.unwrap_or_default();
    match words.len() <= WORDS_MAX {
        true => Ok(words),
        false => Err(contract(format!("config.json: lora_adaptations has more than {WORDS_MAX}"))),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
