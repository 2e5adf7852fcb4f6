//! Parses admin calls: the model in the path and the JSON in the body. Malformed calls are refused with
//! [`RefusalKind::Malformed`].

use axum::{
    body::Body,
    extract::{Path, Request, rejection::PathRejection},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use onnxd_admin::api::{JSON, Refusal, RefusalKind};
use serde::de::DeserializeOwned;

/// Maximum body of a call in bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Path parameter with the model's name.
pub(super) type ModelPath = Result<Path<String>, PathRejection>;

/// Returns the model's name from the path.
///
/// # Errors
/// The path is not UTF-8.
pub(super) fn model_of(path: ModelPath) -> Result<String, Refusal> {
    path.map(|Path(model)| model).map_err(|rejection| malformed(&rejection.body_text()))
}

/// Parses the call in the request's body.
///
/// # Errors
/// The content type is not JSON, or the body is too large, incomplete or invalid.
pub(super) async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    if !is_json(request.headers()) {
        return Err(malformed(&format!("expected `content-type: {JSON}`")));
    }
    parse(&collect(request.into_body()).await?)
}

async fn collect(body: Body) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let broken = |error| format!("cannot read the body (at most {BODY_BYTES_MAX} bytes): {error}");
    Ok(collected.map_err(|error| malformed(&broken(error)))?.to_bytes())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| malformed(&format!("invalid request body: {error}")))
}

fn malformed(message: &str) -> Refusal {
    RefusalKind::Malformed.because(message)
}

/// Returns whether the body claims to be JSON, with or without parameters such as a charset.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(JSON)
}

#[cfg(test)]
mod tests {
    use onnxd_admin::api::UpdateCall;

    use super::*;

    async fn read_from(content_type: Option<&str>, body: impl Into<Body>) -> Result<(), String> {
        let mut request = Request::builder();
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let call = read::<UpdateCall>(request.body(body.into()).unwrap()).await;
        call.map(drop).map_err(|refusal| {
            assert_eq!(refusal.kind, RefusalKind::Malformed);
            refusal.message
        })
    }

    #[tokio::test]
    async fn invalid_call_is_malformed() {
        for (content_type, body, words) in [
            (None, "{}", "application/json"),
            (Some("text/plain"), "{}", "application/json"),
            (Some("application/json"), "", "invalid request body"),
            (Some("application/json"), "{", "invalid request body"),
            (Some("application/json"), "{\"form\": 1}", "`form`"),
            (Some("application/json"), "{\"load\": \"soon\"}", "`soon`"),
        ] {
            let message = read_from(content_type, body).await.unwrap_err();
            assert!(message.contains(words), "{content_type:?} {body}: {message}");
        }
        let long = " ".repeat(BODY_BYTES_MAX + 1);
        assert!(read_from(Some("application/json"), long).await.unwrap_err().contains("65536"));
    }

    #[tokio::test]
    async fn content_type_may_have_parameters() {
        for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(read_from(Some(content_type), "{}").await, Ok(()));
        }
    }
}
