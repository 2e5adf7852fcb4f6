//! `/v1/models`.

use axum::{
    body::Body,
    extract::{Path, State},
    http::Response,
    response::IntoResponse,
};
use onnxd_engine::models::registry::Model;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::api::{
    app::App,
    error::axum_json,
    openai::error::{OpenAiErrors, respond},
};

/// The served models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// "list".
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A served model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelObject {
    id: String,
    /// "model".
    object: &'static str,
    /// Creation time. Unknown, so always 0.
    created: u64,
    owned_by: &'static str,
}

impl ModelObject {
    fn new(model: &Model) -> Self {
        Self { id: model.name.to_string(), object: "model", created: 0, owned_by: "onnxd" }
    }
}

/// Lists all served models.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses((status = 200, description = "All served models", body = ModelList), OpenAiErrors)
)]
pub(crate) async fn models(State(app): State<App>) -> Response<Body> {
    let data = app.engine.models().iter().map(|model| ModelObject::new(model)).collect();
    axum_json(&json!(ModelList { object: "list", data })).into_response()
}

/// Returns one served model.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The model", body = ModelObject), OpenAiErrors)
)]
pub(crate) async fn model(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    respond(async {
        let model = app.engine.find(Some(&name))?;
        Ok(axum_json(&json!(ModelObject::new(model))).into_response())
    })
    .await
}

/// Returns one served model whose name has a slash, which clients of OpenAI do not escape.
#[utoipa::path(
    get, path = "/v1/models/{organization}/{model}", tag = "openai",
    params(
        ("organization" = String, Path, description = "The model's name up to the slash"),
        ("model" = String, Path, description = "The model's name after the slash")
    ),
    responses((status = 200, description = "The model", body = ModelObject), OpenAiErrors)
)]
pub(crate) async fn model_of_organization(
    state: State<App>,
    Path((organization, name)): Path<(String, String)>,
) -> Response<Body> {
    model(state, Path(format!("{organization}/{name}"))).await
}
