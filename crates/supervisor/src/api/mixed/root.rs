//! `POST /`, which does what the model is for: clients of Hugging Face's inference API know no
//! other route.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_proto::domain::Task;
use serde::Deserialize;

use crate::{
    api::{
        app::App,
        error::Fault,
        mixed::rerank,
        request::{context, parse},
        tei::{
            embed,
            error::{TeiErrors, respond},
            predict,
        },
    },
    transport::bodies::read_body,
};

/// As far as every call has it.
#[derive(Debug, Deserialize)]
struct AnyRequest {
    model: Option<String>,
}

/// Embeds, compares, classifies or reranks, as the model is for; the body is that of `/embed`,
/// `/similarity`, `/predict` or `/rerank`.
#[utoipa::path(
    post, path = "/", tag = "text-embeddings-inference",
    request_body = inline(serde_json::Map<String, serde_json::Value>),
    responses((status = 200, description = "As of the call that the model is for", body = inline(serde_json::Value)), TeiErrors)
)]
pub(crate) async fn root(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_root(&app, request)).await
}

async fn try_root(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    let AnyRequest { model } = parse(&body)?;
    let model = app.engine.find(model.as_deref())?;
    let tasks = [Task::Embed, Task::Classify, Task::Rerank];
    let (_, record) = app.engine.ready(&context, model, &tasks).await?;
    match record.facts.task {
        Task::Classify => predict::predict_body(app, &context, &body).await,
        Task::Rerank => rerank::rerank_body(app, &context, &body).await,
        _ if embed::is_similarity(&body) => embed::similarity_body(app, &context, &body).await,
        _ => embed::embed_body(app, &context, &body).await,
    }
}
