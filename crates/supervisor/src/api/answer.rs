//! The responses of all HTTP contracts that have a model answer: the headers that every one
//! carries, and the memory that a large one reserves until it has been sent.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, header},
};
use onnxd_engine::engine::{MemoryBudget, Origin};
use serde::Serialize;

use crate::{
    api::{error::Fault, numbers},
    transport::chunks::{self, held},
};

/// Bytes of a body of tensors, or of an answer, that need no reservation.
pub(crate) const UNPAID_BYTES_MAX: usize = 256 * 1024;

/// A JSON response with the headers that every inference response carries. A large one reserves
/// its memory until it has been sent. `bytes` is about how long it will be.
///
/// # Errors
/// A number is not finite, or other large bodies take all the memory.
pub(crate) fn json(
    memory: &MemoryBudget,
    origin: &Origin,
    body: &impl Serialize,
    bytes: usize,
) -> Result<Response<Body>, Fault> {
    let body = numbers::to_json(body, bytes)?;
    let paid = memory.reserve(body.len(), UNPAID_BYTES_MAX)?;
    Ok(response(origin, "application/json", chunks::body(held([body.into()], paid))))
}

/// A response with the headers that every inference response carries.
pub(crate) fn response(origin: &Origin, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("x-model-generation", HeaderValue::from(origin.generation));
    insert(headers, "x-model-name", origin.model.name.as_str());
    insert(headers, "x-model-version", &origin.record.version);
    let timing = origin.timing;
    let times = [timing.queue, timing.tokenize, timing.infer];
    let [queue, tokenize, infer] = times.map(|time| time.as_secs_f64() * 1e3);
    let server = format!("queue;dur={queue:.3}, tokenize;dur={tokenize:.3}, infer;dur={infer:.3}");
    insert(headers, "server-timing", &server);
    // As text-embeddings-inference has them, in whole milliseconds.
    headers.insert("x-compute-type", HeaderValue::from_static("cpu"));
    headers.insert("x-compute-characters", HeaderValue::from(origin.characters));
    headers.insert("x-compute-tokens", HeaderValue::from(origin.tokens));
    let millis =
        |time: Duration| HeaderValue::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    headers.insert("x-compute-time", millis(origin.started.elapsed()));
    headers.insert("x-total-time", millis(origin.started.elapsed()));
    headers.insert("x-queue-time", millis(timing.queue));
    headers.insert("x-tokenization-time", millis(timing.tokenize));
    headers.insert("x-inference-time", millis(timing.infer));
    response
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Names are validated, versions are hexadecimal, timings are digits.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
