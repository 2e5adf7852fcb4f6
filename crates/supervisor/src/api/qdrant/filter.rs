//! Filters as Qdrant's clients write them. Conditions that the index does not have are refused.

use onnxd_proto::search::{Condition, Filter, Range, Scalar};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Ref, RefOr, Schema},
};

use crate::api::{
    error::Fault,
    qdrant::{
        error::wrong,
        ids::{PointId, into_documents},
    },
};

/// Which points are meant.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = QdrantFilter)]
#[serde(
    deny_unknown_fields,
    expecting = "a filter, an object with must, should, must_not or min_should"
)]
pub(crate) struct GivenFilter {
    /// All of these hold.
    #[schema(value_type = Option<Vec<GivenCondition>>)]
    must: Option<Conditions>,
    /// At least one of these holds.
    #[schema(value_type = Option<Vec<GivenCondition>>)]
    should: Option<Conditions>,
    /// None of these holds.
    #[schema(value_type = Option<Vec<GivenCondition>>)]
    must_not: Option<Conditions>,
    /// At least a number of these holds.
    min_should: Option<MinShould>,
}

/// One condition or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a condition or a list of conditions: a field (`key`) with match (value or \
        text; any or except with a list), range, is_empty or is_null; or is_empty, is_null, has_id, nested, \
        or a filter; values are texts, integers or booleans"
)]
pub(crate) enum Conditions {
    /// Several conditions.
    Several(Vec<GivenCondition>),
    /// A condition.
    One(Box<GivenCondition>),
}

/// At least a number of conditions holds.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantMinShould)]
#[serde(deny_unknown_fields)]
pub(crate) struct MinShould {
    conditions: Vec<GivenCondition>,
    min_count: usize,
}

/// A condition on one point.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantCondition)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a condition that onnxd has: a field with one of match, range, is_empty and is_null, \
        or is_empty, is_null, has_id, nested with one condition, or a filter"
)]
pub(crate) enum GivenCondition {
    /// A condition on a field.
    Field(Box<FieldCondition>),
    /// The field is missing, null or an empty list.
    IsEmpty { is_empty: Key },
    /// The field is null.
    IsNull { is_null: Key },
    /// The point has one of these ids.
    HasId { has_id: Vec<PointId> },
    /// A condition on an element of a list.
    Nested { nested: Nested },
    /// A nested filter.
    Filter(InnerFilter),
}

/// The path of a field.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantKey)]
pub(crate) struct Key {
    key: String,
}

/// A filter for the elements of a list of objects.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantNested)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nested {
    key: String,
    filter: InnerFilter,
}

/// A filter within a filter.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct InnerFilter(Box<GivenFilter>);

// The derived schema would contain itself without end.
impl PartialSchema for InnerFilter {
    fn schema() -> RefOr<Schema> {
        Ref::from_schema_name("QdrantFilter").into()
    }
}

impl ToSchema for InnerFilter {}

/// A condition on a field.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantFieldCondition)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldCondition {
    /// The path of the field, such as `a.b` or `a[].b`.
    key: String,
    #[serde(rename = "match")]
    matched: Option<Match>,
    range: Option<GivenRange>,
    is_empty: Option<bool>,
    is_null: Option<bool>,
}

/// What a field is compared with.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantMatch)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a match that onnxd has: value, any, except or text (all words)"
)]
pub(crate) enum Match {
    /// This value.
    Value { value: GivenScalar },
    /// One of these values.
    Any { any: Vec<GivenScalar> },
    /// A value other than these.
    Except { except: Vec<GivenScalar> },
    /// All words of this text.
    Text { text: String },
}

/// A value of a field.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantScalar)]
#[serde(untagged, expecting = "a boolean, an integer or a text")]
pub(crate) enum GivenScalar {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// A text.
    Text(String),
}

/// Bounds of a number.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = QdrantRange)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenRange {
    #[schema(value_type = Option<f64>)]
    gt: Option<Value>,
    #[schema(value_type = Option<f64>)]
    gte: Option<Value>,
    #[schema(value_type = Option<f64>)]
    lt: Option<Value>,
    #[schema(value_type = Option<f64>)]
    lte: Option<Value>,
}

impl GivenFilter {
    /// Converts to the index's filter.
    ///
    /// # Errors
    /// The filter asks for something that the index does not have.
    pub(super) fn convert(self) -> Result<Filter, Fault> {
        let list = |conditions: Option<Conditions>| {
            let conditions = match conditions {
                None => Vec::new(),
                Some(Conditions::One(one)) => vec![*one],
                Some(Conditions::Several(several)) => several,
            };
            convert_all(conditions)
        };
        let min_should = self.min_should.map(|MinShould { conditions, min_count }| {
            convert_all(conditions).map(|conditions| (conditions, min_count))
        });
        let filter = Filter {
            must: list(self.must)?,
            should: list(self.should)?,
            must_not: list(self.must_not)?,
            min_should: min_should.transpose()?,
        };
        if !filter.is_within_limits() {
            return Err(wrong("the filter has too many conditions or levels; see docs/limits.md"));
        }
        Ok(filter)
    }
}

/// Converts a filter that may be absent.
///
/// # Errors
/// As for [`GivenFilter::convert`].
pub(crate) fn convert(filter: Option<GivenFilter>) -> Result<Filter, Fault> {
    filter.map_or_else(|| Ok(Filter::default()), GivenFilter::convert)
}

fn convert_all(conditions: Vec<GivenCondition>) -> Result<Vec<Condition>, Fault> {
    conditions.into_iter().map(convert_one).collect()
}

fn convert_one(condition: GivenCondition) -> Result<Condition, Fault> {
    Ok(match condition {
        GivenCondition::Field(condition) => field(*condition)?,
        GivenCondition::IsEmpty { is_empty } => Condition::IsEmpty(is_empty.key),
        GivenCondition::IsNull { is_null } => Condition::IsNull(is_null.key),
        GivenCondition::HasId { has_id } => Condition::HasId(into_documents(has_id)?),
        GivenCondition::Nested { nested } => nested_one(nested)?,
        GivenCondition::Filter(filter) => Condition::Nested(Box::new(filter.0.convert()?)),
    })
}

fn field(condition: FieldCondition) -> Result<Condition, Fault> {
    let FieldCondition { key, matched, range, is_empty, is_null } = condition;
    let name = || key.clone();
    let scalars = |scalars: Vec<GivenScalar>| scalars.into_iter().map(Scalar::from).collect();
    let unless = |condition: Condition, holds: bool| match holds {
        true => condition,
        false => {
            let filter = Filter { must_not: vec![condition], ..Filter::default() };
            Condition::Nested(Box::new(filter))
        }
    };
    let mut given = Vec::new();
    given.extend(matched.map(|matched| match matched {
        Match::Value { value } => Condition::Any(name(), vec![value.into()]),
        Match::Any { any } => Condition::Any(name(), scalars(any)),
        Match::Except { except } => Condition::Except(name(), scalars(except)),
        Match::Text { text } => Condition::Text(name(), text),
    }));
    if let Some(range) = range {
        given.push(Condition::Range(name(), range.convert()?));
    }
    given.extend(is_empty.map(|holds| unless(Condition::IsEmpty(name()), holds)));
    given.extend(is_null.map(|holds| unless(Condition::IsNull(name()), holds)));
    match (given.pop(), given.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(wrong(format!(
            "the condition on field `{key}` must have exactly one of match, range, is_empty and is_null; write several conditions instead"
        ))),
    }
}

/// Converts a filter of list elements. One condition is the same as a condition on `key[].field`;
/// several that must hold for one element are not.
fn nested_one(Nested { key, filter }: Nested) -> Result<Condition, Fault> {
    let filter = filter.0.convert()?;
    let only = match (&filter.must[..], &filter.should[..]) {
        ([one], []) | ([], [one]) => Some(one),
        _ => None,
    };
    let is_simple = filter.must_not.is_empty() && filter.min_should.is_none();
    let path = |field: &str| format!("{}[].{field}", key.trim_end_matches("[]"));
    match only.filter(|_| is_simple) {
        Some(Condition::Any(field, values)) => Ok(Condition::Any(path(field), values.clone())),
        Some(Condition::Except(field, values)) => {
            Ok(Condition::Except(path(field), values.clone()))
        }
        Some(Condition::Range(field, range)) => Ok(Condition::Range(path(field), *range)),
        Some(Condition::Text(field, text)) => Ok(Condition::Text(path(field), text.clone())),
        _ => Err(wrong(format!(
            "a nested filter with anything but one match or range is not supported; store what belongs together in one field of `{key}`, or filter by `{key}[].FIELD`"
        ))),
    }
}

impl GivenRange {
    fn convert(self) -> Result<Range, Fault> {
        let bound = |value: Option<Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64()),
            Some(other) => Err(wrong(format!(
                "range: expected a number, got {other}; store times as numbers, such as seconds since 1970, to filter by them"
            ))),
        };
        Ok(Range {
            gt: bound(self.gt)?,
            gte: bound(self.gte)?,
            lt: bound(self.lt)?,
            lte: bound(self.lte)?,
        })
    }
}

impl From<GivenScalar> for Scalar {
    fn from(scalar: GivenScalar) -> Self {
        match scalar {
            GivenScalar::Bool(value) => Self::Bool(value),
            GivenScalar::Integer(value) => Self::Integer(value),
            GivenScalar::Text(value) => Self::Text(value),
        }
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
