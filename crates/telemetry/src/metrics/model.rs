//! What is counted of each model. The dispatcher and the updater tell what happened; what that
//! means for which series is decided here.

use std::{array, time::Duration};

use onnxd_proto::domain::RefusalKind;

use crate::metrics::{
    counter::Counter,
    histogram::{Histogram, LONG, QUICK, SIZES},
};

/// What came of a load, as the label `result` says it.
const LOAD_RESULTS: [&str; 3] = ["loaded", "loaded_ahead", "failed"];
/// What came of an update, as the label `result` says it.
const COMMITTED: &str = "committed";
/// Or why there was none: the kinds of refusals in their order, as everybody sees them.
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
    "space",
    "superseded",
    "quarantined",
    "busy",
    "handing_over",
    "malformed",
    "internal",
];

/// What is counted of one model.
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
        }
    }
}

impl ModelMetrics {
    /// How many items waited, groups were tokenized and micro-batches run, each with the time that
    /// all took, in microseconds.
    pub fn phases(&self) -> [(u64, u64); 3] {
        [self.queue.total(), self.tokenize.total(), self.inference.total()]
    }

    /// How many items micro-batches answered.
    pub fn answered(&self) -> u64 {
        self.batch_size.total().1
    }

    /// An item was handed to a worker after it had waited so long.
    pub fn handed_out(&self, waited: Duration) {
        self.queue.observe_time(waited);
    }

    /// A worker tokenized a whole group.
    pub fn tokenized(&self, micros: u32) {
        self.tokenize.observe(micros.into());
    }

    /// A worker ran a micro-batch: the tokens of its items, and how long it took.
    pub fn ran(&self, tokens: impl ExactSizeIterator<Item = u32>, micros: u32) {
        self.inference.observe(micros.into());
        self.batch_size.observe(tokens.len() as u64);
        self.tokens.add_all(tokens.map(u64::from).sum());
    }

    /// A worker serves another generation. Where that had been loaded ahead or is the same
    /// content, `micros` is 0 and nothing was loaded.
    pub fn refreshed(&self, micros: u64) {
        if micros > 0 {
            self.load.observe(micros);
            self.loads[0].add();
        }
    }

    /// A worker has loaded a version beside what it serves.
    pub fn loaded_ahead(&self, micros: u64) {
        self.load.observe(micros);
        self.loads[1].add();
    }

    /// A worker could not load, ahead or when it had to.
    pub fn load_failed(&self) {
        self.loads[2].add();
    }

    /// An item waited so long because its worker loaded before it computed it.
    pub fn waited_for_load(&self, waited: Duration) {
        self.load_wait.observe_time(waited);
    }

    /// An update that was asked for has been committed or refused, so long after the call.
    pub fn updated(&self, refused: Option<RefusalKind>, took: Duration) {
        let Some(kind) = refused else {
            self.update.observe_time(took);
            return self.commits.add();
        };
        let refusals = self.refusals.get(kind as usize);
        debug_assert!(refusals.is_some(), "{kind:?} has no name among the refusals");
        if let Some(refusals) = refusals {
            refusals.add();
        }
    }

    /// How often loading had each result.
    pub fn load_results(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        LOAD_RESULTS.into_iter().zip(self.loads.iter().map(Counter::read))
    }

    /// How often updates had each result.
    pub fn update_results(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let refusals = REFUSALS.into_iter().zip(self.refusals.iter().map(Counter::read));
        [(COMMITTED, self.commits.read())].into_iter().chain(refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_names_that_callers_see() {
        for (place, name) in REFUSALS.into_iter().enumerate() {
            let kind: RefusalKind = serde_json::from_value(name.into()).unwrap();
            assert_eq!(kind as usize, place, "{name}");
        }
    }

    #[test]
    fn each_update_is_counted_once_and_only_commits_have_a_duration() {
        let model = ModelMetrics::default();
        model.updated(None, Duration::from_secs(1));
        model.updated(Some(RefusalKind::Internal), Duration::from_secs(1));
        model.updated(Some(RefusalKind::NotFound), Duration::from_secs(1));
        let counted: Vec<_> = model.update_results().filter(|&(_, count)| count > 0).collect();
        assert_eq!(counted, [("committed", 1), ("not_found", 1), ("internal", 1)]);
    }

    #[test]
    fn a_swap_to_what_was_loaded_ahead_is_no_load() {
        let model = ModelMetrics::default();
        model.loaded_ahead(5_000);
        model.refreshed(0);
        model.refreshed(7_000);
        model.load_failed();
        let counted: Vec<_> = model.load_results().collect();
        assert_eq!(counted, [("loaded", 1), ("loaded_ahead", 1), ("failed", 1)]);
    }
}
