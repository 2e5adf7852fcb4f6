//! Reads requests, and writes answers and errors in Qdrant's format.

use std::{collections::BTreeMap, future::Future, time::Instant};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use onnxd_engine::{ErrorKind, engine::MemoryBudget};
use onnxd_search::Call;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use utoipa::{
    IntoResponses, PartialSchema, ToSchema,
    openapi::{ContentBuilder, RefOr, Response as Described, ResponseBuilder},
};

use crate::{
    api::{
        answer::UNCHARGED_BYTES_MAX,
        app::App,
        error::{self, Class, Fault, described},
        numbers,
        request::parse,
    },
    transport::{
        bodies::read_body,
        chunks::{self, with_reservation},
    },
};

/// An answer in Qdrant's format.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answer<T> {
    result: T,
    /// "ok".
    status: &'static str,
    /// Seconds that the request took.
    time: f64,
}

/// An error in Qdrant's format.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QdrantError {
    status: QdrantErrorStatus,
    /// Seconds that the request took. Unknown, so always 0.
    time: f64,
}

#[derive(Debug, Serialize, ToSchema)]
struct QdrantErrorStatus {
    error: String,
}

/// Describes the errors of Qdrant's routes.
pub(crate) struct QdrantErrors;

impl IntoResponses for QdrantErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let content = ContentBuilder::new().schema(Some(QdrantError::schema())).build();
        let conflict = ResponseBuilder::new()
            .description("The collection or alias exists")
            .content("application/json", content);
        let mut all = described::<QdrantError>();
        all.insert("409".to_owned(), RefOr::T(conflict.build()));
        all
    }
}

/// Renders an error in Qdrant's format.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    // Qdrant answers 400 to anything that it cannot accept.
    let status = match fault.class {
        Class::Malformed
        | Class::Engine(ErrorKind::Invalid | ErrorKind::Tokenizer | ErrorKind::WrongTask) => {
            StatusCode::BAD_REQUEST
        }
        class => class.default_status(),
    };
    let error =
        QdrantError { status: QdrantErrorStatus { error: fault.message.clone() }, time: 0.0 };
    fault.response(status, &json!(error))
}

/// Runs a handler and renders its error, if any.
pub(super) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}

/// Runs a handler, and renders its result or its error.
pub(super) async fn answered<T: Serialize>(
    app: &App,
    handler: impl Future<Output = Result<T, Fault>>,
) -> Response<Body> {
    let started = Instant::now();
    respond(async { answer(app.engine.memory(), started, handler.await?) }).await
}

/// Reads a request. A successor gets the collections only after the returned call is dropped, so hold it
/// until the answer is known.
///
/// # Errors
/// There are no collections, or the body is invalid.
pub(super) async fn read<T: DeserializeOwned>(
    app: &App,
    request: Request<Body>,
) -> Result<(Call, T), Fault> {
    let call = app.search()?.enter()?;
    let body = read_body(app.engine.memory(), request).await?;
    Ok((call, parse(&body)?))
}

/// Answers with a result. A large body stays reserved until it is sent.
///
/// # Errors
/// A number is not finite, or other large bodies use up the memory budget.
pub(super) fn answer(
    memory: &MemoryBudget,
    started: Instant,
    result: impl Serialize,
) -> Result<Response<Body>, Fault> {
    Ok(json_response(body_of(memory, started, result)?))
}

/// Returns the body of an answer.
///
/// # Errors
/// As for [`answer`].
pub(super) fn body_of(
    memory: &MemoryBudget,
    started: Instant,
    result: impl Serialize,
) -> Result<Body, Fault> {
    let answer = Answer { result, status: "ok", time: started.elapsed().as_secs_f64() };
    let body = numbers::to_json(&answer, 0)?;
    let reservation = memory.reserve(body.len(), UNCHARGED_BYTES_MAX)?;
    Ok(chunks::body(with_reservation([body.into()], reservation)))
}

/// Returns a response with this body.
pub(super) fn json_response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Returns the error of a request that asks for what is not supported or not allowed.
pub(super) fn wrong(message: impl Into<String>) -> Fault {
    Fault::new(Class::INVALID, message)
}
