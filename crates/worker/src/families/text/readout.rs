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
            Self::Normalize => None,
        }
    }

    /// Numbers of a vector after the step, if they change.
    pub(crate) fn outputs(&self) -> Option<usize> {
        match self {
            Self::Dense(dense, _) => Some(dense.outputs()),
            Self::LayerNorm(..) | Self::Normalize => None,
        }
    }

    /// The file that describes the step, for messages.
    pub(crate) fn file(&self) -> String {
        match self {
            Self::Dense(_, folder) | Self::LayerNorm(_, folder) => join(folder, "config.json"),
            Self::Normalize => FILE.to_owned(),
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Dense(dense, _) => format!("dense {} -> {}", dense.inputs(), dense.outputs()),
            Self::LayerNorm(..) => "layer norm".into(),
            Self::Normalize => "normalize".into(),
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
mod tests {
    use onnxd_proto::domain::PoolingMode;

    use super::*;
    use crate::session::Tokens;

    fn prepared(tokens: usize, attended: usize, unpooled: usize) -> Prepared {
        let tokens = Tokens { ids: vec![1; tokens], type_ids: vec![0; tokens], attended };
        Prepared { tokens, unpooled, ..Prepared::default() }
    }

    fn read(
        readout: &Readout,
        shape: &[usize],
        values: &[f32],
        texts: &[Prepared],
    ) -> Option<Numbers> {
        let mut numbers = Numbers::default();
        let texts: Vec<&Prepared> = texts.iter().collect();
        let output = Output { values, shape };
        readout.read(&output, &texts, Rows::Pooled, &mut numbers).ok()?;
        Some(numbers)
    }

    #[test]
    fn padding_and_prompts_are_not_pooled() {
        let readout = Readout::Pooled {
            token_steps: Vec::new(),
            pooling: PoolingMode::Mean.into(),
            steps: Vec::new(),
        };
        let values = [1.0, 2.0, 9.0, 3.0, 5.0, 7.0];
        let texts = [prepared(2, 2, 0), prepared(3, 3, 1)];
        let numbers = read(&readout, &[2, 3, 1], &values, &texts).unwrap();
        assert_eq!((&numbers.values[..], &numbers.lengths[..]), (&[1.5, 6.0][..], &[1, 1][..]));
        assert_eq!(read(&readout, &[2, 2, 1], &values, &texts), None, "a token is missing");
        assert_eq!(read(&readout, &[2, 3], &values, &texts), None);
    }

    #[test]
    fn a_verdict_is_of_the_last_token_wherever_the_graph_puts_it() {
        let readout = Readout::Verdict { yes: 1, no: Some(0) };
        let texts = [prepared(1, 1, 0), prepared(2, 2, 0)];
        let values = [1.0, 4.0, 0.0, 0.0, 9.0, 9.0, 5.0, 3.0];
        let numbers = read(&readout, &[2, 2, 2], &values, &texts).unwrap();
        assert_eq!(numbers.values, [3.0, -2.0]);
        let last =
            read(&readout, &[2, 1, 2], &values[..4], &[prepared(2, 2, 0), prepared(2, 2, 0)]);
        assert_eq!(last.unwrap().values, [3.0, 0.0]);
        assert_eq!(
            read(&Readout::Verdict { yes: 9, no: None }, &[1, 1, 2], &values[..2], &texts[..1]),
            None
        );
    }

    #[test]
    fn late_interaction_keeps_the_tokens_that_count_each_of_length_one() {
        let mut text = prepared(3, 2, 0);
        text.kept = vec![true, false, true];
        let values = [3.0, 4.0, 1.0, 1.0, 0.0, 2.0];
        let numbers = read(&Readout::Late(Vec::new()), &[1, 3, 2], &values, &[text]).unwrap();
        assert_eq!(
            (&numbers.values[..], &numbers.lengths[..]),
            (&[0.6, 0.8, 0.0, 1.0][..], &[4][..])
        );
    }

    #[test]
    fn two_labels_become_one_number() {
        let readout = Readout::Pair { yes: 1, no: 0 };
        let numbers = read(&readout, &[2, 2], &[0.5, 2.0, 1.0, -1.0], &[]).unwrap();
        assert_eq!(numbers.values, [1.5, -2.0]);
        assert_eq!(read(&readout, &[1, 1], &[0.5], &[]), None);
    }
}
