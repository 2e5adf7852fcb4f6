//! Collections of a model with sparse vectors.

use std::path::Path;

use e2e::{client::Client, server::Server};
use hyper::Method;
use serde_json::{Value, json};

use crate::{create, found, put, search};

const TEXTS: [&str; 4] = ["hello world", "london is big", "the model server", "good day"];

/// Returns the model with this name among those of the field.
fn splade(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// Returns the sparse embedding of a text as `/embed_sparse` gives it.
async fn embedding(client: &mut Client, text: &str) -> Vec<(u64, f64)> {
    let body = json!({ "inputs": text });
    let response = client.post("/embed_sparse", &body).await.expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    let entry = |entry: &Value| Some((entry["index"].as_u64()?, entry["value"].as_f64()?));
    let body = response.json();
    body[0].as_array().expect("a list").iter().filter_map(entry).collect()
}

fn product(one: &[(u64, f64)], other: &[(u64, f64)]) -> f64 {
    let weight =
        |token: u64| other.iter().find(|(of, _)| *of == token).map_or(0.0, |(_, weight)| *weight);
    one.iter().map(|(token, value)| value * weight(*token)).sum()
}

/// Compares the scores of a search with inner products of what the model gives now.
async fn compare(client: &mut Client, query: &str) {
    let of_query = embedding(client, query).await;
    let answer = found(client, "notes", query, 10).await;
    assert!(!answer.hits.is_empty());
    for hit in &answer.hits {
        let expected = product(&of_query, &embedding(client, &hit.text).await);
        assert!((f64::from(hit.score) - expected).abs() < 1e-3, "{hit:?}, expected {expected}");
    }
    let mut sorted = answer.hits.clone();
    sorted.sort_by(|one, other| other.score.total_cmp(&one.score));
    assert_eq!(sorted, answer.hits, "best first");
}

#[tokio::test(flavor = "multi_thread")]
async fn sparse_vectors_are_searched_updated_and_combined_with_words() {
    let server = Server::builder().model("m", &splade("splade")).start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &TEXTS).await;
    compare(&mut client, "london").await;
    let body = json!({"collection": "notes", "query": "london", "hybrid": true, "limit": 1});
    let hybrid =
        client.send(Method::POST, "/search", body.to_string().into()).await.expect("an answer");
    assert_eq!(hybrid.json()["hits"][0]["text"], "london is big", "{}", hybrid.text());

    let committed = server.update("m", Some(&splade("more-splade-sum"))).await.expect("a commit");
    assert_eq!(committed.generation, 2);
    compare(&mut client, "london").await;
    server.rollback("m", None).await.expect("a commit");
    compare(&mut client, "big world").await;
    assert_eq!(search(&mut client, "notes", "london", 1).await.generation(), Some(3));
    server.stop().await;
}
