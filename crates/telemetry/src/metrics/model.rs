//! Metrics of each model. The dispatcher and the updater report events; this file decides which
//! series they change.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use onnxd_proto::domain::RefusalKind;

use crate::metrics::{
    counter::Counter,
    histogram::{Histogram, LONG, QUICK, SIZES},
    source::SourceMetrics,
};

/// Values of the label `result` for loads.
const LOAD_RESULTS: [&str; 3] = ["loaded", "loaded_ahead", "failed"];
/// Value of the label `result` for a committed update.
const COMMITTED: &str = "committed";
/// Values of the label `result` for refused updates: the serialized refusal kinds, in order.
const REFUSALS: [&str; RefusalKind::Internal as usize + 1] = [
    "not_found",
    "contract",
    "load",
    "crash",
    "timeout",
    "memory",
    "canary",
    "drift",
    "checksum",
    "signature",
    "unreachable",
    "unauthorized",
    "incomplete",
    "forbidden",
    "space",
    "superseded",
    "cancelled",
    "quarantined",
    "busy",
    "handing_over",
    "malformed",
    "internal",
];

/// Metrics of one model.
#[derive(Debug)]
pub struct ModelMetrics {
    pub queue: Histogram,
    pub tokenize: Histogram,
    pub inference: Histogram,
    pub batch_size: Histogram,
    pub tokens: Counter,
    pub load_wait: Histogram,
    pub load: Histogram,
    pub update: Histogram,
    pub loads: [Counter; LOAD_RESULTS.len()],
    pub commits: Counter,
    pub refusals: [Counter; REFUSALS.len()],
    /// Damaged records that the start skipped.
    pub damaged_records: AtomicU64,
    pub source: SourceMetrics,
    pub index: IndexMetrics,
}

/// Metrics of embedding a model's documents for an update.
#[derive(Debug, Default)]
pub struct IndexMetrics {
    embedded: Counter,
    remaining: AtomicU64,
}

impl IndexMetrics {
    /// Records that `documents` were embedded and how many remain.
    pub fn embedded(&self, documents: u64, remaining: u64) {
        self.embedded.add(documents);
        self.remaining.store(remaining, Ordering::Relaxed);
    }

    /// Records that nothing is embedded any more, for whatever reason.
    pub fn ended(&self) {
        self.remaining.store(0, Ordering::Relaxed);
    }

    /// Returns the documents embedded since the start.
    pub fn documents_embedded(&self) -> u64 {
        self.embedded.get()
    }

    /// Returns the documents that the running update has yet to embed.
    pub fn documents_remaining(&self) -> u64 {
        self.remaining.load(Ordering::Relaxed)
    }
}

/// Returns the name of a refusal kind in metrics and traces.
pub fn refusal_name(kind: RefusalKind) -> &'static str {
    // The array has a name for each kind.
    REFUSALS.get(kind as usize).copied().unwrap_or_default()
}

impl Default for ModelMetrics {
    fn default() -> Self {
        Self {
            queue: Histogram::new(QUICK),
            tokenize: Histogram::new(QUICK),
            inference: Histogram::new(QUICK),
            batch_size: Histogram::new(SIZES),
            tokens: Counter::default(),
            load_wait: Histogram::new(QUICK),
            load: Histogram::new(LONG),
            update: Histogram::new(LONG),
            loads: array::from_fn(|_| Counter::default()),
            commits: Counter::default(),
            refusals: array::from_fn(|_| Counter::default()),
            damaged_records: AtomicU64::new(0),
            source: SourceMetrics::default(),
            index: IndexMetrics::default(),
        }
    }
}

impl ModelMetrics {
    /// Returns the number of queue waits, tokenized groups and micro-batches, each with its total
    /// time in microseconds.
    pub fn phases(&self) -> [(u64, u64); 3] {
        [self.queue.total(), self.tokenize.total(), self.inference.total()]
    }

    /// Returns the number of items that micro-batches answered.
    pub fn answered(&self) -> u64 {
        self.batch_size.total().1
    }

    /// Records how long an item waited before it was sent to a worker.
    pub fn handed_out(&self, waited: Duration) {
        self.queue.observe_time(waited);
    }

    /// Records the time a worker took to tokenize a group.
    pub fn tokenized(&self, micros: u32) {
        self.tokenize.observe(micros.into());
    }

    /// Records a micro-batch: the tokens of its items and its duration.
    pub fn ran(&self, tokens: impl ExactSizeIterator<Item = u32>, micros: u32) {
        self.inference.observe(micros.into());
        self.batch_size.observe(tokens.len() as u64);
        self.tokens.add(tokens.map(u64::from).sum());
    }

    /// Records a refresh to another generation. `micros` is 0 if nothing was loaded, because the
    /// version was loaded ahead or has the same content.
    pub fn refreshed(&self, micros: u64) {
        if micros > 0 {
            self.load.observe(micros);
            self.loads[0].increment();
        }
    }

    /// Records that a worker loaded a version ahead.
    pub fn loaded_ahead(&self, micros: u64) {
        self.load.observe(micros);
        self.loads[1].increment();
    }

    /// Records that a worker failed to load, ahead or on refresh.
    pub fn load_failed(&self) {
        self.loads[2].increment();
    }

    /// Records how long an item waited because its worker had to load the model first.
    pub fn waited_for_load(&self, waited: Duration) {
        self.load_wait.observe_time(waited);
    }

    /// Records an update as committed or refused, with the time since the call.
    pub fn updated(&self, refused: Option<RefusalKind>, took: Duration) {
        let Some(kind) = refused else {
            self.update.observe_time(took);
            return self.commits.increment();
        };
        let refusals = self.refusals.get(kind as usize);
        debug_assert!(refusals.is_some(), "no label for {kind:?}");
        if let Some(refusals) = refusals {
            refusals.increment();
        }
    }

    /// Returns the number of loads for each result.
    pub fn load_results(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        LOAD_RESULTS.into_iter().zip(self.loads.iter().map(Counter::get))
    }

    /// Returns the number of updates for each result.
    pub fn update_results(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let refusals = REFUSALS.into_iter().zip(self.refusals.iter().map(Counter::get));
        [(COMMITTED, self.commits.get())].into_iter().chain(refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_labels_match_the_serialized_kinds() {
        for (index, name) in REFUSALS.into_iter().enumerate() {
            let kind: RefusalKind = serde_json::from_value(name.into()).unwrap();
            assert_eq!(kind as usize, index, "{name}");
        }
    }

    #[test]
    fn updates_are_counted_once_and_only_commits_have_a_duration() {
        let model = ModelMetrics::default();
        model.updated(None, Duration::from_secs(1));
        model.updated(Some(RefusalKind::Internal), Duration::from_secs(1));
        model.updated(Some(RefusalKind::NotFound), Duration::from_secs(1));
        let counted: Vec<_> = model.update_results().filter(|&(_, count)| count > 0).collect();
        assert_eq!(counted, [("committed", 1), ("not_found", 1), ("internal", 1)]);
    }

    #[test]
    fn a_swap_to_a_version_loaded_ahead_counts_no_load() {
        let model = ModelMetrics::default();
        model.loaded_ahead(5_000);
        model.refreshed(0);
        model.refreshed(7_000);
        model.load_failed();
        let counted: Vec<_> = model.load_results().collect();
        assert_eq!(counted, [("loaded", 1), ("loaded_ahead", 1), ("failed", 1)]);
    }
}
