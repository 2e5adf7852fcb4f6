//! `/zero_shot_classification`: classifies by labels from the request instead of the model's, in
//! the format of Hugging Face's clients.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::{
    RequestContext,
    engine::labels::{LabelScore, ZeroShot},
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::Fault,
        inputs::Texts,
        numbers::Finite,
        options::{Options, TruncationDirection},
        request::{check_count, context, parse},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

/// The default hypothesis.
const TEMPLATE: &str = "This example is {}.";

/// Texts to classify by the request's labels.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ZeroShotRequest {
    inputs: Texts,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Truncate texts that are too long instead of rejecting them. Default: true.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    parameters: ZeroShotParameters,
}

/// Parameters as Hugging Face's clients send them. Unknown ones are rejected.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ZeroShotParameters {
    /// A list of labels, or a string of labels separated by commas.
    candidate_labels: Texts,
    /// A sentence with `{}` in place of the label. Default: "This example is {}."
    hypothesis_template: Option<String>,
    /// Score each label independently, instead of scores that sum to 1.
    multi_label: Option<bool>,
}

impl ZeroShotParameters {
    fn labels(labels: Texts) -> Vec<String> {
        match labels {
            Texts::Several(labels) => labels,
            Texts::One(labels) => {
                let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
                labels.map(str::to_owned).collect()
            }
        }
    }
}

/// A label of the request, and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScoredLabel<'l> {
    label: &'l str,
    #[schema(value_type = f32)]
    score: Finite<f32>,
}

/// The labels of one text, or of each of several, the most likely first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ScoredLabels<'l> {
    /// Labels of one text.
    One(Vec<ScoredLabel<'l>>),
    /// Labels of several texts.
    Several(Vec<Vec<ScoredLabel<'l>>>),
}

/// Scores the request's labels for texts, the most likely first, in the format of Hugging Face's
/// inference API.
#[utoipa::path(
    post, path = "/zero_shot_classification", tag = "huggingface", request_body = ZeroShotRequest,
    responses((status = 200, description = "The labels with their scores", body = ScoredLabels<'static>), TeiErrors)
)]
pub(crate) async fn zero_shot_classification(
    State(app): State<App>,
    request: Request<Body>,
) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        zero_shot_body(&app, &context, &body).await
    })
    .await
}

/// Handles the body of `/zero_shot_classification`.
pub(crate) async fn zero_shot_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: ZeroShotRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let is_single = matches!(request.inputs, Texts::One(_));
    let texts = request.inputs.into_list();
    check_count(texts.len(), app.client_batch, "inputs")?;
    let (truncate, truncation_direction) = (request.truncate, request.truncation_direction);
    let parameters = request.parameters;
    let labels = ZeroShotParameters::labels(parameters.candidate_labels);
    let zero_shot = ZeroShot {
        texts,
        field: "inputs",
        labels: labels.clone(),
        template: parameters.hypothesis_template.unwrap_or_else(|| TEMPLATE.to_owned()),
        multi_label: parameters.multi_label.unwrap_or(false),
        options: Options { truncate, truncation_direction, ..Options::default() }.into(),
    };
    let answer = app.engine.zero_shot(context, model, zero_shot).await?;
    let label = |LabelScore { label, score }: &LabelScore| ScoredLabel {
        label: &labels[*label],
        score: Finite(*score),
    };
    let scored_labels = |scores: &Vec<LabelScore>| scores.iter().map(label).collect();
    let mut all: Vec<Vec<ScoredLabel<'_>>> = answer.output.iter().map(scored_labels).collect();
    let body = match (is_single, all.pop()) {
        (true, Some(one)) => ScoredLabels::One(one),
        (_, last) => ScoredLabels::Several(all.into_iter().chain(last).collect()),
    };
    answer::json(app.engine.memory(), &answer.origin, &body, 0)
}

/// Returns whether a body has its own labels, for routes that serve both calls.
pub(crate) fn is_zero_shot(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct FormatFields {
        parameters: Option<Labels>,
    }
    #[derive(Deserialize)]
    struct Labels {
        candidate_labels: Option<IgnoredAny>,
    }
    let peek = serde_json::from_slice::<FormatFields>(body).ok();
    let parameters = peek.and_then(|peek| peek.parameters);
    parameters.is_some_and(|parameters| parameters.candidate_labels.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_list_or_separated_by_commas() {
        let labels = |json| ZeroShotParameters::labels(serde_json::from_str(json).unwrap());
        assert_eq!(labels(r#""a b, c,,""#), ["a b", "c"]);
        assert_eq!(labels(r#"["a, b", "c"]"#), ["a, b", "c"]);
        assert!(labels(r#"" ,""#).is_empty());
    }

    #[test]
    fn zero_shot_bodies_are_recognized_by_their_labels() {
        for (body, expected) in [
            (r#"{"inputs": "a", "parameters": {"candidate_labels": ["b"]}}"#, true),
            (r#"{"inputs": "a", "parameters": {"top_k": 1}}"#, false),
            (r#"{"inputs": "a", "parameters": null}"#, false),
            (r#"{"inputs": "a"}"#, false),
            ("[", false),
        ] {
            assert_eq!(is_zero_shot(body.as_bytes()), expected, "{body}");
        }
    }
}
