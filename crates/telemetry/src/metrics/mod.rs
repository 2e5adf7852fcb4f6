//! Counters of events: written where the events happen, read by the admin interface and
//! `GET /metrics`. Every retry and every drop is counted. Counting adds to an atomic: serving a
//! request takes no lock, allocation or lookup by name here.
//!
//! - [`counter`], [`histogram`]: the primitives.
//! - [`model`], [`source`], [`routes`]: metrics of each model, its source, and each route.
//! - [`format`]: the text for Prometheus; its content belongs to the handler of `/metrics`.
//! - [`process`]: figures from the kernel.

pub mod counter;
pub mod format;
pub mod histogram;
pub mod model;
pub mod process;
pub mod routes;
pub mod source;

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

pub use self::model::refusal_name;
use crate::metrics::{counter::Counter, model::ModelMetrics, routes::Routes};

/// The supervisor's metrics. `onnxd status` shows the serialized fields.
#[derive(Debug, Serialize)]
pub struct Metrics {
    /// Texts accepted into the queue.
    pub items_total: Counter,
    /// Texts that were run again because their worker died.
    pub items_retried_total: Counter,
    /// Texts that were run again so that a response has one generation.
    pub items_regenerated_total: Counter,
    /// Texts dropped because the client disconnected or the deadline passed.
    pub items_cancelled_total: Counter,
    /// Texts that crashed too many workers and were answered 500.
    pub items_poisonous_total: Counter,
    /// Texts refused because identical ones crashed too many workers.
    pub items_refused_total: Counter,
    /// Micro-batches run.
    pub micro_batches_total: Counter,
    /// CPU time of workers in ONNX Runtime and pooling.
    pub inference_cpu_micros_total: Counter,
    /// Requests refused because the queue was full.
    pub requests_overloaded_total: Counter,
    /// Requests refused because they are not valid HTTP.
    pub requests_malformed_total: ByReason<MalformedReason>,
    /// Connections that waited because the limit on open connections was reached.
    pub connections_delayed_total: Counter,
    /// Idle or slow connections closed to free their slots for others.
    pub connections_evicted_total: Counter,
    /// Groups terminated because a deadline passed.
    pub groups_terminated_total: Counter,
    /// Workers killed because they stopped responding.
    pub workers_killed_total: ByReason<KillReason>,
    /// Workers restarted because they used more memory than `--worker-memory`.
    pub workers_recycled_total: Counter,
    /// Workers restarted after they had exited.
    pub worker_restarts_total: ByReason<RestartReason>,
    /// Restarts of the process that has the collections of documents.
    pub index_restarts_total: Counter,
    /// Requests sent to that process again because it had exited.
    pub index_requests_retried_total: Counter,
    /// Generations committed since the start.
    pub commits_total: Counter,
    /// Generations rolled back because their workers failed.
    pub automatic_rollbacks_total: Counter,
    /// Updates refused.
    pub updates_refused_total: Counter,
    /// Spans that a collector took.
    pub spans_exported_total: Counter,
    /// Spans that were recorded and lost.
    pub spans_dropped_total: SpansDropped,
    /// Metrics of each route.
    #[serde(skip)]
    pub routes: Routes,
    /// Metrics of each slot, and a last entry for invalid slots.
    #[serde(skip)]
    pub models: Box<[ModelMetrics]>,
    #[serde(skip)]
    pub connections: Gauge,
    /// Texts queued or running, as last reported by the dispatcher.
    #[serde(skip)]
    pub items: Gauge,
    /// Whether workers and checkers are sandboxed.
    #[serde(skip)]
    pub sandbox: AtomicBool,
    #[serde(skip)]
    pub started: SystemTime,
}

impl Metrics {
    /// Creates empty metrics. `templates` are the paths of all routes.
    #[expect(clippy::disallowed_methods, reason = "the start time is for people to read")]
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
            requests_malformed_total: ByReason::default(),
            connections_delayed_total: Counter::default(),
            connections_evicted_total: Counter::default(),
            groups_terminated_total: Counter::default(),
            workers_killed_total: ByReason::default(),
            workers_recycled_total: Counter::default(),
            worker_restarts_total: ByReason::default(),
            index_restarts_total: Counter::default(),
            index_requests_retried_total: Counter::default(),
            commits_total: Counter::default(),
            automatic_rollbacks_total: Counter::default(),
            updates_refused_total: Counter::default(),
            spans_exported_total: Counter::default(),
            spans_dropped_total: SpansDropped::default(),
            routes: Routes::new(templates),
            models: (0..=MODELS_MAX).map(|_| ModelMetrics::default()).collect(),
            connections: Gauge::default(),
            items: Gauge::default(),
            sandbox: AtomicBool::new(true),
            started: SystemTime::now(),
        }
    }

    /// Returns the metrics of a slot's model. Events of an invalid slot go to an entry that is
    /// never shown.
    pub fn model(&self, slot: Slot) -> &ModelMetrics {
        let (discarded, models) = self.models.split_last().expect("one entry is always extra");
        models.get(usize::from(slot)).unwrap_or(discarded)
    }

    /// Counts a connection as open until the result is dropped.
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.0.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// Sets the number of texts that are queued or running.
    pub fn set_items(&self, count: usize) {
        self.items.0.store(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&[])
    }
}

/// Spans that were lost, by reason. `onnxd status` shows the sum.
#[derive(Debug, Default)]
pub struct SpansDropped {
    /// The queue was full, or the exporter did not read.
    pub queue: Counter,
    /// The collector did not take them.
    pub collector: Counter,
}

impl SpansDropped {
    /// Returns the values of the label `reason` with their counts.
    pub fn by_reason(&self) -> [(&'static str, u64); 2] {
        [("queue", self.queue.get()), ("collector", self.collector.get())]
    }
}

impl Serialize for SpansDropped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.by_reason().iter().map(|(_, count)| count).sum())
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts an open connection; dropping it counts the close.
#[derive(Debug)]
pub struct Connected(Arc<Metrics>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A closed set of values for the label `reason`.
pub trait Reason: Copy + 'static {
    /// Every value, in the order of its counter.
    const ALL: &'static [Self];

    /// Returns the label's value.
    fn label(self) -> &'static str;

    /// Returns its index in [`Reason::ALL`].
    fn index(self) -> usize;
}

/// Why a worker that was restarted had exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartReason {
    /// SIGKILL from outside.
    Killed,
    /// Another signal.
    Signal,
    /// The process exited.
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

/// Why a request cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedReason {
    /// It has too many or too long headers, or a path that is too long.
    TooLarge,
    /// It breaks the rules of HTTP.
    Invalid,
}

impl Reason for MalformedReason {
    const ALL: &'static [Self] = &[Self::TooLarge, Self::Invalid];

    fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why the supervisor killed a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// It did not start, respond or obey in time. The model or the input may be the cause.
    Hung,
    /// Its process had been stopped, so neither model nor input is to blame.
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
    pub fn increment(&self, reason: R) {
        self.counters[reason.index()].increment();
    }

    /// Returns the label's values with their counts.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        R::ALL.iter().map(|reason| (reason.label(), self.counters[reason.index()].get()))
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
    fn restarts_are_counted_by_reason_and_status_shows_the_sum() {
        let metrics = Metrics::default();
        use RestartReason::{Exited, Killed, Signal, Unknown};
        for reason in [Killed, Killed, Signal, Exited, Unknown] {
            metrics.worker_restarts_total.increment(reason);
        }
        let by_reason: Vec<_> = metrics.worker_restarts_total.by_reason().collect();
        assert_eq!(by_reason, [("killed", 2), ("signal", 1), ("exited", 1), ("unknown", 1)]);
        let json = serde_json::to_value(&metrics).unwrap();
        assert_eq!(json["worker_restarts_total"], 5);
        assert_eq!(json.as_object().unwrap().len(), 23, "every counter is serialized: {json}");
    }

    #[test]
    fn a_connection_is_counted_while_it_is_open() {
        let metrics = Arc::new(Metrics::default());
        let (one, other) = (metrics.connected(), metrics.connected());
        assert_eq!(metrics.connections.get(), 2);
        drop((one, other));
        assert_eq!(metrics.connections.get(), 0);
    }

    #[test]
    fn an_event_of_an_invalid_slot_does_not_panic() {
        let metrics = Metrics::default();
        metrics.model(Slot::MAX).load_failed();
        metrics.model(0).load_failed();
    }
}
