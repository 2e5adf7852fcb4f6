//! OpenAI's contract: `/v1/embeddings`, `/v1/models`, and search in `/v1/vector_stores`.

mod embeddings;
mod error;
mod filters;
mod models;
mod vector_stores;

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
        .routes(routes!(vector_stores::vector_stores))
        .routes(routes!(vector_stores::vector_store))
        .routes(routes!(vector_stores::search_vector_store))
}
