//! Limits on text length: models whose longest text needs too much memory or time, and models that
//! number positions like RoBERTa. They serve what fits and report the limit.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use e2e::{
    corpus::{Corpus, TOLERANCE, distance},
    eventually,
    fixtures::{model, replace_model},
    home::Home,
    server::Server,
};
use serde_json::{Value, json};

fn tiny(name: &str) -> PathBuf {
    model(&format!("tiny/{name}"))
}

/// Copies a model so that its files can be changed.
fn copy(home: &Home, name: &str, to: &str) -> PathBuf {
    let directory = home.models().join(to);
    replace_model(&tiny(name), &directory);
    directory
}

async fn max_input_length(server: &Server, model: &str) -> u64 {
    let path = format!("/info?model={model}");
    let info = server.client().await.get(&path).await.expect("an answer").json();
    info["max_input_length"].as_u64().expect("a number")
}

/// Returns a text with more tokens than any of these models accepts.
fn endless() -> Value {
    json!("word ".repeat(9000))
}

#[tokio::test(flavor = "multi_thread")]
async fn models_with_8192_positions_serve_with_default_flags() {
    let server =
        Server::builder().model("m12", &tiny("long_12")).model("m16", &tiny("long_16")).start();
    let server = server.await;
    let mut client = server.client().await;
    for name in ["m12", "m16"] {
        let tokens = max_input_length(&server, name).await;
        assert!((2048..8192).contains(&tokens), "{name}: {tokens}");
        let body = json!({"inputs": endless(), "model": name});
        let answer = client.post("/embed", &body).await.unwrap();
        assert_eq!(answer.status, 200, "{name}");
        let whole = json!({"inputs": endless(), "model": name, "truncate": false});
        let refused = client.post("/embed", &whole).await.unwrap();
        assert!(refused.status == 422 || refused.status == 413, "{name}: {}", refused.status);
    }
    assert_eq!(server.status().await.restarts(), 0, "no worker was restarted");
    assert!(server.stderr().contains("--check-memory"), "{}", server.stderr());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortened_limit_survives_a_restart_and_grows_on_update() {
    let home = Arc::new(Home::new());
    let start = |memory: &str| {
        let builder = Server::builder().home(&home).model("m", &tiny("long_12"));
        builder.argument(memory).start()
    };
    let server = start("--check-memory=300").await;
    let short = max_input_length(&server, "m").await;
    assert!(short < 2048, "{short}");
    let body = json!({"inputs": endless()});
    let before = server.client().await.post("/embed", &body).await.unwrap().embeddings();
    server.stop().await;

    let server = start("--check-memory=1500").await;
    assert_eq!(max_input_length(&server, "m").await, short);
    let after = server.client().await.post("/embed", &body).await.unwrap().embeddings();
    assert!(distance(&before[0], &after[0]) <= TOLERANCE);
    server.update("m", None).await.unwrap();
    let longer = max_input_length(&server, "m").await;
    assert!(longer > short, "{longer}");
    // Workers that had loaded the version accept longer texts now.
    let updated = server.client().await.post("/embed", &body).await.unwrap().embeddings();
    assert!(distance(&before[0], &updated[0]) > TOLERANCE);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_in_onnxd_toml_is_served_or_refused() {
    let server =
        Server::builder().argument("--check-memory=600").model("m", &tiny("long_12")).start();
    let server = server.await;
    let explicit = copy(server.home(), "long_12", "explicit");
    fs::write(explicit.join("onnxd.toml"), "max_tokens = 8192").unwrap();
    let refusal = server.update("m", Some(&explicit)).await.unwrap_err();
    assert_eq!(refusal.kind, "memory", "{refusal:?}");
    for word in ["onnxd.toml", "max_tokens", "8192", "--check-memory"] {
        assert!(refusal.message.contains(word), "{word}: {refusal:?}");
    }
    fs::write(explicit.join("onnxd.toml"), "max_tokens = 1024").unwrap();
    server.update("m", Some(&explicit)).await.unwrap();
    assert_eq!(max_input_length(&server, "m").await, 1024);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_refuses_a_shortened_text_even_if_it_served_before() {
    let home = Arc::new(Home::new());
    let builder = || {
        Server::builder().home(&home).argument("--check-memory=600").model("m", &tiny("long_12"))
    };
    for first in [true, false] {
        let exited = builder()
            .argument("--strict")
            .try_start()
            .await
            .expect_err("a strict server refuses the model");
        assert_eq!(exited.code, Some(78), "{}", exited.stderr);
        for word in ["--strict", "8192", "--check-memory", "max_tokens = "] {
            assert!(exited.stderr.contains(word), "{word}: {}", exited.stderr);
        }
        if first {
            builder().start().await.stop().await;
        }
    }
    let server = builder().argument("--strict=false").start().await;
    // A strict server accepts models that need no guess.
    server.update("m", Some(&tiny("a"))).await.expect_err("another dimension");
    server.stop().await;
    let strict = Server::builder().argument("--strict").model("m", &tiny("a")).start().await;
    strict.update("m", Some(&tiny("b"))).await.unwrap();
    strict.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_takes_at_most_half_of_the_request_timeout() {
    let server =
        Server::builder().argument("--request-timeout=2").model("m", &tiny("long_12")).start();
    let server = server.await;
    let tokens = max_input_length(&server, "m").await;
    assert!((128..8192).contains(&tokens), "{tokens}");
    assert!(server.stderr().contains("--request-timeout"), "{}", server.stderr());
    // The limit is CPU time, so a busy machine may use up the rest as well.
    let mut client = server.client().await;
    eventually("an answer in time", Duration::from_secs(60), async || {
        let answer = client.post("/embed", &json!({"inputs": endless()})).await.unwrap();
        (answer.status == 200).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn padding_positions_never_count_towards_the_length() {
    let builder = Server::builder();
    let home = builder.directories();
    let cases: [(&str, Option<(&str, &str)>); 5] = [
        ("unsaid", None),
        ("float", Some(("tokenizer_config.json", r#"{"model_max_length": 1e30}"#))),
        (
            "integer",
            Some((
                "tokenizer_config.json",
                r#"{"model_max_length": 1000000000000000019884624838656}"#,
            )),
        ),
        ("old", Some(("tokenizer_config.json", r#"{"max_len": 66}"#))),
        ("clamped", Some(("sentence_bert_config.json", r#"{"max_seq_length": 66}"#))),
    ];
    let mut builder = builder;
    for (name, file) in cases {
        let directory = copy(&home, "roberta", name);
        if let Some((file, text)) = file {
            fs::write(directory.join(file), text).unwrap();
        }
        builder = builder.model(name, &directory);
    }
    let server = builder.argument("--strict").start().await;
    let corpus = Corpus::tiny();
    let mut client = server.client().await;
    for (name, _) in cases {
        assert_eq!(max_input_length(&server, name).await, 64, "{name}");
        let body = json!({"inputs": corpus.texts, "model": name});
        let answer = client.post("/embed", &body).await.unwrap().embeddings();
        for (embedding, expected) in answer.iter().zip(&corpus.contents["a"]) {
            assert!(distance(embedding, expected) <= TOLERANCE, "{name}");
        }
    }
    server.stop().await;
}
