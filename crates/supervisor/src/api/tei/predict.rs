//! `/predict`: the labels of texts, or of pairs of texts, with their scores.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::{
    RequestContext,
    engine::{
        scores::ranked,
        texts::{Classify, TextOrPair as Input},
    },
};
use onnxd_proto::domain::Facts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::{Class, Fault},
        inputs::{Classified, TextOrPair},
        request::{check_count, context, parse},
        tei::{
            error::{TeiErrors, respond},
            options::{TruncationDirection, options},
        },
    },
    transport::bodies::read_body,
};

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
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        predict_body(&app, &context, &body).await
    })
    .await
}

/// Answers the body of `/predict`.
pub(crate) async fn predict_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: PredictRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let options = options(request.truncate, request.truncation_direction, None);
    let (inputs, single) = match request.inputs {
        Classified::Text(text) => (vec![TextOrPair::Text(text)], true),
        Classified::One(list) if list.is_empty() => (Vec::new(), true),
        Classified::One(list) => (vec![TextOrPair::List(list)], true),
        Classified::Several(several) => (several, false),
    };
    check_count(inputs.len(), app.client_batch, "inputs")?;
    let inputs = inputs.into_iter().map(input).collect::<Result<_, Fault>>()?;
    let classify = Classify { inputs, field: "inputs", options, raw_scores: request.raw_scores };
    let answer = app.engine.classify(context, model, classify).await?;
    let facts = &answer.origin.record.facts;
    let mut all: Vec<_> = answer.output.iter().map(|scores| predictions(scores, facts)).collect();
    let body = match (single, all.pop()) {
        (true, Some(one)) => Predictions::One(one),
        (_, last) => Predictions::Several(all.into_iter().chain(last).collect()),
    };
    answer::json(app.engine.memory(), &answer.origin, &body, 0)
}

fn input(input: TextOrPair) -> Result<Input, Fault> {
    let list = match input {
        TextOrPair::Text(text) => vec![text],
        TextOrPair::List(list) => list,
    };
    match <[String; 2]>::try_from(list) {
        Ok([first, second]) => Ok(Input::Pair(first, second)),
        Err(mut list) => match (list.pop(), list.len()) {
            (Some(text), 0) => Ok(Input::Text(text)),
            _ => {
                let message = "`inputs` must be texts or pairs of two texts";
                Err(Fault::new(Class::INVALID, message).about("inputs"))
            }
        },
    }
}

fn predictions(scores: &[f32], facts: &Facts) -> Vec<Prediction> {
    let label = |index: usize| facts.labels.get(index).cloned().unwrap_or_default();
    let ranked = ranked(scores).into_iter();
    ranked.map(|index| Prediction { score: scores[index], label: label(index) }).collect()
}
