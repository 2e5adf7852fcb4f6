//! Binary tensors of the Open Inference Protocol: JSON followed by raw tensors.

use bytes::Bytes;
use e2e::client::{Client, Response};
use hyper::Method;
use serde_json::{Value, json};

/// The header with the length of the JSON part.
pub(crate) const HEADER: &str = "inference-header-content-length";

/// Encodes floats as little-endian bytes.
pub(crate) fn raw(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Decodes little-endian floats.
pub(crate) fn floats(raw: &[u8]) -> Vec<f32> {
    let float = |four: &[u8]| f32::from_le_bytes(four.try_into().expect("4 bytes"));
    raw.chunks(4).map(float).collect()
}

/// Encodes a BYTES tensor.
pub(crate) fn bytes(texts: &[&[u8]]) -> Vec<u8> {
    let element = |text: &&[u8]| {
        let length = u32::try_from(text.len()).expect("a short text");
        [&length.to_le_bytes(), *text].concat()
    };
    texts.iter().flat_map(element).collect()
}

/// Returns an input whose data follows the JSON.
pub(crate) fn after(name: &str, datatype: &str, shape: &Value, size: usize) -> Value {
    json!({"name": name, "datatype": datatype, "shape": shape,
        "parameters": {"binary_data_size": size}})
}

/// Sends JSON followed by raw tensors.
pub(crate) async fn send(client: &mut Client, model: &str, json: &Value, raw: &[u8]) -> Response {
    let json = json.to_string();
    let length = json.len().to_string();
    let body = [json.as_bytes(), raw].concat();
    send_raw(client, model, &length, body.into()).await
}

/// Sends a body with `length` as the length of its JSON part.
pub(crate) async fn send_raw(
    client: &mut Client,
    model: &str,
    length: &str,
    body: Bytes,
) -> Response {
    let headers = [("content-type", "application/octet-stream"), (HEADER, length)];
    let path = format!("/v2/models/{model}/infer");
    client.send_with(Method::POST, &path, &headers, body).await.expect("an answer")
}

/// Returns the JSON of an answer and its raw tensors in order.
pub(crate) fn parts(response: &Response) -> (Value, Vec<Bytes>) {
    assert_eq!(response.status, 200, "{:.1000}", response.text());
    let Some(length) = response.header(HEADER) else { return (response.json(), Vec::new()) };
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    let mut rest = response.body.clone();
    let json = rest.split_to(length.parse().expect("a number"));
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let mut raw = Vec::new();
    for output in json["outputs"].as_array().expect("outputs") {
        if let Some(size) = output["parameters"]["binary_data_size"].as_u64() {
            assert!(output.get("data").is_none(), "{output}");
            raw.push(rest.split_to(usize::try_from(size).expect("a small size")));
        }
    }
    assert!(rest.is_empty(), "{} bytes follow the last tensor", rest.len());
    (json, raw)
}

/// Returns the inference path of a model.
pub(crate) fn infer(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

/// Returns a request with one input of floats in JSON.
pub(crate) fn float_request(name: &str, shape: &[usize], data: &[f32]) -> Value {
    json!({"inputs": [{"name": name, "datatype": "FP32", "shape": shape, "data": data}]})
}

/// Returns an input or output of the reference, flattened.
pub(crate) fn reference_tensor(model: &str, tensor: &str) -> Vec<f32> {
    let answers = crate::tiny_reference();
    let rows = answers["tensors"][model][tensor].as_array().expect("rows").clone();
    rows.iter().flat_map(crate::numbers).collect()
}
