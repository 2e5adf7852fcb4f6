//! State shared by the handlers of all contracts.

use std::sync::Arc;

use onnxd_engine::Engine;
use onnxd_telemetry::tracer::Tracer;

/// The state of all routes.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// Runs inference.
    pub engine: Arc<Engine>,
    /// Maximum inputs in one request of text-embeddings-inference's contract.
    pub client_batch: usize,
    /// Records the spans of requests.
    pub tracer: Tracer,
}

#[cfg(test)]
impl App {
    /// Returns an app without models, with `memory_bytes` of budget for large bodies.
    pub(crate) fn without_models(
        metrics: &Arc<onnxd_telemetry::metrics::Metrics>,
        memory_bytes: usize,
    ) -> Self {
        use onnxd_engine::{
            dispatch::gather::{Dispatch, Limits},
            engine::{MemoryBudget, Parts},
            models::{registry::Registry, update::Updater},
        };
        let (events, _) = tokio::sync::mpsc::channel(1);
        let limits = Limits { items: 1, timeout: std::time::Duration::from_secs(1) };
        let page = onnxd_proto::control_page::ControlPage::create()
            .expect("creating a control page succeeds");
        let registry = Arc::new(Registry::new(&[], page, Arc::clone(metrics)));
        let dispatch =
            Dispatch::new(events.clone(), Arc::clone(metrics), limits, Arc::default(), 0);
        let parts = Parts {
            updater: Arc::new(Updater::without_models(&registry, metrics)),
            registry,
            dispatch,
            metrics: Arc::clone(metrics),
            health: tokio::sync::watch::channel(Default::default()).1,
            events,
            workers: 0,
        };
        let engine = Engine::new(parts, MemoryBudget::new(memory_bytes));
        Self { engine: Arc::new(engine), client_batch: 1, tracer: Tracer::default() }
    }
}
