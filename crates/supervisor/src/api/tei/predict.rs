//! `/predict`: the labels of texts, or of pairs of texts, with their scores.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use bytes::Bytes;
use onnxd_proto::{
    domain::{Facts, Task},
    wire::ask::Want,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        error::{ApiError, Contract, Kind, TeiErrors},
        inference::{
            Begun, TextOptions, TruncationDirection, check_count, check_length, find_model, parse,
        },
        inputs::{Classified, TextOrIds, TextOrPair},
        router::{App, respond},
        scores::{activate, floats, ranked},
    },
    transport::bodies::read_body,
};
use onnxd_engine::dispatch::Input;

/// Texts to classify.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PredictRequest {
    inputs: Classified,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// Scores as the model gives them, rather than between 0 and 1.
    #[serde(default)]
    raw_scores: bool,
}

/// A label and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prediction {
    score: f32,
    label: String,
}

/// The labels of one input, or of each of several, the most likely first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Predictions {
    /// Of a text or a pair.
    One(Vec<Prediction>),
    /// Of each of a list of them.
    Several(Vec<Vec<Prediction>>),
}

/// The labels of texts or pairs of texts, the most likely first.
#[utoipa::path(
    post, path = "/predict", tag = "text-embeddings-inference", request_body = PredictRequest,
    responses((status = 200, description = "Labels with scores", body = Predictions), TeiErrors)
)]
pub(crate) async fn predict(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, async {
        let begun = Begun::new(request.headers())?;
        let body = read_body(&app, request).await?;
        predict_body(&app, begun, &body).await
    })
    .await
}

/// Answers the body of `/predict`.
pub(super) async fn predict_body(
    app: &App,
    begun: Begun,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let request: PredictRequest = parse(body)?;
    let model = find_model(app, request.model.as_deref())?;
    let options = TextOptions::new(request.truncate, request.truncation_direction, None);
    let (inputs, single) = match request.inputs {
        Classified::Text(text) => (vec![TextOrPair::Text(text)], true),
        Classified::One(list) if list.is_empty() => (Vec::new(), true),
        Classified::One(list) => (vec![TextOrPair::List(list)], true),
        Classified::Several(several) => (several, false),
    };
    check_count(inputs.len(), app.limits.client_batch, "inputs")?;
    let inputs = inputs.into_iter().map(|input| item(input, &options));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let inference = begun.run(app, model, &[Task::Classify, Task::Rerank], inputs).await?;
    let facts = &inference.record.facts;
    let items = inference.answer.items.iter();
    let mut all: Vec<_> =
        items.map(|item| predictions(&item.bytes, facts, request.raw_scores)).collect();
    let body = match (single, all.pop()) {
        (true, Some(one)) => Predictions::One(one),
        (_, last) => Predictions::Several(all.into_iter().chain(last).collect()),
    };
    inference.json(serde_json::to_vec(&body).expect("labels and finite scores are JSON"))
}

fn item(input: TextOrPair, options: &TextOptions) -> Result<Input, ApiError> {
    let list = match input {
        TextOrPair::Text(text) => vec![text],
        TextOrPair::List(list) => list,
    };
    check_length(list.iter().map(String::len).sum(), "inputs")?;
    match <[String; 2]>::try_from(list) {
        Ok([first, second]) => Ok(options.pair(&Bytes::from(first), second.into(), Want::Scores)),
        Err(mut list) => match (list.pop(), list.len()) {
            (Some(text), 0) => Ok(options.item(TextOrIds::Text(text), Want::Scores)),
            _ => {
                let message = "`inputs` must be texts or pairs of two texts";
                Err(ApiError::new(Kind::Validation, message).about("inputs"))
            }
        },
    }
}

fn predictions(bytes: &[u8], facts: &Facts, raw: bool) -> Vec<Prediction> {
    let mut scores = floats(bytes);
    if !raw {
        activate(&mut scores, facts.activation);
    }
    let label = |place: usize| facts.labels.get(place).cloned().unwrap_or_default();
    let ranked = ranked(&scores).into_iter();
    ranked.map(|place| Prediction { score: scores[place], label: label(place) }).collect()
}
