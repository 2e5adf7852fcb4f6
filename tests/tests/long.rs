//! Models whose longest text needs more memory or time than there is, and models that number positions
//! as RoBERTa does: they serve what fits, and say so.

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

/// A copy whose files may be changed.
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

/// A text of more tokens than any model here takes.
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
    assert_eq!(server.status().await.restarts(), 0, "no worker suffered");
    assert!(server.stderr().contains("--check-memory"), "{}", server.stderr());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortened_length_outlives_a_restart_and_an_update_finds_a_longer_one() {
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
    // Workers, which had loaded the version, take longer texts now.
    let updated = server.client().await.post("/embed", &body).await.unwrap().embeddings();
    assert!(distance(&before[0], &updated[0]) > TOLERANCE);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_onnxd_toml_asks_for_is_served_or_refused() {
    let server =
        Server::builder().argument("--check-memory=600").model("m", &tiny("long_12")).start();
    let server = server.await;
    let asked = copy(server.home(), "long_12", "asked");
    fs::write(asked.join("onnxd.toml"), "max_tokens = 8192").unwrap();
    let refusal = server.update("m", Some(&asked)).await.unwrap_err();
    assert_eq!(refusal.kind, "memory", "{refusal:?}");
    for word in ["onnxd.toml", "max_tokens", "8192", "--check-memory"] {
        assert!(refusal.message.contains(word), "{word}: {refusal:?}");
    }
    fs::write(asked.join("onnxd.toml"), "max_tokens = 1024").unwrap();
    server.update("m", Some(&asked)).await.unwrap();
    assert_eq!(max_input_length(&server, "m").await, 1024);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_strict_a_shortened_text_is_refused_at_start_also_where_it_served_before() {
    let home = Arc::new(Home::new());
    let builder = || {
        Server::builder().home(&home).argument("--check-memory=600").model("m", &tiny("long_12"))
    };
    for first in [true, false] {
        let exited = builder().argument("--strict").try_start().await.expect_err("it is strict");
        assert_eq!(exited.code, Some(78), "{}", exited.stderr);
        for word in ["--strict", "8192", "--check-memory", "max_tokens = "] {
            assert!(exited.stderr.contains(word), "{word}: {}", exited.stderr);
        }
        if first {
            builder().start().await.stop().await;
        }
    }
    let server = builder().argument("--strict=false").start().await;
    // What is certain is served by a strict server.
    server.update("m", Some(&tiny("a"))).await.expect_err("another dimension");
    server.stop().await;
    let strict = Server::builder().argument("--strict").model("m", &tiny("a")).start().await;
    strict.update("m", Some(&tiny("b"))).await.unwrap();
    strict.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_takes_at_most_half_of_the_requests_time() {
    let server =
        Server::builder().argument("--request-timeout=2").model("m", &tiny("long_12")).start();
    let server = server.await;
    let tokens = max_input_length(&server, "m").await;
    assert!((128..8192).contains(&tokens), "{tokens}");
    assert!(server.stderr().contains("--request-timeout"), "{}", server.stderr());
    // Half is CPU time; on a busy machine the rest may pass as well.
    let mut client = server.client().await;
    eventually("an answer in time", Duration::from_secs(60), async || {
        let answer = client.post("/embed", &json!({"inputs": endless()})).await.unwrap();
        (answer.status == 200).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_for_padding_are_not_counted_whatever_the_other_files_say() {
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
