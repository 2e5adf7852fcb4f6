//! What a collection's parameters and metadata mean for onnxd: the vector and its name, the model,
//! its prompts, and the field that holds the text. Pure.

use onnxd_proto::search::{Distance, Settings};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::{error::Fault, qdrant::error::wrong};

/// The key of the metadata that holds the vector's name.
const VECTOR_KEY: &str = "vector";

/// How vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = QdrantDistance)]
#[serde(expecting = "Cosine or Dot: distances that order alike for vectors of length 1")]
pub(crate) enum GivenDistance {
    Cosine,
    Dot,
    /// Refused.
    Euclid,
    /// Refused.
    Manhattan,
}

impl GivenDistance {
    fn convert(self) -> Result<Distance, Fault> {
        match self {
            Self::Cosine => Ok(Distance::Cosine),
            Self::Dot => Ok(Distance::Dot),
            Self::Euclid => Err(wrong(
                "distance Euclid is not supported; use Cosine, which orders vectors of length 1 the same",
            )),
            Self::Manhattan => Err(wrong("distance Manhattan is not supported; use Cosine or Dot")),
        }
    }
}

impl From<Distance> for GivenDistance {
    fn from(distance: Distance) -> Self {
        match distance {
            Distance::Cosine => Self::Cosine,
            Distance::Dot => Self::Dot,
        }
    }
}

/// The parameters of a vector.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantVectorParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenVectorParams {
    /// Components of a vector.
    size: u32,
    distance: GivenDistance,
    /// Ignored, as all settings of storage and indexing.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    hnsw_config: Option<Value>,
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    quantization_config: Option<Value>,
    #[expect(dead_code, reason = "accepted, and changes no result")]
    on_disk: Option<bool>,
    #[schema(value_type = Option<String>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    memory: Option<Value>,
    #[schema(value_type = Option<String>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    datatype: Option<Value>,
    /// Refused.
    #[schema(value_type = Option<Object>)]
    multivector_config: Option<Value>,
}

/// The parameters of the vector, or an object with its name.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantVectorsConfig)]
#[serde(
    untagged,
    expecting = "{\"size\": …, \"distance\": \"Cosine\"} or an object with one such vector by its name"
)]
pub(crate) enum VectorsConfig {
    /// A vector without a name.
    Unnamed(Box<GivenVectorParams>),
    /// A vector with a name.
    Named(std::collections::BTreeMap<String, GivenVectorParams>),
}

/// Returns the settings of a new collection.
///
/// # Errors
/// A parameter or a value of the metadata is not supported.
pub(super) fn new(
    vectors: Option<VectorsConfig>,
    metadata: Map<String, Value>,
) -> Result<Settings, Fault> {
    let (name, params) = match vectors {
        None => (None, None),
        Some(VectorsConfig::Unnamed(params)) => (None, Some(*params)),
        Some(VectorsConfig::Named(named)) => match named.len() {
            0 => (None, None),
            1 => {
                let first = named.into_iter().next();
                first.map_or((None, None), |(name, params)| (Some(name), Some(params)))
            }
            count => {
                return Err(wrong(format!(
                    "{count} vectors by name, one is supported; create a collection for each model"
                )));
            }
        },
    };
    if params.as_ref().is_some_and(|params| params.multivector_config.is_some()) {
        return Err(wrong("multivectors are not supported; use a model with one vector per text"));
    }
    let distance = params.as_ref().map_or(Ok(Distance::Cosine), |params| params.distance.convert());
    let mut metadata = metadata;
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        metadata.insert(VECTOR_KEY.to_owned(), Value::String(name));
    }
    let settings = Settings {
        model: None,
        distance: distance?,
        dimensions: None,
        declared_dimension: params.map(|params| params.size),
        document_prompt: None,
        query_prompt: None,
        text_field: None,
        metadata: String::new(),
    };
    with_metadata(settings, metadata)
}

/// Returns the settings after a change of the metadata: values are merged, `null` removes.
///
/// # Errors
/// A value is not of its type.
pub(super) fn merged(settings: Settings, changes: Map<String, Value>) -> Result<Settings, Fault> {
    let mut metadata = metadata(&settings);
    let name = metadata.get(VECTOR_KEY).cloned();
    for (key, value) in changes {
        match value {
            Value::Null => {
                metadata.shift_remove(&key);
            }
            value => {
                metadata.insert(key, value);
            }
        }
    }
    if metadata.get(VECTOR_KEY) != name.as_ref() {
        return Err(wrong("the name of a collection's vector cannot be changed"));
    }
    with_metadata(settings, metadata)
}

/// Returns the metadata, with the model that the collection is bound to.
pub(super) fn metadata(settings: &Settings) -> Map<String, Value> {
    let mut metadata: Map<String, Value> =
        serde_json::from_str(&settings.metadata).unwrap_or_default();
    if let Some(model) = &settings.model {
        metadata.insert("model".to_owned(), Value::String(model.clone()));
    }
    metadata
}

/// Returns the vector's name, if it has one.
pub(super) fn vector_name(settings: &Settings) -> Option<String> {
    metadata(settings).get(VECTOR_KEY)?.as_str().map(str::to_owned)
}

fn with_metadata(settings: Settings, metadata: Map<String, Value>) -> Result<Settings, Fault> {
    let text = |key: &str| match metadata.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(format!("metadata: `{key}` must be a string, not {other:.100}"))),
    };
    let dimensions = match metadata.get("dimensions") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            let number = number.filter(|&number| number > 0).ok_or_else(|| {
                wrong(format!(
                    "metadata: `dimensions` must be a positive integer, not {value:.100}"
                ))
            })?;
            Some(number)
        }
    };
    text(VECTOR_KEY)?;
    Ok(Settings {
        model: text("model")?.or(settings.model),
        dimensions,
        document_prompt: text("document_prompt")?,
        query_prompt: text("query_prompt")?,
        text_field: text("text")?,
        metadata: Value::Object(metadata).to_string(),
        ..settings
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("{value}") };
        object
    }

    fn create(vectors: Value, metadata: Value) -> Result<Settings, String> {
        let vectors = serde_json::from_value(vectors).map_err(|error| error.to_string())?;
        new(vectors, object(metadata)).map_err(|fault| fault.message)
    }

    #[test]
    fn parameters_and_metadata_become_settings() {
        let settings = create(
            json!({"dense": {"size": 3, "distance": "Dot", "on_disk": true}}),
            json!({"model": "m", "text": "body", "document_prompt": "d", "query_prompt": "q", "dimensions": 3, "own": [1]}),
        );
        let settings = settings.unwrap();
        assert_eq!(vector_name(&settings).as_deref(), Some("dense"));
        assert_eq!(settings.distance, Distance::Dot);
        assert_eq!((settings.dimensions, settings.declared_dimension), (Some(3), Some(3)));
        let texts = [
            &settings.model,
            &settings.text_field,
            &settings.document_prompt,
            &settings.query_prompt,
        ];
        assert_eq!(texts.map(|text| text.as_deref().unwrap()), ["m", "body", "d", "q"]);
        assert_eq!(metadata(&settings)["own"], json!([1]));

        let changed =
            merged(settings.clone(), object(json!({"own": null, "query_prompt": null, "x": 1})));
        let changed = changed.unwrap();
        assert_eq!((changed.model.as_deref(), changed.query_prompt.as_deref()), (Some("m"), None));
        assert_eq!(metadata(&changed).get("own"), None);
        assert_eq!(metadata(&changed)["x"], json!(1));
        assert!(merged(settings, object(json!({"vector": "y"}))).is_err());
    }

    #[test]
    fn a_vector_may_be_unnamed_or_not_declared() {
        for vectors in [
            json!({"size": 3, "distance": "Cosine"}),
            json!({"": {"size": 3, "distance": "Cosine"}}),
            json!({}),
            json!(null),
        ] {
            let settings = create(vectors, json!({})).unwrap();
            assert_eq!((vector_name(&settings), settings.distance), (None, Distance::Cosine));
            assert_eq!(settings.metadata, "{}");
        }
    }

    #[test]
    fn what_would_change_results_is_refused() {
        let dense = json!({"size": 3, "distance": "Cosine"});
        for (vectors, metadata, word) in [
            (json!({"a": dense, "b": dense}), json!({}), "2 vectors"),
            (json!({"size": 3, "distance": "Euclid"}), json!({}), "Cosine"),
            (json!({"size": 3, "distance": "Manhattan"}), json!({}), "Cosine"),
            (
                json!({"size": 3, "distance": "Dot", "multivector_config": {}}),
                json!({}),
                "multivectors",
            ),
            (json!({"size": -1, "distance": "Dot"}), json!({}), "size"),
            (dense.clone(), json!({"model": 1}), "`model`"),
            (dense.clone(), json!({"dimensions": 0}), "`dimensions`"),
            (dense.clone(), json!({"text": {}}), "`text`"),
        ] {
            let message = create(vectors.clone(), metadata.clone()).unwrap_err();
            assert!(message.contains(word), "{vectors} {metadata}: {message}");
        }
    }
}
