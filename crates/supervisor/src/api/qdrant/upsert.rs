//! Points to add: as a list, or as lists of ids, vectors and payloads.

use std::collections::BTreeMap;

use onnxd_engine::RequestContext;
use onnxd_proto::search::Settings;
use onnxd_search::{Content, NewDocument, Search};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::{
    error::Fault,
    qdrant::{
        error::wrong,
        ids::PointId,
        settings::vector_name,
        vectors::{Embeddable, Given, raw},
    },
};

/// Points to add or replace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upsert {
    /// The points.
    points: Option<Vec<Point>>,
    /// The points, as lists of the same length.
    batch: Option<Batch>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
    /// Refused.
    #[schema(value_type = Option<Object>)]
    update_filter: Option<Value>,
    /// Only `upsert` is supported.
    update_mode: Option<String>,
}

/// A point to add or replace.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QdrantPoint)]
#[serde(deny_unknown_fields)]
pub(crate) struct Point {
    id: PointId,
    vector: Given,
    #[schema(value_type = Option<Object>)]
    payload: Option<Map<String, Value>>,
}

/// Points as lists of the same length.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QdrantBatch)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    ids: Vec<PointId>,
    vectors: BatchVectors,
    #[schema(value_type = Option<Vec<Object>>)]
    payloads: Option<Vec<Option<Map<String, Value>>>>,
}

/// Vectors of several points.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QdrantBatchVectors)]
#[serde(
    untagged,
    expecting = "a list of vectors, or an object with such a list by the vector's name"
)]
enum BatchVectors {
    /// One for each point.
    Unnamed(Vec<Given>),
    /// One for each point, by the vector's name.
    Named(BTreeMap<String, Vec<Given>>),
}

/// Adds or replaces points. `version` made those vectors that are not texts, if it is known.
pub(super) async fn put(
    search: &Search,
    context: &RequestContext,
    (collection, version): (&str, Option<&str>),
    upsert: Upsert,
) -> Result<(), Fault> {
    let (name, settings) = search.settings(collection).await?;
    let (documents, model) = documents(&settings, version, upsert)?;
    if !documents.is_empty() {
        search.put(context, &name, model.as_deref(), documents).await?;
    }
    Ok(())
}

/// Returns the documents, and the model that their texts name.
fn documents(
    settings: &Settings,
    version: Option<&str>,
    upsert: Upsert,
) -> Result<(Vec<NewDocument>, Option<String>), Fault> {
    let Upsert { points, batch, update_filter, update_mode, .. } = upsert;
    if update_filter.is_some() || update_mode.is_some_and(|mode| mode != "upsert") {
        return Err(wrong(
            "`update_filter` and `update_mode` are not supported; points are added or replaced",
        ));
    }
    let points = match (points, batch) {
        (Some(points), None) => points,
        (None, Some(batch)) => batch.into_points()?,
        _ => return Err(wrong("expected either `points` or `batch`")),
    };
    let name = vector_name(settings);
    let (mut documents, mut model) = (Vec::with_capacity(points.len()), None::<String>);
    for Point { id, vector, payload } in points {
        let payload = payload.unwrap_or_default();
        let content = match own(vector, name.as_deref())? {
            Some(Embeddable::Vector(components)) => Content::Vector(raw(components, version)),
            Some(Embeddable::Text(given)) => {
                agree(&mut model, given.model)?;
                Content::Text(given.text)
            }
            None => Content::Text(text_of(settings, &payload, &id)?),
        };
        documents.push(NewDocument { id: id.into_document()?, content, payload });
    }
    Ok((documents, model))
}

impl Batch {
    fn into_points(self) -> Result<Vec<Point>, Fault> {
        let Self { ids, vectors, payloads } = self;
        let vectors: Vec<Given> = match vectors {
            BatchVectors::Unnamed(vectors) => vectors,
            BatchVectors::Named(named) if named.len() == 1 => {
                let with_name = |(name, vectors): (String, Vec<Given>)| {
                    let one = move |vector| Given::Object(BTreeMap::from([(name.clone(), vector)]));
                    vectors.into_iter().map(one)
                };
                named.into_iter().flat_map(with_name).collect()
            }
            BatchVectors::Named(named) => {
                return Err(wrong(format!("{} vectors by name, one is supported", named.len())));
            }
        };
        let payloads = payloads.unwrap_or_else(|| vec![None; ids.len()]);
        if ids.len() != vectors.len() || ids.len() != payloads.len() {
            return Err(wrong(format!(
                "{} ids, {} vectors and {} payloads: `batch` needs as many of each",
                ids.len(),
                vectors.len(),
                payloads.len()
            )));
        }
        let parts = ids.into_iter().zip(vectors).zip(payloads);
        Ok(parts.map(|((id, vector), payload)| Point { id, vector, payload }).collect())
    }
}

/// Returns the vector or text for the collection's only vector; `None` if there is none.
fn own(given: Given, name: Option<&str>) -> Result<Option<Embeddable>, Fault> {
    let name = name.unwrap_or_default();
    let mut named = match given {
        Given::Object(object) if !object.contains_key(name) => {
            match Given::Object(object.clone()).into_embeddable()? {
                Some(embeddable) => return Ok(Some(embeddable)),
                None => object,
            }
        }
        Given::Object(object) => object,
        given => {
            let embeddable = given.into_embeddable()?;
            return embeddable.map(Some).ok_or_else(|| {
                wrong("a vector is a list of numbers or {\"text\": …, \"model\": …}")
            });
        }
    };
    let own = named.remove(name);
    if let Some(other) = named.keys().next() {
        return Err(wrong(format!(
            "no vector is named `{other:.100}`; the collection's is `{name}`"
        )));
    }
    match own.map(Given::into_embeddable).transpose()? {
        None => Ok(None),
        Some(Some(embeddable)) => Ok(Some(embeddable)),
        Some(None) => Err(wrong(format!(
            "vector `{name}` is a list of numbers or {{\"text\": …, \"model\": …}}"
        ))),
    }
}

/// Returns the text of a point without a vector.
fn text_of(
    settings: &Settings,
    payload: &Map<String, Value>,
    id: &PointId,
) -> Result<String, Fault> {
    let field = settings.text_field.as_deref();
    let text = field.and_then(|field| payload.get(field)).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| {
        let id = match id {
            PointId::Number(number) => number.to_string(),
            PointId::Text(text) => text.clone(),
        };
        wrong(format!(
            "point {id:.100} has neither a vector nor a text; send {{\"text\": …, \"model\": …}} as its vector, or name the payload field that holds the text in the collection's metadata, {{\"text\": \"FIELD\"}}"
        ))
    })
}

fn agree(model: &mut Option<String>, named: Option<String>) -> Result<(), Fault> {
    match (&*model, named) {
        (Some(one), Some(other)) if *one != other => Err(wrong(format!(
            "the texts name two models, `{one:.100}` and `{other:.100}`; a collection has one"
        ))),
        (None, named) => {
            *model = named;
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use onnxd_proto::search::{Distance, DocumentId};
    use serde_json::json;

    use super::*;

    fn settings(vector: Option<&str>, text_field: Option<&str>) -> Settings {
        let metadata = vector.map_or(json!({}), |name| json!({ "vector": name }));
        Settings {
            model: None,
            distance: Distance::Cosine,
            dimensions: None,
            declared_dimension: None,
            document_prompt: None,
            query_prompt: None,
            text_field: text_field.map(str::to_owned),
            metadata: metadata.to_string(),
        }
    }

    /// A document's id, its vector or text, and its payload.
    type Read = (DocumentId, Result<Vec<f32>, String>, Value);

    fn read(settings: &Settings, body: Value) -> Result<(Vec<Read>, Option<String>), String> {
        let upsert = serde_json::from_value(body).map_err(|error| error.to_string())?;
        let (documents, model) =
            documents(settings, Some("v1"), upsert).map_err(|fault| fault.message)?;
        let read = |document: NewDocument| {
            let content = match document.content {
                Content::Text(text) => Err(text),
                Content::Vector(vector) => {
                    assert_eq!(vector.version.as_deref(), Some("v1"));
                    Ok(vector.components)
                }
            };
            (document.id, content, Value::Object(document.payload))
        };
        Ok((documents.into_iter().map(read).collect(), model))
    }

    #[test]
    fn lists_and_batches_are_the_same_points() {
        let (plain, named) = (settings(None, None), settings(Some("dense"), None));
        let expected = vec![
            (DocumentId::Number(1), Ok(vec![1.0, 2.0]), json!({"a": 1})),
            (DocumentId::Text("x".into()), Err("some text".to_owned()), json!({})),
        ];
        let text = json!({"text": "some text", "model": "m"});
        let (one, two) = (json!([1.0, 2]), text);
        for (settings, body) in [
            (
                &plain,
                json!({"points": [
                    {"id": 1, "vector": one, "payload": {"a": 1}},
                    {"id": "x", "vector": two},
                ]}),
            ),
            (
                &plain,
                json!({"points": [
                    {"id": 1, "vector": {"": one}, "payload": {"a": 1}},
                    {"id": "x", "vector": {"": two}, "payload": null},
                ], "shard_key": "s", "update_mode": "upsert"}),
            ),
            (
                &named,
                json!({"points": [
                    {"id": 1, "vector": {"dense": one}, "payload": {"a": 1}},
                    {"id": "x", "vector": two},
                ]}),
            ),
            (
                &plain,
                json!({"batch": {"ids": [1, "x"], "vectors": [one, two], "payloads": [{"a": 1}, null]}}),
            ),
            (
                &named,
                json!({"batch": {"ids": [1, "x"], "vectors": {"dense": [one, two]}, "payloads": [{"a": 1}, {}]}}),
            ),
        ] {
            let read = read(settings, body.clone()).unwrap();
            assert_eq!(read, (expected.clone(), Some("m".to_owned())), "{body}");
        }
    }

    #[test]
    fn a_point_without_a_vector_has_its_text_in_the_payload() {
        let body = json!({"points": [{"id": 1, "vector": {}, "payload": {"body": "t"}}]});
        let (documents, _) = read(&settings(None, Some("body")), body.clone()).unwrap();
        assert_eq!(documents[0].1, Err("t".to_owned()));
        let message = read(&settings(None, None), body).unwrap_err();
        assert!(message.contains("neither a vector nor a text"), "{message}");
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let points = |points: Value| json!({ "points": points });
        for (body, word) in [
            (json!({}), "either"),
            (points(json!([{"id": 1, "vector": {"other": [1.0]}}])), "`other`"),
            (points(json!([{"id": 1, "vector": "text"}])), "list of numbers"),
            (points(json!([{"id": 1, "vector": {"dense": "text"}}])), "`dense` is a list"),
            (points(json!([{"id": 1, "vector": {"dense": [[1.0]]}}])), "lists of vectors"),
            (points(json!([{"id": -1, "vector": [1.0]}])), "id"),
            (points(json!([{"id": 1}])), "vector"),
            (
                points(json!([
                    {"id": 1, "vector": {"text": "a", "model": "m"}},
                    {"id": 2, "vector": {"text": "a", "model": "n"}},
                ])),
                "two models",
            ),
            (json!({"points": [], "update_mode": "insert_only"}), "update_mode"),
            (json!({"batch": {"ids": [1], "vectors": [[1.0], [2.0]]}}), "as many"),
            (json!({"batch": {"ids": [1], "vectors": {"a": [], "b": []}}}), "2 vectors"),
        ] {
            let message = read(&settings(Some("dense"), None), body.clone()).unwrap_err();
            assert!(message.contains(word), "{body}: {message}");
        }
    }
}
