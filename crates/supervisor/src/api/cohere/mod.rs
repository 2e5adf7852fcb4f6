//! The contracts of Cohere and Jina: reranking, and Cohere's embeddings. They have no namespace:
//! their paths are interspersed with those of OpenAI and the Open Inference Protocol.

mod embed;
mod error;
mod meta;
pub(crate) mod rerank;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract};

/// The contract of Cohere and Jina.
pub(crate) static CONTRACT: Contract = Contract { routes, namespaces: &[], render: error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(rerank::rerank_v1))
        .routes(routes!(rerank::rerank_v2))
        .routes(routes!(embed::embed_v1))
        .routes(routes!(embed::embed_v2))
}
