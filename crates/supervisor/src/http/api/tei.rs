//! The contract of text-embeddings-inference: `/embed` and `/info`. Fields that a request has and
//! this server does not know are ignored, as TEI does.

use axum::{
    body::Body,
    extract::{Query, State},
    http::{Request, Response},
    response::IntoResponse,
};
use onnxd_proto::message::Pooling;
use serde::Deserialize;
use serde_json::json;

use super::{
    embedding::{
        INPUTS_MAX, answered, asked_timeout, check_inputs, embed as embed_texts, find_model, parse,
    },
    inputs::Inputs,
    numbers::push_numbers,
};
use crate::http::{
    error::{ApiError, Contract, Kind, axum_json},
    router::{App, read_body, respond},
};

/// `POST /embed`.
#[derive(Debug, Deserialize)]
struct EmbedRequest {
    inputs: Inputs,
    /// Beyond TEI: which of several models.
    model: Option<String>,
    normalize: Option<bool>,
    truncate: Option<bool>,
}

/// `POST /embed`: a list with one embedding for each input, also for a single string.
pub(crate) async fn embed(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, try_embed(&app, request).await)
}

async fn try_embed(app: &App, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let timeout = asked_timeout(request.headers())?;
    let request: EmbedRequest = parse(&read_body(request).await?)?;
    let model = find_model(app, request.model.as_deref())?;
    let truncate = request.truncate.unwrap_or(true);
    let inputs = check_inputs(request.inputs, "inputs", request.normalize, truncate)?;
    let (answer, record) = embed_texts(app, model, inputs, timeout).await?;
    let mut body = vec![b'['];
    for (place, embedding) in answer.embeddings.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        push_numbers(&mut body, embedding)?;
    }
    body.push(b']');
    Ok(answered(model, &answer, &record, body))
}

/// The query of `GET /info`.
#[derive(Debug, Deserialize)]
pub(crate) struct InfoQuery {
    /// Beyond TEI: which of several models.
    model: Option<String>,
}

/// `GET /info`.
pub(crate) async fn info(State(app): State<App>, Query(query): Query<InfoQuery>) -> Response<Body> {
    respond(Contract::Tei, try_info(&app, query.model.as_deref()))
}

fn try_info(app: &App, name: Option<&str>) -> Result<Response<Body>, ApiError> {
    let model = find_model(app, name)?;
    let (generation, record) = model
        .serving()
        .ok_or_else(|| ApiError::new(Kind::Unhealthy, "the model is not loaded yet"))?;
    let pooling = match record.facts.pooling {
        Pooling::Mean => "mean",
        Pooling::Cls => "cls",
        Pooling::None => "none",
    };
    let info = json!({
        "model_id": model.source,
        "model_sha": record.version,
        "model_dtype": "float32",
        "served_model_name": model.name,
        "model_type": { "embedding": { "pooling": pooling } },
        "max_concurrent_requests": app.dispatch.items_max(),
        "max_input_length": record.facts.max_tokens,
        "max_batch_tokens": u64::from(record.facts.max_tokens) * INPUTS_MAX as u64,
        "max_batch_requests": null,
        "max_client_batch_size": INPUTS_MAX,
        "auto_truncate": true,
        "tokenization_workers": app.workers,
        "version": env!("CARGO_PKG_VERSION"),
        "sha": onnxd_proto::BUILD_ID,
        "docker_label": null,
        "generation": generation,
        "dimension": record.facts.dimension,
    });
    Ok(axum_json(&info).into_response())
}
