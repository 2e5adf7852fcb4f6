//! Cohere's and Jina's `/v1/rerank` and `/v2/rerank`, and Cohere's `/v1/embed` and `/v2/embed`.

use e2e::{client::Client, fixtures::reference};
use hyper::Method;
use serde_json::{Value, json};

use crate::{Ranking, TEXT, TEXT_INDEX, assert_close, numbers, post_ok, serve, unit};

/// Asserts that an error has Cohere's shape, and returns its message.
async fn refused(client: &mut Client, path: &str, body: &Value, status: u16) -> String {
    let response = client.post(path, body).await.expect("an answer");
    assert_eq!(response.status, status, "{path} {body:.200}: {:.1000}", response.text());
    let error = response.json();
    assert_eq!(error.as_object().map(serde_json::Map::len), Some(1), "{error}");
    crate::message(&json!({"message": error["message"]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn rerank_accepts_texts_and_objects_and_returns_the_best_first() {
    let server = serve(&["rerank_a"]).await;
    let mut client = server.client().await;
    let ranking = Ranking::for_model("rerank_a");
    let (order, scores) = (ranking.order(), ranking.sigmoids());
    let objects: Vec<Value> =
        ranking.texts.iter().map(|text| json!({"text": text, "title": "more"})).collect();
    for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
        for documents in [json!(ranking.texts), json!(objects)] {
            for (top, texts) in [(None, false), (Some(1), true), (Some(3), false), (Some(99), true)]
            {
                let body = json!({"query": ranking.query, "documents": documents, "top_n": top,
                    "return_documents": texts, "model": "rerank_a"});
                let answer = post_ok(&mut client, path, &body).await;
                let results = answer["results"].as_array().expect("results");
                assert_eq!(results.len(), top.unwrap_or(order.len()).min(order.len()));
                for (result, &index) in results.iter().zip(&order) {
                    assert_eq!(result["index"], index);
                    let score = numbers(&json!([result["relevance_score"]]));
                    assert_close(&score, &[scores[index]], path);
                    match texts {
                        true => assert_eq!(result["document"]["text"], ranking.texts[index]),
                        false => assert!(result.get("document").is_none(), "{result}"),
                    }
                }
                let tokens = &answer["usage"]["total_tokens"];
                assert!(tokens.as_u64() > Some(0), "{answer}");
                assert_eq!(tokens, &answer["meta"]["tokens"]["input_tokens"]);
                assert_eq!(answer["model"], "rerank_a");
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rerank_accepts_a_thousand_documents_and_no_more() {
    let server = serve(&["rerank_a"]).await;
    let mut client = server.client().await;
    let ranking = Ranking::for_model("rerank_a");
    let documents: Vec<&String> = ranking.texts.iter().cycle().take(1000).collect();
    let body = json!({"query": ranking.query, "documents": documents});
    let answer = post_ok(&mut client, "/v2/rerank", &body).await;
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 1000);
    let best: Vec<u64> = results[..200].iter().filter_map(|r| r["index"].as_u64()).collect();
    let first = ranking.order()[0] as u64;
    assert!(best.iter().all(|index| index % 5 == first), "equal documents rank together: {best:?}");
    assert!(best.is_sorted(), "equal scores keep the order of the request");
    let body = json!({"query": "a", "documents": vec!["a"; 1001]});
    let message = refused(&mut client, "/v2/rerank", &body, 422).await;
    assert!(message.contains("1001") && message.contains("1000"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_returns_a_list_or_embeddings_by_type() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    let reference = reference();
    for (path, types, by_type) in [
        ("/v1/embed", json!(null), false),
        ("/v1/embed", json!(["float"]), true),
        ("/v2/embed", json!(null), true),
        ("/v2/embed", json!(["float"]), true),
    ] {
        let body = json!({"texts": reference.texts, "embedding_types": types,
            "input_type": "search_document", "model": "a"});
        let answer = post_ok(&mut client, path, &body).await;
        let all = if by_type { &answer["embeddings"]["float"] } else { &answer["embeddings"] };
        let all = all.as_array().unwrap_or_else(|| panic!("{path} {types}: {answer}"));
        assert_eq!(all.len(), reference.texts.len());
        for (actual, expected) in all.iter().zip(&reference.models["a"]) {
            assert_close(&numbers(actual), expected, path);
        }
        assert_eq!(answer["texts"], json!(reference.texts));
        let tokens: u64 = reference.tokens.iter().sum();
        assert_eq!(answer["meta"]["tokens"]["input_tokens"], tokens);
    }
    let body = json!({"texts": [TEXT], "output_dimension": 5});
    let answer = post_ok(&mut client, "/v1/embed", &body).await;
    let expected = unit(&reference.models["plain"][TEXT_INDEX][..5]);
    assert_close(&numbers(&answer["embeddings"][0]), &expected, "output_dimension");
    let (hello, world) = ("hello ".repeat(62), "world ".repeat(62));
    let kept = json!({"texts": [hello, world]});
    let kept = post_ok(&mut client, "/v1/embed", &kept).await["embeddings"].clone();
    for (text, truncate, index) in
        [(format!("{hello}world"), "END", 0), (format!("hello {world}"), "START", 1)]
    {
        let body = json!({"texts": [text], "truncate": truncate});
        let actual = post_ok(&mut client, "/v1/embed", &body).await;
        assert_close(&numbers(&actual["embeddings"][0]), &numbers(&kept[index]), truncate);
        let body = json!({"texts": [text], "truncate": "NONE"});
        refused(&mut client, "/v1/embed", &body, 422).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_the_cohere_shape() {
    let server = serve(&["a", "rerank_a"]).await;
    let mut client = server.client().await;
    for path in ["/v1/rerank", "/v2/rerank"] {
        for (body, status) in [
            (json!({"documents": ["a"]}), 422),
            (json!({"query": "a"}), 422),
            (json!({"query": "a", "documents": []}), 400),
            (json!({"query": "a", "documents": [1]}), 422),
            (json!({"query": "a", "documents": [{"title": "a"}]}), 422),
            (json!({"query": "a", "documents": ["a"], "top_n": 0}), 422),
            (json!({"query": "a", "documents": ["a"], "top_n": -1}), 422),
            (json!({"query": "a", "documents": ["a"], "model": "none"}), 404),
            (json!({"query": "a", "documents": ["a"], "model": "a"}), 424),
        ] {
            refused(&mut client, path, &body, status).await;
        }
    }
    for path in ["/v1/embed", "/v2/embed"] {
        for (body, status) in [
            (json!({}), 400),
            (json!({"texts": []}), 400),
            (json!({"texts": "a"}), 400),
            (json!({"texts": vec!["a"; 97]}), 422),
            (json!({"texts": ["a"], "embedding_types": ["int8"]}), 400),
            (json!({"texts": ["a"], "truncate": "MIDDLE"}), 400),
            (json!({"texts": ["a"], "output_dimension": 0}), 422),
            (json!({"texts": ["a"], "output_dimension": 33}), 422),
            (json!({"texts": ["a"], "model": "rerank_a"}), 424),
        ] {
            refused(&mut client, path, &body, status).await;
        }
    }
    for path in ["/v1/rerank", "/v2/rerank", "/v1/embed", "/v2/embed"] {
        for (method, body, status) in [
            (Method::GET, String::new(), 405),
            (Method::POST, "{".to_owned(), 400),
            (Method::POST, " ".repeat(2_000_001), 413),
        ] {
            let mut client = server.client().await;
            let response = client.send(method, path, body.into()).await.expect("an answer");
            assert_eq!(response.status, status, "{path}: {}", response.text());
            let error = response.json();
            assert!(error["message"].is_string(), "{path}: {error}");
        }
    }
    server.stop().await;
}
