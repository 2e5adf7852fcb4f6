//! Selection among several model files.

use std::fs;

use e2e::{fixtures::model, server::Server};

use crate::{model_at, put, serves, with};

/// Creates a source with model `a` under the usual name and model `b` under others.
fn variants(server: &Server) -> std::path::PathBuf {
    let source = model_at(server.home(), "a", "variants", "onnx/model.onnx");
    let b = model("tiny/b").join("model.onnx");
    for name in ["model_fp16", "model_O2", "model_quantized", "model_qint8_arm64"] {
        put(&b, &source.join(format!("onnx/{name}.onnx")));
    }
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn the_uri_or_onnxd_toml_selects_the_model_file() {
    let server = Server::builder().model("m", &model("tiny/cls")).start().await;
    let source = variants(&server);
    let mut versions = Vec::new();
    for (parameters, content) in [
        ("file=onnx/model.onnx", "a"),
        ("file=onnx/model_fp16.onnx", "b"),
        ("variant=fp32", "a"),
        ("variant=O2", "b"),
        // No other int8 file suits the CPUs that run this test.
        #[cfg(target_arch = "x86_64")]
        ("variant=int8", "b"),
    ] {
        let from = with(&source, parameters);
        versions.push(server.update("m", Some(&from)).await.unwrap().version);
        serves(&server, content).await;
    }
    assert_eq!(versions[0], versions[2], "identical files are one version");
    assert_ne!(versions[0], versions[1]);
    server.update("m", Some(&source)).await.unwrap();
    serves(&server, "a").await;
    fs::write(source.join("onnxd.toml"), "file = \"onnx/model_O2.onnx\"\n").unwrap();
    server.update("m", Some(&source)).await.unwrap();
    serves(&server, "b").await;
    server.update("m", Some(&with(&source, "variant=fp32"))).await.unwrap();
    serves(&server, "a").await;
    assert!(server.stderr().contains("onnx/model_O2.onnx"), "the log names the selected file");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_model_file_is_refused_by_name() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let source = variants(&server);
    for (parameters, reason) in [
        ("file=onnx/model_q4.onnx", "onnx/model_q4.onnx, which the source's URI names, is missing"),
        ("variant=q4", "onnx/model_quantized.onnx"),
    ] {
        let refusal = server.update("m", Some(&with(&source, parameters))).await.unwrap_err();
        assert_eq!(refusal.kind, "contract", "{parameters}: {refusal:?}");
        assert!(refusal.message.contains(reason), "{parameters}: {refusal:?}");
    }
    for parameters in ["file=../a/model.onnx", "file=config.json", "variant=", "x=y"] {
        let from = format!("file://{}?{parameters}", source.display());
        let output = server.cli(&["update", "m", "--from", &from]).await;
        assert_eq!(output.status.code(), Some(1), "{parameters}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("?variant=int8"), "{parameters}: {said}");
    }
    fs::remove_file(source.join("onnx/model.onnx")).unwrap();
    let refusal = server.update("m", Some(&source)).await.unwrap_err();
    for part in ["onnx/model_O2.onnx", "onnx/model_fp16.onnx", "file = ", "?variant="] {
        assert!(refusal.message.contains(part), "{refusal:?}");
    }
    serves(&server, "a").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_model_file_may_have_any_name() {
    let builder = Server::builder();
    let home = builder.directories();
    let source = model_at(&home, "a", "quantized", "onnx/model_quantized.onnx");
    let server = builder.model("m", &source).start().await;
    serves(&server, "a").await;
    server.stop().await;
    let server = Server::builder().home(&home).model("m", &source).start().await;
    serves(&server, "a").await;
    assert_eq!(server.status().await.model("m").generation, 1);
    server.stop().await;
    // The same directory with a parameter is a different source and is staged again.
    let named = with(&source, "file=onnx/model_quantized.onnx");
    let server = Server::builder().home(&home).model("m", &named).start().await;
    assert_eq!(server.status().await.model("m").generation, 2);
    server.stop().await;
}
