//! Qdrant's REST interface to collections, points, queries and aliases. Texts are embedded by the
//! served models. What would change results and is not supported is refused, never ignored.
//!
//! - `collections`, `points`, `changes`, `queries`, `groups`, `aliases`: the routes.
//! - `settings`, `upsert`, `query`, `diversity`, `filter`, `vectors`, `ids`, `payloads`: what clients send and
//!   get. Pure.

mod aliases;
mod changes;
mod collections;
mod diversity;
mod error;
pub(crate) mod filter;
mod groups;
pub(crate) mod ids;
mod payloads;
mod points;
mod queries;
mod query;
mod settings;
mod upsert;
mod vectors;

use axum::middleware;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract, search::foreign};

/// Qdrant's contract.
pub(crate) static CONTRACT: Contract =
    Contract { routes, namespaces: &["/collections", "/aliases"], render: error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(collections::collections))
        .routes(routes!(
            collections::collection,
            collections::create_collection,
            collections::update_collection,
            collections::delete_collection
        ))
        .routes(routes!(collections::collection_exists))
        .routes(routes!(changes::create_index))
        .routes(routes!(changes::delete_index))
        .routes(routes!(points::upsert_points, points::retrieve_points))
        .routes(routes!(points::point))
        .routes(routes!(points::delete_points))
        .routes(routes!(points::scroll_points))
        .routes(routes!(points::count_points))
        .routes(routes!(changes::set_payload, changes::overwrite_payload))
        .routes(routes!(changes::delete_payload))
        .routes(routes!(changes::clear_payload))
        .routes(routes!(changes::batch_update))
        .routes(routes!(queries::query_points))
        .routes(routes!(queries::query_batch))
        .routes(routes!(groups::query_groups))
        .routes(routes!(queries::search_points))
        .routes(routes!(queries::search_batch))
        .routes(routes!(aliases::change_aliases))
        .routes(routes!(aliases::aliases))
        .routes(routes!(aliases::collection_aliases))
        .layer(middleware::from_fn_with_state(CONTRACT.render, foreign::refuse))
}
