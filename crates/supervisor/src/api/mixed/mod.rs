//! Routes that several contracts share: the body or the model decides whose words are meant.

mod rerank;
mod root;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract, tei};

/// Their errors are in the words of text-embeddings-inference.
pub(crate) static CONTRACT: Contract =
    Contract { routes, namespaces: &[], render: tei::error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(root::root)).routes(routes!(rerank::rerank))
}
