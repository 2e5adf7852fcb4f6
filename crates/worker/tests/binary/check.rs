//! What `onnxd-worker check` says about versions, good and bad.

use std::{path::Path, process::Command};

use onnxd_proto::{
    exit::ExitStatus,
    message::{Facts, Pooling, Refusal, RefusalKind, Task, Verdict},
};

use crate::fixtures::{WORKER, model, onnxruntime};

/// The verdict, and the exit code that came with it.
fn check(onnxruntime: &Path, version: &Path) -> (Verdict, i32) {
    let output = Command::new(WORKER)
        .args(["check", "--onnxruntime"])
        .arg(onnxruntime)
        .arg("--version-dir")
        .arg(version)
        .env("ORT_DISABLE_TELEMETRY", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    (serde_json::from_str(&printed).unwrap(), output.status.code().unwrap())
}

fn refusal(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::Refused(refusal) => refusal,
        Verdict::Accepted(facts) => panic!("accepted: {facts:?}"),
    }
}

#[test]
fn what_can_serve_is_accepted_with_its_facts() {
    let tiny = Facts {
        task: Task::Embed,
        dimension: 32,
        max_tokens: 64,
        pooling: Pooling::Mean,
        normalize: true,
    };
    let cases = [
        ("tiny/a", tiny.clone()),
        ("tiny/b", tiny.clone()),
        ("tiny/external", tiny.clone()),
        ("tiny/wide", Facts { dimension: 48, ..tiny.clone() }),
        ("tiny/cls", Facts { pooling: Pooling::Cls, ..tiny.clone() }),
        ("tiny/plain", Facts { normalize: false, ..tiny.clone() }),
        ("minilm", Facts { dimension: 384, max_tokens: 256, ..tiny }),
    ];
    for (name, facts) in cases {
        let (verdict, code) = check(&onnxruntime(), &model(name));
        assert_eq!((verdict, code), (Verdict::Accepted(facts), ExitStatus::Fine as i32), "{name}");
    }
}

#[test]
fn what_cannot_serve_is_refused_with_its_kind_and_a_message_that_names_the_cause() {
    use RefusalKind::{Contract, Load};
    let cases: [(&str, RefusalKind, &[&str]); 9] = [
        ("tiny/truncated", Load, &["model.onnx", "not a whole ONNX model"]),
        ("tiny/corrupt", Load, &["model.onnx"]),
        ("tiny/no_tokenizer", Contract, &["tokenizer.json is missing"]),
        ("tiny/nan", Contract, &["model.onnx", "not finite"]),
        ("tiny/renamed", Contract, &["model.onnx", "input_ids"]),
        ("tiny/int32", Contract, &["model.onnx", "input_ids", "int32", "int64"]),
        ("tiny/foreign_tokenizer", Contract, &["tokenizer", "ids up to", "embedding table"]),
        ("tiny/dense", Contract, &["modules.json", "Dense"]),
        ("tiny", Contract, &["model.onnx", "missing"]),
    ];
    for (name, kind, words) in cases {
        let (verdict, code) = check(&onnxruntime(), &model(name));
        let refusal = refusal(verdict);
        assert_eq!((refusal.kind, code), (kind, ExitStatus::Refused as i32), "{name}: {refusal}");
        for word in words {
            assert!(refusal.message.contains(word), "{name}: {refusal}");
        }
    }
}

#[test]
fn a_library_that_cannot_be_loaded_is_a_fault_of_the_configuration_and_not_of_the_version() {
    for library in ["/nowhere/libonnxruntime.so", WORKER] {
        let (verdict, code) = check(Path::new(library), &model("tiny/a"));
        let refusal = refusal(verdict);
        assert_eq!(code, ExitStatus::Configuration as i32, "{refusal}");
        assert_eq!(refusal.kind, RefusalKind::Internal, "{refusal}");
        assert!(refusal.message.contains(library), "{refusal}");
        assert!(refusal.message.contains("1.24"), "{refusal}");
    }
}

#[test]
fn a_wrong_command_line_is_not_mistaken_for_a_refusal() {
    let output = Command::new(WORKER).arg("check").output().unwrap();
    assert_eq!(output.status.code(), Some(ExitStatus::Usage as i32));
    assert!(output.stdout.is_empty());
}
