//! `/rerank` in the words of text-embeddings-inference: how well texts answer a query. The route is
//! shared with other contracts, see [`crate::api::mixed`].

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

/// Texts to put in order.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RerankRequest {
    query: String,
    texts: Vec<String>,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// Scores as the model gives them, rather than between 0 and 1.
    #[serde(default)]
    raw_scores: bool,
    /// Whether the texts are in the answer.
    #[serde(default)]
    return_text: bool,
    /// There are none; any is refused.
    #[serde(default, rename = "parameters")]
    _parameters: Option<NoParameters>,
}

/// A text's place in the request, and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rank {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Answers the body of `/rerank`.
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
