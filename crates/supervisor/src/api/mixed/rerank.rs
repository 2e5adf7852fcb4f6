//! `/rerank`, shared by text-embeddings-inference, Cohere and Jina. A body with `documents` is in
//! the format of Cohere and Jina. Errors are in that of text-embeddings-inference.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::RequestContext;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        app::App,
        cohere,
        error::Fault,
        request::context,
        tei::{
            self,
            error::{TeiErrors, respond},
        },
    },
    transport::bodies::read_body,
};

/// A response in the format of the request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only for the OpenAPI document; handlers render either variant")]
pub(crate) enum RerankAnswer {
    /// For a request with `texts`.
    Texts(Vec<tei::rerank::Rank>),
    /// For a request with `documents`.
    Documents(cohere::rerank::RerankResponse),
}

/// A request in either format.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only for the OpenAPI document; handlers parse either variant")]
pub(crate) enum RerankBody {
    /// With `texts`.
    Texts(tei::rerank::RerankRequest),
    /// With `documents`.
    Documents(cohere::rerank::RerankRequest),
}

/// Ranks texts by how well they answer a query, the best first.
#[utoipa::path(
    post, path = "/rerank", tag = "text-embeddings-inference", request_body = RerankBody,
    responses((status = 200, description = "Indexes and scores, the best first", body = RerankAnswer), TeiErrors)
)]
pub(crate) async fn rerank(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        rerank_body(&app, &context, &body).await
    })
    .await
}

/// Handles a body in either format.
pub(super) async fn rerank_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    match has_documents(body) {
        true => cohere::rerank::rerank_body(app, context, body).await,
        false => tei::rerank::rerank_body(app, context, body).await,
    }
}

/// Returns whether a body is in the format of Cohere and Jina.
fn has_documents(body: &[u8]) -> bool {
    /// The fields that tell the formats apart.
    #[derive(Deserialize)]
    struct Either {
        texts: Option<serde::de::IgnoredAny>,
        documents: Option<serde::de::IgnoredAny>,
    }
    let either = serde_json::from_slice::<Either>(body);
    either.is_ok_and(|either| either.texts.is_none() && either.documents.is_some())
}
