//! Calls on named tensors, for models of every task: a model for texts takes its texts as BYTES
//! tensors, see [`super::signature`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use onnxd_proto::{
    domain::{
        Facts, Output, Task,
        tensor::{DataType, TensorHead, elements, split_bytes},
    },
    limits::{TENSORS_BYTES_MAX, TEXT_BYTES_MAX},
    wire::ask::{Ask, Want},
};
use thiserror::Error;

use super::{
    ALL_TASKS, Answer, Engine, EngineError, ErrorKind, Origin, RequestContext,
    answer::Item,
    check::check,
    require_version,
    scores::{activate, floats},
    signature::{QUERY, TEXT, signature},
    texts::{Rerank, Text, TextOptions, pairs},
};
use crate::{dispatch::Input, models::registry::Model};

/// Texts of one request.
const TEXTS_MAX: usize = 2048;

/// A tensor that a client sends or is sent, raw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// As the model calls it.
    pub name: String,
    /// Of its elements.
    pub datatype: DataType,
    /// Sizes of its axes.
    pub shape: Vec<u64>,
    /// Little-endian, row-major; see [`DataType`].
    pub data: Bytes,
}

/// Tensors to run.
#[derive(Clone, Debug, Default)]
pub struct TensorRequest {
    /// The generation that must answer; empty for any.
    pub version: String,
    /// The inputs.
    pub inputs: Vec<Tensor>,
    /// Names of the outputs that are wanted; none means all.
    pub outputs: Vec<String>,
}

/// Why tensors do not fit a model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TensorError {
    /// There is no input.
    #[error("there are no inputs")]
    NoInputs,
    /// The inputs are too large together.
    #[error("the inputs have {bytes} bytes, at most {TENSORS_BYTES_MAX} are taken")]
    TooLarge {
        /// Bytes of all inputs.
        bytes: usize,
    },
    /// An input is not what the model takes, or not what its shape says.
    #[error("{0}")]
    Invalid(String),
}

impl TensorError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoInputs => ErrorKind::Empty,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Invalid(_) => ErrorKind::Invalid,
        }
    }
}

fn invalid(message: impl Into<String>) -> EngineError {
    TensorError::Invalid(message.into()).into()
}

impl Engine {
    /// Runs tensors through a model of any task.
    ///
    /// # Errors
    /// The tensors do not fit the model, the model serves another generation, or it failed.
    pub async fn run_tensors(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: &TensorRequest,
    ) -> Result<Answer<Vec<Tensor>>, EngineError> {
        check(request)?;
        let begin = Instant::now();
        let (_, record) = self.ready(context, model, &ALL_TASKS).await?;
        // Loading on first use took its part of the time.
        let context = context.within(self.time_left(context, begin));
        let facts = &record.facts;
        let inputs = match facts.output() {
            Output::Tensors => vec![tensors(request)?],
            output => texts(request, facts, output)?,
        };
        let answer = self.run(&context, model, &[facts.task], inputs).await?;
        require_version(model, &request.version, answer.origin.generation)?;
        let Answer { origin, output: items } = answer;
        let output = match origin.record.facts.output() {
            Output::Tensors => raw(&items)?,
            _ => vec![numbers(&origin, &items)],
        };
        Ok(Answer { origin, output })
    }

    /// Returns the only input of a model, made of a body that says neither name nor shape.
    ///
    /// # Errors
    /// The model has several inputs, or the bytes do not make up its input.
    pub async fn only_input(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        data: Bytes,
    ) -> Result<Tensor, EngineError> {
        let (_, record) = self.ready(context, model, &ALL_TASKS).await?;
        only_input(&record.facts, data)
    }

    fn time_left(&self, context: &RequestContext, begin: Instant) -> Duration {
        self.parts.dispatch.time_allowed(context.timeout()).saturating_sub(begin.elapsed())
    }
}

/// The one item of a request to a model for tensors.
fn tensors(request: &TensorRequest) -> Result<Input, EngineError> {
    let head = |input: &Tensor| {
        let bytes =
            u32::try_from(input.data.len()).map_err(|_| invalid("an input is too large"))?;
        let Tensor { name, datatype, shape, .. } = input.clone();
        Ok(TensorHead { name, datatype, shape, bytes })
    };
    let inputs = request.inputs.iter().map(head).collect::<Result<Vec<_>, EngineError>>()?;
    let ask = Ask::Tensors { inputs, outputs: request.outputs.clone() };
    Ok(Input { ask, parts: request.inputs.iter().map(|input| input.data.clone()).collect() })
}

/// The items of a request to a model for texts.
fn texts(
    request: &TensorRequest,
    facts: &Facts,
    output: Output,
) -> Result<Vec<Input>, EngineError> {
    let signature = signature(facts);
    for input in &request.inputs {
        let known = signature.inputs.iter().any(|spec| spec.name == input.name);
        if !known || input.datatype != DataType::Bytes {
            let names: Vec<&str> = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(invalid(format!(
                "the input `{}` is {}; the model takes {} of BYTES",
                input.name,
                input.datatype.name(),
                names.join(" and ")
            )));
        }
    }
    if let Some(other) = request.outputs.iter().find(|name| **name != signature.outputs[0].name) {
        let known = &signature.outputs[0].name;
        return Err(invalid(format!("the model has no output `{other}`; it has {known}")));
    }
    let texts = strings(request, TEXT)?;
    if texts.is_empty() || texts.len() > TEXTS_MAX {
        return Err(invalid(format!("1 to {TEXTS_MAX} texts are taken at once")));
    }
    let options = TextOptions::cut();
    if facts.task == Task::Rerank {
        let [query] = &strings(request, QUERY)?[..] else {
            return Err(invalid(format!("the input `{QUERY}` must have one element")));
        };
        let (query, raw_scores) = (query.clone(), true);
        return pairs(Rerank { query, texts: &texts, field: "inputs", options, raw_scores });
    }
    let want = match output {
        Output::Scores { .. } | Output::TokenScores { .. } => Want::Scores,
        _ => Want::Embedding { normalize: None, dimensions: None },
    };
    Ok(texts.into_iter().map(|text| options.item(Text::Text(text), want)).collect())
}

/// The texts of one input.
fn strings(request: &TensorRequest, name: &str) -> Result<Vec<String>, EngineError> {
    let input = request.inputs.iter().find(|input| input.name == name);
    let input = input.ok_or_else(|| invalid(format!("the input `{name}` is missing")))?;
    let count = elements(&input.shape).unwrap_or(usize::MAX);
    let about = |reason: String| invalid(format!("the input `{name}`: {reason}"));
    // Before anything is made of what claims to be many.
    if count > TEXTS_MAX {
        return Err(about(format!("{count} texts, at most {TEXTS_MAX} are taken at once")));
    }
    let text = |bytes: &[u8]| match String::from_utf8(bytes.to_vec()) {
        Ok(text) if text.len() <= TEXT_BYTES_MAX / 2 => Ok(text),
        Ok(text) => Err(about(format!(
            "a text has {} bytes, at most {} are taken",
            text.len(),
            TEXT_BYTES_MAX / 2
        ))),
        Err(_) => Err(about("an element is no text in UTF-8".into())),
    };
    split_bytes(&input.data, count).map_err(about)?.into_iter().map(text).collect()
}

/// The outputs of a model for tensors.
fn raw(items: &[Item]) -> Result<Vec<Tensor>, EngineError> {
    let [item] = items else { return Err(EngineError::NoOutputs) };
    let mut rest = item.bytes.clone();
    let output = |head: &TensorHead| {
        let TensorHead { name, datatype, shape, bytes } = head.clone();
        Tensor { name, datatype, shape, data: rest.split_to((bytes as usize).min(rest.len())) }
    };
    Ok(item.outputs.iter().map(output).collect())
}

/// The one output of a model for texts.
fn numbers(origin: &Origin, items: &[Item]) -> Tensor {
    let facts = &origin.record.facts;
    let output = facts.output();
    let mut data = BytesMut::new();
    for item in items {
        if let Output::Scores { .. } | Output::TokenScores { .. } = output {
            let mut scores = floats(&item.bytes);
            activate(&mut scores, facts.activation);
            scores.iter().for_each(|score| data.extend_from_slice(&score.to_le_bytes()));
        } else {
            data.extend_from_slice(&item.bytes);
        }
    }
    let rows = items.len() as u64;
    let spec = signature(facts).outputs.swap_remove(0);
    let shape = match spec.shape.len() {
        1 => vec![rows],
        _ => vec![rows, output.row_len().into()],
    };
    Tensor { name: spec.name, datatype: DataType::Fp32, shape, data: data.freeze() }
}

fn only_input(facts: &Facts, data: Bytes) -> Result<Tensor, EngineError> {
    let signature = signature(facts);
    let [spec] = &signature.inputs[..] else {
        return Err(invalid("a raw body is for models with one input"));
    };
    let size = spec.datatype.element_bytes();
    let count = match size {
        Some(size) if data.len().is_multiple_of(size) => (data.len() / size) as u64,
        // The whole body is one element, without its length.
        None => 1,
        Some(size) => {
            return Err(invalid(format!("{} bytes are no elements of {size}", data.len())));
        }
    };
    let mut known = spec.shape.iter().filter_map(|&axis| u64::try_from(axis).ok());
    // A shape that no memory holds is no shape of a body.
    let fixed = known.try_fold(1_u64, u64::checked_mul).unwrap_or(0);
    let free = spec.shape.iter().filter(|&&axis| axis < 0).count();
    if free > 1 || fixed == 0 || count % fixed != 0 || free == 0 && count != fixed {
        return Err(invalid(format!(
            "{count} elements do not make the shape {:?}; a raw body is for inputs with at most one axis of any size",
            spec.shape
        )));
    }
    let axis = |&axis: &i64| u64::try_from(axis).unwrap_or(count / fixed);
    let shape = spec.shape.iter().map(axis).collect();
    let data = match size {
        Some(_) => data,
        None => {
            let length = u32::try_from(data.len()).map_err(|_| invalid("the body is too long"))?;
            [&length.to_le_bytes(), &data[..]].concat().into()
        }
    };
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}
