//! State shared by the handlers of all contracts.

use std::sync::Arc;

use onnxd_engine::Engine;
use onnxd_proto::layout::Layout;
use onnxd_telemetry::tracer::Tracer;

use crate::transport::tls::Tls;

/// The state of all routes.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// Runs inference.
    pub engine: Arc<Engine>,
    /// Maximum inputs in one request of text-embeddings-inference's contract.
    pub client_batch: usize,
    /// Records the spans of requests.
    pub tracer: Tracer,
    /// What only `GET /metrics` reads.
    pub observed: Arc<Observed>,
}

/// What `GET /metrics` reports besides the engine.
#[derive(Debug)]
pub(crate) struct Observed {
    /// The state directory.
    pub layout: Layout,
    pub tls: Option<Arc<Tls>>,
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
        let observed = Observed { layout: Layout::new("/nonexistent"), tls: None };
        let (engine, observed) = (Arc::new(engine), Arc::new(observed));
        Self { engine, client_batch: 1, tracer: Tracer::default(), observed }
    }
}
