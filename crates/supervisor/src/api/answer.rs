//! Responses that a model computed, for all HTTP contracts: common headers, and memory reserved for
//! large bodies until they are sent.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, header},
};
use onnxd_engine::engine::{MemoryBudget, Origin};
use serde::Serialize;

use crate::{
    api::{error::Fault, numbers},
    transport::chunks::{self, with_reservation},
};

/// Tensor bodies and responses up to this size need no reservation.
pub(crate) const UNCHARGED_BYTES_MAX: usize = 256 * 1024;

/// Builds a JSON response with the headers of every inference response. A large body stays reserved
/// until it is sent. `bytes` is its approximate length.
///
/// # Errors
/// A number is not finite, or other large bodies use up the memory budget.
pub(crate) fn json(
    memory: &MemoryBudget,
    origin: &Origin,
    body: &impl Serialize,
    bytes: usize,
) -> Result<Response<Body>, Fault> {
    let body = numbers::to_json(body, bytes)?;
    let reservation = memory.reserve(body.len(), UNCHARGED_BYTES_MAX)?;
    Ok(response(
        origin,
        "application/json",
        chunks::body(with_reservation([body.into()], reservation)),
    ))
}

/// Builds a response with the headers of every inference response.
pub(crate) fn response(origin: &Origin, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    if origin.is_traced {
        response.extensions_mut().insert(origin.clone());
    }
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
    // Headers of text-embeddings-inference, in whole milliseconds.
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
    // Never fails: names are validated, versions are hexadecimal, timings are digits.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
