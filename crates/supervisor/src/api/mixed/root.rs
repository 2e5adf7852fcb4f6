//! `POST /`, which runs the model's task: clients of Hugging Face's inference API use only this
//! route.

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
            embed, entities,
            error::{TeiErrors, respond},
            predict, similarity, sparse, zero_shot,
        },
    },
    transport::bodies::read_body,
};

/// The field that all calls share.
#[derive(Debug, Deserialize)]
struct AnyRequest {
    model: Option<String>,
}

/// Runs the model's task. The body is that of `/embed`, `/similarity`, `/embed_sparse`,
/// `/embed_all`, `/predict`, `/zero_shot_classification`, `/token_classification` or `/rerank`.
#[utoipa::path(
    post, path = "/", tag = "text-embeddings-inference",
    request_body = inline(serde_json::Map<String, serde_json::Value>),
    responses((status = 200, description = "The response of the matching route", body = inline(serde_json::Value)), TeiErrors)
)]
pub(crate) async fn root(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_root(&app, request)).await
}

async fn try_root(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    let AnyRequest { model } = parse(&body)?;
    let model = app.engine.find(model.as_deref())?;
    let (_, record) = app.engine.ready(&context, model, &Task::TEXT).await?;
    match record.facts.task {
        Task::Classify if zero_shot::is_zero_shot(&body) => {
            zero_shot::zero_shot_body(app, &context, &body).await
        }
        Task::Classify => predict::predict_body(app, &context, &body).await,
        Task::Rerank => rerank::rerank_body(app, &context, &body).await,
        Task::TokenClassify => entities::entities_body(app, &context, &body).await,
        Task::Sparse => sparse::embed_sparse_body(app, &context, &body).await,
        Task::MultiVector => embed::embed_all_body(app, &context, &body).await,
        Task::Embed | Task::Tensor => match similarity::is_similarity(&body) {
            true => similarity::similarity_body(app, &context, &body).await,
            false => embed::embed_body(app, &context, &body).await,
        },
    }
}
