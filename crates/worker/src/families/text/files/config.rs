//! All that a version's files say of a model for texts, put together: the settings with which it is
//! loaded.

use onnxd_proto::domain::{Activation, Guess, Refusal, Task};

use super::{
    Files, json::contract, late::Late, model2vec::Model2Vec, plan::Plan, prompts::Prompts, task,
};

/// Used where no file says how long a text may be.
const TOKENS_DEFAULT: u64 = 512;
/// No model takes longer texts than this; a larger number in a file means "no limit".
const TOKENS_MAX: u64 = 131_072;
/// Words for the values of one switch.
const WORDS_MAX: usize = 256;

/// What the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What the model is for; not tensors.
    pub(crate) task: Task,
    /// Tokens of the longest text, special tokens included.
    pub(crate) max_tokens: u32,
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
    let mut plan = Plan::read(files, &mut guesses)?;
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
    Ok(Settings {
        task,
        max_tokens: max_tokens(files)?,
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

fn max_tokens(files: &Files<'_>) -> Result<u32, Refusal> {
    let positions = files.config.get::<u64>("max_position_embeddings")?;
    let wanted = match (files.own.max_tokens, files.transformer.get("max_seq_length")?) {
        (Some(tokens), _) => Some(tokens.into()),
        (None, Some(tokens)) => Some(tokens),
        (None, None) => tokenizer_limit(files)?.or(table_limit(files)?).or(positions),
    };
    let tokens = wanted.unwrap_or(TOKENS_DEFAULT).min(positions.unwrap_or(TOKENS_MAX));
    match u32::try_from(tokens.min(TOKENS_MAX)) {
        Ok(tokens) if tokens > 0 => Ok(tokens),
        _ => Err(contract("max_seq_length or max_position_embeddings is 0")),
    }
}

/// Tokenizers without a limit say so with a number like 10^30.
fn tokenizer_limit(files: &Files<'_>) -> Result<Option<u64>, Refusal> {
    let limit = files.tokenizer.get::<serde_json::Number>("model_max_length")?;
    Ok(limit.and_then(|limit| limit.as_u64()).filter(|&limit| limit <= TOKENS_MAX))
}

/// What a table takes: as its file says, or any length.
fn table_limit(files: &Files<'_>) -> Result<Option<u64>, Refusal> {
    if !super::is_table(files.dir)? {
        return Ok(None);
    }
    let said = Model2Vec::read(files.dir)?.and_then(|table| table.max_tokens);
    Ok(Some(said.map_or(TOKENS_MAX, u64::from)))
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
