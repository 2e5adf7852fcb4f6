//! What the contracts that embed texts share: finding the model, parsing, the headers of an
//! answer, and printing numbers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use onnxd_proto::{
    layout::Record,
    limits::{GROUP_ITEMS_MAX, TEXT_BYTES_MAX},
};
use serde::de::DeserializeOwned;
use tokio::time;

use super::inputs::Inputs;
use crate::{
    dispatch::gather::{Answer, GatherError, Input},
    http::{
        error::{ApiError, Kind},
        router::App,
    },
    models::{gate::Pass, registry::Model},
};

/// Texts of one request. More are refused; clients send several requests then.
pub(crate) const INPUTS_MAX: usize = GROUP_ITEMS_MAX;

const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// Parses a JSON body.
///
/// # Errors
/// 400 where it is no JSON, 422 where it is JSON of another shape.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the body is not what it should be: {error}");
        match error.classify() {
            serde_json::error::Category::Data => ApiError::new(Kind::Validation, message),
            _ => ApiError::new(Kind::Validation, message).with_status(StatusCode::BAD_REQUEST),
        }
    })
}

/// The model that a request names, or the first.
///
/// # Errors
/// 404 where it is not served.
pub(crate) fn find_model<'a>(app: &'a App, name: Option<&str>) -> Result<&'a Arc<Model>, ApiError> {
    app.registry.find(name).ok_or_else(|| {
        let served: Vec<&str> =
            app.registry.models().iter().map(|model| model.name.as_str()).collect();
        let name = name.unwrap_or_default();
        let message =
            format!("the model `{name}` is not served; served are: {}", served.join(", "));
        ApiError::new(Kind::Validation, message).with_status(StatusCode::NOT_FOUND).about("model")
    })
}

/// The texts, ready for the queue. `field` is what the contract calls them.
///
/// # Errors
/// There are none, too many, or one is too long.
pub(crate) fn check_inputs(
    inputs: Inputs,
    field: &'static str,
    normalize: Option<bool>,
    truncate: bool,
) -> Result<Vec<Input>, ApiError> {
    let wrong = |kind, message: String| Err(ApiError::new(kind, message).about(field));
    if inputs.0.is_empty() {
        return wrong(Kind::Empty, format!("`{field}` cannot be empty"));
    }
    if inputs.0.len() > INPUTS_MAX {
        let count = inputs.0.len();
        let message = format!("batch size {count} > maximum allowed batch size {INPUTS_MAX}");
        return wrong(Kind::Validation, message);
    }
    if let Some(text) = inputs.0.iter().find(|text| text.len() > TEXT_BYTES_MAX) {
        let message = format!(
            "Input validation error: a text of `{field}` has {} bytes, at most {TEXT_BYTES_MAX} are allowed",
            text.len()
        );
        return wrong(Kind::Validation, message);
    }
    let input = |text: String| Input { text: Bytes::from(text), normalize, truncate };
    Ok(inputs.0.into_iter().map(input).collect())
}

/// Admits a request to a model, which is loaded first if nobody has used it yet. Gives what keeps the
/// model until the request is answered, and the time that is left.
///
/// # Errors
/// The model is unloaded, cannot be loaded, or not in time.
pub(crate) async fn admitted(
    app: &App,
    model: &Model,
    timeout: Option<Duration>,
) -> Result<(Pass, Option<Duration>), ApiError> {
    if let Ok(pass) = model.gate.admit() {
        return Ok((pass, timeout));
    }
    let (begin, allowed) = (Instant::now(), app.dispatch.time_allowed(timeout));
    let loaded = time::timeout(allowed, app.updater.ensure_loaded(model)).await;
    let pass = loaded.map_err(|_| GatherError::Timeout(allowed))??;
    Ok((pass, Some(allowed.saturating_sub(begin.elapsed()))))
}

/// Embeds the inputs, and says what the generation that did so is.
///
/// # Errors
/// See [`crate::dispatch::gather::GatherError`].
pub(crate) async fn embed(
    app: &App,
    model: &Model,
    inputs: Vec<Input>,
    timeout: Option<Duration>,
) -> Result<(Answer, Arc<Record>), ApiError> {
    let (_pass, timeout) = admitted(app, model, timeout).await?;
    let answer = app.dispatch.embed(model.slot, inputs, timeout).await?;
    let record = model.record(answer.generation).ok_or_else(|| {
        ApiError::new(Kind::Backend, "the generation of the answer is unknown")
            .with_status(StatusCode::INTERNAL_SERVER_ERROR)
    })?;
    Ok((answer, record))
}

/// How long a request may take, if it says so itself: the header `x-request-timeout-ms`.
///
/// # Errors
/// 400 where that is no number of milliseconds.
pub(crate) fn asked_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|value| value.parse().ok()).filter(|&ms| ms > 0);
    millis.map(|millis| Some(Duration::from_millis(millis))).ok_or_else(|| {
        let message = format!("{TIMEOUT_HEADER} is no number of milliseconds above 0");
        ApiError::new(Kind::Validation, message).with_status(StatusCode::BAD_REQUEST)
    })
}

/// A JSON response with the headers that every inference response carries.
pub(crate) fn answered(
    model: &Model,
    answer: &Answer,
    record: &Record,
    body: Vec<u8>,
) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-model-generation", HeaderValue::from(answer.generation));
    insert(headers, "x-model-name", model.name.as_str());
    insert(headers, "x-model-version", &record.version);
    let [queue, tokenize, infer] =
        [answer.timing.queue, answer.timing.tokenize, answer.timing.infer]
            .map(|time| time.as_secs_f64() * 1e3);
    let timing = format!("queue;dur={queue:.3}, tokenize;dur={tokenize:.3}, infer;dur={infer:.3}");
    insert(headers, "server-timing", &timing);
    response
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Names are validated, versions are hexadecimal, timings are digits.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
