//! Converts inference messages to engine requests, and engine answers to messages.

use std::collections::HashMap;

use bytes::Bytes;
use onnxd_engine::engine::{
    Answer,
    tensors::{Parameter, Tensor, TensorRequest},
};
use onnxd_proto::domain::tensor::DataType;
use tokio::task::block_in_place;
use tonic::Status;

use crate::api::grpc::{
    bounds::INLINE_BYTES_MAX,
    contents,
    pb::{
        InferParameter, ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice,
        model_infer_request::InferInputTensor, model_infer_response::InferOutputTensor,
    },
};
use crate::api::oip::request::{InferRequest, check_id};

/// The parameter that marks a tensor kept in shared memory.
const SHARED_MEMORY: &str = "shared_memory_region";

/// Converts a message to an inference request.
///
/// # Errors
/// The tensors contradict the message, or are in shared memory.
pub(super) fn request(message: ModelInferRequest) -> Result<InferRequest, Status> {
    let ModelInferRequest {
        model_name,
        model_version,
        id,
        inputs,
        outputs,
        raw_input_contents,
        parameters,
        ..
    } = message;
    let parameters_of_inputs = inputs.iter().map(|input| &input.parameters);
    if parameters_of_inputs
        .chain(outputs.iter().map(|output| &output.parameters))
        .any(in_shared_memory)
    {
        return Err(invalid("tensors in shared memory are not supported"));
    }
    let inputs = if raw_input_contents.is_empty() {
        inputs.into_iter().map(typed).collect::<Result<_, _>>()?
    } else {
        raw(inputs, raw_input_contents)?
    };
    let outputs = outputs.into_iter().map(|output| output.name).collect();
    let id = Some(id).filter(|id| !id.is_empty());
    check_id(id.as_ref()).map_err(invalid)?;
    let parameters = parameters.into_iter().map(|(name, value)| (name, parameter(value)));
    let parameters = parameters.collect();
    let tensors = TensorRequest { version: model_version, inputs, outputs, parameters };
    Ok(InferRequest { model: model_name, id, tensors })
}

fn parameter(value: InferParameter) -> Parameter {
    match value.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(value),
        Some(ParameterChoice::Int64Param(value)) => Parameter::Number(value),
        Some(ParameterChoice::Uint64Param(value)) => {
            i64::try_from(value).map_or(Parameter::Other, Parameter::Number)
        }
        Some(ParameterChoice::StringParam(value)) => Parameter::String(value),
        Some(ParameterChoice::DoubleParam(_)) | None => Parameter::Other,
    }
}

fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message)
}

fn in_shared_memory(parameters: &HashMap<String, InferParameter>) -> bool {
    parameters.contains_key(SHARED_MEMORY)
}

/// Reads inputs whose elements are in `raw_input_contents`.
fn raw(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<Tensor>, Status> {
    if raw.len() != inputs.len() {
        return Err(invalid(format!(
            "raw_input_contents has {} elements for {} inputs",
            raw.len(),
            inputs.len()
        )));
    }
    let tensor = |(mut input, data): (InferInputTensor, Bytes)| match input.contents.take() {
        Some(contents) if !contents::is_empty(&contents) => Err(invalid(format!(
            "input `{}` has both `contents` and `raw_input_contents`",
            input.name
        ))),
        _ => tensor(input, |_| Ok(data)),
    };
    inputs.into_iter().zip(raw).map(tensor).collect()
}

/// Reads an input whose elements are in its contents.
fn typed(mut input: InferInputTensor) -> Result<Tensor, Status> {
    let contents = input.contents.take().unwrap_or_default();
    let name = input.name.clone();
    let raw = |datatype| match contents::elements(&contents) {
        elements if elements > INLINE_BYTES_MAX / 8 => {
            block_in_place(|| contents::raw(datatype, contents))
        }
        _ => contents::raw(datatype, contents),
    };
    tensor(input, |datatype| {
        raw(datatype).map_err(|error| invalid(format!("input `{name}`: {error}")))
    })
}

fn tensor(
    input: InferInputTensor,
    data: impl FnOnce(DataType) -> Result<Bytes, Status>,
) -> Result<Tensor, Status> {
    let InferInputTensor { name, datatype, shape, .. } = input;
    let Some(datatype) = DataType::from_name(&datatype) else {
        let datatype: String = datatype.chars().take(40).collect();
        return Err(invalid(format!("input `{name}`: unknown datatype `{datatype}`")));
    };
    let axis = |axis: i64| {
        u64::try_from(axis)
            .map_err(|_| invalid(format!("input `{name}`: negative dimension {axis}")))
    };
    let shape = shape.into_iter().map(axis).collect::<Result<_, _>>()?;
    let data = data(datatype)?;
    Ok(Tensor { name, datatype, shape, data })
}

/// Converts an answer to a message.
///
/// # Errors
/// A dimension or the generation does not fit `int64`.
pub(super) fn response(
    answer: Answer<Vec<Tensor>>,
    id: Option<String>,
) -> Result<ModelInferResponse, Status> {
    let Answer { origin, output: outputs } = answer;
    let overflow = |_| Status::internal("internal error: a dimension does not fit int64");
    let generation = origin.generation;
    let number = ParameterChoice::Int64Param(i64::try_from(generation).map_err(overflow)?);
    let mut message = ModelInferResponse {
        model_name: origin.model.name.to_string(),
        model_version: generation.to_string(),
        id: id.unwrap_or_default(),
        parameters: HashMap::from([(
            "generation".into(),
            InferParameter { parameter_choice: Some(number) },
        )]),
        ..ModelInferResponse::default()
    };
    for Tensor { name, datatype, shape, data } in outputs {
        let shape = shape.into_iter().map(|axis| i64::try_from(axis).map_err(overflow));
        message.outputs.push(InferOutputTensor {
            name,
            datatype: datatype.name().into(),
            shape: shape.collect::<Result<_, _>>()?,
            ..InferOutputTensor::default()
        });
        message.raw_output_contents.push(data);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::grpc::pb::{
        InferTensorContents, model_infer_request::InferRequestedOutputTensor,
    };

    fn input(contents: Option<InferTensorContents>) -> InferInputTensor {
        InferInputTensor {
            name: "x".into(),
            datatype: "INT8".into(),
            shape: vec![2],
            contents,
            ..InferInputTensor::default()
        }
    }

    fn numbers(int_contents: Vec<i32>) -> Option<InferTensorContents> {
        Some(InferTensorContents { int_contents, ..InferTensorContents::default() })
    }

    fn message(inputs: Vec<InferInputTensor>, raw: &[&'static [u8]]) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "m".into(),
            model_version: "3".into(),
            inputs,
            raw_input_contents: raw.iter().map(|raw| Bytes::from_static(raw)).collect(),
            ..ModelInferRequest::default()
        }
    }

    #[test]
    fn raw_and_typed_elements_are_the_same_request() {
        let raw = request(message(vec![input(None)], &[&[1, 255]])).unwrap();
        let typed = request(message(vec![input(numbers(vec![1, -1]))], &[])).unwrap();
        assert_eq!(raw.tensors.inputs, typed.tensors.inputs);
        assert_eq!((raw.model.as_str(), raw.tensors.version.as_str(), raw.id), ("m", "3", None));
        // Empty contents count as none.
        let empty = Some(InferTensorContents::default());
        let both = request(message(vec![input(empty)], &[&[1, 255]])).unwrap();
        assert_eq!(both.tensors.inputs, typed.tensors.inputs);
    }

    #[test]
    fn parameters_keep_their_types() {
        let parameters = [
            ("a", ParameterChoice::BoolParam(true)),
            ("b", ParameterChoice::Int64Param(-4)),
            ("c", ParameterChoice::StringParam("query".into())),
            ("d", ParameterChoice::Uint64Param(4)),
            ("e", ParameterChoice::Uint64Param(u64::MAX)),
            ("f", ParameterChoice::DoubleParam(1.5)),
        ];
        let parameters = parameters.map(|(name, choice)| {
            (name.to_owned(), InferParameter { parameter_choice: Some(choice) })
        });
        let message = ModelInferRequest {
            parameters: parameters.into(),
            ..message(vec![input(None)], &[&[1, 2]])
        };
        let tensors = request(message).unwrap().tensors;
        let values: Vec<Parameter> = tensors.parameters.into_values().collect();
        assert_eq!(
            values,
            [
                Parameter::Bool(true),
                Parameter::Number(-4),
                Parameter::String("query".into()),
                Parameter::Number(4),
                Parameter::Other,
                Parameter::Other,
            ]
        );
    }

    #[test]
    fn contradictory_tensors_are_rejected_with_a_reason() {
        let two = || vec![input(None), input(None)];
        let negative = InferInputTensor { shape: vec![-1], ..input(None) };
        let unknown_type = InferInputTensor { datatype: "FP8".into(), ..input(None) };
        let parameters = HashMap::from([(SHARED_MEMORY.to_owned(), InferParameter::default())]);
        let elsewhere = InferInputTensor { parameters: parameters.clone(), ..input(None) };
        let wanted = InferRequestedOutputTensor { name: "y".into(), parameters };
        for (message, reason) in [
            (message(two(), &[&[1, 2]]), "1 elements for 2 inputs"),
            (message(vec![input(None)], &[&[1], &[2]]), "2 elements for 1 inputs"),
            (message(vec![input(numbers(vec![1, 2]))], &[&[1, 2]]), "has both `contents`"),
            (message(vec![input(numbers(vec![1, 200]))], &[]), "200 is not a valid INT8 element"),
            (message(vec![negative], &[&[1]]), "negative dimension -1"),
            (message(vec![unknown_type], &[&[1]]), "`FP8`"),
            (message(vec![elsewhere], &[&[1]]), "shared memory"),
            (
                ModelInferRequest {
                    outputs: vec![wanted],
                    ..message(vec![input(None)], &[&[1, 2]])
                },
                "shared memory",
            ),
        ] {
            let error = request(message).unwrap_err();
            assert!(error.message().contains(reason), "{reason}: {}", error.message());
            assert_eq!(error.code(), tonic::Code::InvalidArgument);
        }
    }
}
