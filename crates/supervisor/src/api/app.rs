//! State shared by the handlers of all contracts.

use std::sync::Arc;

use onnxd_engine::{Engine, ErrorKind};
use onnxd_proto::layout::Layout;
use onnxd_search::Search;
use onnxd_telemetry::tracer::Tracer;

use crate::{
    api::error::{Class, Fault},
    transport::tls::Tls,
};

/// The state of all routes.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// Runs inference.
    pub engine: Arc<Engine>,
    /// Collections of documents, or why there are none.
    pub search: Result<Arc<Search>, SearchAbsent>,
    /// Maximum inputs in one request of text-embeddings-inference's contract.
    pub client_batch: usize,
    /// Records the spans of requests.
    pub tracer: Tracer,
    /// What only `GET /metrics` reads.
    pub observed: Arc<Observed>,
}

/// Why there is no search.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SearchAbsent {
    /// `--search off`.
    Off,
    /// Its executable is not installed.
    NotInstalled,
}

impl App {
    /// Returns the collections of documents.
    ///
    /// # Errors
    /// There are none on this server.
    pub(crate) fn search(&self) -> Result<&Arc<Search>, Fault> {
        let (kind, message) = match &self.search {
            Ok(search) => return Ok(search),
            Err(SearchAbsent::Off) => {
                (ErrorKind::NotFound, "search is off on this server (--search off)")
            }
            Err(SearchAbsent::NotInstalled) => (
                ErrorKind::Unavailable,
                "search is not available: onnxd-index is not installed; install it beside onnxd and restart onnxd",
            ),
        };
        Err(Fault::new(Class::Engine(kind), message))
    }
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
        let search = Err(SearchAbsent::Off);
        Self { engine, search, client_batch: 1, tracer: Tracer::default(), observed }
    }
}
