//! Verdicts of `onnxd-worker check` on valid and invalid versions.

use std::{fs, path::Path, process::Command};

use onnxd_proto::{
    domain::{Checked, Facts, Output, PoolingMode, Refusal, RefusalKind, Task, tensor::DataType},
    exit::ExitStatus,
};
use serde_json::json;

use crate::{
    checker::{Check, compile},
    embed::tiny,
    fixtures::{WORKER, copy, model},
};

fn assert_refusal(refusal: &Refusal, kind: RefusalKind, words: &[&str]) {
    assert_eq!(refusal.kind, kind, "{refusal}");
    for word in words {
        assert!(refusal.message.contains(word), "{word}: {refusal}");
    }
}

#[test]
fn servable_versions_are_accepted_with_their_facts() {
    let tiny = Facts {
        dimension: 32,
        max_tokens: 64,
        pooling: PoolingMode::Mean.into(),
        normalize: true,
        weights: Some(DataType::Fp32),
        output: Some(Output::Dense { dimension: 32 }),
        file: "model.onnx".into(),
        inputs: ["input_ids", "attention_mask", "token_type_ids"]
            .map(|name| format!("{name} (int64)"))
            .into(),
        ..Facts::new(Task::Embed)
    };
    let run_as = |facts: Facts| {
        let pooling = format!("pooling {}", facts.pooling);
        let mut pipeline = vec!["last_hidden_state (fp32)".to_owned(), pooling];
        pipeline.extend(facts.normalize.then(|| "normalize".to_owned()));
        Facts { pipeline, ..facts }
    };
    let of_dimension =
        |dimension| Facts { dimension, output: Some(Output::Dense { dimension }), ..tiny.clone() };
    let cases = [
        ("tiny/a", tiny.clone()),
        ("tiny/b", tiny.clone()),
        ("tiny/external", tiny.clone()),
        (
            "tiny/int32",
            Facts {
                inputs: tiny.inputs.iter().map(|name| name.replace("int64", "int32")).collect(),
                ..tiny.clone()
            },
        ),
        ("tiny/wide", of_dimension(48)),
        ("tiny/cls", Facts { pooling: PoolingMode::Cls.into(), ..tiny.clone() }),
        ("tiny/plain", Facts { normalize: false, ..tiny.clone() }),
        ("minilm", Facts { max_tokens: 256, ..of_dimension(384) }),
    ];
    for (name, facts) in cases {
        let outcome = Check::for_model(name).run();
        assert_eq!(outcome.passed, ["load", "shapes"], "{name}");
        let not_compiled = Some("--compiled-dir is not set".to_owned());
        let facts = run_as(facts);
        let expected = Checked { facts, drift: None, canaries: 0, costs: None, not_compiled };
        assert_eq!(outcome.accepted(), expected, "{name}");
    }
}

#[test]
fn unservable_versions_are_refused_with_kind_and_cause() {
    use RefusalKind::{Contract, Load};
    let cases: [(&str, RefusalKind, &[&str]); 8] = [
        ("tiny/truncated", Load, &["model.onnx", "not a complete ONNX model"]),
        ("tiny/corrupt", Load, &["model.onnx"]),
        ("tiny/no_tokenizer", Contract, &["tokenizer.json is missing"]),
        ("tiny/nan", Contract, &["model.onnx", "not finite"]),
        ("tiny/renamed", Contract, &["model.onnx", "input_ids"]),
        ("tiny/foreign_tokenizer", Contract, &["tokenizer", "ids up to", "embedding table"]),
        ("tiny/dense", Contract, &["2_Dense/model.safetensors", "missing"]),
        ("tiny", Contract, &["several model files"]),
    ];
    for (name, kind, words) in cases {
        assert_refusal(&Check::for_model(name).run().refused(), kind, words);
    }
}

#[test]
fn weights_outside_the_version_are_refused_by_path() {
    const PATH: &str = "model.onnx_data";
    for path in ["../../etc/hosts", "/etc/hosts.allo", "nowhere.to.find", "./../model.onnx"] {
        let version = copy("tiny/external");
        let file = version.path().join("model.onnx");
        let mut bytes = fs::read(&file).unwrap();
        assert_eq!(path.len(), PATH.len());
        let found: Vec<usize> = (0..bytes.len() - PATH.len())
            .filter(|&start| bytes[start..].starts_with(PATH.as_bytes()))
            .collect();
        for start in found {
            bytes[start..][..PATH.len()].copy_from_slice(path.as_bytes());
        }
        fs::write(file, bytes).unwrap();
        let refusal = Check::new(version.path()).run().refused();
        assert_refusal(&refusal, RefusalKind::Contract, &["model.onnx", path]);
    }
}

/// Checks a copy of tiny/a with these canary lines.
fn with_canaries(lines: &[u8]) -> crate::checker::Outcome {
    let version = copy("tiny/a");
    fs::write(version.path().join("canary.jsonl"), lines).unwrap();
    Check::new(version.path()).run()
}

/// Returns a canary line with a text of the reference and a model's embedding of it.
fn canary(model: &str, text: usize, min_cosine: f64) -> String {
    let reference = tiny();
    let embedding = &reference.models[model][text];
    let text = &reference.texts[text];
    json!({ "text": text, "embedding": embedding, "min_cosine": min_cosine }).to_string()
}

#[test]
fn passing_canaries_are_counted() {
    let lines = [canary("a", 2, 0.9999), String::new(), canary("b", 4, -1.0)].join("\n");
    let outcome = with_canaries(lines.as_bytes());
    assert_eq!(outcome.passed, ["load", "shapes", "canary"]);
    assert_eq!(outcome.accepted().canaries, 2);
    assert_eq!(with_canaries(b"").accepted().canaries, 0);
}

#[test]
fn failing_canaries_are_refused_with_their_line() {
    let good = canary("a", 2, 0.9999);
    let other = |text: &str, embedding: &str, min_cosine: &str| {
        format!(r#"{{"text": {text}, "embedding": {embedding}, "min_cosine": {min_cosine}}}"#)
    };
    let zeros = format!("{:?}", [0; 32]);
    let many = vec![canary("a", 1, -1.0); 1001].join("\n");
    let huge = "x".repeat(300_000);
    let cases: [(&str, &[&str]); 10] = [
        (&canary("b", 2, 0.9999), &["line 2", "cosine is", "0.9999"]),
        (&other("\"a\"", &zeros, "0.5"), &["line 2", "cosine is 0.0"]),
        (&other("\"a\"", "[1.0, 2.0]", "0.5"), &["line 2", "2 dimensions", "32"]),
        (&other("7", &zeros, "0.5"), &["line 2", "string"]),
        (&other("\"a\"", &zeros, "1.5"), &["line 2", "min_cosine: expected", "got 1.5"]),
        (&other("\"a\"", "[1e99]", "0.5"), &["line 2"]),
        (&other(&format!("\"{huge}\""), &zeros, "0.5"), &["line 2", "262144"]),
        ("{", &["line 2"]),
        ("\u{0}\u{1}", &["line 2"]),
        (&many, &["more than 1000 lines"]),
    ];
    for (line, words) in cases {
        let refusal = with_canaries(format!("{good}\n{line}").as_bytes()).refused();
        assert_refusal(&refusal, RefusalKind::Canary, &[&["canary.jsonl"], words].concat());
    }
    let broken = [good.as_bytes(), b"\n\xff\xfe"].concat();
    assert_refusal(&with_canaries(&broken).refused(), RefusalKind::Canary, &["line 2"]);
}

#[test]
fn drift_is_reported_and_may_refuse_a_version() {
    let serving = tempfile::tempdir().unwrap();
    compile(&model("tiny/a"), serving.path());
    let against = |name: &str| {
        Check::for_model(name).with("--serving-compiled-dir", serving.path().as_os_str())
    };
    let same = against("tiny/a").with("--min-cosine", "0.999999").run();
    assert_eq!(same.passed, ["load", "shapes", "drift"]);
    let drift = same.accepted().drift.unwrap();
    assert!(drift.min_cosine > 0.999_999 && drift.mean_cosine > 0.999_999, "{drift:?}");
    assert_eq!(drift.probes, 16);
    let drift = against("tiny/b").run().accepted().drift.unwrap();
    assert!(drift.min_cosine < drift.mean_cosine && drift.mean_cosine < 0.9, "{drift:?}");
    against("tiny/b").with("--min-cosine", "-1").run().accepted();
    let refusal = against("tiny/b").with("--min-cosine", "0.9").run().refused();
    assert_refusal(&refusal, RefusalKind::Drift, &["16 texts", "mean", "at least 0.9"]);
    // A version that cannot be compared has no drift.
    let wide = against("tiny/wide").with("--min-cosine", "0.9").run();
    assert_eq!(wide.accepted().drift, None);
    let nothing = Check::for_model("tiny/b").with("--serving-compiled-dir", "/nowhere").run();
    assert_eq!(nothing.accepted().drift, None);
}

#[test]
fn unloadable_library_is_a_configuration_error() {
    for library in ["/nowhere/libonnxruntime.so", WORKER] {
        let outcome = Check::with_library(Path::new(library), &model("tiny/a")).run();
        let refusal = outcome.verdict.unwrap().unwrap_err();
        let code = outcome.output.status.code();
        assert_eq!(code, Some(ExitStatus::Configuration as i32), "{refusal}");
        assert_eq!(refusal.kind, RefusalKind::Internal, "{refusal}");
        assert!(refusal.message.contains(library), "{refusal}");
        assert!(refusal.message.contains("1.24"), "{refusal}");
    }
}

#[test]
fn usage_errors_are_not_refusals() {
    let output = Command::new(WORKER).arg("check").output().unwrap();
    assert_eq!(output.status.code(), Some(ExitStatus::Usage as i32));
    assert!(output.stdout.is_empty());
}
