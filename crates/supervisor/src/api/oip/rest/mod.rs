//! The Open Inference Protocol over HTTP, with Triton's extensions: binary tensor data, statistics,
//! model configuration. Parses and renders; see [`crate::api::oip`] for the shared part.

pub(crate) mod binary;
mod bounded_list;
pub(crate) mod elements;
pub(crate) mod error;
pub(crate) mod health;
mod infer;
mod metadata;
pub(crate) mod paths;
pub(crate) mod repository;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{app::App, contract::Contract};

/// The contract of the Open Inference Protocol over HTTP.
pub(crate) static CONTRACT: Contract =
    Contract { routes, namespaces: &["/v2/"], render: error::render };

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metadata::server))
        .routes(routes!(metadata::models))
        .routes(routes!(metadata::all_statistics))
        .routes(routes!(metadata::model))
        .routes(routes!(metadata::model_version))
        .routes(routes!(metadata::ready))
        .routes(routes!(metadata::ready_version))
        .routes(routes!(metadata::config))
        .routes(routes!(metadata::config_version))
        .routes(routes!(metadata::statistics))
        .routes(routes!(metadata::statistics_version))
        .routes(routes!(infer::infer))
        .routes(routes!(infer::infer_version))
}
