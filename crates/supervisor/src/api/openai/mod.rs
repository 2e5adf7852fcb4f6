//! OpenAI's contract: `/v1/embeddings` and `/v1/models`.

mod embeddings;
mod error;
mod models;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract};

/// OpenAI's contract.
pub(crate) static CONTRACT: Contract =
    Contract { routes, namespaces: &["/v1/"], render: error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(embeddings::embeddings_short))
        .routes(routes!(models::models))
        .routes(routes!(models::model))
        .routes(routes!(models::model_of_organization))
}
