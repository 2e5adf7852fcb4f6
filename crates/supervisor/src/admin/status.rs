//! `GET /admin/status`: what is served, by whom, and what happened so far.

use std::sync::{Arc, atomic::Ordering};

use axum::{body::Body, extract::State, http::Response, response::IntoResponse};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::admin::Admin;
use crate::{api::error::axum_json, process::confinement};
use onnxd_engine::{
    dispatch::{Event, worker},
    models::{registry::Model, store::Store},
};
use onnxd_telemetry::metrics::process;

pub(super) async fn status(State(admin): State<Admin>) -> Response<Body> {
    let (reply, answer) = oneshot::channel();
    // Where the dispatcher has gone there are no workers to show.
    let _ = admin.events.send(Event::StatusAsked(reply)).await;
    let workers = answer.await.unwrap_or_default();
    let models = admin.registry.models();
    let body = json!({
        "models": models.iter().map(|model| model_status(model, &admin.store)).collect::<Vec<_>>(),
        "workers": workers.iter().map(|worker| worker_status(worker, models)).collect::<Vec<_>>(),
        "sandbox": { "on": admin.metrics.sandbox.load(Ordering::Relaxed), "missing": confinement::missing() },
        "counters": *admin.metrics,
    });
    axum_json(&body).into_response()
}

fn model_status(model: &Model, store: &Store) -> Value {
    let serving = model.serving();
    let record = serving.as_ref().map(|(_, record)| record);
    json!({
        "name": model.name,
        "state": model.gate.presence(),
        "generation": serving.as_ref().map_or(0, |(generation, _)| *generation),
        "version": record.map(|record| &record.version),
        "task": record.map(|record| record.facts.task),
        "dimension": record.map(|record| record.facts.dimension),
        "drift": record.map(|record| record.drift),
        "quarantined": store.quarantined(&model.name),
        "source": model.source,
    })
}

fn worker_status(worker: &worker::Status, models: &[Arc<Model>]) -> Value {
    let generation =
        |model: &Arc<Model>| (model.name.to_string(), json!(load(worker, model).generation));
    let loads = |model: &Arc<Model>| {
        let worker::Load { micros, compiled, at, .. } = load(worker, model);
        let seconds_ago = at.map(|at| at.elapsed().as_secs());
        let load =
            json!({ "load_micros": micros, "compiled": compiled, "seconds_ago": seconds_ago });
        (model.name.to_string(), load)
    };
    let mut value = json!(worker);
    value["generations"] = Value::Object(models.iter().map(generation).collect());
    value["loads"] = Value::Object(models.iter().map(loads).collect());
    value["memory_bytes"] = json!(own_bytes(worker.pid));
    value
}

fn load(worker: &worker::Status, model: &Model) -> worker::Load {
    worker.loads.get(usize::from(model.slot)).copied().unwrap_or_default()
}

/// A process's memory without the files that it maps, which others map, too. Its share of those
/// would be in `/proc/PID/smaps_rollup`, which nobody but root may read of a process that is not
/// dumpable. `None` where no process runs.
fn own_bytes(pid: u32) -> Option<u64> {
    Some(process::memory_bytes(&pid.to_string(), "RssAnon")).filter(|&bytes| bytes > 0)
}
