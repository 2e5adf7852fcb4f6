//! `/rerank` in the format of text-embeddings-inference. [`crate::api::mixed`] has the route, which
//! other contracts share.

use axum::{body::Body, http::Response};
use onnxd_engine::{
    RequestContext,
    engine::{
        labels::Rerank,
        scores::{ranked, sigmoid},
    },
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{
    answer,
    app::App,
    error::Fault,
    options::{Options, TruncationDirection},
    request::{NoParameters, check_count, parse},
};

/// Texts to rank.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RerankRequest {
    query: String,
    texts: Vec<String>,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Truncate texts that are too long instead of rejecting them. Default: true.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// Return the model's raw scores instead of scores between 0 and 1.
    #[serde(default)]
    raw_scores: bool,
    /// Include the texts in the response.
    #[serde(default)]
    return_text: bool,
    /// Accepts no parameters; any is rejected.
    #[serde(default, rename = "parameters")]
    _parameters: Option<NoParameters>,
}

/// A text's index in the request, and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rank {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Handles the body of `/rerank`.
pub(crate) async fn rerank_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: RerankRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let texts = &request.texts;
    check_count(texts.len(), app.client_batch, "texts")?;
    let RerankRequest { truncate, truncation_direction, .. } = request;
    let options = Options { truncate, truncation_direction, ..Options::default() }.into();
    let rerank = Rerank { query: request.query, texts, field: "texts", options };
    let answer = app.engine.rerank(context, model, rerank).await?;
    let scores = &answer.output;
    let rank = |index: usize| Rank {
        index,
        score: if request.raw_scores { scores[index] } else { sigmoid(scores[index]) },
        text: request.return_text.then(|| texts[index].clone()),
    };
    let ranks: Vec<Rank> = ranked(scores).into_iter().map(rank).collect();
    answer::json(app.engine.memory(), &answer.origin, &ranks, 0)
}
