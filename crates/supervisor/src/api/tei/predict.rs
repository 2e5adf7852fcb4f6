//! `/predict`: labels with scores, for texts or pairs of texts.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::{
    RequestContext,
    engine::{
        labels::{Classify, Scored},
        scores::ranked,
        texts::TextOrPair as Input,
    },
};
use onnxd_proto::domain::{Activation, Facts};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::{Class, Fault},
        inputs::{Classified, TextOrPair},
        options::{Options, TruncationDirection},
        request::{check_count, context, parse},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

/// Texts to classify.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PredictRequest {
    inputs: Classified,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Truncate texts that are too long instead of rejecting them. Default: true.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// Return the model's raw scores instead of scores between 0 and 1.
    #[serde(default)]
    raw_scores: bool,
    /// Parameters as Hugging Face's clients send them. Unknown ones are rejected.
    #[serde(default)]
    #[schema(value_type = Option<PredictParameters>)]
    parameters: Option<PredictParameters>,
}

/// Parameters of a classification, as Hugging Face's clients send them.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PredictParameters {
    /// Return only the `top_k` most likely labels.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
    /// The function from the model's output to scores. Default: the one that the model's files
    /// name.
    function_to_apply: Option<Function>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Function {
    Sigmoid,
    Softmax,
    None,
}

impl PredictParameters {
    /// Returns whether the response has the form of Hugging Face's API: a list per text, even for a
    /// single one. TEI has no parameters and no such list.
    fn is_nested(self) -> bool {
        self.top_k.is_some() || self.function_to_apply.is_some()
    }

    fn activation(self) -> Option<Activation> {
        Some(match self.function_to_apply? {
            Function::Sigmoid => Activation::Sigmoid,
            Function::Softmax => Activation::Softmax,
            Function::None => Activation::Identity,
        })
    }
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
    /// Labels of a text or a pair.
    One(Vec<Prediction>),
    /// Labels of several texts or pairs.
    Several(Vec<Vec<Prediction>>),
}

/// Classifies texts or pairs of texts. Returns the most likely label first.
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

/// Handles the body of `/predict`.
pub(crate) async fn predict_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: PredictRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let PredictRequest { truncate, truncation_direction, .. } = request;
    let options = Options { truncate, truncation_direction, ..Options::default() }.into();
    let parameters = request.parameters.unwrap_or_default();
    if parameters.top_k == Some(0) {
        return Err(Fault::new(Class::INVALID, "`top_k` must be at least 1").about("top_k"));
    }
    let (inputs, single) = match request.inputs {
        Classified::Text(text) => (vec![TextOrPair::Text(text)], true),
        Classified::One(list) if list.is_empty() => (Vec::new(), true),
        Classified::One(list) => (vec![TextOrPair::List(list)], true),
        Classified::Several(several) => (several, false),
    };
    check_count(inputs.len(), app.client_batch, "inputs")?;
    let inputs = inputs.into_iter().map(input).collect::<Result<_, Fault>>()?;
    let raw = request.raw_scores.then_some(Activation::Identity);
    let activation = parameters.activation().or(raw);
    let classify = Classify { inputs, field: "inputs", options, activation };
    let answer = app.engine.classify(context, model, classify).await?;
    let facts = &answer.origin.record.facts;
    let top_k = parameters.top_k.unwrap_or(usize::MAX);
    let predictions_of = |scored: &Scored| predictions(scored, facts, top_k);
    let mut all: Vec<_> = answer.output.iter().map(predictions_of).collect();
    let body = match (single && !parameters.is_nested(), all.pop()) {
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

fn predictions(scored: &Scored, facts: &Facts, top_k: usize) -> Vec<Prediction> {
    let Scored { raw, scores } = scored;
    let label = |index: usize| facts.labels.get(index).cloned().unwrap_or_default();
    let ranked = ranked(raw).into_iter().take(top_k);
    ranked.map(|index| Prediction { score: scores[index], label: label(index) }).collect()
}
