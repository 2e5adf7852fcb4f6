//! Chooses which output of a graph to use, by names, types and declared shapes. Pure;
//! docs/models.md has the rules. If no output fits the task, the refusal says what the graph seems
//! to be.

use onnxd_proto::domain::{
    Guess, Refusal, Task,
    tensor::{DataType, TensorSpec},
};

use super::files::{guess, json::contract};

/// The finished vector in exports of sentence-transformers.
const FINISHED: &str = "sentence_embedding";
/// The output of BERT's pooler, which few embedding models use.
const POOLER: &str = "pooler_output";
/// Names of outputs with one vector per token, the most common first.
const TOKENS: [&str; 4] = ["last_hidden_state", "token_embeddings", "hidden_states", "text_embeds"];
/// Names of outputs with one vector per text.
const TEXTS: [&str; 6] =
    [FINISHED, "text_embeds", "sentence_embeddings", "embeddings", "dense_vecs", POOLER];
/// The name of the output with scores, or with one score per token of the vocabulary.
const LOGITS: &str = "logits";

/// What each row of the output stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// One vector per token: texts × tokens × components.
    Tokens,
    /// One vector per text: texts × components.
    Texts,
    /// One vector per text, after all steps in modules.json.
    Finished,
}

/// The output to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) datatype: DataType,
    /// The width of a vector, if the graph declares it.
    pub(crate) width: Option<usize>,
}

/// What is known about a model when its output is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutputContext<'a> {
    pub(crate) task: Task,
    /// The output named in `onnxd.toml`.
    pub(crate) own: Option<&'a str>,
    /// Whether the version has a modules.json.
    pub(crate) is_listed: bool,
    /// Whether it lists a pooling module, so that the graph need not pool.
    pub(crate) is_pooled_outside: bool,
    /// Size of the vocabulary, if config.json sets it.
    pub(crate) vocabulary: Option<usize>,
    /// Whether a reranker is prompted and answers with a token.
    pub(crate) is_generative: bool,
    /// The graph's file, for messages.
    pub(crate) file: &'a str,
}

/// Chooses the output.
///
/// # Errors
/// No output fits the task; the message says what the graph seems to be.
pub(crate) fn choose(
    outputs: &[TensorSpec],
    context: &OutputContext<'_>,
    guesses: &mut Vec<Guess>,
) -> Result<Chosen, Refusal> {
    if let Some(name) = context.own {
        return named(outputs, name, context);
    }
    let tokens = first_or_only(outputs, 3, &TOKENS);
    let logits = outputs.iter().find(|output| output.name == LOGITS && is_float(output));
    let chosen = match context.task {
        Task::Embed => {
            let chosen = embedding(outputs, context);
            require_embedder(chosen.map(|(output, _)| output), logits, context)?;
            chosen
        }
        Task::MultiVector => tokens.map(|output| (output, Part::Tokens)),
        Task::Sparse => sparse(outputs, logits, context),
        Task::TokenClassify => {
            logits.filter(|output| output.shape.len() == 3).or(tokens).map(|o| (o, Part::Tokens))
        }
        Task::Rerank if context.is_generative => {
            logits.filter(|output| output.shape.len() == 3).map(|output| (output, Part::Tokens))
        }
        Task::Classify | Task::Rerank => logits
            .filter(|output| output.shape.len() == 2)
            .or_else(|| only(outputs, 2))
            .map(|output| (output, Part::Texts)),
        Task::Tensor => None,
    };
    let Some((output, part)) = chosen else {
        return Err(no_fitting_output(outputs, logits, context));
    };
    record_guess(output, part, outputs, context, guesses);
    Ok(chosen_of(output, part))
}

/// Returns the output named in `onnxd.toml`.
fn named(
    outputs: &[TensorSpec],
    name: &str,
    context: &OutputContext<'_>,
) -> Result<Chosen, Refusal> {
    let Some(output) = outputs.iter().find(|output| output.name == name) else {
        return Err(contract(format!(
            "onnxd.toml: output = {name:?} is not an output of {}; its outputs are {}",
            context.file,
            list(outputs)
        )));
    };
    let part = match output.shape.len() {
        3 => Part::Tokens,
        2 => part_of_text(output, context),
        _ => {
            return Err(contract(format!(
                "onnxd.toml: output: {} has neither 2 nor 3 axes and cannot be used",
                display(output)
            )));
        }
    };
    if !is_float(output) {
        return Err(contract(format!(
            "onnxd.toml: output: {} is not a floating-point tensor and cannot be used",
            display(output)
        )));
    }
    Ok(chosen_of(output, part))
}

fn chosen_of(output: &TensorSpec, part: Part) -> Chosen {
    let width = output.shape.last().and_then(|&size| usize::try_from(size).ok());
    let width = width.filter(|&width| width > 0);
    Chosen { name: output.name.clone(), part, datatype: output.datatype, width }
}

/// Prefers a finished text vector, unless modules.json pools token vectors. An output with an
/// unknown name counts only if there is no other.
fn embedding<'o>(
    outputs: &'o [TensorSpec],
    context: &OutputContext<'_>,
) -> Option<(&'o TensorSpec, Part)> {
    let tokens = named_first(outputs, 3, &TOKENS).map(|output| (output, Part::Tokens));
    let texts =
        named_first(outputs, 2, &TEXTS).map(|output| (output, part_of_text(output, context)));
    let finished = texts.filter(|(_, part)| *part == Part::Finished);
    let other = |rank| only(outputs, rank).filter(|output| output.name != LOGITS);
    let unnamed = || {
        let tokens = other(3).map(|output| (output, Part::Tokens));
        tokens.or_else(|| other(2).map(|output| (output, Part::Texts)))
    };
    let chosen = match context.is_pooled_outside {
        true => tokens.or(finished).or(texts),
        false => finished.or(tokens).or(texts),
    };
    chosen.or_else(unnamed)
}

/// Returns whether a text vector already includes the steps of modules.json, judging by its name.
fn part_of_text(output: &TensorSpec, context: &OutputContext<'_>) -> Part {
    let is_named = TEXTS.contains(&output.name.as_str()) && output.name != POOLER;
    match output.name == FINISHED || !context.is_listed && is_named {
        true => Part::Finished,
        false => Part::Texts,
    }
}

/// Returns the output with vocabulary weights per token, or with one vector of them per text.
fn sparse<'o>(
    outputs: &'o [TensorSpec],
    logits: Option<&'o TensorSpec>,
    context: &OutputContext<'_>,
) -> Option<(&'o TensorSpec, Part)> {
    // If both sizes are known, only an output as wide as the vocabulary fits.
    let fits = |output: &&TensorSpec| {
        let width = output.shape.last().and_then(|&size| usize::try_from(size).ok());
        width.is_none() || context.vocabulary.is_none() || width == context.vocabulary
    };
    let tokens = logits.filter(|output| output.shape.len() == 3).or_else(|| only(outputs, 3));
    tokens
        .filter(fits)
        .map(|output| (output, Part::Tokens))
        .or_else(|| only(outputs, 2).filter(fits).map(|output| (output, Part::Finished)))
}

/// Refuses graphs whose outputs cannot be embeddings, whatever their shape.
fn require_embedder(
    chosen: Option<&TensorSpec>,
    logits: Option<&TensorSpec>,
    context: &OutputContext<'_>,
) -> Result<(), Refusal> {
    let file = context.file;
    let width = |output: &TensorSpec| output.shape.last().copied().unwrap_or(-1);
    if let Some(output) = chosen.filter(|output| width(output) == 1) {
        return Err(contract(format!(
            "{file}: output {} has one component, so it is not an embedding; the model seems to be \
             a reranker (set task = \"rerank\" in onnxd.toml) or a classifier (set task = \
             \"classify\")",
            output.name
        )));
    }
    let is_vocabulary = |output: &&TensorSpec| {
        usize::try_from(width(output)).ok().is_some_and(|width| context.vocabulary == Some(width))
    };
    if let Some(output) = chosen.filter(is_vocabulary).or(logits.filter(|_| chosen.is_none())) {
        return Err(contract(suggestion(output, context)));
    }
    Ok(())
}

/// Describes what a graph with only logits seems to be.
fn suggestion(output: &TensorSpec, context: &OutputContext<'_>) -> String {
    let file = context.file;
    let width = output.shape.last().copied().unwrap_or(-1);
    let is_vocabulary = usize::try_from(width).ok() == context.vocabulary;
    let (what, remedy) = match output.shape.len() {
        3 if is_vocabulary => (
            "a model that predicts tokens",
            "for SPLADE set task = \"sparse\" in onnxd.toml, for a reranker that answers yes or no \
             set task = \"rerank\"; for embeddings export the model with --task feature-extraction",
        ),
        3 => (
            "a model that labels tokens",
            "set task = \"token_classify\" in onnxd.toml; for embeddings export the model with \
             --task feature-extraction",
        ),
        _ => (
            "a model that scores texts or pairs",
            "set task = \"classify\" or task = \"rerank\" in onnxd.toml",
        ),
    };
    format!(
        "{file}: output {} is not an embedding; it seems to come from {what}; {remedy}",
        display(output)
    )
}

/// Records a guess if no file names the output.
fn record_guess(
    output: &TensorSpec,
    part: Part,
    outputs: &[TensorSpec],
    context: &OutputContext<'_>,
    guesses: &mut Vec<Guess>,
) {
    let is_usual = TOKENS.contains(&output.name.as_str())
        || TEXTS.contains(&output.name.as_str()) && output.name != POOLER
        || output.name == LOGITS;
    if is_usual || context.task != Task::Embed {
        return;
    }
    let reason = match part {
        Part::Tokens => "it has one vector per token, but an unknown name",
        Part::Texts | Part::Finished => {
            "it has one vector per text, but may not be the finished one"
        }
    };
    guesses.push(guess(
        "output",
        &output.name,
        format!("{reason}; the graph's outputs are {}", list(outputs)),
    ));
}

fn no_fitting_output(
    outputs: &[TensorSpec],
    logits: Option<&TensorSpec>,
    context: &OutputContext<'_>,
) -> Refusal {
    let wanted = match context.task {
        Task::Embed => "one vector per token or per text",
        Task::MultiVector => "one vector per token",
        Task::Sparse => "one number per token of the vocabulary",
        Task::Rerank if context.is_generative => "vocabulary logits per token",
        Task::TokenClassify => "scores per token",
        Task::Classify | Task::Rerank | Task::Tensor => "scores per text",
    };
    let hint =
        logits.map_or_else(String::new, |output| format!(" ({})", suggestion(output, context)));
    contract(format!(
        "{}: the task {} needs an output with {wanted}, but the graph's outputs are {}{hint}; set \
         task or output in onnxd.toml",
        context.file,
        context.task.as_str(),
        list(outputs)
    ))
}

/// Returns the floating-point output with `rank` axes: the first of these names, else the only one.
fn first_or_only<'o>(
    outputs: &'o [TensorSpec],
    rank: usize,
    names: &[&str],
) -> Option<&'o TensorSpec> {
    named_first(outputs, rank, names)
        .or_else(|| only(outputs, rank).filter(|output| output.name != LOGITS))
}

/// Returns the first of these names that a floating-point output with `rank` axes has.
fn named_first<'o>(
    outputs: &'o [TensorSpec],
    rank: usize,
    names: &[&str],
) -> Option<&'o TensorSpec> {
    let fits = |name: &&str| {
        let is = |output: &&TensorSpec| {
            output.name == **name && output.shape.len() == rank && is_float(output)
        };
        outputs.iter().find(is)
    };
    names.iter().find_map(fits)
}

/// Returns the only floating-point output with `rank` axes.
fn only(outputs: &[TensorSpec], rank: usize) -> Option<&TensorSpec> {
    let mut fits = outputs.iter().filter(|output| output.shape.len() == rank && is_float(output));
    fits.next().filter(|_| fits.next().is_none())
}

fn is_float(output: &TensorSpec) -> bool {
    use DataType::{Bf16, Fp16, Fp32, Fp64};
    matches!(output.datatype, Fp32 | Fp16 | Bf16 | Fp64) && !output.name.starts_with("present")
}

fn list(outputs: &[TensorSpec]) -> String {
    let shown = outputs.iter().filter(|output| !output.name.starts_with("present"));
    shown.map(display).collect::<Vec<_>>().join(", ")
}

fn display(output: &TensorSpec) -> String {
    let sizes: Vec<String> = output
        .shape
        .iter()
        .map(|size| if *size < 0 { "?".to_owned() } else { size.to_string() })
        .collect();
    format!("{:.80} ({} [{}])", output.name, output.datatype.name(), sizes.join(", "))
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
