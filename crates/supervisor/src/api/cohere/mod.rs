//! The contracts of Cohere and Jina: reranking, and Cohere's embedding. Their paths lie among those of
//! OpenAI and the Open Inference Protocol, so that they have no namespace.

mod embed;
mod error;
mod meta;
pub(crate) mod rerank;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract};

/// What their clients send and expect.
pub(crate) static CONTRACT: Contract = Contract { routes, namespaces: &[], render: error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(rerank::rerank_v1))
        .routes(routes!(rerank::rerank_v2))
        .routes(routes!(embed::embed_v1))
        .routes(routes!(embed::embed_v2))
}
