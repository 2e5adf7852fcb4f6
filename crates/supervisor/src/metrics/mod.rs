//! What happened so far, counted: written where it happens, read by the admin interface and by
//! `GET /metrics`. No retry and no drop goes uncounted. Whoever counts adds to an atomic: nothing
//! here locks, allocates or looks anything up by name while requests are answered.
//!
//! - [`counter`], [`histogram`]: what is added to.
//! - [`model`], [`routes`]: what is counted of each model and of each route.
//! - [`exposition`], [`format`]: the text for Prometheus, put together when it is asked for.
//!   Generations and states are not kept here but asked of those who know.
//! - [`process`]: what the kernel says.

mod counter;
pub(crate) mod exposition;
pub(crate) mod format;
mod histogram;
mod model;
pub(crate) mod process;
mod routes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use onnxd_proto::{control_page::Slot, limits::MODELS_MAX};
use serde::{Serialize, Serializer};

use self::{counter::Counter, model::ModelMetrics, routes::Routes};
use crate::pool::keeper::Ended;

/// Everything that a supervisor counts. `onnxd status` shows what is serialized.
#[derive(Debug, Serialize)]
pub(crate) struct Metrics {
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
    /// Texts refused because their like took too many workers with it.
    pub items_refused_total: Counter,
    /// Micro-batches that were run.
    pub micro_batches_total: Counter,
    /// CPU time that workers spent on them, in ONNX Runtime and pooling.
    pub inference_cpu_micros_total: Counter,
    /// Requests refused because the queue was full.
    pub requests_overloaded_total: Counter,
    /// Connections that waited because as many as allowed were open.
    pub connections_delayed_total: Counter,
    /// Idle or slow connections that were closed because others needed their places.
    pub connections_evicted_total: Counter,
    /// Groups that were terminated because a deadline had passed.
    pub groups_terminated_total: Counter,
    /// Workers that were killed because they did not go on.
    pub workers_killed_total: Killed,
    /// Workers started again because they used more memory than `--worker-memory`.
    pub workers_recycled_total: Counter,
    /// Workers started again after they had ended.
    pub worker_restarts_total: Restarts,
    /// Generations committed since the start.
    pub commits_total: Counter,
    /// Generations that were given up because their workers failed.
    pub automatic_rollbacks_total: Counter,
    /// Updates that were refused.
    pub updates_refused_total: Counter,
    /// What is counted of each route.
    #[serde(skip)]
    pub routes: Routes,
    /// By slot, and one for a slot that nobody has.
    #[serde(skip)]
    models: Box<[ModelMetrics]>,
    #[serde(skip)]
    connections: Gauge,
    /// Texts that wait or are computed, when the dispatcher was last asked.
    #[serde(skip)]
    items: Gauge,
    /// Whether workers and checkers are confined.
    #[serde(skip)]
    pub sandbox: AtomicBool,
    #[serde(skip)]
    started: SystemTime,
}

impl Metrics {
    /// Nothing has happened yet. `templates` are the paths of all routes.
    #[expect(clippy::disallowed_methods, reason = "people read when the process started")]
    pub(crate) fn new(templates: &[String]) -> Self {
        Self {
            items_total: Counter::default(),
            items_retried_total: Counter::default(),
            items_regenerated_total: Counter::default(),
            items_cancelled_total: Counter::default(),
            items_poisonous_total: Counter::default(),
            items_refused_total: Counter::default(),
            micro_batches_total: Counter::default(),
            inference_cpu_micros_total: Counter::default(),
            requests_overloaded_total: Counter::default(),
            connections_delayed_total: Counter::default(),
            connections_evicted_total: Counter::default(),
            groups_terminated_total: Counter::default(),
            workers_killed_total: Killed::default(),
            workers_recycled_total: Counter::default(),
            worker_restarts_total: Restarts::default(),
            commits_total: Counter::default(),
            automatic_rollbacks_total: Counter::default(),
            updates_refused_total: Counter::default(),
            routes: Routes::new(templates),
            models: (0..=MODELS_MAX).map(|_| ModelMetrics::default()).collect(),
            connections: Gauge::default(),
            items: Gauge::default(),
            sandbox: AtomicBool::new(true),
            started: SystemTime::now(),
        }
    }

    /// What is counted of the model in a slot. What is told of a slot that nobody has is counted
    /// where nobody sees it.
    pub(crate) fn model(&self, slot: Slot) -> &ModelMetrics {
        let (nobody, models) = self.models.split_last().expect("there is always one more");
        models.get(usize::from(slot)).unwrap_or(nobody)
    }

    /// A connection is open as long as the result lives.
    pub(crate) fn connected(self: &Arc<Self>) -> Connected {
        self.connections.0.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// So many texts wait or are computed.
    pub(crate) fn see_items(&self, count: usize) {
        self.items.0.store(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&[])
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
struct Gauge(AtomicU64);

impl Gauge {
    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An open connection. Dropping it closes the account.
#[derive(Debug)]
pub(crate) struct Connected(Arc<Metrics>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why workers ended that were started again, as the label `reason` says it.
const RESTART_REASONS: [&str; 4] = ["killed", "signal", "exited", "unknown"];

/// Workers started again, by the reason of their end. `onnxd status` shows the sum.
#[derive(Debug, Default)]
pub(crate) struct Restarts([Counter; RESTART_REASONS.len()]);

impl Restarts {
    /// A worker ended in this way and will be started again.
    pub(crate) fn add(&self, ended: &Ended) {
        let [killed, signal, exited, unknown] = &self.0;
        let reason = match ended {
            ended if ended.was_killed() => killed,
            Ended { signal: Some(_), .. } => signal,
            Ended { code: Some(_), .. } => exited,
            _ => unknown,
        };
        reason.add();
    }

    fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        RESTART_REASONS.into_iter().zip(self.0.iter().map(Counter::read))
    }
}

impl Serialize for Restarts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.by_reason().map(|(_, count)| count).sum())
    }
}

/// Why workers were killed, as the label `reason` says it.
const KILL_REASONS: [&str; 2] = ["hung", "stopped"];

/// Workers that were killed, by the reason. `onnxd status` shows the sum.
#[derive(Debug, Default)]
pub(crate) struct Killed([Counter; KILL_REASONS.len()]);

impl Killed {
    /// A worker is killed for one of [`KILL_REASONS`].
    pub(crate) fn add(&self, reason: &'static str) {
        let place = KILL_REASONS.into_iter().position(|known| known == reason);
        if let Some(counter) = place.and_then(|place| self.0.get(place)) {
            counter.add();
        }
    }

    fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        KILL_REASONS.into_iter().zip(self.0.iter().map(Counter::read))
    }
}

impl Serialize for Killed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.by_reason().map(|(_, count)| count).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_counted_with_its_reason_and_status_shows_the_sum() {
        let metrics = Metrics::default();
        let ended = |code, signal| Ended { code, signal, ..Ended::unknown(String::new()) };
        for (code, signal) in
            [(None, Some(9)), (None, Some(9)), (None, Some(11)), (Some(70), None), (None, None)]
        {
            metrics.worker_restarts_total.add(&ended(code, signal));
        }
        let by_reason: Vec<_> = metrics.worker_restarts_total.by_reason().collect();
        assert_eq!(by_reason, [("killed", 2), ("signal", 1), ("exited", 1), ("unknown", 1)]);
        let json = serde_json::to_value(&metrics).unwrap();
        assert_eq!(json["worker_restarts_total"], 5);
        assert_eq!(json.as_object().unwrap().len(), 18, "status shows the counters: {json}");
    }

    #[test]
    fn a_connection_is_counted_while_it_is_open() {
        let metrics = Arc::new(Metrics::default());
        let (one, other) = (metrics.connected(), metrics.connected());
        assert_eq!(metrics.connections.read(), 2);
        drop((one, other));
        assert_eq!(metrics.connections.read(), 0);
    }

    #[test]
    fn what_is_told_of_a_slot_that_nobody_has_is_no_panic() {
        let metrics = Metrics::default();
        metrics.model(Slot::MAX).load_failed();
        metrics.model(0).load_failed();
    }
}
