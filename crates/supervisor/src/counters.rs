//! What happened so far, counted. Written where it happens, read by the admin interface; no
//! retry and no drop goes uncounted.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn add(&self) {
        self.add_all(1);
    }

    /// So many more.
    pub(crate) fn add_all(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.load(Ordering::Relaxed))
    }
}

/// All counters of a supervisor.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counters {
    /// Texts accepted into the queue.
    pub items_total: Counter,
    /// Texts that were run again because their worker ended.
    pub items_retried_total: Counter,
    /// Texts that were run again so that one response has one generation.
    pub items_regenerated_total: Counter,
    /// Texts dropped because their client had gone or their deadline had passed.
    pub items_cancelled_total: Counter,
    /// Texts that took too many workers with them and were answered 500.
    pub items_poisonous_total: Counter,
    /// Micro-batches that were run.
    pub micro_batches_total: Counter,
    /// CPU time that workers spent on them, in ONNX Runtime and pooling.
    pub inference_cpu_micros_total: Counter,
    /// Requests refused because the queue was full.
    pub requests_overloaded_total: Counter,
    /// Connections that waited because as many as allowed were open.
    pub connections_delayed_total: Counter,
    /// Workers started again after they had ended.
    pub worker_restarts_total: Counter,
    /// Generations committed since the start.
    pub commits_total: Counter,
    /// Generations that were given up because their workers failed.
    pub automatic_rollbacks_total: Counter,
    /// Updates that were refused.
    pub updates_refused_total: Counter,
}
