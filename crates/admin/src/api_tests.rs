use serde_json::{Value, json};

use super::*;

/// The previous release's output, field by field.
fn documented() -> Value {
    json!({
        "models": [
            {"name": "m", "state": "loaded", "generation": 2, "version": "9e3e", "task": "embed",
             "dimension": 384, "drift": {"min_cosine": 0.5, "mean_cosine": 0.75, "probes": 16},
             "quarantined": ["ab"], "source": "/models/m"},
            {"name": "n", "state": "not_loaded", "generation": 0, "version": null, "task": null,
             "dimension": null, "drift": null, "quarantined": [], "source": "/models/n"},
        ],
        "workers": [
            {"id": 0, "pid": 7, "cpu": 1, "state": "ready", "restarts": 0,
             "generations": {"m": 2, "n": 0},
             "loads": {"m": {"load_micros": 5, "compiled": true, "seconds_ago": 3},
                       "n": {"load_micros": 0, "compiled": false, "seconds_ago": null}},
             "memory_bytes": 1000},
            {"id": 1, "pid": 0, "cpu": null, "state": "backoff", "restarts": 4,
             "generations": {}, "loads": {}, "memory_bytes": null},
        ],
        "sandbox": {"on": true, "missing": ["Landlock"]},
        "counters": {"commits_total": 2},
    })
}

#[test]
fn status_reads_and_writes_the_documented_json() {
    let status = Status::deserialize(documented()).unwrap();
    assert_eq!(json!(status), documented());
    assert_eq!(status.models[1].version, "");
    assert_eq!(status.workers[1].pid, None);
    assert_eq!(status.workers[0].state, WorkerState::Ready);
}

#[test]
fn status_details_are_optional() {
    let mut newer = documented();
    newer["models"][0]["details"] = json!({
        "file": "onnx/model.onnx", "inputs": ["input_ids (int64)"], "pipeline": ["pooling mean"],
        "max_input_length": 512, "shortened": {"declared_tokens": 8192, "reason": "memory"},
        "labels": [], "prompts": ["query"],
        "switches": [{"name": "task_id", "default": 4, "values": {"text-matching": 4}}],
        "guesses": [{"key": "pooling", "value": "mean", "reason": "none is stated"}],
    });
    let status = Status::deserialize(newer.clone()).unwrap();
    assert_eq!(json!(status), newer);
    assert_eq!(status.models[0].details.as_ref().unwrap().guesses[0].key, "pooling");
    assert_eq!(status.models[1].details, None);
}

#[test]
fn status_of_a_newer_release_parses() {
    let mut newer = documented();
    newer["models"][0]["state"] = json!("shadowing");
    newer["workers"][0]["state"] = json!("dreaming");
    newer["models"][0]["source_state"] = json!({"changed": 7, "next": 9});
    let status = Status::deserialize(newer).unwrap();
    assert_eq!(status.models[0].state, ModelState::Unknown);
    assert_eq!(status.workers[0].state, "unknown");
}

#[test]
fn calls_have_defaults_and_refuse_unknown_fields() {
    assert_eq!(serde_json::from_str::<UpdateCall>("{}").unwrap(), UpdateCall::default());
    assert!(serde_json::from_str::<UpdateCall>(r#"{"form": "/x"}"#).is_err());
    assert!(serde_json::from_str::<RollbackCall>(r#"{"to": 1, "force": true}"#).is_err());
}

#[test]
fn every_refusal_kind_has_the_documented_status() {
    for (kind, status) in [
        (RefusalKind::Malformed, 400),
        (RefusalKind::NotFound, 404),
        (RefusalKind::Superseded, 409),
        (RefusalKind::Cancelled, 409),
        (RefusalKind::Quarantined, 409),
        (RefusalKind::Contract, 422),
        (RefusalKind::Load, 422),
        (RefusalKind::Crash, 422),
        (RefusalKind::Timeout, 422),
        (RefusalKind::Memory, 422),
        (RefusalKind::Canary, 422),
        (RefusalKind::Drift, 422),
        (RefusalKind::Checksum, 422),
        (RefusalKind::Signature, 422),
        (RefusalKind::Internal, 500),
        (RefusalKind::Busy, 503),
        (RefusalKind::HandingOver, 503),
        (RefusalKind::Space, 507),
    ] {
        assert_eq!(http_status(kind).as_u16(), status, "{kind:?}");
    }
}
