//! Reports at start what the state directory holds beside the configured models: damaged records, and
//! what belongs to models that are not configured. Called by [`start`](super::start).

use onnxd_engine::models::{
    registry::{ModelSource, Registry},
    store::{
        Store,
        maintenance::prune::{self, Kept},
    },
};
use onnxd_proto::layout::Layout;
use onnxd_telemetry::metrics::Metrics;
use tokio::task;

/// Counts damaged records, and logs what is not configured once it has been listed.
pub(super) fn report(
    store: &Store,
    configured: &[ModelSource],
    registry: &Registry,
    metrics: &Metrics,
) {
    for model in registry.models() {
        store.count_damaged(model, metrics);
    }
    let kept = Kept {
        models: configured.iter().map(|model| model.name.clone()).collect(),
        sources: configured.iter().map(|model| model.uri.clone()).collect(),
    };
    let layout = store.layout().clone();
    // It walks through all files.
    task::spawn_blocking(move || report_others(&layout, &kept));
}

/// Logs what belongs to models that are not configured.
fn report_others(layout: &Layout, kept: &Kept) {
    // Errors are reported when the model that they concern is loaded.
    let others = prune::unconfigured(layout, kept).unwrap_or_default();
    if others.is_empty() {
        return;
    }
    let changes = prune::plan(layout, kept).unwrap_or_default();
    let bytes: u64 = changes.iter().map(|change| change.bytes).sum();
    let models: Vec<&str> = others.iter().map(|model| model.as_str()).collect();
    let models = models.join(", ");
    tracing::info!(
        models,
        bytes,
        "state directory holds models that are not configured; to remove them, stop onnxd and run `onnxd state prune` with the same --config, --model or variables"
    );
}
