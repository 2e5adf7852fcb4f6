//! Which output of a graph is used. Pure: decides by names, types and declared shapes, by the rules
//! that docs/models.md writes down. What cannot be right is refused with what the graph seems to be.

use onnxd_proto::domain::{
    Guess, Refusal, Task,
    tensor::{DataType, TensorSpec},
};

use super::files::{guess, json::contract};

/// The output that sentence-transformers' exporters give a finished vector.
const FINISHED: &str = "sentence_embedding";
/// What the pooler of BERT gives, which few embedders use.
const POOLER: &str = "pooler_output";
/// Names of outputs with a vector for each token, the most usual first.
const TOKENS: [&str; 4] = ["last_hidden_state", "token_embeddings", "hidden_states", "text_embeds"];
/// Names of outputs with a vector for each text.
const TEXTS: [&str; 6] =
    [FINISHED, "text_embeds", "sentence_embeddings", "embeddings", "dense_vecs", POOLER];
/// The name of the output with scores, or with a score for each token of the vocabulary.
const LOGITS: &str = "logits";

/// What the output has one part for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A vector for each token: texts × tokens × components.
    Tokens,
    /// A vector for each text: texts × components.
    Texts,
    /// A vector for each text, after all steps that modules.json lists.
    Finished,
}

/// The output that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) datatype: DataType,
    /// Numbers of a vector, where they are declared.
    pub(crate) width: Option<usize>,
}

/// What is known of a model when its output is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) task: Task,
    /// What `onnxd.toml` names.
    pub(crate) own: Option<&'a str>,
    /// Whether there is a modules.json.
    pub(crate) is_listed: bool,
    /// Whether it has a pooling module, so that the graph need not pool.
    pub(crate) is_pooled_outside: bool,
    /// Tokens of the vocabulary, where config.json says it.
    pub(crate) vocabulary: Option<usize>,
    /// Whether a model that reranks is asked by a prompt and answers with a token.
    pub(crate) is_generative: bool,
    /// The graph's file, for messages.
    pub(crate) file: &'a str,
}

/// Chooses the output.
///
/// # Errors
/// None of the outputs is what the task needs; the message says what the graph seems to be.
pub(crate) fn choose(
    outputs: &[TensorSpec],
    known: &Known<'_>,
    guesses: &mut Vec<Guess>,
) -> Result<Chosen, Refusal> {
    if let Some(name) = known.own {
        return named(outputs, name, known);
    }
    let tokens = pick(outputs, 3, &TOKENS);
    let logits = outputs.iter().find(|output| output.name == LOGITS && is_float(output));
    let chosen = match known.task {
        Task::Embed => {
            let chosen = embedding(outputs, known);
            require_embedder(chosen.map(|(output, _)| output), logits, known)?;
            chosen
        }
        Task::MultiVector => tokens.map(|output| (output, Part::Tokens)),
        Task::Sparse => sparse(outputs, logits, known),
        Task::TokenClassify => {
            logits.filter(|output| output.shape.len() == 3).or(tokens).map(|o| (o, Part::Tokens))
        }
        Task::Rerank if known.is_generative => {
            logits.filter(|output| output.shape.len() == 3).map(|output| (output, Part::Tokens))
        }
        Task::Classify | Task::Rerank => logits
            .filter(|output| output.shape.len() == 2)
            .or_else(|| only(outputs, 2))
            .map(|output| (output, Part::Texts)),
        Task::Tensor => None,
    };
    let Some((output, part)) = chosen else { return Err(unfit(outputs, logits, known)) };
    note(output, part, outputs, known, guesses);
    Ok(chosen_of(output, part))
}

/// The output that `onnxd.toml` names.
fn named(outputs: &[TensorSpec], name: &str, known: &Known<'_>) -> Result<Chosen, Refusal> {
    let Some(output) = outputs.iter().find(|output| output.name == name) else {
        return Err(contract(format!(
            "onnxd.toml: output = {name:?} is no output of {}; it has {}",
            known.file,
            list(outputs)
        )));
    };
    let part = match output.shape.len() {
        3 => Part::Tokens,
        2 => part_of_text(output, known),
        _ => return Err(contract(format!("onnxd.toml: output: {} cannot be used", tell(output)))),
    };
    if !is_float(output) {
        return Err(contract(format!("onnxd.toml: output: {} is not floating", tell(output))));
    }
    Ok(chosen_of(output, part))
}

fn chosen_of(output: &TensorSpec, part: Part) -> Chosen {
    let width = output.shape.last().and_then(|&size| usize::try_from(size).ok());
    let width = width.filter(|&width| width > 0);
    Chosen { name: output.name.clone(), part, datatype: output.datatype, width }
}

/// A vector of the text as the graph finished it, unless modules.json makes it of the tokens'. An
/// output whose name is not known counts only where nothing else is there.
fn embedding<'o>(outputs: &'o [TensorSpec], known: &Known<'_>) -> Option<(&'o TensorSpec, Part)> {
    let tokens = named_first(outputs, 3, &TOKENS).map(|output| (output, Part::Tokens));
    let texts = named_first(outputs, 2, &TEXTS).map(|output| (output, part_of_text(output, known)));
    let finished = texts.filter(|(_, part)| *part == Part::Finished);
    let other = |rank| only(outputs, rank).filter(|output| output.name != LOGITS);
    let unnamed = || {
        let tokens = other(3).map(|output| (output, Part::Tokens));
        tokens.or_else(|| other(2).map(|output| (output, Part::Texts)))
    };
    let chosen = match known.is_pooled_outside {
        true => tokens.or(finished).or(texts),
        false => finished.or(tokens).or(texts),
    };
    chosen.or_else(unnamed)
}

/// Whether a vector of a text is as modules.json makes it, by its name.
fn part_of_text(output: &TensorSpec, known: &Known<'_>) -> Part {
    let is_named = TEXTS.contains(&output.name.as_str()) && output.name != POOLER;
    match output.name == FINISHED || !known.is_listed && is_named {
        true => Part::Finished,
        false => Part::Texts,
    }
}

/// Weights of the vocabulary for each token, or already one vector of them.
fn sparse<'o>(
    outputs: &'o [TensorSpec],
    logits: Option<&'o TensorSpec>,
    known: &Known<'_>,
) -> Option<(&'o TensorSpec, Part)> {
    // Where both are known, nothing else has as many numbers as the vocabulary.
    let fits = |output: &&TensorSpec| {
        let width = output.shape.last().and_then(|&size| usize::try_from(size).ok());
        width.is_none() || known.vocabulary.is_none() || width == known.vocabulary
    };
    let tokens = logits.filter(|output| output.shape.len() == 3).or_else(|| only(outputs, 3));
    tokens
        .filter(fits)
        .map(|output| (output, Part::Tokens))
        .or_else(|| only(outputs, 2).filter(fits).map(|output| (output, Part::Finished)))
}

/// Refuses graphs whose outputs are no embeddings, whatever their shape.
fn require_embedder(
    chosen: Option<&TensorSpec>,
    logits: Option<&TensorSpec>,
    known: &Known<'_>,
) -> Result<(), Refusal> {
    let file = known.file;
    let width = |output: &TensorSpec| output.shape.last().copied().unwrap_or(-1);
    if let Some(output) = chosen.filter(|output| width(output) == 1) {
        return Err(contract(format!(
            "{file}: its output {} has one component, which is no embedding: it seems to be a model \
             that reranks (set task = \"rerank\" in onnxd.toml) or scores (task = \"classify\")",
            output.name
        )));
    }
    let is_vocabulary = |output: &&TensorSpec| {
        usize::try_from(width(output)).ok().is_some_and(|width| known.vocabulary == Some(width))
    };
    if let Some(output) = chosen.filter(is_vocabulary).or(logits.filter(|_| chosen.is_none())) {
        return Err(contract(seems(output, known)));
    }
    Ok(())
}

/// What a graph seems to be whose only output is logits.
fn seems(output: &TensorSpec, known: &Known<'_>) -> String {
    let file = known.file;
    let width = output.shape.last().copied().unwrap_or(-1);
    let is_vocabulary = usize::try_from(width).ok() == known.vocabulary;
    let (what, remedy) = match output.shape.len() {
        3 if is_vocabulary => (
            "a model that predicts tokens",
            "for SPLADE set task = \"sparse\" in onnxd.toml, for a reranker that answers yes or no \
             task = \"rerank\"; for embeddings export it with --task feature-extraction",
        ),
        3 => (
            "a model that labels tokens",
            "set task = \"token_classify\" in onnxd.toml; for embeddings export it with \
             --task feature-extraction",
        ),
        _ => (
            "a model that scores texts or pairs",
            "set task = \"classify\" or task = \"rerank\" in onnxd.toml",
        ),
    };
    format!("{file}: its output {} is no embedding: it seems to be {what}; {remedy}", tell(output))
}

/// Notes what no file says.
fn note(
    output: &TensorSpec,
    part: Part,
    outputs: &[TensorSpec],
    known: &Known<'_>,
    guesses: &mut Vec<Guess>,
) {
    let is_usual = TOKENS.contains(&output.name.as_str())
        || TEXTS.contains(&output.name.as_str()) && output.name != POOLER
        || output.name == LOGITS;
    if is_usual || known.task != Task::Embed {
        return;
    }
    let reason = match part {
        Part::Tokens => "it has a vector for each token, and its name is not a usual one",
        Part::Texts | Part::Finished => "it has a vector for each text, and may not be finished",
    };
    guesses.push(guess(
        "output",
        &output.name,
        format!("{reason}; the graph has {}", list(outputs)),
    ));
}

fn unfit(outputs: &[TensorSpec], logits: Option<&TensorSpec>, known: &Known<'_>) -> Refusal {
    let wanted = match known.task {
        Task::Embed => "a vector for each token or for each text",
        Task::MultiVector => "a vector for each token",
        Task::Sparse => "a number for each token of the vocabulary",
        Task::Rerank if known.is_generative => "logits of the vocabulary for each token",
        Task::TokenClassify => "scores for each token",
        Task::Classify | Task::Rerank | Task::Tensor => "scores for each text",
    };
    let hint = logits.map_or_else(String::new, |output| format!(" ({})", seems(output, known)));
    contract(format!(
        "{}: it is for {}, which needs an output with {wanted}, and it has {}{hint}",
        known.file,
        known.task.as_str(),
        list(outputs)
    ))
}

/// An output of floating numbers with so many axes: the first of these names, else the only one.
fn pick<'o>(outputs: &'o [TensorSpec], rank: usize, names: &[&str]) -> Option<&'o TensorSpec> {
    named_first(outputs, rank, names)
        .or_else(|| only(outputs, rank).filter(|output| output.name != LOGITS))
}

/// The first of these names that an output of floating numbers with so many axes has.
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

/// The only output of floating numbers with so many axes.
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
    shown.map(tell).collect::<Vec<_>>().join(", ")
}

fn tell(output: &TensorSpec) -> String {
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
