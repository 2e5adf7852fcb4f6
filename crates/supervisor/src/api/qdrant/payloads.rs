//! Which parts of a point are returned, and points in answers.

use onnxd_proto::search::Hit;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::qdrant::{ids::PointId, vectors::VectorOutput};

/// Whether the payload is returned, and which fields.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantWithPayload)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a boolean, a list of fields, or an object with `include` or `exclude`"
)]
pub(crate) enum WithPayload {
    /// The whole payload or none.
    All(bool),
    /// These fields.
    Fields(Vec<String>),
    /// These fields.
    Include { include: Vec<String> },
    /// All fields but these.
    Exclude { exclude: Vec<String> },
}

/// Whether the vector is returned.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantWithVector)]
#[serde(untagged, expecting = "a boolean or a list of names of vectors")]
pub(crate) enum WithVector {
    /// The vector or none.
    All(bool),
    /// The vectors with these names.
    Named(Vec<String>),
}

/// A found point.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScoredPoint {
    id: PointId,
    /// Always 0: points have no version of their own.
    version: u64,
    /// Higher is nearer.
    score: f32,
    #[schema(value_type = Option<Object>)]
    payload: Option<Map<String, Value>>,
    vector: Option<VectorOutput>,
}

/// A stored point.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PointRecord {
    id: PointId,
    #[schema(value_type = Option<Object>)]
    payload: Option<Map<String, Value>>,
    vector: Option<VectorOutput>,
}

/// Which parts of points a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    payload: WithPayload,
    /// The vector's name, if the vector is asked for: `None` within if it has none.
    vector: Option<Option<String>>,
}

impl Parts {
    /// Resolves what a request asks for. `name` is that of the collection's vector.
    pub(super) fn new(
        payload: Option<WithPayload>,
        vector: Option<WithVector>,
        (name, payload_by_default): (Option<&str>, bool),
    ) -> Self {
        let is_asked = match vector {
            None => false,
            Some(WithVector::All(all)) => all,
            Some(WithVector::Named(names)) => {
                names.iter().any(|asked| asked == name.unwrap_or_default())
            }
        };
        Self {
            payload: payload.unwrap_or(WithPayload::All(payload_by_default)),
            vector: is_asked.then(|| name.map(str::to_owned)),
        }
    }

    pub(super) fn payload(&self) -> bool {
        !matches!(self.payload, WithPayload::All(false))
    }

    pub(super) fn vector(&self) -> bool {
        self.vector.is_some()
    }

    pub(super) fn scored(&self, hit: Hit) -> ScoredPoint {
        let score = hit.score;
        let PointRecord { id, payload, vector } = self.record(hit);
        ScoredPoint { id, version: 0, score, payload, vector }
    }

    pub(super) fn record(&self, hit: Hit) -> PointRecord {
        // Never fails: the index stores nothing but objects.
        let read = |text: String| serde_json::from_str::<Map<String, Value>>(&text).ok();
        let payload = hit.payload.filter(|_| self.payload()).and_then(read);
        let named =
            |numbers| self.vector.as_ref().map(|name| VectorOutput::new(name.as_deref(), numbers));
        PointRecord {
            id: hit.id.into(),
            payload: payload.map(|payload| self.selected(payload)),
            vector: hit.vector.and_then(named),
        }
    }

    fn selected(&self, payload: Map<String, Value>) -> Map<String, Value> {
        match &self.payload {
            WithPayload::All(_) => payload,
            WithPayload::Fields(paths) | WithPayload::Include { include: paths } => {
                let mut kept = Map::new();
                paths.iter().for_each(|path| include(&payload, path, &mut kept));
                kept
            }
            WithPayload::Exclude { exclude: paths } => {
                let mut kept = payload;
                paths.iter().for_each(|path| exclude(&mut kept, path));
                kept
            }
        }
    }
}

/// Copies the field at a path such as `a.b`. A field whose name has dots is found by it too.
fn include(from: &Map<String, Value>, path: &str, to: &mut Map<String, Value>) {
    if let Some(value) = from.get(path) {
        to.insert(path.to_owned(), value.clone());
        return;
    }
    let Some((name, rest)) = path.split_once('.') else { return };
    if let Some(Value::Object(inner)) = from.get(name) {
        let entry = to.entry(name).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(kept) = entry {
            include(inner, rest, kept);
        }
    }
}

/// Removes the field at a path such as `a.b`.
fn exclude(from: &mut Map<String, Value>, path: &str) {
    if from.shift_remove(path).is_some() {
        return;
    }
    let Some((name, rest)) = path.split_once('.') else { return };
    if let Some(Value::Object(inner)) = from.get_mut(name) {
        exclude(inner, rest);
    }
}

#[cfg(test)]
mod tests {
    use onnxd_proto::search::DocumentId;
    use serde_json::json;

    use super::*;

    fn shown(with_payload: Value, with_vector: Value, name: Option<&str>) -> Value {
        let payload = serde_json::from_value(with_payload).unwrap();
        let vector = serde_json::from_value(with_vector).unwrap();
        let parts = Parts::new(payload, vector, (name, false));
        let hit = Hit {
            id: DocumentId::Number(1),
            score: 0.5,
            text: None,
            payload: parts
                .payload()
                .then(|| json!({"a": {"b": 1, "c": 2}, "d": [3], "e.f": 4}).to_string()),
            vector: parts.vector().then(|| vec![1.0]),
        };
        serde_json::to_value(parts.scored(hit)).unwrap()
    }

    #[test]
    fn payloads_are_cut_to_the_fields_that_are_asked_for() {
        for (asked, payload) in [
            (json!(true), json!({"a": {"b": 1, "c": 2}, "d": [3], "e.f": 4})),
            (json!(false), json!(null)),
            (json!(null), json!(null)),
            (json!(["d", "x", "a.b"]), json!({"d": [3], "a": {"b": 1}})),
            (json!({"include": ["e.f"]}), json!({"e.f": 4})),
            (json!({"exclude": ["a.c", "d", "x.y"]}), json!({"a": {"b": 1}, "e.f": 4})),
        ] {
            let point = shown(asked.clone(), json!(null), None);
            assert_eq!(point["payload"], payload, "{asked}");
            assert_eq!((&point["id"], &point["score"]), (&json!(1), &json!(0.5)));
        }
    }

    #[test]
    fn vectors_have_the_name_of_the_collections_vector() {
        let vector = |asked, name| shown(json!(false), asked, name)["vector"].clone();
        assert_eq!(vector(json!(true), None), json!([1.0]));
        assert_eq!(vector(json!(true), Some("v")), json!({"v": [1.0]}));
        assert_eq!(vector(json!(["v"]), Some("v")), json!({"v": [1.0]}));
        assert_eq!(vector(json!([""]), None), json!([1.0]));
        for none in [json!(false), json!(null), json!(["other"])] {
            assert_eq!(vector(none, Some("v")), json!(null));
        }
    }
}
