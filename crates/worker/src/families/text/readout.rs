//! From what a graph or a table gives to the numbers of an answer: one of these for each way through
//! a model. Pure.

use std::path::Path;

use onnxd_proto::domain::{Pooling, Refusal};

use super::{
    files::{
        json::join,
        modules::FILE,
        plan::{Splade, Step},
    },
    matrices::{dense::Dense, layer_norm::LayerNorm},
    prepare::Prepared,
    stages::{
        pooling::{normalize, pool},
        splade,
    },
};
use crate::session::{Output, SessionError};

/// The file that says how many numbers of a vector are kept.
const SENTENCE: &str = "config_sentence_transformers.json";

/// What is made of an output.
#[derive(Debug)]
pub(crate) enum Readout {
    /// Vectors of tokens are pooled.
    Pooled { token_steps: Vec<Applied>, pooling: Pooling, steps: Vec<Applied> },
    /// A vector of each text goes on.
    Stepped(Vec<Applied>),
    /// Logits of the vocabulary for each token become one sparse vector.
    Splade(Splade),
    /// The vectors of tokens, each scaled to length 1.
    Late(Vec<Applied>),
    /// How much more the one of two labels says than the other.
    Pair { yes: usize, no: usize },
    /// The same of two tokens at the end of a text; or the logit of the one.
    Verdict { yes: usize, no: Option<usize> },
    /// Scores of each token.
    Tokens,
}

/// A step with its matrix.
#[derive(Debug)]
pub(crate) enum Applied {
    /// A matrix, and its folder.
    Dense(Dense, String),
    /// The same.
    LayerNorm(LayerNorm, String),
    Normalize,
    Cut(usize),
}

impl Applied {
    /// Reads the matrices of steps.
    ///
    /// # Errors
    /// A file is missing, malformed or does not fit.
    pub(crate) fn read(dir: &Path, steps: &[Step]) -> Result<Vec<Self>, Refusal> {
        let read = |step: &Step| {
            Ok(match step {
                Step::Dense(module) => {
                    Self::Dense(Dense::open(dir, &module.path)?, module.path.clone())
                }
                Step::LayerNorm(module) => {
                    Self::LayerNorm(LayerNorm::open(dir, &module.path)?, module.path.clone())
                }
                Step::Normalize => Self::Normalize,
            })
        };
        steps.iter().map(read).collect()
    }

    /// Numbers of a vector before the step, if it minds.
    pub(crate) fn inputs(&self) -> Option<usize> {
        match self {
            Self::Dense(dense, _) => Some(dense.inputs()),
            Self::LayerNorm(norm, _) => Some(norm.dimension()),
            Self::Normalize | Self::Cut(_) => None,
        }
    }

    /// Numbers of a vector after the step, if they change.
    pub(crate) fn outputs(&self) -> Option<usize> {
        match self {
            Self::Dense(dense, _) => Some(dense.outputs()),
            Self::Cut(kept) => Some(*kept),
            Self::LayerNorm(..) | Self::Normalize => None,
        }
    }

    /// The file that describes the step, for messages.
    pub(crate) fn file(&self) -> String {
        match self {
            Self::Dense(_, folder) | Self::LayerNorm(_, folder) => join(folder, "config.json"),
            Self::Normalize => FILE.to_owned(),
            Self::Cut(_) => SENTENCE.to_owned(),
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Dense(dense, _) => format!("dense {} -> {}", dense.inputs(), dense.outputs()),
            Self::LayerNorm(..) => "layer norm".into(),
            Self::Normalize => "normalize".into(),
            Self::Cut(kept) => format!("first {kept} numbers"),
        }
    }
}

/// What is wanted of a text, where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// What the model is for.
    Pooled,
    /// The vector of each token, as the graph gives it.
    Tokens,
}

/// Numbers of several texts, one text after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) values: Vec<f32>,
    /// How many are each text's.
    pub(crate) lengths: Vec<usize>,
    /// Reused by steps.
    scratch: Vec<f32>,
}

impl Numbers {
    /// Forgets all numbers and keeps their memory.
    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.lengths.clear();
    }

    /// Numbers of the first text; 0 where there is none.
    pub(crate) fn width(&self) -> usize {
        self.lengths.first().copied().unwrap_or_default()
    }

    /// Ends the numbers of a text that began at `start`.
    pub(crate) fn end(&mut self, start: usize) {
        self.lengths.push(self.values.len() - start);
    }

    /// Applies steps to all vectors from `start` on, which have `width` numbers; returns how many
    /// they have afterwards.
    pub(crate) fn apply(&mut self, steps: &[Applied], start: usize, width: usize) -> usize {
        let mut width = width;
        for step in steps {
            match step {
                Applied::Dense(dense, _) => {
                    dense.apply(&self.values[start..], &mut self.scratch);
                    self.values.truncate(start);
                    self.values.extend_from_slice(&self.scratch);
                    width = dense.outputs();
                }
                Applied::LayerNorm(norm, _) => norm.apply(&mut self.values[start..]),
                Applied::Normalize => self.values[start..].chunks_mut(width).for_each(normalize),
                Applied::Cut(kept) => {
                    let kept = width.min(*kept);
                    self.scratch.clear();
                    let rows = self.values[start..].chunks_exact(width);
                    rows.for_each(|row| self.scratch.extend_from_slice(&row[..kept]));
                    self.values.truncate(start);
                    self.values.extend_from_slice(&self.scratch);
                    width = kept;
                }
            }
        }
        width
    }
}

impl Readout {
    /// Appends what the output says of each text.
    ///
    /// # Errors
    /// The output is not of the shape that the files say.
    pub(crate) fn read(
        &self,
        output: &Output<'_>,
        texts: &[&Prepared],
        rows: Rows,
        numbers: &mut Numbers,
    ) -> Result<(), SessionError> {
        let shaped = |what: &str| {
            Err(SessionError::Contract(format!(
                "its output has the shape {:?}, and {what} is needed",
                output.shape
            )))
        };
        if matches!(self, Self::Stepped(_) | Self::Pair { .. }) {
            let &[_, width] = output.shape else { return shaped("[texts, numbers]") };
            return self.read_texts(output, width, numbers).or_else(&shaped);
        }
        let &[_, places, width] = output.shape else { return shaped("[texts, tokens, numbers]") };
        let longest = texts.iter().map(|text| text.tokens.ids.len()).max().unwrap_or(0);
        let is_last_alone = places == 1 && matches!(self, Self::Verdict { .. });
        if width == 0 || places != longest && !is_last_alone {
            return shaped("[texts, tokens, numbers]");
        }
        for (text, prepared) in output.values.chunks_exact(places * width).zip(texts) {
            let start = numbers.values.len();
            let length = prepared.tokens.ids.len();
            let tokens = if is_last_alone { text } else { &text[..length * width] };
            let read = match rows {
                Rows::Pooled => self.read_tokens(tokens, width, prepared, numbers),
                Rows::Tokens => {
                    let attended = prepared.tokens.attended * width;
                    numbers.values.extend_from_slice(&tokens[..attended]);
                    Ok(())
                }
            };
            if let Err(what) = read {
                return shaped(what);
            }
            numbers.end(start);
        }
        Ok(())
    }

    fn read_texts(
        &self,
        output: &Output<'_>,
        width: usize,
        numbers: &mut Numbers,
    ) -> Result<(), &'static str> {
        if width == 0 {
            return Err("a vector for each text");
        }
        for text in output.values.chunks_exact(width) {
            let start = numbers.values.len();
            match self {
                Self::Pair { yes, no } => {
                    let (Some(yes), Some(no)) = (text.get(*yes), text.get(*no)) else {
                        return Err("two scores for each pair");
                    };
                    numbers.values.push(yes - no);
                }
                Self::Stepped(steps) => {
                    require_width(steps, width)?;
                    numbers.values.extend_from_slice(text);
                    numbers.apply(steps, start, width);
                }
                _ => return Err("a vector for each token"),
            }
            numbers.end(start);
        }
        Ok(())
    }

    /// What the vectors of one text's tokens say.
    fn read_tokens(
        &self,
        tokens: &[f32],
        width: usize,
        prepared: &Prepared,
        numbers: &mut Numbers,
    ) -> Result<(), &'static str> {
        let attended = prepared.tokens.attended;
        match self {
            Self::Pooled { token_steps, pooling, steps } => {
                require_width(token_steps, width)?;
                let range = prepared.unpooled..attended;
                let start = numbers.values.len();
                let mut width = width;
                if token_steps.is_empty() {
                    pool(pooling.modes(), tokens, width, range, &mut numbers.values);
                } else {
                    numbers.values.extend_from_slice(tokens);
                    width = numbers.apply(token_steps, start, width);
                    let rows = numbers.values.split_off(start);
                    pool(pooling.modes(), &rows, width, range, &mut numbers.values);
                }
                let width = width * pooling.modes().len();
                require_width(steps, width)?;
                numbers.apply(steps, start, width);
            }
            Self::Late(steps) => {
                require_width(steps, width)?;
                let start = numbers.values.len();
                for (token, kept) in tokens.chunks_exact(width).zip(&prepared.kept) {
                    if *kept {
                        numbers.values.extend_from_slice(token);
                    }
                }
                let width = numbers.apply(steps, start, width);
                numbers.values[start..].chunks_mut(width).for_each(normalize);
            }
            Self::Splade(how) => {
                splade::pool(*how, &tokens[..attended * width], width, &mut numbers.values);
            }
            Self::Verdict { yes, no } => {
                let last = &tokens[tokens.len() - width..];
                let logit = |token: usize| last.get(token).copied();
                let no = no.map_or(Some(0.0), logit);
                let (Some(yes), Some(no)) = (logit(*yes), no) else {
                    return Err("a logit for each token of the vocabulary");
                };
                numbers.values.push(yes - no);
            }
            Self::Tokens => numbers.values.extend_from_slice(tokens),
            Self::Stepped(_) | Self::Pair { .. } => return Err("a vector for each text"),
        }
        Ok(())
    }

    /// Whether it reads an output with a part for each token.
    pub(crate) fn reads_tokens(&self) -> bool {
        !matches!(self, Self::Stepped(_) | Self::Pair { .. })
    }

    /// For people.
    pub(crate) fn describe(&self) -> Vec<String> {
        let all = |steps: &[Applied]| steps.iter().map(Applied::describe).collect::<Vec<_>>();
        match self {
            Self::Pooled { token_steps, pooling, steps } => {
                let pooling = vec![format!("pooling {pooling}")];
                [all(token_steps), pooling, all(steps)].concat()
            }
            Self::Stepped(steps) => all(steps),
            Self::Splade(how) => {
                let pooling = if how.is_sum { "sum" } else { "max" };
                let times = if how.is_twice { " twice" } else { "" };
                vec![format!("log(1 + relu){times}"), format!("pooling {pooling}")]
            }
            Self::Late(steps) => {
                let mut steps = all(steps);
                steps.push("normalize each token".into());
                steps
            }
            Self::Pair { yes, no } => vec![format!("label {yes} - label {no}")],
            Self::Verdict { yes, no } => {
                let no = no.map_or_else(String::new, |no| format!(" - token {no}"));
                vec![format!("last token: logit of token {yes}{no}")]
            }
            Self::Tokens => vec!["softmax of each token".into()],
        }
    }
}

/// Whether the first step that minds takes vectors of this width.
fn require_width(steps: &[Applied], width: usize) -> Result<(), &'static str> {
    match steps.iter().find_map(Applied::inputs) {
        Some(inputs) if inputs != width => Err("what its first dense or norm module takes"),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "readout_tests.rs"]
mod tests;
