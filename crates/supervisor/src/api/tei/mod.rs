//! The contract of text-embeddings-inference, one file per kind of call. Ignores unknown request
//! fields, as TEI does. Its error format applies to all paths that belong to no other contract.

pub(crate) mod embed;
pub(crate) mod entities;
pub(crate) mod error;
pub(crate) mod health;
mod info;
pub(crate) mod predict;
pub(crate) mod rerank;
pub(crate) mod similarity;
pub(crate) mod sparse;
mod tokens;
pub(crate) mod zero_shot;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract};

/// The contract of text-embeddings-inference.
pub(crate) static CONTRACT: Contract =
    Contract { routes, namespaces: &["/"], render: error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health::root))
        .routes(routes!(health::tei))
        .routes(routes!(health::ping))
        .routes(routes!(info::info))
        .routes(routes!(embed::embed))
        .routes(routes!(embed::embed_all))
        .routes(routes!(sparse::embed_sparse))
        .routes(routes!(similarity::similarity))
        .routes(routes!(predict::predict))
        .routes(routes!(entities::token_classification))
        .routes(routes!(zero_shot::zero_shot_classification))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::decode))
}
