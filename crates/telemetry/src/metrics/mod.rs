//! What happened so far, counted: written where it happens, read by the admin interface and by
//! `GET /metrics`. No retry and no drop goes uncounted. Whoever counts adds to an atomic: nothing
//! here locks, allocates or looks anything up by name while requests are answered.
//!
//! - [`counter`], [`histogram`]: what is added to.
//! - [`model`], [`routes`]: what is counted of each model and of each route.
//! - [`format`]: the text for Prometheus. What is in it is the business of who serves `/metrics`.
//! - [`process`]: what the kernel says.

pub mod counter;
pub mod format;
pub mod histogram;
pub mod model;
pub mod process;
pub mod routes;

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use onnxd_proto::{control_page::Slot, limits::MODELS_MAX};
use serde::{Serialize, Serializer};

use crate::metrics::{counter::Counter, model::ModelMetrics, routes::Routes};

/// Everything that a supervisor counts. `onnxd status` shows what is serialized.
#[derive(Debug, Serialize)]
pub struct Metrics {
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
    pub workers_killed_total: ByReason<KillReason>,
    /// Workers started again because they used more memory than `--worker-memory`.
    pub workers_recycled_total: Counter,
    /// Workers started again after they had ended.
    pub worker_restarts_total: ByReason<RestartReason>,
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
    pub models: Box<[ModelMetrics]>,
    #[serde(skip)]
    pub connections: Gauge,
    /// Texts that wait or are computed, when the dispatcher was last asked.
    #[serde(skip)]
    pub items: Gauge,
    /// Whether workers and checkers are confined.
    #[serde(skip)]
    pub sandbox: AtomicBool,
    #[serde(skip)]
    pub started: SystemTime,
}

impl Metrics {
    /// Nothing has happened yet. `templates` are the paths of all routes.
    #[expect(clippy::disallowed_methods, reason = "people read when the process started")]
    pub fn new(templates: &[String]) -> Self {
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
            workers_killed_total: ByReason::default(),
            workers_recycled_total: Counter::default(),
            worker_restarts_total: ByReason::default(),
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
    pub fn model(&self, slot: Slot) -> &ModelMetrics {
        let (nobody, models) = self.models.split_last().expect("there is always one more");
        models.get(usize::from(slot)).unwrap_or(nobody)
    }

    /// A connection is open as long as the result lives.
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.0.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// So many texts wait or are computed.
    pub fn see_items(&self, count: usize) {
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
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An open connection. Dropping it closes the account.
#[derive(Debug)]
pub struct Connected(Arc<Metrics>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A closed set of values of the label `reason`.
pub trait Reason: Copy + 'static {
    /// Every value, in the order of its counter.
    const ALL: &'static [Self];

    /// The label's value.
    fn label(self) -> &'static str;

    /// Its place in [`Reason::ALL`].
    fn index(self) -> usize;
}

/// Why a worker ended that was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartReason {
    /// SIGKILL from outside.
    Killed,
    /// Another signal.
    Signal,
    /// It exited.
    Exited,
    /// The exit status is unknown.
    Unknown,
}

impl Reason for RestartReason {
    const ALL: &'static [Self] = &[Self::Killed, Self::Signal, Self::Exited, Self::Unknown];

    fn label(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Signal => "signal",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why the supervisor killed a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// It did not get ready, obey or answer in time: what it computes or loads may be the cause.
    Hung,
    /// Its process had been stopped: nothing that it had is to blame.
    Stopped,
}

impl Reason for KillReason {
    const ALL: &'static [Self] = &[Self::Hung, Self::Stopped];

    fn label(self) -> &'static str {
        match self {
            Self::Hung => "hung",
            Self::Stopped => "stopped",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Events counted by reason. `onnxd status` shows the sum.
#[derive(Debug)]
pub struct ByReason<R> {
    counters: Vec<Counter>,
    reason: PhantomData<R>,
}

impl<R: Reason> Default for ByReason<R> {
    fn default() -> Self {
        let counters = R::ALL.iter().map(|_| Counter::default()).collect();
        Self { counters, reason: PhantomData }
    }
}

impl<R: Reason> ByReason<R> {
    /// Counts one event.
    pub fn add(&self, reason: R) {
        self.counters[reason.index()].add();
    }

    /// The label's values with their counts.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        R::ALL.iter().map(|reason| (reason.label(), self.counters[reason.index()].read()))
    }
}

impl<R: Reason> Serialize for ByReason<R> {
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
        use RestartReason::{Exited, Killed, Signal, Unknown};
        for reason in [Killed, Killed, Signal, Exited, Unknown] {
            metrics.worker_restarts_total.add(reason);
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
