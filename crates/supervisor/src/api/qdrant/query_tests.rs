//! Tests of queries.

use onnxd_proto::search::{DocumentId, Scalar};
use serde_json::json;

use super::*;

fn interpret(body: Value) -> Result<Asked, String> {
    let request: QueryRequest = serde_json::from_value(body).map_err(|error| error.to_string())?;
    let asked = request.interpret(Some("dense"), Some("v1"));
    asked.map(|(asked, _)| asked).map_err(|fault| fault.message)
}

fn request(body: Value) -> (SearchRequest, Option<String>) {
    match interpret(body.clone()).unwrap_or_else(|error| panic!("{body}: {error}")) {
        Asked::Nearest { request, model, .. } => (*request, model),
        other @ Asked::All { .. } => panic!("{body}: {other:?}"),
    }
}

#[test]
fn vectors_texts_and_ids_are_searched_for() {
    for body in [
        json!({"query": [1.0, 2.0], "using": "dense", "params": {"exact": true}}),
        json!({"query": {"nearest": [1.0, 2.0]}}),
    ] {
        let (request, model) = request(body);
        let SearchQuery::Vector(vector) = request.query else { panic!("no vector") };
        assert_eq!(vector.components, [1.0, 2.0]);
        assert_eq!((vector.version.as_deref(), model), (Some("v1"), None));
        assert_eq!((request.limit, request.offset, request.hybrid), (10, 0, false));
    }
    for body in [
        json!({"query": {"text": "a", "model": "m"}, "hybrid": true, "rerank": {"model": "r"}}),
        json!({"query": {"nearest": {"text": "a", "model": "m"}}, "hybrid": true, "rerank": {"model": "r", "candidates": 50}}),
    ] {
        let (request, model) = request(body);
        let SearchQuery::Text(text) = request.query else { panic!("no text") };
        assert_eq!((text.as_str(), model.as_deref()), ("a", Some("m")));
        assert!(request.hybrid);
        assert_eq!(request.rerank.unwrap().candidates, 50);
    }
    for body in [json!({"query": 7}), json!({"query": {"nearest": 7}})] {
        let SearchQuery::Document(id) = request(body).0.query else { panic!("no id") };
        assert_eq!(id, DocumentId::Number(7));
    }
    let mmr = json!({"diversity": 0.25, "candidates_limit": 20});
    let asked = interpret(json!({"query": {"nearest": [1.0], "mmr": mmr}})).unwrap();
    let expected = Some(Diversity { diversity: 0.25, candidates: 20 });
    assert!(matches!(asked, Asked::Nearest { diversity, .. } if diversity == expected));
    let all = interpret(json!({"limit": 3, "offset": 2}));
    assert!(matches!(all, Ok(Asked::All { limit: 3, offset: 2, .. })));
}

fn fused(query: Value, words: Value) -> Value {
    json!({"prefetch": [{"query": words, "using": "w"}, {"query": query, "limit": 20}], "query": {"fusion": "rrf"}})
}

#[test]
fn a_fusion_of_a_text_and_its_words_is_hybrid() {
    let words = json!({"text": "a", "model": "Qdrant/bm25"});
    let filter = json!({"must": [{"key": "k", "match": {"value": 1}}]});
    let mut body = fused(json!({"nearest": {"text": "a", "model": "m"}}), words);
    let (plain, model) = request(body.clone());
    assert!(plain.hybrid && plain.filter.is_empty());
    assert_eq!(model.as_deref(), Some("m"));
    for prefetch in body["prefetch"].as_array_mut().unwrap() {
        prefetch["filter"] = filter.clone();
    }
    let (filtered, _) = request(body.clone());
    let condition = Condition::Any("k".into(), vec![Scalar::Integer(1)]);
    let inner = Filter { must: vec![condition], ..Filter::default() };
    assert_eq!(filtered.filter.must, [Condition::Nested(Box::new(inner))]);
    body["prefetch"][0]["filter"] = json!(null);
    assert!(interpret(body).unwrap_err().contains("equal filters"));
}

#[test]
fn what_onnxd_does_not_have_is_refused() {
    let words = || json!({"text": "a", "model": "Qdrant/bm25"});
    for (body, word) in [
        (json!({"query": {"recommend": {"positive": [1, 2]}}}), "`recommend`"),
        (json!({"query": {"order_by": "x"}}), "`order_by`"),
        (json!({"query": {"sample": "random"}}), "`sample`"),
        (json!({"query": {"fusion": "rrf"}}), "`fusion`"),
        (json!({"query": {"nearest": [1.0], "mmr": {"diversity": 1.5}}}), "`diversity`"),
        (json!({"query": {"nearest": [1.0], "mmr": {"more": 1}}}), "`more`"),
        (json!({"query": {"nearest": [1.0], "mmr": 1}}), "`mmr`"),
        (json!({"query": {"nearest": [1.0], "mmr": {}}, "hybrid": true}), "`mmr`"),
        (json!({"query": {"nearest": [1.0], "more": {}}}), "`more`"),
        (json!({"query": {"indices": [1], "values": [1.0]}}), "sparse"),
        (json!({"query": [1.0], "using": "other"}), "`other`"),
        (json!({"query": [1.0], "limit": 0}), "`limit` is 0"),
        (json!({"query": [1.0], "limit": 100_000}), "10000"),
        (json!({"query": [1.0], "lookup_from": {}}), "lookup_from"),
        (json!({"query": [1.0], "more": 1}), "more"),
        (json!({"hybrid": true}), "need the text"),
        (json!({"query": {"text": "a"}, "rerank": "r"}), "`rerank` as an object"),
        (json!({"prefetch": {"query": [1.0]}, "query": [1.0]}), "prefetch"),
        (json!({"prefetch": [{"query": [1.0], "score_threshold": 1}], "query": [1.0]}), "prefetch"),
        (fused(json!({"text": "b", "model": "m"}), words()), "the same text"),
        (fused(words(), words()), "the same text"),
        (fused(json!([1.0]), words()), "the same text"),
    ] {
        let message = interpret(body.clone()).unwrap_err();
        assert!(message.contains(word), "{body}: {message}");
    }
}
