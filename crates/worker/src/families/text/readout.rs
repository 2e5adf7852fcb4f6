//! Converts the output of a graph or table to the numbers of an answer; each route has one readout.
//! Pure.

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

/// The file with `truncate_dim`, the number of components to keep.
const SENTENCE: &str = "config_sentence_transformers.json";

/// How to read an output.
#[derive(Debug)]
pub(crate) enum Readout {
    /// Pools token vectors.
    Pooled { token_steps: Vec<LoadedStep>, pooling: Pooling, steps: Vec<LoadedStep> },
    /// Takes one vector per text.
    Stepped(Vec<LoadedStep>),
    /// Turns vocabulary logits per token into one sparse vector.
    Splade(Splade),
    /// Takes token vectors, each scaled to length 1.
    Late(Vec<LoadedStep>),
    /// Subtracts the scores of two labels.
    Pair { yes: usize, no: usize },
    /// Subtracts the logits of two tokens at the end of the text, or takes the logit of the one
    /// token.
    YesNo { yes: usize, no: Option<usize> },
    /// Takes scores per token.
    Tokens,
}

/// A step with its weights loaded.
#[derive(Debug)]
pub(crate) enum LoadedStep {
    /// The weights and their folder.
    Dense(Dense, String),
    /// The weights and their folder.
    LayerNorm(LayerNorm, String),
    Normalize,
    Cut(usize),
}

impl LoadedStep {
    /// Loads the weights of steps.
    ///
    /// # Errors
    /// A file is missing or malformed, or a shape does not match.
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

    /// Returns the width of a vector before the step, if the step fixes it.
    pub(crate) fn inputs(&self) -> Option<usize> {
        match self {
            Self::Dense(dense, _) => Some(dense.inputs()),
            Self::LayerNorm(norm, _) => Some(norm.dimension()),
            Self::Normalize | Self::Cut(_) => None,
        }
    }

    /// Returns the width of a vector after the step, if the step changes it.
    pub(crate) fn outputs(&self) -> Option<usize> {
        match self {
            Self::Dense(dense, _) => Some(dense.outputs()),
            Self::Cut(kept) => Some(*kept),
            Self::LayerNorm(..) | Self::Normalize => None,
        }
    }

    /// Returns the file that describes the step, for messages.
    pub(crate) fn file(&self) -> String {
        match self {
            Self::Dense(_, folder) | Self::LayerNorm(_, folder) => join(folder, "config.json"),
            Self::Normalize => FILE.to_owned(),
            Self::Cut(_) => SENTENCE.to_owned(),
        }
    }

    /// Describes the step for `onnxd check`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Dense(dense, _) => format!("dense {} -> {}", dense.inputs(), dense.outputs()),
            Self::LayerNorm(..) => "layer norm".into(),
            Self::Normalize => "normalize".into(),
            Self::Cut(kept) => format!("first {kept} components"),
        }
    }
}

/// The part of an output to read, where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// The result of the model's task.
    Pooled,
    /// The vector of each token, as the graph returns it.
    Tokens,
}

/// The numbers of several texts, one text after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) values: Vec<f32>,
    /// The count of each text's numbers.
    pub(crate) lengths: Vec<usize>,
    /// Reused by steps.
    scratch: Vec<f32>,
}

impl Numbers {
    /// Removes all numbers and keeps the allocation.
    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.lengths.clear();
    }

    /// Returns the count of the first text's numbers, or 0 if there is no text.
    pub(crate) fn width(&self) -> usize {
        self.lengths.first().copied().unwrap_or_default()
    }

    /// Completes the numbers of a text, which began at `start`.
    pub(crate) fn end(&mut self, start: usize) {
        self.lengths.push(self.values.len() - start);
    }

    /// Applies steps to all vectors from `start` on, which are `width` wide; returns their final
    /// width.
    pub(crate) fn apply(&mut self, steps: &[LoadedStep], start: usize, width: usize) -> usize {
        let mut width = width;
        for step in steps {
            match step {
                LoadedStep::Dense(dense, _) => {
                    dense.apply(&self.values[start..], &mut self.scratch);
                    self.values.truncate(start);
                    self.values.extend_from_slice(&self.scratch);
                    width = dense.outputs();
                }
                LoadedStep::LayerNorm(norm, _) => norm.apply(&mut self.values[start..]),
                LoadedStep::Normalize => self.values[start..].chunks_mut(width).for_each(normalize),
                LoadedStep::Cut(kept) => {
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
    /// Appends the numbers of each text.
    ///
    /// # Errors
    /// The shape of the output contradicts the files.
    pub(crate) fn read(
        &self,
        output: &Output<'_>,
        texts: &[&Prepared],
        rows: Rows,
        numbers: &mut Numbers,
    ) -> Result<(), SessionError> {
        let shaped = |what: &str| {
            Err(SessionError::Contract(format!(
                "output has shape {:?}, expected {what}",
                output.shape
            )))
        };
        if matches!(self, Self::Stepped(_) | Self::Pair { .. }) {
            let &[_, width] = output.shape else { return shaped("[texts, numbers]") };
            return self.read_texts(output, width, numbers).or_else(&shaped);
        }
        let &[_, places, width] = output.shape else { return shaped("[texts, tokens, numbers]") };
        let longest = texts.iter().map(|text| text.tokens.ids.len()).max().unwrap_or(0);
        let is_last_alone = places == 1 && matches!(self, Self::YesNo { .. });
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
            return Err("one vector per text");
        }
        for text in output.values.chunks_exact(width) {
            let start = numbers.values.len();
            match self {
                Self::Pair { yes, no } => {
                    let (Some(yes), Some(no)) = (text.get(*yes), text.get(*no)) else {
                        return Err("two scores per pair");
                    };
                    numbers.values.push(yes - no);
                }
                Self::Stepped(steps) => {
                    require_width(steps, width)?;
                    numbers.values.extend_from_slice(text);
                    numbers.apply(steps, start, width);
                }
                _ => return Err("one vector per token"),
            }
            numbers.end(start);
        }
        Ok(())
    }

    /// Reads one text's token vectors.
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
            Self::YesNo { yes, no } => {
                let last = &tokens[tokens.len() - width..];
                let logit = |token: usize| last.get(token).copied();
                let no = no.map_or(Some(0.0), logit);
                let (Some(yes), Some(no)) = (logit(*yes), no) else {
                    return Err("one logit per token of the vocabulary");
                };
                numbers.values.push(yes - no);
            }
            Self::Tokens => numbers.values.extend_from_slice(tokens),
            Self::Stepped(_) | Self::Pair { .. } => return Err("one vector per text"),
        }
        Ok(())
    }

    /// Returns whether the readout needs an output with one row per token.
    pub(crate) fn reads_tokens(&self) -> bool {
        !matches!(self, Self::Stepped(_) | Self::Pair { .. })
    }

    /// Describes the readout for `onnxd check`.
    pub(crate) fn describe(&self) -> Vec<String> {
        let all = |steps: &[LoadedStep]| steps.iter().map(LoadedStep::describe).collect::<Vec<_>>();
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
            Self::YesNo { yes, no } => {
                let no = no.map_or_else(String::new, |no| format!(" - token {no}"));
                vec![format!("last token: logit of token {yes}{no}")]
            }
            Self::Tokens => vec!["softmax per token".into()],
        }
    }
}

/// Checks that the first step with a fixed width accepts vectors of this width.
fn require_width(steps: &[LoadedStep], width: usize) -> Result<(), &'static str> {
    match steps.iter().find_map(LoadedStep::inputs) {
        Some(inputs) if inputs != width => {
            Err("the width that its first Dense or LayerNorm module takes")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "readout_tests.rs"]
mod tests;
