//! Tests of filters.

use onnxd_proto::search::DocumentId;
use serde_json::json;

use super::*;

fn read(filter: Value) -> Result<Filter, String> {
    let filter: GivenFilter = serde_json::from_value(filter).map_err(|error| error.to_string())?;
    filter.convert().map_err(|fault| fault.message)
}

fn must(condition: Value) -> Condition {
    let mut filter = read(json!({"must": [condition]})).unwrap();
    assert_eq!(filter.must.len(), 1);
    filter.must.pop().unwrap()
}

#[test]
fn every_condition_is_converted() {
    let text = |text: &str| Scalar::Text(text.to_owned());
    for (given, expected) in [
        (
            json!({"key": "a.b", "match": {"value": "x"}}),
            Condition::Any("a.b".into(), vec![text("x")]),
        ),
        (
            json!({"key": "a", "match": {"value": true}, "range": null}),
            Condition::Any("a".into(), vec![Scalar::Bool(true)]),
        ),
        (
            json!({"key": "a", "match": {"any": [1, -2]}}),
            Condition::Any("a".into(), vec![Scalar::Integer(1), Scalar::Integer(-2)]),
        ),
        (
            json!({"key": "a", "match": {"except": ["x", "y"]}}),
            Condition::Except("a".into(), vec![text("x"), text("y")]),
        ),
        (json!({"key": "a", "match": {"text": "x y"}}), Condition::Text("a".into(), "x y".into())),
        (
            json!({"key": "a", "range": {"gte": 1, "lt": 2.5, "gt": null}}),
            Condition::Range(
                "a".into(),
                Range { gte: Some(1.0), lt: Some(2.5), ..Range::default() },
            ),
        ),
        (json!({"is_empty": {"key": "a"}}), Condition::IsEmpty("a".into())),
        (json!({"key": "a", "is_null": true}), Condition::IsNull("a".into())),
        (
            json!({"has_id": [1, "936DA01F9ABD4D9D80C702AF85C822A8"]}),
            Condition::HasId(vec![
                DocumentId::Number(1),
                DocumentId::Text("936da01f-9abd-4d9d-80c7-02af85c822a8".into()),
            ]),
        ),
        (
            json!({"nested": {"key": "a[]", "filter": {"must": [{"key": "b", "match": {"value": 1}}]}}}),
            Condition::Any("a[].b".into(), vec![Scalar::Integer(1)]),
        ),
        (
            json!({"key": "a", "is_empty": false}),
            Condition::Nested(Box::new(Filter {
                must_not: vec![Condition::IsEmpty("a".into())],
                ..Filter::default()
            })),
        ),
        (
            json!({"should": {"is_null": {"key": "a"}}}),
            Condition::Nested(Box::new(Filter {
                should: vec![Condition::IsNull("a".into())],
                ..Filter::default()
            })),
        ),
    ] {
        assert_eq!(must(given.clone()), expected, "{given}");
    }
    let filter = read(json!({
        "min_should": {"conditions": [{"is_null": {"key": "a"}}], "min_count": 1},
        "must_not": [{"has_id": [2]}],
    }));
    let filter = filter.unwrap();
    assert_eq!(filter.min_should, Some((vec![Condition::IsNull("a".into())], 1)));
    assert_eq!(filter.must_not, [Condition::HasId(vec![DocumentId::Number(2)])]);
    assert!(read(json!({})).unwrap().is_empty());
}

#[test]
fn what_the_index_does_not_have_is_refused() {
    for (given, word) in [
        (json!({"must": [{"key": "a", "geo_radius": {}}]}), "condition"),
        (json!({"must": [{"key": "a", "values_count": {"gt": 1}}]}), "condition"),
        (json!({"must": [{"key": "a", "match": {"phrase": "x"}}]}), "condition"),
        (json!({"must": [{"key": "a", "match": {"value": 1.5}}]}), "condition"),
        (json!({"must": [{"key": "a", "range": {"gt": "2024-01-01"}}]}), "times as numbers"),
        (json!({"must": [{"key": "a"}]}), "exactly one"),
        (json!({"must": [{"has_vector": "x"}]}), "condition"),
        (json!({"must": [{"is_null": {"key": "a"}, "has_id": [1]}]}), "condition"),
        (json!({"more": 1}), "more"),
        (
            json!({"must": [{"nested": {"key": "a", "filter": {"must": [
                {"key": "b", "match": {"value": 1}}, {"key": "c", "match": {"value": 1}}
            ]}}}]}),
            "nested filter",
        ),
        (
            json!({"must": [{"nested": {"key": "a", "filter": {"must_not": [
                {"key": "b", "match": {"value": 1}}
            ]}}}]}),
            "nested filter",
        ),
        (json!({"must": [{"has_id": vec![1; 2000]}]}), "too many"),
    ] {
        let message = read(given.clone()).unwrap_err();
        assert!(message.contains(word), "{given}: {message}");
    }
}
