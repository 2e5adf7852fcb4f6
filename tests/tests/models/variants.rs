//! A directory with several graphs, each of which can be served.

use std::fs;

use e2e::{
    expected::{Case, Directory, Limit, cases},
    server::Server,
};
use serde_json::{Value, json};

use crate::{assert_none, faults, serve};

/// The files, with the tolerance to ONNX Runtime's results on another machine.
const FILES: [(&str, Limit); 7] = [
    ("model.onnx", Limit::FLOAT32),
    ("model_O2.onnx", Limit::FLOAT32),
    ("model_O3.onnx", Limit::FLOAT32),
    ("model_O4.onnx", Limit { difference: 1e-3, cosine: 0.9999 }),
    ("model_fp16.onnx", Limit { difference: 1e-3, cosine: 0.9999 }),
    // ONNX Runtime itself deviates this much from the reference on another CPU.
    ("model_qint8_avx2.onnx", Limit { difference: 0.1, cosine: 0.97 }),
    ("model_quint8_avx2.onnx", Limit { difference: 0.1, cosine: 0.97 }),
];

/// Returns the cases of one file.
fn cases_of_file(directory: &Directory, file: &str, limit: Limit) -> Vec<Case> {
    let mut of_file = directory.clone();
    let alone: &Value = &directory.expected["variants"][file]["embeddings_alone"];
    assert!(alone.is_array(), "{file} has no results");
    of_file.expected["embeddings_alone"] = alone.clone();
    cases(&of_file, limit)
}

/// Sends every case to each file's model.
async fn try_each(
    described: &str,
    name_of: impl Fn(usize) -> String,
    server: &Server,
    directory: &Directory,
) -> Vec<String> {
    let (mut client, mut found) = (server.client().await, Vec::new());
    for (index, (file, limit)) in FILES.into_iter().enumerate() {
        let cases = cases_of_file(directory, file, limit);
        let of_file = faults(&mut client, &name_of(index), &cases).await;
        found.extend(
            of_file.into_iter().take(3).map(|fault| format!("{described} {file}: {fault}")),
        );
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_of_a_directory_can_be_selected_by_name() {
    let builder = Server::builder();
    let home = builder.directories();
    let directory = Directory::open("variants", &home.models());
    let mut served = Vec::new();
    for (index, (file, _)) in FILES.into_iter().enumerate() {
        let mut by_source = directory.clone();
        by_source.name = format!("source-{index}");
        by_source.path = format!("{}?file=onnx/{file}", directory.path.display()).into();
        let mut by_key = directory.clone();
        by_key.name = format!("key-{index}");
        by_key.path = directory.copy_to(&home.models().join(&by_key.name));
        fs::write(by_key.path.join("onnxd.toml"), format!("file = \"onnx/{file}\"\n")).unwrap();
        served.extend([by_source, by_key]);
    }
    let server = serve(builder, &served).await;
    let mut found =
        try_each("?file=", |index| format!("source-{index}"), &server, &directory).await;
    found.extend(try_each("onnxd.toml", |index| format!("key-{index}"), &server, &directory).await);
    assert_none(&found);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quantized_vectors_do_not_depend_on_the_batch() {
    let builder = Server::builder();
    let directory = Directory::open("quantized-only", &builder.directories().models());
    let server = serve(builder, std::slice::from_ref(&directory)).await;
    let mut client = server.client().await;
    let texts = e2e::expected::cases::texts(&directory.expected["texts"]);
    let batch = client.post("/embed", &json!({"inputs": texts})).await.unwrap().embeddings();
    for (text, in_batch) in texts.iter().zip(batch) {
        let alone = client.post("/embed", &json!({"inputs": text})).await.unwrap().embeddings();
        let limit = Limit::FLOAT32.check(&alone, &vec![in_batch]);
        assert_eq!(limit, Ok(()), "{text:.40}");
    }
    server.stop().await;
}
