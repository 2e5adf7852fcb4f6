//! Filters on the attributes of documents, as OpenAI's clients write them. Pure.

use onnxd_proto::search::{Condition, Filter, Range, Scalar};
use serde::Deserialize;
use serde_json::Number;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, schema::Ref},
};

use crate::api::error::{Class, Fault};

/// A comparison with a field of the payload, or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a comparison such as {\"type\": \"eq\", \"key\": …, \"value\": …}, or {\"type\": \"and\", \"filters\": […]}"
)]
pub(crate) enum AttributeFilter {
    /// A comparison.
    One(Comparison),
    /// Several filters.
    Several(Compound),
}

/// A comparison with a field of the payload.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = ComparisonFilter)]
#[serde(deny_unknown_fields)]
pub(crate) struct Comparison {
    key: String,
    #[serde(rename = "type")]
    kind: ComparisonKind,
    value: Compared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ComparisonKind {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
    In,
    Nin,
}

/// A value or a list of values.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text, a number, a boolean, or a list of texts and numbers")]
enum Compared {
    Text(String),
    Number(#[schema(inline)] Amount),
    Bool(bool),
    Several(Vec<ComparedElement>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text, a number or a boolean")]
enum ComparedElement {
    Text(String),
    Number(#[schema(inline)] Amount),
    Bool(bool),
}

/// A number.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
struct Amount(Number);

impl PartialSchema for Amount {
    fn schema() -> RefOr<Schema> {
        f64::schema()
    }
}

impl ToSchema for Amount {}

/// Several filters.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = CompoundFilter)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compound {
    #[serde(rename = "type")]
    kind: CompoundKind,
    filters: Vec<Inner>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum CompoundKind {
    And,
    Or,
}

/// A filter within a filter.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
struct Inner(Box<AttributeFilter>);

// The derived schema would contain itself without end.
impl PartialSchema for Inner {
    fn schema() -> RefOr<Schema> {
        Ref::from_schema_name("AttributeFilter").into()
    }
}

impl ToSchema for Inner {}

impl AttributeFilter {
    /// Converts to the index's filter.
    ///
    /// # Errors
    /// A value does not fit its comparison, or there are too many of them.
    pub(super) fn convert(self) -> Result<Filter, Fault> {
        let filter = Filter { must: vec![self.condition()?], ..Filter::default() };
        if !filter.is_within_limits() {
            return Err(invalid("`filters` has too many comparisons or levels"));
        }
        Ok(filter)
    }

    fn condition(self) -> Result<Condition, Fault> {
        match self {
            Self::One(comparison) => comparison.condition(),
            Self::Several(Compound { kind, filters }) => {
                let inner = |Inner(filter): Inner| filter.condition();
                let all = filters.into_iter().map(inner).collect::<Result<Vec<_>, _>>()?;
                if all.is_empty() {
                    return Err(invalid("`filters` of `and` and `or` cannot be empty"));
                }
                Ok(nested(match kind {
                    CompoundKind::And => Filter { must: all, ..Filter::default() },
                    CompoundKind::Or => Filter { should: all, ..Filter::default() },
                }))
            }
        }
    }
}

impl Comparison {
    fn condition(self) -> Result<Condition, Fault> {
        let Self { key, kind, value } = self;
        let not = |condition| nested(Filter { must_not: vec![condition], ..Filter::default() });
        match kind {
            ComparisonKind::Eq => equal(key, value.one()?),
            ComparisonKind::Ne => Ok(not(equal(key, value.one()?)?)),
            ComparisonKind::In => any(&key, value.several()?),
            ComparisonKind::Nin => Ok(not(any(&key, value.several()?)?)),
            ComparisonKind::Gt => value.range(key, |bound| Range { gt: bound, ..Range::default() }),
            ComparisonKind::Gte => {
                value.range(key, |bound| Range { gte: bound, ..Range::default() })
            }
            ComparisonKind::Lt => value.range(key, |bound| Range { lt: bound, ..Range::default() }),
            ComparisonKind::Lte => {
                value.range(key, |bound| Range { lte: bound, ..Range::default() })
            }
        }
    }
}

impl Compared {
    fn one(self) -> Result<ComparedElement, Fault> {
        match self {
            Self::Text(text) => Ok(ComparedElement::Text(text)),
            Self::Number(number) => Ok(ComparedElement::Number(number)),
            Self::Bool(value) => Ok(ComparedElement::Bool(value)),
            Self::Several(_) => {
                Err(invalid("`eq` and `ne` compare with one value; use `in` or `nin`"))
            }
        }
    }

    fn several(self) -> Result<Vec<ComparedElement>, Fault> {
        match self {
            Self::Several(several) => Ok(several),
            _ => Err(invalid("`in` and `nin` compare with a list of values; use `eq` or `ne`")),
        }
    }

    fn range(self, key: String, of: impl Fn(Option<f64>) -> Range) -> Result<Condition, Fault> {
        match self {
            Self::Number(Amount(number)) => Ok(Condition::Range(key, of(number.as_f64()))),
            _ => Err(invalid("`gt`, `gte`, `lt` and `lte` compare with a number")),
        }
    }
}

/// Compares for equality. Numbers are equal by value: 1 is 1.0.
fn equal(key: String, value: ComparedElement) -> Result<Condition, Fault> {
    Ok(match value {
        ComparedElement::Text(text) => Condition::Any(key, vec![Scalar::Text(text)]),
        ComparedElement::Bool(value) => Condition::Any(key, vec![Scalar::Bool(value)]),
        ComparedElement::Number(Amount(number)) => {
            let bound = number.as_f64();
            Condition::Range(key, Range { gte: bound, lte: bound, ..Range::default() })
        }
    })
}

fn any(key: &str, values: Vec<ComparedElement>) -> Result<Condition, Fault> {
    let all = values.into_iter().map(|value| equal(key.to_owned(), value));
    let should: Vec<Condition> = all.collect::<Result<_, _>>()?;
    if should.is_empty() {
        // `should` without conditions would be satisfied.
        return Ok(Condition::Any(key.to_owned(), Vec::new()));
    }
    Ok(nested(Filter { should, ..Filter::default() }))
}

fn nested(filter: Filter) -> Condition {
    Condition::Nested(Box::new(filter))
}

fn invalid(message: &str) -> Fault {
    Fault::new(Class::INVALID, message).about("filters")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(filter: Value) -> Result<Condition, String> {
        let filter: AttributeFilter =
            serde_json::from_value(filter).map_err(|error| error.to_string())?;
        let mut filter = filter.convert().map_err(|fault| fault.message)?;
        Ok(filter.must.pop().unwrap())
    }

    #[test]
    fn comparisons_become_conditions() {
        let text = |text: &str| Condition::Any("k".into(), vec![Scalar::Text(text.into())]);
        let range = |range| Condition::Range("k".into(), range);
        let one = Range { gte: Some(1.0), lte: Some(1.0), ..Range::default() };
        let not = |condition| nested(Filter { must_not: vec![condition], ..Filter::default() });
        let either = |should| nested(Filter { should, ..Filter::default() });
        for (given, expected) in [
            (json!({"type": "eq", "key": "k", "value": "a"}), text("a")),
            (json!({"type": "eq", "key": "k", "value": 1}), range(one)),
            (
                json!({"type": "eq", "key": "k", "value": true}),
                Condition::Any("k".into(), vec![Scalar::Bool(true)]),
            ),
            (json!({"type": "ne", "key": "k", "value": "a"}), not(text("a"))),
            (
                json!({"type": "gt", "key": "k", "value": 1.5}),
                range(Range { gt: Some(1.5), ..Range::default() }),
            ),
            (
                json!({"type": "lte", "key": "k", "value": 2}),
                range(Range { lte: Some(2.0), ..Range::default() }),
            ),
            (
                json!({"type": "in", "key": "k", "value": ["a", 1]}),
                either(vec![text("a"), range(one)]),
            ),
            (json!({"type": "nin", "key": "k", "value": ["a"]}), not(either(vec![text("a")]))),
            (json!({"type": "in", "key": "k", "value": []}), Condition::Any("k".into(), vec![])),
            (
                json!({"type": "or", "filters": [
                    {"type": "eq", "key": "k", "value": "a"},
                    {"type": "and", "filters": [{"type": "eq", "key": "k", "value": "b"}]},
                ]}),
                either(vec![
                    text("a"),
                    nested(Filter { must: vec![text("b")], ..Filter::default() }),
                ]),
            ),
        ] {
            assert_eq!(read(given.clone()), Ok(expected), "{given}");
        }
    }

    #[test]
    fn wrong_comparisons_are_refused() {
        for (given, word) in [
            (json!({"type": "eq", "key": "k", "value": ["a"]}), "`in`"),
            (json!({"type": "in", "key": "k", "value": "a"}), "`eq`"),
            (json!({"type": "gt", "key": "k", "value": "a"}), "number"),
            (json!({"type": "and", "filters": []}), "empty"),
            (json!({"type": "like", "key": "k", "value": "a"}), "comparison"),
            (json!({"type": "eq", "key": "k"}), "comparison"),
            (json!({"type": "in", "key": "k", "value": vec![1; 2000]}), "too many"),
        ] {
            let message = read(given.clone()).unwrap_err();
            assert!(message.contains(word), "{given}: {message}");
        }
    }
}
