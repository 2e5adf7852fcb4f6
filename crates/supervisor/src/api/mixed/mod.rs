//! Routes that several contracts share. The body or the model decides which contract applies.

mod rerank;
mod root;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract, tei};

/// Renders errors in the format of text-embeddings-inference.
pub(crate) static CONTRACT: Contract =
    Contract { routes, namespaces: &[], render: tei::error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(root::root)).routes(routes!(rerank::rerank))
}
