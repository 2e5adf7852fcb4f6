//! Parses what HTTP contracts share: headers, JSON bodies, the number of inputs.

use std::time::Duration;

use axum::http::HeaderMap;
use onnxd_engine::RequestContext;
use onnxd_telemetry::trace::TraceContext;
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{
    api::error::{Class, Fault},
    transport::access::TRACEPARENT,
};

/// Larger JSON bodies are parsed off the async thread, so that others do not wait.
const PARSED_INLINE_BYTES_MAX: usize = 256 * 1024;

/// Some editors write it at the start of a file. JSON must not begin with it (RFC 8259).
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// Builds the context of a request that begins now and has these headers.
///
/// # Errors
/// The timeout header is not a positive number of milliseconds.
pub(crate) fn context(headers: &HeaderMap) -> Result<RequestContext, Fault> {
    let trace = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let context = RequestContext::new().in_trace(trace.and_then(TraceContext::from_traceparent));
    let timeout = timeout(headers)?;
    Ok(timeout.map_or(context, |timeout| context.within(timeout)))
}

/// Returns the timeout that the request asks for, if any.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|value| value.parse().ok()).filter(|&ms| ms > 0);
    millis.map(|millis| Some(Duration::from_millis(millis))).ok_or_else(|| {
        let message =
            format!("invalid {TIMEOUT_HEADER}: expected a positive number of milliseconds");
        Fault::new(Class::Unreadable, message)
    })
}

/// Parameters of a call that accepts none. Rejects any that are given.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParameters {}

/// Parses a JSON body.
///
/// # Errors
/// The body is not JSON, or JSON of the wrong shape.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    let parse = || serde_json::from_slice::<T>(body);
    let parsed = if body.len() > PARSED_INLINE_BYTES_MAX {
        tokio::task::block_in_place(parse)
    } else {
        parse()
    };
    parsed.map_err(|error| {
        if body.starts_with(BYTE_ORDER_MARK) {
            let message = "invalid request body: it begins with a UTF-8 byte order mark; remove it";
            return Fault::new(Class::Unreadable, message);
        }
        let class = match error.classify() {
            serde_json::error::Category::Data => Class::Malformed,
            _ => Class::Unreadable,
        };
        Fault::new(class, format!("invalid request body: {error}"))
    })
}

/// Checks the number of inputs. `field` is the contract's name for them. The messages are those of
/// text-embeddings-inference.
///
/// # Errors
/// There are no inputs, or more than `max`.
pub(crate) fn check_count(count: usize, max: usize, field: &'static str) -> Result<(), Fault> {
    let fault = |class, message: String| Err(Fault::new(class, message).about(field));
    match count {
        0 => fault(Class::EMPTY, format!("`{field}` cannot be empty")),
        count if count > max => {
            fault(Class::INVALID, format!("batch size {count} > maximum allowed batch size {max}"))
        }
        _ => Ok(()),
    }
}
