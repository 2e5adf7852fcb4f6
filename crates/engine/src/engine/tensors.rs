//! Operations on named tensors, for models of every task. Text models take their texts as BYTES
//! tensors; see [`super::signature`].

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;
use onnxd_proto::{
    domain::{
        Facts, Output,
        tensor::{DataType, TensorHead},
    },
    wire::operation::Operation,
};

pub use super::error::TensorError;
use super::{
    ALL_TASKS, Answer, Engine, EngineError, RequestContext, answer::Item, check::check,
    require_version, signature::signature, tensor_texts, texts::TextCall,
};
use crate::{dispatch::Input, models::registry::Model};

/// A raw tensor from or for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The model's name for it.
    pub name: String,
    /// The type of its elements.
    pub datatype: DataType,
    /// The sizes of its axes.
    pub shape: Vec<u64>,
    /// Little-endian, row-major; see [`DataType`].
    pub data: Bytes,
}

/// A request to run tensors.
#[derive(Clone, Debug, Default)]
pub struct TensorRequest {
    /// The generation that must answer; empty for any.
    pub version: String,
    pub inputs: Vec<Tensor>,
    /// Names of the requested outputs; empty means all.
    pub outputs: Vec<String>,
    /// Other settings of the request, by name. A text model takes its options from here; see
    /// [`tensor_texts`]. Unknown names are ignored.
    pub parameters: BTreeMap<String, Parameter>,
}

/// The value of a parameter of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    Bool(bool),
    Number(i64),
    String(String),
    /// Any other type, which no option accepts.
    Other,
}

pub(super) fn invalid(message: impl Into<String>) -> EngineError {
    TensorError::Invalid(message.into()).into()
}

impl Engine {
    /// Runs tensors through a model of any task.
    ///
    /// # Errors
    /// The tensors do not fit the model, it serves another generation, or inference failed.
    pub async fn run_tensors(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: &TensorRequest,
    ) -> Result<Answer<Vec<Tensor>>, EngineError> {
        check(request)?;
        let start = Instant::now();
        let (_, record) = self.ready(context, model, &ALL_TASKS).await?;
        // Loading on first use may have taken some of the time.
        let context = context.within(self.time_left(context, start));
        let facts = &record.facts;
        let tasks = &[facts.task];
        let answer = if facts.output() == Output::Tensors {
            self.run(&context, model, tasks, vec![tensor_item(request)?]).await?
        } else {
            let (options, inputs) = tensor_texts::inputs(request, facts)?;
            let call = TextCall { tasks, options: &options, inputs };
            self.run_texts(&context, model, call).await?
        };
        require_version(model, &request.version, answer.origin.generation)?;
        let Answer { origin, output: items } = answer;
        let output = match origin.record.facts.output() {
            Output::Tensors => raw_outputs(&items)?,
            _ => tensor_texts::outputs(&origin.record.facts, &items, &request.outputs)?,
        };
        Ok(Answer { origin, output })
    }

    /// Builds the only input of a model from a body without name or shape.
    ///
    /// # Errors
    /// The model has several inputs, or the bytes do not fit its input.
    pub async fn only_input(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        data: Bytes,
    ) -> Result<Tensor, EngineError> {
        let (_, record) = self.ready(context, model, &ALL_TASKS).await?;
        only_input(&record.facts, data)
    }
}

/// Builds the one item of a request to a tensor model.
fn tensor_item(request: &TensorRequest) -> Result<Input, EngineError> {
    let head = |input: &Tensor| {
        let bytes =
            u32::try_from(input.data.len()).map_err(|_| invalid("an input exceeds 4 GiB"))?;
        let Tensor { name, datatype, shape, .. } = input.clone();
        Ok(TensorHead { name, datatype, shape, bytes })
    };
    let inputs = request.inputs.iter().map(head).collect::<Result<Vec<_>, EngineError>>()?;
    let operation = Operation::Tensors { inputs, outputs: request.outputs.clone() };
    Ok(Input { operation, parts: request.inputs.iter().map(|input| input.data.clone()).collect() })
}

/// Returns the outputs of a tensor model.
fn raw_outputs(items: &[Item]) -> Result<Vec<Tensor>, EngineError> {
    let [item] = items else { return Err(EngineError::NoOutputs) };
    let mut rest = item.bytes.clone();
    let output = |head: &TensorHead| {
        let TensorHead { name, datatype, shape, bytes } = head.clone();
        Tensor { name, datatype, shape, data: rest.split_to((bytes as usize).min(rest.len())) }
    };
    Ok(item.outputs.iter().map(output).collect())
}

fn only_input(facts: &Facts, data: Bytes) -> Result<Tensor, EngineError> {
    let signature = signature(facts);
    let [spec] = &signature.inputs[..] else {
        return Err(invalid("a raw body requires a model with exactly one input"));
    };
    let size = spec.datatype.element_bytes();
    let count = match size {
        Some(size) if data.len().is_multiple_of(size) => (data.len() / size) as u64,
        // The whole body is one element, without a length prefix.
        None => 1,
        Some(size) => {
            return Err(invalid(format!(
                "{} bytes are not a whole number of {size}-byte elements",
                data.len()
            )));
        }
    };
    let mut known = spec.shape.iter().filter_map(|&axis| u64::try_from(axis).ok());
    // A shape whose size overflows cannot match a body.
    let fixed = known.try_fold(1_u64, u64::checked_mul).unwrap_or(0);
    let free = spec.shape.iter().filter(|&&axis| axis < 0).count();
    if free > 1 || fixed == 0 || count % fixed != 0 || free == 0 && count != fixed {
        return Err(invalid(format!(
            "{count} elements do not fit the shape {:?}; a raw body requires at most one axis of variable size",
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
