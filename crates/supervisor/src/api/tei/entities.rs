//! `/token_classification`: entities that a token classifier finds in texts, in the format of
//! Hugging Face's clients.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::{
    RequestContext,
    engine::labels::{Aggregation, Entity, FindEntities},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::{Class, Fault},
        inputs::Texts,
        numbers::Finite,
        options::{Options, TruncationDirection},
        request::{check_count, context, parse},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

/// Approximate length of one entity in JSON.
const ENTITY_BYTES: usize = 96;

/// Texts to find entities in.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EntitiesRequest {
    inputs: Texts,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Truncate texts that are too long instead of rejecting them. Default: true.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    #[serde(default)]
    #[schema(value_type = Option<EntitiesParameters>)]
    parameters: Option<EntitiesParameters>,
}

/// Parameters as Hugging Face's clients send them. Unknown ones are rejected.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntitiesParameters {
    /// How tokens are merged into entities. Default: `simple`.
    aggregation_strategy: Option<Strategy>,
    /// Labels to leave out. Default: `O`.
    ignore_labels: Option<Vec<String>>,
    /// Overlap between parts of a long text, in tokens. Only 0 is supported: texts are not split.
    stride: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    None,
    #[default]
    Simple,
    First,
    Average,
    Max,
}

impl From<Strategy> for Aggregation {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::None => Self::None,
            Strategy::Simple => Self::Simple,
            Strategy::First => Self::First,
            Strategy::Average => Self::Average,
            Strategy::Max => Self::Max,
        }
    }
}

/// An entity, or a labeled token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FoundEntity {
    /// The label of a token; only for the strategy `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<String>,
    /// The label of an entity.
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_group: Option<String>,
    #[schema(value_type = f32)]
    score: Finite<f32>,
    /// The token's index in the text; only for the strategy `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    word: String,
    /// Where the entity begins in the text, in characters.
    start: usize,
    /// Where the entity ends, in characters.
    end: usize,
}

impl FoundEntity {
    fn new(entity: Entity, strategy: Strategy) -> Self {
        let Entity { label, score, word, start, stop, index } = entity;
        let (score, end) = (Finite(score), stop);
        match strategy {
            Strategy::None => {
                Self { entity: Some(label), entity_group: None, score, index, word, start, end }
            }
            _ => Self {
                entity: None,
                entity_group: Some(label),
                score,
                index: None,
                word,
                start,
                end,
            },
        }
    }
}

/// The entities of one text, or of several.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum FoundEntities {
    /// Entities of one text.
    One(Vec<FoundEntity>),
    /// Entities of several texts.
    Several(Vec<Vec<FoundEntity>>),
}

/// Finds entities in texts, in the format of Hugging Face's inference API.
#[utoipa::path(
    post, path = "/token_classification", tag = "huggingface", request_body = EntitiesRequest,
    responses((status = 200, description = "The entities of one text, or of each text", body = FoundEntities), TeiErrors)
)]
pub(crate) async fn token_classification(
    State(app): State<App>,
    request: Request<Body>,
) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        entities_body(&app, &context, &body).await
    })
    .await
}

/// Handles the body of `/token_classification`.
pub(crate) async fn entities_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: EntitiesRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let is_single = matches!(request.inputs, Texts::One(_));
    let texts = request.inputs.into_list();
    check_count(texts.len(), app.client_batch, "inputs")?;
    let EntitiesParameters { aggregation_strategy, ignore_labels, stride } =
        request.parameters.unwrap_or_default();
    if stride.is_some_and(|stride| stride > 0) {
        let message = "`stride` is not supported because long texts are truncated, not split; send the parts \
                       as separate texts";
        return Err(Fault::new(Class::INVALID, message).about("stride"));
    }
    let ignored = ignore_labels.unwrap_or_else(|| vec!["O".to_owned()]);
    let (truncate, truncation_direction) = (request.truncate, request.truncation_direction);
    let options = Options { truncate, truncation_direction, ..Options::default() }.into();
    let strategy = aggregation_strategy.unwrap_or_default();
    let find = FindEntities { texts, field: "inputs", options, aggregation: strategy.into() };
    let answer = app.engine.find_entities(context, model, find).await?;
    let count: usize = answer.output.iter().map(Vec::len).sum();
    // Drop labels after merging. Dropped earlier, the tokens between entities would no longer
    // separate them.
    let found = |entities: Vec<Entity>| {
        let kept = entities.into_iter().filter(|entity| !ignored.contains(&entity.label));
        kept.map(|entity| FoundEntity::new(entity, strategy)).collect()
    };
    let mut all: Vec<Vec<FoundEntity>> = answer.output.into_iter().map(found).collect();
    let body = match (is_single, all.pop()) {
        (true, Some(one)) => FoundEntities::One(one),
        (_, last) => FoundEntities::Several(all.into_iter().chain(last).collect()),
    };
    answer::json(app.engine.memory(), &answer.origin, &body, count * ENTITY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_an_index_and_entities_a_group() {
        let entity = |index| Entity {
            label: "PER".into(),
            score: 0.5,
            word: "Ada".into(),
            start: 1,
            stop: 4,
            index,
        };
        let json = |index, strategy| {
            serde_json::to_string(&FoundEntity::new(entity(index), strategy)).unwrap()
        };
        assert_eq!(
            json(Some(2), Strategy::None),
            r#"{"entity":"PER","score":0.5,"index":2,"word":"Ada","start":1,"end":4}"#
        );
        assert_eq!(
            json(None, Strategy::Max),
            r#"{"entity_group":"PER","score":0.5,"word":"Ada","start":1,"end":4}"#
        );
    }

    #[test]
    fn unknown_parameters_are_rejected_by_name() {
        let body = r#"{"inputs": "a", "parameters": {"grouped_entities": true}}"#;
        let fault = parse::<EntitiesRequest>(body.as_bytes()).unwrap_err();
        assert!(fault.message.contains("grouped_entities"), "{}", fault.message);
        for parameters in ["null", "{}", r#"{"stride": null, "ignore_labels": []}"#] {
            let body = format!(r#"{{"inputs": ["a"], "parameters": {parameters}}}"#);
            assert!(parse::<EntitiesRequest>(body.as_bytes()).is_ok(), "{parameters}");
        }
    }
}
