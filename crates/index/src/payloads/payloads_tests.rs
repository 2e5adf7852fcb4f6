//! Filters are compared with an evaluation of each payload by itself.

use std::{collections::BTreeMap, convert::Infallible};

use onnxd_proto::search::{Range, Scalar};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Documents whose ids are their keys.
struct All(RoaringBitmap);

impl Documents for All {
    type Error = Infallible;

    fn all(&self) -> &RoaringBitmap {
        &self.0
    }

    fn keys_of(&self, ids: &[DocumentId]) -> Result<RoaringBitmap, Infallible> {
        let number = |id: &DocumentId| match id {
            DocumentId::Number(number) => u32::try_from(*number).ok(),
            DocumentId::Text(_) => None,
        };
        Ok(&self.0 & ids.iter().filter_map(number).collect::<RoaringBitmap>())
    }
}

fn find(payloads: &BTreeMap<u32, Value>, filter: &Filter) -> Vec<u32> {
    let mut columns = Columns::new(&Columns::default().missing(filter));
    for (key, payload) in payloads {
        columns.change(*key, None, Some(payload));
    }
    let all = All(payloads.keys().copied().collect());
    columns.matching(filter, &all).unwrap().iter().collect()
}

fn must(condition: Condition) -> Filter {
    Filter { must: vec![condition], ..Filter::default() }
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.to_owned())
}

fn payloads() -> BTreeMap<u32, Value> {
    let payloads = [
        json!({"lang": "en", "year": 1999, "tags": ["a", "b"], "at": {"city": "London"}}),
        json!({"lang": "de", "year": 2001.5, "tags": [], "at": {"city": "Berlin"}, "ok": true}),
        json!({"lang": null, "year": -3, "title": "The quick brown Fox"}),
        json!({"people": [{"name": "Ada"}, {"name": "Alan"}], "a.b": 1, "year": "1999"}),
    ];
    (0..).zip(payloads).collect()
}

#[test]
fn each_condition_finds_its_documents() {
    let range = |gte, lt| Range { gte, lt, ..Range::default() };
    let year = |range| must(Condition::Range("year".into(), range));
    for (filter, expected) in [
        (Filter::default(), vec![0, 1, 2, 3]),
        (must(Condition::Any("lang".into(), vec![text("en"), text("de")])), vec![0, 1]),
        (must(Condition::Any("year".into(), vec![Scalar::Integer(1999)])), vec![0]),
        (must(Condition::Any("ok".into(), vec![Scalar::Bool(true)])), vec![1]),
        (must(Condition::Except("lang".into(), vec![text("en")])), vec![1]),
        (must(Condition::Any("tags".into(), vec![text("b")])), vec![0]),
        (must(Condition::Any("at.city".into(), vec![text("Berlin")])), vec![1]),
        (must(Condition::Any("people[].name".into(), vec![text("Alan")])), vec![3]),
        (must(Condition::Any("people.name".into(), vec![text("Alan")])), vec![]),
        (must(Condition::Any("\"a.b\"".into(), vec![Scalar::Integer(1)])), vec![3]),
        (year(range(Some(1999.0), None)), vec![0, 1]),
        (year(range(Some(-3.0), Some(1999.0))), vec![2]),
        (year(Range { gt: Some(-3.0), lte: Some(1999.0), ..Range::default() }), vec![0]),
        (year(Range { gt: Some(5.0), gte: Some(1999.0), ..Range::default() }), vec![0, 1]),
        (year(range(Some(2.0), Some(1.0))), vec![]),
        (year(range(Some(f64::NAN), None)), vec![]),
        (must(Condition::Text("title".into(), "fox QUICK".into())), vec![2]),
        (must(Condition::Text("title".into(), "fox slow".into())), vec![]),
        (must(Condition::IsEmpty("tags".into())), vec![1, 2, 3]),
        (must(Condition::IsNull("lang".into())), vec![2]),
        (must(Condition::IsEmpty("lang".into())), vec![2, 3]),
        (must(Condition::HasId(vec![DocumentId::Number(3), DocumentId::Number(9)])), vec![3]),
        (must(Condition::Nested(Box::new(must(Condition::IsNull("lang".into()))))), vec![2]),
    ] {
        assert_eq!(find(&payloads(), &filter), expected, "{filter:?}");
    }
}

#[test]
fn conditions_combine() {
    let english = || Condition::Any("lang".into(), vec![text("en")]);
    let german = || Condition::Any("lang".into(), vec![text("de")]);
    let tagged = || Condition::Any("tags".into(), vec![text("a")]);
    let should = Filter { should: vec![english(), german()], ..Filter::default() };
    assert_eq!(find(&payloads(), &should), [0, 1]);
    let not = Filter { must_not: vec![english()], ..Filter::default() };
    assert_eq!(find(&payloads(), &not), [1, 2, 3]);
    for (at_least, expected) in [(0, vec![0, 1, 2, 3]), (1, vec![0, 1]), (2, vec![0]), (4, vec![])]
    {
        let min_should = Some((vec![english(), german(), tagged()], at_least));
        let filter = Filter { min_should, ..Filter::default() };
        assert_eq!(find(&payloads(), &filter), expected, "at least {at_least}");
    }
}

#[test]
fn the_number_of_columns_is_bounded() {
    let mut columns = Columns::default();
    for field in 0..COLUMNS_MAX + 5 {
        let filter = must(Condition::IsNull(format!("field{field}")));
        assert_eq!(columns.missing(&filter).len(), 1);
        columns.append(Columns::new(&columns.missing(&filter)));
        columns.evict();
    }
    assert_eq!(columns.0.len(), COLUMNS_MAX);
}

fn value() -> impl Strategy<Value = Value> {
    let simple = prop_oneof![
        Just(Value::Null),
        (0..3_i64).prop_map(Value::from),
        prop_oneof![Just("a"), Just("b"), Just("a b")].prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ];
    prop_oneof![simple.clone(), prop::collection::vec(simple, 0..3).prop_map(Value::from)]
}

proptest! {
    #[test]
    fn changed_columns_equal_new_ones(
        steps in prop::collection::vec((0_u32..6, prop::option::of(value())), 0..40),
    ) {
        let conditions = [
            Condition::Any("f".into(), vec![text("a"), Scalar::Integer(1)]),
            Condition::Except("f".into(), vec![text("a")]),
            Condition::Range("f".into(), Range { gte: Some(1.0), ..Range::default() }),
            Condition::Text("f".into(), "a b".into()),
            Condition::IsNull("f".into()),
            Condition::IsEmpty("f".into()),
        ];
        let mut columns = Columns::new(&["f".into()]);
        let mut payloads: BTreeMap<u32, Value> = BTreeMap::new();
        for (key, value) in steps {
            let new = value.map(|value| json!({ "f": value }));
            columns.change(key, payloads.get(&key), new.as_ref());
            match new {
                Some(new) => payloads.insert(key, new),
                None => payloads.remove(&key),
            };
        }
        let all = All(payloads.keys().copied().collect());
        for condition in conditions {
            let filter = must(condition);
            let found: Vec<u32> = columns.matching(&filter, &all).unwrap().iter().collect();
            prop_assert_eq!(found, find(&payloads, &filter), "{:?}", filter);
        }
    }
}
