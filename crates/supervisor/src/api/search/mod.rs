//! onnxd's own routes of search: `POST /search` embeds and finds in one call, and `/documents`
//! exports and imports collections as JSON lines. Errors are in the format of
//! text-embeddings-inference. Collections are created as with Qdrant.

pub(crate) mod answer;
mod documents;
pub(crate) mod foreign;
mod plain;

use axum::middleware;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract, tei};

/// The contract of onnxd's own routes of search.
pub(crate) static CONTRACT: Contract =
    Contract { routes, namespaces: &["/search"], render: tei::error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(plain::search))
        .routes(routes!(documents::export, documents::import))
        .layer(middleware::from_fn_with_state(CONTRACT.render, foreign::refuse))
}
