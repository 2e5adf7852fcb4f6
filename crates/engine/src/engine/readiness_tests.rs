//! Readiness with models that workers cannot load.

use std::{sync::Arc, time::Duration};

use onnxd_proto::{
    control_page::{ControlPage, Slot},
    domain::{Facts, Record, Task},
};
use onnxd_telemetry::metrics::Metrics;
use tokio::sync::{mpsc, watch};

use crate::{
    Engine,
    dispatch::{
        gather::{Dispatch, Limits},
        health::Health,
    },
    engine::{MemoryBudget, Parts},
    models::{
        registry::{ModelSource, Registry},
        update::Updater,
    },
};

/// Returns an engine with a worker that serves and these models, all committed. No worker can
/// load those in `unloadable`. Each has a name and says whether it is required.
fn engine(models: &[(&str, bool)], unloadable: &[Slot]) -> Engine {
    let source = |(name, required): &(&str, bool)| ModelSource {
        name: name.parse().unwrap(),
        aliases: Vec::new(),
        uri: "/".parse().unwrap(),
        preload: true,
        required: *required,
        rules: Default::default(),
    };
    let metrics = Arc::new(Metrics::new(&[]));
    let sources: Vec<ModelSource> = models.iter().map(source).collect();
    let page = ControlPage::create().unwrap();
    let registry = Arc::new(Registry::new(&sources, page, Arc::clone(&metrics)));
    for model in registry.models() {
        let record = Record {
            version: "v".into(),
            configured_source: "/".parse().unwrap(),
            facts: Facts::new(Task::Embed),
            drift: None,
        };
        registry.commit(model.slot, 1, Arc::new(record));
    }
    let (events, _) = mpsc::channel(1);
    let limits = Limits { items: 1, timeout: Duration::from_secs(5) };
    let dispatch =
        Dispatch::new(events.clone(), Arc::clone(&metrics), limits, Arc::default(), models.len());
    let updater = Arc::new(Updater::without_models(&registry, &metrics));
    let health = Health {
        serving: 1,
        warmed_up: true,
        unloadable: unloadable.iter().map(|slot| (*slot, "damaged".to_owned())).collect(),
        ..Health::default()
    };
    let health = watch::channel(health).1;
    let parts = Parts { registry, dispatch, updater, health, metrics, events, workers: 1 };
    Engine::new(parts, MemoryBudget::default())
}

fn ready_models(engine: &Engine) -> Vec<bool> {
    engine.models().iter().map(|model| engine.is_model_ready(model)).collect()
}

#[test]
fn a_model_that_no_worker_can_load_is_not_ready() {
    let engine = engine(&[("a", false), ("z", false)], &[1]);
    assert_eq!(ready_models(&engine), [true, false]);
    assert_eq!(engine.load_failure(&engine.models()[1]).unwrap(), "damaged");
    assert_eq!(engine.not_ready_reason(), None, "the other model serves");
}

#[test]
fn the_server_is_not_ready_if_no_model_can_be_loaded() {
    let engine = engine(&[("a", false), ("z", false)], &[0, 1]);
    assert_eq!(ready_models(&engine), [false, false]);
    let reason = engine.not_ready_reason().unwrap();
    assert!(reason.contains("no worker can load the model `a`"), "{reason}");
}

#[test]
fn the_server_is_not_ready_without_a_required_model() {
    let engine = engine(&[("a", false), ("z", true)], &[1]);
    let reason = engine.not_ready_reason().unwrap();
    assert!(reason.contains("`z`"), "{reason}");
}
