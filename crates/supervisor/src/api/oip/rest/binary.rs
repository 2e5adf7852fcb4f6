//! Bodies of inference requests: JSON, JSON followed by raw tensors, or one raw tensor (Triton's
//! binary tensor data extension). Parsing is pure.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use bytes::Bytes;
use onnxd_engine::engine::tensors::{Parameter, Tensor, TensorRequest};
use onnxd_proto::{
    domain::tensor::{AXES_MAX, DataType, TENSORS_MAX, elements},
    limits::TENSORS_BYTES_MAX,
};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use crate::api::{
    error::{Class, Fault},
    oip::{
        request::{InferRequest, check_id},
        rest::{bounded_list::bounded_list, elements::from_json},
    },
    request::parse,
};

/// The header with the length of the JSON before raw tensors.
pub(super) const HEADER: &str = "inference-header-content-length";

/// An inference request.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RequestJson {
    /// Returned with the response.
    id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<RequestParameters>)]
    parameters: RequestParameters,
    #[serde(deserialize_with = "bounded_list::<_, _, TENSORS_MAX>")]
    inputs: Vec<InputJson>,
    /// The outputs to return. Default: all.
    #[serde(default, deserialize_with = "bounded_list::<_, _, TENSORS_MAX>")]
    outputs: Vec<OutputJson>,
}

/// Parameters of a request. Unknown ones are ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct RequestParameters {
    /// Return outputs as raw bytes after the JSON by default.
    #[serde(default)]
    binary_data_output: bool,
    /// Options of text models: `prompt_name`, `input_type`, `truncate`, `truncation_direction`,
    /// `normalize`, `dimensions`, `aggregation_strategy`, and the names of the model's switches.
    #[serde(flatten)]
    #[schema(value_type = std::collections::HashMap<String, Value>)]
    options: BTreeMap<String, Value>,
}

/// A tensor.
#[derive(Debug, Deserialize, ToSchema)]
struct InputJson {
    name: String,
    #[serde(deserialize_with = "bounded_list::<_, _, AXES_MAX>")]
    shape: Vec<u64>,
    /// `BOOL`, `INT8` to `INT64`, `UINT8` to `UINT64`, `FP16`, `BF16`, `FP32`, `FP64` or `BYTES`.
    #[schema(value_type = String)]
    datatype: DataType,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<InputParameters>)]
    parameters: InputParameters,
    /// The elements in row-major order, flat or nested.
    #[schema(value_type = Option<Vec<Value>>)]
    data: Option<Box<RawValue>>,
}

/// Parameters of a tensor. Unknown ones are ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct InputParameters {
    /// Length of the tensor after the JSON, used instead of `data`.
    binary_data_size: Option<usize>,
}

/// An output to return.
#[derive(Debug, Deserialize, ToSchema)]
struct OutputJson {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<OutputParameters>)]
    parameters: OutputParameters,
}

/// Parameters of an output. Unknown ones are ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct OutputParameters {
    /// Return this output as raw bytes after the JSON.
    binary_data: Option<bool>,
}

/// How to send each output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputEncoding {
    /// The default: raw bytes instead of JSON.
    pub binary: bool,
    /// Overrides by output name.
    pub outputs: Vec<(String, bool)>,
}

impl OutputEncoding {
    /// Sends all outputs as raw bytes.
    pub(super) fn raw() -> Self {
        Self { binary: true, outputs: Vec::new() }
    }

    /// Returns whether to send this output as raw bytes.
    pub(super) fn is_binary(&self, name: &str) -> bool {
        let requested = self.outputs.iter().find(|(output, _)| output == name);
        requested.map_or(self.binary, |(_, binary)| *binary)
    }
}

/// Returns the length of the JSON if raw tensors follow it. 0 means that the whole body is one
/// tensor.
///
/// # Errors
/// The header is not a number.
pub(super) fn json_bytes(headers: &HeaderMap) -> Result<Option<usize>, Fault> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|value| value.trim().parse().ok());
    length.map(Some).ok_or_else(|| invalid(format!("invalid {HEADER}: expected a number of bytes")))
}

/// Parses the body of a request.
///
/// # Errors
/// The body is not valid JSON, or contradicts it.
pub(crate) fn request(
    model: (String, String),
    body: &Bytes,
    json_bytes: Option<usize>,
) -> Result<(InferRequest, OutputEncoding), Fault> {
    let (json, mut raw) = match json_bytes {
        None => (body.clone(), Bytes::new()),
        Some(length) if length <= body.len() => (body.slice(..length), body.slice(length..)),
        Some(length) => {
            return Err(invalid(format!(
                "{HEADER} is {length}, but the body has {} bytes",
                body.len()
            )));
        }
    };
    let RequestJson { id, parameters, inputs, outputs } =
        parse(&json).map_err(Fault::unreadable)?;
    check_id(id.as_ref()).map_err(|message| Fault::new(Class::INVALID, message).about("id"))?;
    let inputs = inputs.into_iter().map(|input| tensor(input, &mut raw));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    if !raw.is_empty() {
        return Err(invalid(format!("{} extra bytes after the last tensor", raw.len())));
    }
    let binary = parameters.binary_data_output;
    let is_raw = |output: &OutputJson| output.parameters.binary_data.unwrap_or(binary);
    let encoding = OutputEncoding {
        binary,
        outputs: outputs.iter().map(|output| (output.name.clone(), is_raw(output))).collect(),
    };
    let outputs = outputs.into_iter().map(|output| output.name).collect();
    let (model, version) = model;
    // Clients that send all fields send null for unset ones.
    let options = parameters.options.into_iter().filter(|(_, value)| !value.is_null());
    let parameters = options.map(|(name, value)| (name, parameter(value))).collect();
    let tensors = TensorRequest { version, inputs, outputs, parameters };
    Ok((InferRequest { model, id, tensors }, encoding))
}

fn parameter(value: Value) -> Parameter {
    match value {
        Value::Bool(value) => Parameter::Bool(value),
        Value::Number(number) => number.as_i64().map_or(Parameter::Other, Parameter::Number),
        Value::String(word) => Parameter::String(word),
        _ => Parameter::Other,
    }
}

/// Builds a tensor from its JSON or from the remaining raw bytes.
fn tensor(input: InputJson, raw: &mut Bytes) -> Result<Tensor, Fault> {
    let InputJson { name, shape, datatype, parameters, data } = input;
    let data = match (parameters.binary_data_size, data) {
        (Some(size), None) if size <= raw.len() => raw.split_to(size),
        (Some(size), None) => {
            let remaining = raw.len();
            return Err(invalid(format!(
                "input `{name}` claims {size} bytes, but {remaining} remain"
            )));
        }
        (None, Some(json)) => {
            let bytes_max = elements(&shape).zip(datatype.element_bytes());
            let bytes_max = bytes_max.map_or(TENSORS_BYTES_MAX, |(count, size)| {
                count.saturating_mul(size).min(TENSORS_BYTES_MAX)
            });
            let bytes = from_json(&json, datatype, bytes_max)
                .map_err(|error| invalid(format!("input `{name}`: {error}")))?;
            bytes.into()
        }
        (None, None) => return Err(invalid(format!("input `{name}` has no data"))),
        (Some(_), Some(_)) => {
            return Err(invalid(format!("input `{name}` has both `data` and `binary_data_size`")));
        }
    };
    Ok(Tensor { name, datatype, shape, data })
}

/// Clients that send all fields send null for unset ones.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(Class::Unreadable, message).about("inputs")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(json: &str, raw: &[u8]) -> Result<(InferRequest, OutputEncoding), Fault> {
        let body = Bytes::from([json.as_bytes(), raw].concat());
        request(("m".into(), String::new()), &body, Some(json.len()))
    }

    #[test]
    fn raw_tensors_follow_the_json_in_its_order() {
        let json = r#"{"id": "7", "inputs": [
            {"name": "a", "shape": [2], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
            {"name": "b", "shape": [1], "datatype": "UINT8", "data": [9]},
            {"name": "c", "shape": [1], "datatype": "UINT8", "parameters": {"binary_data_size": 1}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": false}}, {"name": "z"}],
            "parameters": {"binary_data_output": true, "other": 1}}"#;
        let (request, encoding) = parsed(json, &[1, 0, 2, 0, 3]).unwrap();
        let data: Vec<&[u8]> = request.tensors.inputs.iter().map(|input| &input.data[..]).collect();
        assert_eq!(data, [&[1, 0, 2, 0][..], &[9], &[3]]);
        assert_eq!(
            (request.id.as_deref(), &request.tensors.outputs[..]),
            (Some("7"), &["y".into(), "z".into()][..])
        );
        let binary = ["y", "z", "x"].map(|name| encoding.is_binary(name));
        assert_eq!(binary, [false, true, true]);
    }

    #[test]
    fn contradictory_bodies_are_rejected() {
        let input = |rest: &str| {
            format!(r#"{{"inputs": [{{"name": "a", "shape": [1], "datatype": "UINT8"{rest}}}]}}"#)
        };
        for (json, raw) in [
            (input(""), &b""[..]),
            (input(r#", "data": [1], "parameters": {"binary_data_size": 1}"#), b"a"),
            (input(r#", "parameters": {"binary_data_size": 2}"#), b"a"),
            (input(r#", "parameters": {"binary_data_size": 1}"#), b"ab"),
            (input(r#", "data": [300]"#), b""),
            (input(r#", "data": [1]"#).replace("UINT8", "FLOAT"), b""),
            (input(r#", "data": [1]"#).replace("[1]", "[-1]"), b""),
            ("{}".into(), b""),
            ("[".into(), b""),
        ] {
            let error = parsed(&json, raw).unwrap_err();
            assert_eq!(error.class, Class::Unreadable, "{json}");
        }
        let body = Bytes::from_static(b"{}");
        assert!(request(("m".into(), String::new()), &body, Some(3)).is_err());
    }

    proptest! {
        #[test]
        fn parsing_arbitrary_bytes_never_panics(
            body in prop::collection::vec(any::<u8>(), 0..200),
            length in prop::option::of(0_usize..250),
        ) {
            let _ = request(("m".into(), String::new()), &body.into(), length);
        }

        #[test]
        fn parsing_plausible_json_never_panics(
            shape in prop::collection::vec(any::<u64>(), 0..4),
            size in any::<u64>(),
            raw in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let json = format!(r#"{{"inputs": [{{"name": "a", "shape": {shape:?}, "datatype": "FP32",
                "parameters": {{"binary_data_size": {size}}}}}]}}"#);
            let _ = parsed(&json, &raw);
        }
    }
}
