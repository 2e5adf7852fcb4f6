//! Small inputs that other servers or earlier versions answered wrongly.

use std::fs;

use e2e::{
    client::Client,
    expected::{Case, Directory, Limit, Rows, cases::numbers, onnx},
    server::Server,
};
use serde_json::{Value, json};

use crate::{assert_none, cases_of, faults, serve};

/// Starts a server with an edited copy of one directory.
async fn serve_edited(name: &str, edit: impl Fn(&std::path::Path)) -> (Server, Directory) {
    let builder = Server::builder();
    let home = builder.directories();
    let mut directory = Directory::open(name, &home.models());
    directory.path = directory.copy_to(&home.models().join("copy"));
    edit(&directory.path);
    let server = serve(builder, std::slice::from_ref(&directory)).await;
    (server, directory)
}

/// Asserts that a directory answers those of its cases that satisfy `wanted`.
async fn assert_answers(
    name: &str,
    edit: impl Fn(&std::path::Path),
    wanted: impl Fn(&Case) -> bool,
) {
    let (server, directory) = serve_edited(name, edit).await;
    let mut cases = cases_of(&directory);
    cases.retain(wanted);
    assert!(!cases.is_empty(), "{name}: no case is selected");
    assert_none(&faults(&mut server.client().await, name, &cases).await);
    server.stop().await;
}

fn unchanged(_: &std::path::Path) {}

async fn post_ok(client: &mut Client, path: &str, body: &Value) -> Value {
    let response = client.post(path, body).await.expect("an answer");
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooling_graph_returns_its_own_embedding() {
    assert_answers("embeddinggemma-fused", unchanged, |case| case.path == "/embed").await;
    let without_modules = |path: &std::path::Path| {
        fs::remove_file(path.join("modules.json")).expect("a file");
    };
    assert_answers("more-pooled-and-modules", without_modules, |case| case.path == "/embed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_used_output_is_reported() {
    let (server, directory) = serve_edited("embeddinggemma-fused", unchanged).await;
    let mut client = server.client().await;
    post_ok(&mut client, "/embed", &json!({"inputs": "a"})).await;
    let output = server.cli(&["status", "--json"]).await;
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(status.contains("sentence_embedding"), "{status}");
    let info = client.get(&format!("/info?model={}", directory.name)).await.expect("an answer");
    assert!(info.text().contains("sentence_embedding"), "{}", info.text());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_encoder_modules_indicate_a_reranker() {
    for name in ["cross-encoder-new", "cross-encoder-modernbert"] {
        assert_answers(name, unchanged, |case| case.path == "/rerank").await;
    }
    let (server, _) = serve_edited("cross-encoder-new", unchanged).await;
    let response = server.client().await.post("/embed", &json!({"inputs": "a"})).await;
    let response = response.expect("an answer");
    assert_eq!(response.status, 424, "{}", response.text());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn external_weights_of_constants_are_loaded() {
    assert_answers("xlm-roberta-embed", unchanged, |case| case.path == "/embed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regression_head_returns_the_raw_number() {
    assert_answers("classifier-regression", unchanged, |case| case.path == "/predict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_lowercased_if_a_file_says_so() {
    assert_answers("lowercase", unchanged, |case| case.path == "/embed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_tokens_are_excluded_if_a_file_says_so() {
    assert_answers("include-prompt-false", unchanged, |case| case.what.starts_with("prompt "))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_route_classifies_tokens_and_candidates() {
    assert_answers("token-classifier", unchanged, |case| case.path == "/").await;
    assert_answers("zero-shot-nli", unchanged, |case| case.path == "/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guessed_task_is_reported_and_unknown_ones_are_refused() {
    let settled = |path: &std::path::Path| {
        let text = "[inputs]\ntask_id = \"text-matching\"\n";
        fs::write(path.join("onnxd.toml"), text).expect("a file");
    };
    for is_settled in [false, true] {
        let edit = |path: &std::path::Path| {
            if is_settled {
                settled(path)
            }
        };
        let (server, directory) = serve_edited("jina-v3-like", edit).await;
        let mut client = server.client().await;
        let body = json!({"inputs": directory.expected["texts"]});
        let answer = post_ok(&mut client, "/embed", &body).await;
        let reference = numbers(&directory.expected["embeddings"]);
        assert_eq!(Limit::FLOAT32.check(&numbers(&answer), &reference), Ok(()));
        let warned = server.stderr().contains("text-matching");
        assert_eq!(warned, !is_settled, "{}", server.stderr());

        let body = json!({"inputs": "a", "switches": {"task_id": "strange"}});
        let response = client.post("/embed", &body).await.expect("an answer");
        assert_eq!(response.status, 422, "{}", response.text());
        for word in ["task_id", "strange", "retrieval.query", "text-matching"] {
            assert!(response.text().contains(word), "{}", response.text());
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_vectors_give_the_similarity_of_their_library() {
    let (server, directory) = serve_edited("colbert", unchanged).await;
    let mut client = server.client().await;
    let mut sides = Vec::new();
    for side in ["query", "document"] {
        let body = json!({"inputs": directory.expected["texts"], "prompt_name": side});
        let answer = post_ok(&mut client, "/embed_all", &body).await;
        let texts: Vec<Rows> = answer.as_array().expect("a list").iter().map(numbers).collect();
        sides.push(texts);
    }
    let dot = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(x, y)| x * y).sum::<f32>();
    let similarity = |query: &Rows, document: &Rows| -> f32 {
        let best =
            |token: &Vec<f32>| document.iter().map(|other| dot(token, other)).fold(-1.0, f32::max);
        query.iter().map(best).sum()
    };
    let row = |query| sides[1].iter().map(|document| similarity(query, document)).collect();
    let all: Rows = sides[0].iter().map(row).collect();
    let limit = Limit { difference: 1e-3, ..Limit::SCORES };
    assert_eq!(limit.check(&all, &numbers(&directory.expected["maxsim"])), Ok(()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saturated_scores_keep_their_order() {
    let shift = |path: &std::path::Path| {
        onnx::add_to(&path.join("onnx/model.onnx"), "classifier.bias", 20.0)
    };
    let (server, _) = serve_edited("cross-encoder-new", shift).await;
    let mut client = server.client().await;
    let texts =
        ["a cat", "the law of large numbers", "pizza 🍕", "a dog", "a cat", "Berlin", "code"];
    let body = json!({"query": "animals", "texts": texts, "raw_scores": true});
    let ranks = |answer: &Value, field: &str| -> Vec<(u64, f64)> {
        let list = answer.as_array().expect("a list");
        let rank = |one: &Value| Some((one["index"].as_u64()?, one[field].as_f64()?));
        list.iter().map(|one| rank(one).expect("a rank")).collect()
    };
    let raw = ranks(&post_ok(&mut client, "/rerank", &body).await, "score");
    assert!(raw.iter().all(|(_, logit)| *logit > 17.0), "every sigmoid must saturate: {raw:?}");
    assert!(raw.is_sorted_by(|one, next| one.1 >= next.1), "{raw:?}");
    let order: Vec<u64> = raw.iter().map(|(index, _)| *index).collect();
    let rank = |index| order.iter().position(|one| *one == index);
    assert_eq!(rank(0).map(|first| first + 1), rank(4), "equal scores keep their order: {raw:?}");
    let body = json!({"query": "animals", "texts": texts});
    let indices =
        |ranks: Vec<(u64, f64)>| ranks.into_iter().map(|(index, _)| index).collect::<Vec<_>>();
    assert_eq!(indices(ranks(&post_ok(&mut client, "/rerank", &body).await, "score")), order);
    for path in ["/v1/rerank", "/v2/rerank"] {
        let body = json!({"query": "animals", "documents": texts});
        let answer = post_ok(&mut client, path, &body).await;
        assert_eq!(indices(ranks(&answer["results"], "relevance_score")), order, "{path}");
    }
    server.stop().await;
}
