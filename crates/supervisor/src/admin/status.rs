//! `GET /admin/status`: builds [`Status`] from the state of the engine.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use axum::{body::Body, extract::State, http::Response};
use onnxd_admin::api::{
    LoadStatus, ModelDetails, ModelState, ModelStatus, Sandbox, SourceStatus, Status, WorkerState,
    WorkerStatus,
};
use onnxd_proto::domain::Facts;
use tokio::sync::oneshot;

use crate::{
    admin::{Admin, responses::document},
    process::confinement,
};
use onnxd_engine::{
    dispatch::worker::State as PoolState,
    dispatch::{Event, worker},
    models::{gate::Presence, registry::Model},
};
use onnxd_telemetry::metrics::{Metrics, process};

pub(super) async fn status(State(admin): State<Admin>) -> Response<Body> {
    let (reply, answer) = oneshot::channel();
    // If the dispatcher has stopped, the list of workers is empty.
    let _ = admin.events.send(Event::StatusRequested(reply)).await;
    let workers = answer.await.unwrap_or_default();
    let models = admin.registry.models();
    let missing = confinement::missing().into_iter().map(str::to_owned).collect();
    document(&Status {
        starting: admin.updater.startup().phase().map(|phase| phase.in_full()),
        stopping: *admin.engine.closing().borrow(),
        models: models.iter().map(|model| model_status(model, &admin)).collect(),
        workers: workers.iter().map(|worker| worker_status(worker, models)).collect(),
        sandbox: Sandbox { on: admin.metrics.sandbox.load(Ordering::Relaxed), missing },
        counters: counters(&admin.metrics),
    })
}

fn model_status(model: &Model, admin: &Admin) -> ModelStatus {
    let serving = model.serving();
    let record = serving.as_ref().map(|(_, record)| record);
    let generation = serving.as_ref().map_or(0, |(generation, _)| *generation);
    let load_failure = admin.engine.load_failure(model);
    ModelStatus {
        name: model.name.to_string(),
        state: model_state(model, load_failure.is_some()),
        generation,
        version: record.map(|record| record.version.clone()).unwrap_or_default(),
        task: record.map(|record| record.facts.task),
        dimension: record.map(|record| record.facts.dimension),
        drift: record.and_then(|record| record.drift),
        quarantined: admin.store.quarantined(&model.name),
        source: model.source.to_string(),
        damaged_records: admin.store.damaged_records(&model.name),
        failure: model.failure().map(|refusal| refusal.message).or_else(|| {
            load_failure
                .map(|reason| format!("no worker can load generation {generation}: {reason}"))
        }),
        indexing: model.indexing(),
        source_state: source_status(model, admin),
        details: record.map(|record| details(&record.facts)),
    }
}

/// Returns what is known about a model's source.
fn source_status(model: &Model, admin: &Admin) -> Option<SourceStatus> {
    let state = admin.watches.state(model);
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    };
    let staged = || admin.store.staged_snapshot(model).map(|id| id.as_str().to_owned());
    let failure = || model.failure().map(|refusal| refusal.message);
    let status = SourceStatus {
        snapshot: state.snapshot.or_else(staged),
        checked: state.last_checked.map(seconds),
        changed: state.last_changed.map(seconds),
        error: state.last_error.or_else(failure),
        interval_seconds: state.interval.map(|interval| interval.as_secs()),
        checks: state.checks,
        failures: state.failures,
    };
    (status != SourceStatus::default()).then_some(status)
}

fn details(facts: &Facts) -> ModelDetails {
    let facts = facts.clone();
    ModelDetails {
        file: facts.file,
        inputs: facts.inputs,
        pipeline: facts.pipeline,
        max_input_length: facts.max_tokens,
        shortened: facts.shortened,
        labels: facts.labels,
        prompts: facts.prompts,
        switches: facts.switches,
        guesses: facts.guesses,
    }
}

fn model_state(model: &Model, is_unloadable: bool) -> ModelState {
    match model.gate.presence() {
        Presence::NotLoaded if model.failure().is_some() => ModelState::Failed,
        Presence::NotLoaded => ModelState::NotLoaded,
        Presence::Loading => ModelState::Loading,
        Presence::Loaded if is_unloadable => ModelState::Failed,
        Presence::Loaded => ModelState::Loaded,
        Presence::Unloading => ModelState::Unloading,
        Presence::Unloaded => ModelState::Unloaded,
    }
}

fn worker_status(worker: &worker::Status, models: &[Arc<Model>]) -> WorkerStatus {
    let loads = || models.iter().map(|model| (model.name.to_string(), load(worker, model)));
    WorkerStatus {
        id: worker.id as u64,
        pid: i32::try_from(worker.pid).ok().filter(|pid| *pid != 0),
        cpu: worker.cpu,
        state: worker_state(worker.state),
        restarts: worker.restarts,
        generations: loads().map(|(model, load)| (model, load.generation)).collect(),
        loads: loads().map(|(model, load)| (model, load_status(&load))).collect(),
        memory_bytes: private_bytes(worker.pid),
    }
}

fn worker_state(state: PoolState) -> WorkerState {
    match state {
        PoolState::Starting => WorkerState::Starting,
        PoolState::Ready => WorkerState::Ready,
        PoolState::Busy => WorkerState::Busy,
        PoolState::Draining => WorkerState::Draining,
        PoolState::Stopped => WorkerState::Stopped,
        PoolState::Backoff => WorkerState::Backoff,
        PoolState::Failed => WorkerState::Failed,
    }
}

fn load(worker: &worker::Status, model: &Model) -> worker::Load {
    worker.loads.get(usize::from(model.slot)).copied().unwrap_or_default()
}

fn load_status(load: &worker::Load) -> LoadStatus {
    let worker::Load { micros, compiled, at, .. } = *load;
    LoadStatus { load_micros: micros, compiled, seconds_ago: at.map(|at| at.elapsed().as_secs()) }
}

/// Returns the counters of [`Metrics`] by field name.
fn counters(metrics: &Metrics) -> BTreeMap<String, u64> {
    let named = serde_json::to_value(metrics).and_then(serde_json::from_value);
    named.expect("every field serializes to a number")
}

/// Returns the private memory of a process, in bytes, or `None` if it does not run. Mapped files are
/// excluded: other processes share them, and only root may read `/proc/PID/smaps_rollup` of a process
/// that is not dumpable.
fn private_bytes(pid: u32) -> Option<u64> {
    Some(process::memory_bytes(&pid.to_string(), "RssAnon")).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_keyed_by_field_name() {
        let metrics = Metrics::default();
        metrics.commits_total.add(3);
        let counters = counters(&metrics);
        assert_eq!(counters["commits_total"], 3);
        assert_eq!(counters["worker_restarts_total"], 0);
    }

    #[test]
    fn worker_states_serialize_alike() {
        for state in PoolState::ALL {
            let word = serde_json::to_value(state).unwrap();
            assert_eq!(word, worker_state(state).as_str());
        }
    }
}
