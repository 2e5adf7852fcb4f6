//! Vectors and queries as Qdrant's clients write them: numbers, a text to embed, an id, or objects
//! of these by name. Parsed without a tree of JSON values, since vectors are most of a body.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use onnxd_search::RawVector;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::api::{
    error::Fault,
    qdrant::{error::wrong, ids::PointId},
};

/// A vector, a text, an id, or an object of these.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Given {
    /// A list of numbers.
    Numbers(Vec<f32>),
    /// An id, or any other text or number.
    Id(PointId),
    /// An object: a text to embed, vectors by name, or an operation of a query.
    Object(BTreeMap<String, Given>),
    /// A number that is no id.
    Number(f64),
    /// Anything else.
    Other,
}

/// A text to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenText {
    pub text: String,
    pub model: Option<String>,
}

/// A vector or a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Embeddable {
    Vector(Vec<f32>),
    Text(GivenText),
}

impl Given {
    /// Returns the vector or text; `None` for an id, or for an object that is neither.
    ///
    /// # Errors
    /// It is something that onnxd does not embed.
    pub(super) fn into_embeddable(self) -> Result<Option<Embeddable>, Fault> {
        match self {
            Self::Numbers(numbers) => Ok(Some(Embeddable::Vector(numbers))),
            Self::Id(_) => Ok(None),
            Self::Object(object) => text_of(object),
            Self::Number(_) | Self::Other => Err(wrong(
                "expected a list of numbers or {\"text\": …, \"model\": …}; lists of vectors and of ids are not supported",
            )),
        }
    }
}

/// Returns the text of an object `{"text": …, "model": …}`.
fn text_of(mut object: BTreeMap<String, Given>) -> Result<Option<Embeddable>, Fault> {
    if object.contains_key("indices") && object.contains_key("values") {
        return Err(wrong(
            "sparse vectors are not supported; for a search by words too, set `hybrid`: true in the query",
        ));
    }
    for other in ["image", "object"] {
        if object.contains_key(other) && object.contains_key("model") {
            return Err(wrong(format!("only texts are embedded, not `{other}`; send `text`")));
        }
    }
    let Some(Given::Id(PointId::Text(text))) = object.remove("text") else { return Ok(None) };
    let model = match object.remove("model") {
        None => None,
        Some(Given::Id(PointId::Text(model))) => Some(model),
        Some(_) => return Err(wrong("`model` of a text must be a name")),
    };
    match object.remove("options") {
        None => {}
        Some(Given::Object(options)) if options.is_empty() => {}
        Some(_) => {
            return Err(wrong(
                "`options` of a text are not supported; set prompts and dimensions in the collection's metadata",
            ));
        }
    }
    match object.keys().next() {
        None => Ok(Some(Embeddable::Text(GivenText { text, model }))),
        Some(name) => Err(wrong(format!("unknown field `{name}` beside `text`"))),
    }
}

/// Returns a vector with the version that the request's headers name.
pub(super) fn raw(components: Vec<f32>, version: Option<&str>) -> RawVector {
    RawVector { components, version: version.map(str::to_owned) }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenVisitor)
    }
}

struct GivenVisitor;

impl<'de> Visitor<'de> for GivenVisitor {
    type Value = Given;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers, an id, or an object such as {\"text\": …, \"model\": …}")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Given, E> {
        Ok(Given::Id(PointId::Number(number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Given, E> {
        Ok(Given::Id(PointId::Text(text.to_owned())))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Given, E> {
        Ok(Given::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Given, E> {
        Ok(Given::Other)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Given, E> {
        Ok(Given::Number(number))
    }

    fn visit_unit<E: Error>(self) -> Result<Given, E> {
        Ok(Given::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Given, A::Error> {
        let mut numbers = Vec::new();
        while let Some(Element(number)) = list.next_element()? {
            let Some(number) = number else {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Given::Other);
            };
            if !number.is_finite() {
                return Err(A::Error::custom("a component of a vector is too large for a float"));
            }
            numbers.push(number);
        }
        Ok(Given::Numbers(numbers))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Given, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(name) = object.next_key::<Cow<'de, str>>()? {
            match object.next_value::<Option<Given>>()? {
                // As if it were absent, as in Qdrant.
                None => {}
                Some(value) => {
                    fields.insert(name.into_owned(), value);
                }
            }
        }
        Ok(Given::Object(fields))
    }
}

/// An element of a list; `None` if it is not a number.
struct Element(Option<f32>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "components are single precision"
)]
impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Element, E> {
        Ok(Element(Some(number as f32)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Element, E> {
        Ok(Element(Some(number as f32)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Element, E> {
        Ok(Element(Some(number as f32)))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_unit<E: Error>(self) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Element, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Element(None))
    }
}

/// A vector, a text to embed, an id, or vectors by name.
#[derive(Debug, ToSchema)]
#[schema(as = QdrantVector)]
#[serde(untagged)]
#[expect(dead_code, reason = "only for the OpenAPI document; handlers parse `Given`")]
enum GivenSchema {
    /// A vector that this server made.
    Numbers(Vec<f32>),
    /// A text to embed.
    Text(#[schema(inline)] TextSchema),
    /// An id of a point, in queries.
    Id(PointId),
    /// Vectors by name, or an operation of a query.
    Object(#[schema(inline)] Map<String, Value>),
}

#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only for the OpenAPI document")]
struct TextSchema {
    text: String,
    /// A served model.
    model: Option<String>,
}

impl PartialSchema for Given {
    fn schema() -> RefOr<Schema> {
        GivenSchema::schema()
    }
}

impl ToSchema for Given {
    fn name() -> Cow<'static, str> {
        GivenSchema::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        GivenSchema::schemas(schemas);
    }
}

/// A vector in an answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QdrantVectorOutput)]
#[serde(untagged)]
pub(crate) enum VectorOutput {
    /// A vector without a name.
    Numbers(Vec<f32>),
    /// A vector by its name.
    Named(BTreeMap<String, Vec<f32>>),
}

impl VectorOutput {
    pub(super) fn new(name: Option<&str>, numbers: Vec<f32>) -> Self {
        match name {
            None => Self::Numbers(numbers),
            Some(name) => Self::Named(BTreeMap::from([(name.to_owned(), numbers)])),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: &str) -> Result<Option<Embeddable>, String> {
        let given: Given = serde_json::from_str(json).map_err(|error| error.to_string())?;
        given.into_embeddable().map_err(|fault| fault.message)
    }

    #[test]
    fn vectors_and_texts_are_told_apart() {
        let text = |model: Option<&str>| {
            let model = model.map(str::to_owned);
            Ok(Some(Embeddable::Text(GivenText { text: "a".into(), model })))
        };
        assert_eq!(read("[1, -0.5, 2e0]"), Ok(Some(Embeddable::Vector(vec![1.0, -0.5, 2.0]))));
        assert_eq!(read(r#"{"text": "a", "model": "m", "options": null}"#), text(Some("m")));
        assert_eq!(read(r#"{"text": "a", "options": {}}"#), text(None));
        for neither in ["1", r#""a""#, r#"{"nearest": [1.0]}"#, r#"{"text": [1.0]}"#] {
            assert_eq!(read(neither), Ok(None), "{neither}");
        }
        let named: Given = serde_json::from_value(json!({"text": [1.0], "n": null})).unwrap();
        let fields = BTreeMap::from([("text".to_owned(), Given::Numbers(vec![1.0]))]);
        assert_eq!(named, Given::Object(fields));
    }

    #[test]
    fn what_is_not_embedded_is_refused() {
        for (given, word) in [
            (r#"{"indices": [1], "values": [0.5]}"#, "sparse"),
            (r#"{"image": "x", "model": "m"}"#, "texts"),
            (r#"{"text": "a", "model": 1}"#, "name"),
            (r#"{"text": "a", "options": {"x": 1}}"#, "metadata"),
            (r#"{"text": "a", "more": 1}"#, "more"),
            ("[[1.0], [2.0]]", "lists of vectors"),
            (r#"[1.0, "a", {}, null]"#, "lists of vectors"),
            ("true", "list of numbers"),
            ("1.5", "list of numbers"),
            ("[1e39]", "too large"),
        ] {
            let message = read(given).unwrap_err();
            assert!(message.contains(word), "{given}: {message}");
        }
    }

    #[test]
    fn single_precision_numbers_survive_double_precision_in_between() {
        for number in [0.15680273_f32, f32::MIN_POSITIVE, -0.0, 1.0e-45, f32::MAX] {
            let json = format!("[{:?}]", f64::from(number));
            let Ok(Some(Embeddable::Vector(read))) = read(&json) else { panic!("{json}") };
            assert_eq!(read[0].to_bits(), number.to_bits(), "{json}");
        }
    }
}
