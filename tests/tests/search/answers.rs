//! Text in, documents out.

use e2e::{client::Client, search::requests, server::Server};
use hyper::Method;
use serde_json::json;

use crate::{builder, create, found, put, search, spaces, tiny};

const TEXTS: [&str; 4] = ["hello world", "london is big", "the model server", "good day"];

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_filled_searched_changed_and_exported() {
    let spaces = spaces(200).await;
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    assert_eq!(found(&mut client, "notes", "hello", 5).await.hits, [], "nothing is stored yet");
    let texts: Vec<&str> = (0..200).map(|number| spaces.text(number)).collect();
    put(&mut client, "notes", &texts).await;
    let answer = found(&mut client, "notes", texts[7], 200).await;
    let space = spaces.space("a");
    let mut expected: Vec<u64> = (0..200).collect();
    let score = |id: &u64| space.score(7, usize::try_from(*id).expect("a small id"));
    expected.sort_by(|one, other| score(other).total_cmp(&score(one)));
    // Equal scores may be in any order.
    let scores = |ids: &[u64]| ids.iter().map(|id| (score(id) * 1e4).round()).collect::<Vec<_>>();
    assert_eq!(scores(&answer.ids()), scores(&expected));
    assert_eq!(answer.hits[0].id, 7);
    assert_eq!(answer.hits[0].text, texts[7]);

    let replaced = requests::put(&mut client, "notes", [(7, texts[8])]).await.expect("an answer");
    assert_eq!(replaced.status, 200, "{}", replaced.text());
    let best = found(&mut client, "notes", texts[8], 2).await;
    assert_eq!(best.hits.iter().map(|hit| hit.text.as_str()).collect::<Vec<_>>(), [texts[8]; 2]);
    let deleted = requests::delete(&mut client, "notes", &[7, 8]).await.expect("an answer");
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    assert!(found(&mut client, "notes", texts[8], 200).await.hits.iter().all(|hit| hit.id != 8));

    let exported = requests::export(&mut client, "notes").await;
    assert_eq!(exported.len(), 198);
    create(&mut client, "copy").await;
    let documents = exported.iter().map(|document| (document.id, document.text.as_str()));
    let imported = requests::put(&mut client, "copy", documents).await.expect("an answer");
    assert_eq!(imported.status, 200, "{}", imported.text());
    assert_eq!(requests::export(&mut client, "copy").await, exported);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_its_model_and_where_the_time_went() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &TEXTS).await;
    let response = search(&mut client, "notes", "hello", 1).await;
    let serving = server.status().await.model("m").clone();
    let body = response.json();
    assert_eq!(body["model"]["name"], "m");
    assert_eq!(body["model"]["generation"], serving.generation);
    assert_eq!(body["model"]["version"], serving.version.as_str());
    assert_eq!(response.generation(), Some(serving.generation));
    let timing = response.header("server-timing").expect("a header");
    assert!(timing.contains("embed;dur=") && timing.contains("search;dur="), "{timing}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_queries_pages_thresholds_and_payloads() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    let lines: String = (0..4)
        .map(|id| {
            let payload = json!({"n": id, "of": ["x", {"y": null}]});
            format!("{}\n", json!({"id": id, "text": TEXTS[id], "payload": payload}))
        })
        .collect();
    let path = "/collections/notes/documents";
    let stored = client.send(Method::POST, path, lines.into()).await.expect("an answer");
    assert_eq!(stored.status, 200, "{}", stored.text());

    let all = found(&mut client, "notes", TEXTS[1], 4).await;
    let body = json!({"collection": "notes", "query": TEXTS[1], "limit": 2, "offset": 1});
    let page = client.post("/search", &body).await.expect("an answer").json();
    let ids: Vec<_> =
        page["hits"].as_array().expect("hits").iter().map(|hit| hit["id"].as_u64()).collect();
    assert_eq!(ids, [Some(all.ids()[1]), Some(all.ids()[2])]);
    let best = &page["hits"][0];
    assert_eq!(best["payload"], json!({"n": best["id"], "of": ["x", {"y": null}]}));

    let threshold = (all.hits[1].score + all.hits[2].score) / 2.0;
    let body = json!({"collection": "notes", "query": TEXTS[1], "score_threshold": threshold,
        "with_text": false, "with_payload": false});
    let above = client.post("/search", &body).await.expect("an answer").json();
    assert_eq!(above["hits"].as_array().expect("hits").len(), 2, "{above}");
    assert!(above["hits"][0].get("text").is_none() && above["hits"][0].get("payload").is_none());

    let body = json!({"collection": "notes", "query": TEXTS, "k": 1});
    let several = client.post("/search", &body).await.expect("an answer").json();
    let first: Vec<_> = several["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|hits| hits[0]["text"].as_str())
        .collect();
    assert_eq!(first, TEXTS.map(Some));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reranker_orders_the_best_documents() {
    let server = builder().model("r", &tiny("rerank_a")).start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &TEXTS).await;
    let body = json!({"query": "london", "texts": TEXTS, "model": "r"});
    let ranks = client.post("/rerank", &body).await.expect("an answer").json();
    let expected: Vec<_> =
        ranks.as_array().expect("ranks").iter().map(|rank| rank["index"].as_u64()).collect();
    let body = json!({"collection": "notes", "query": "london", "rerank": {"model": "r"}});
    let response = client.post("/search", &body).await.expect("an answer");
    let hits = response.json();
    let ids: Vec<_> =
        hits["hits"].as_array().expect("hits").iter().map(|hit| hit["id"].as_u64()).collect();
    assert_eq!(ids, expected);
    assert!(response.header("server-timing").is_some_and(|times| times.contains("rerank;dur=")));
    server.stop().await;
}

/// Sends a search that must be refused, and returns the message.
async fn refused(client: &mut Client, body: serde_json::Value, status: u16) -> String {
    let response = client.post("/search", &body).await.expect("an answer");
    assert_eq!(response.status, status, "{body}: {}", response.text());
    requests::error(&response)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_with_the_cause() {
    let server = builder().model("r", &tiny("rerank_a")).start().await;
    let mut client = server.client().await;
    let unknown = refused(&mut client, json!({"collection": "notes", "query": "a"}), 404).await;
    assert!(unknown.contains("`notes` does not exist; create it first"), "{unknown}");
    let missing = requests::put(&mut client, "notes", [(1, "a")]).await.expect("an answer");
    assert_eq!(missing.status, 404, "{}", missing.text());

    for (model, status, reason) in [("x", 404, "x"), ("r", 400, "does not embed texts")] {
        let created = requests::create(&mut client, "notes", model).await.expect("an answer");
        assert_eq!(created.status, status, "{model}: {}", created.text());
        assert!(created.text().contains(reason), "{model}: {}", created.text());
    }
    create(&mut client, "notes").await;
    let again = requests::create(&mut client, "notes", "m").await.expect("an answer");
    assert_eq!(again.status, 409, "{}", again.text());

    put(&mut client, "notes", &TEXTS).await;
    for (body, status, reason) in [
        (json!({"collection": "notes", "query": []}), 400, "query"),
        (json!({"collection": "notes", "query": "a", "limit": 10_001}), 422, "10000"),
        (json!({"collection": "notes", "query": "a", "rerank": {"model": "m"}}), 424, "m"),
        (json!({"collection": "notes", "query": "a", "rerank": {"model": "x"}}), 404, "x"),
        (json!({"collection": "notes"}), 422, "query"),
        (json!({"collection": "notes", "query": "a", "rerank": "r"}), 422, "`rerank`"),
        (
            json!({"collection": "notes", "query": "a", "rerank": {"model": "r", "candidates": 0}}),
            422,
            "`rerank.candidates`",
        ),
        (json!({"collection": "notes", "query": "a", "limit": 1, "k": 1}), 422, "`limit` and `k`"),
    ] {
        let message = refused(&mut client, body, status).await;
        assert!(message.contains(reason), "{message}");
    }
    let lines = "{\"id\": 9, \"text\": \"a\"}\n{\"id\": 10}\n";
    let path = "/collections/notes/documents";
    let broken = client.send(Method::POST, path, lines.into()).await.expect("an answer");
    assert!((400..500).contains(&broken.status), "{}", broken.text());
    assert!(broken.text().contains("line 2"), "{}", broken.text());
    assert_eq!(requests::export(&mut client, "notes").await.len(), 4, "nothing is stored");
    assert_eq!(found(&mut client, "notes", "a", 10).await.hits.len(), 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_of_two_models_do_not_mix() {
    let spaces = spaces(50).await;
    let server = Server::builder().model("m", &tiny("a")).model("n", &tiny("b")).start().await;
    let mut client = server.client().await;
    for (collection, model) in [("of-m", "m"), ("of-n", "n")] {
        let created = requests::create(&mut client, collection, model).await.expect("an answer");
        assert_eq!(created.status, 200, "{}", created.text());
        let texts: Vec<&str> = (0..50).map(|number| spaces.text(number)).collect();
        put(&mut client, collection, &texts).await;
    }
    for (collection, content) in [("of-m", "a"), ("of-n", "b")] {
        let answer = found(&mut client, collection, spaces.text(3), 50).await;
        assert_eq!(answer.hits.len(), 50);
        for hit in answer.hits {
            let id = usize::try_from(hit.id).expect("a small id");
            let expected = spaces.space(content).score(3, id);
            assert!((hit.score - expected).abs() < 1e-4, "{collection}: {hit:?} {expected}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_alias_deletes_no_collection() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &TEXTS).await;
    let alias = json!({"collection_name": "notes", "alias_name": "now"});
    let actions = json!({ "actions": [{ "create_alias": alias }] });
    let added = client.post("/collections/aliases", &actions).await.expect("an answer");
    assert_eq!(added.status, 200, "{}", added.text());
    assert_eq!(found(&mut client, "now", "hello", 9).await.hits.len(), TEXTS.len());
    let deleted = client.send(Method::DELETE, "/collections/now", String::new().into()).await;
    assert_ne!(deleted.expect("an answer").json()["result"], true);
    assert_eq!(found(&mut client, "notes", "hello", 9).await.hits.len(), TEXTS.len());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vector_of_another_version_is_refused_whatever_the_client_says() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &TEXTS).await;
    let embedded = client.post("/embed", &json!({"inputs": "hello"})).await.expect("an answer");
    let vector = embedded.json()[0].clone();
    server.update("m", Some(&tiny("b"))).await.expect("a commit");
    let version = server.status().await.model("m").version.clone();
    let body = json!({ "query": vector, "limit": 1 }).to_string();
    let path = "/collections/notes/points/query";
    let headers = [("x-model-version", version.as_str())];
    let refused = client.send_with(Method::POST, path, &headers, body.into()).await;
    let refused = refused.expect("an answer");
    assert_eq!(refused.status, 409, "{}", refused.text());
    server.stop().await;
}
