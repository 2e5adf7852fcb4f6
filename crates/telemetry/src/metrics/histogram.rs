//! Histograms without a lock: an observation adds to two atomics. The Prometheus library's own
//! histogram locks a mutex, but the library can still encode this one. Only a sampled trace takes a
//! lock: it is kept as the exemplar of its bucket.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// Ascending upper bounds of the buckets, and the number of counted units per displayed unit.
#[derive(Debug)]
pub struct Bounds {
    values: &'static [u64],
    per_unit: u32,
}

const MICROS_PER_SECOND: u32 = 1_000_000;

/// Parts of a request: 0.1 ms to 30 s, in microseconds.
pub const QUICK: Bounds = Bounds {
    values: &[
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
        1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
    ],
    per_unit: MICROS_PER_SECOND,
};

/// Loads and updates: 10 ms to 5 min, in microseconds.
pub const LONG: Bounds = Bounds {
    values: &[
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        300_000_000,
    ],
    per_unit: MICROS_PER_SECOND,
};

/// Sizes of batches.
pub const SIZES: Bounds = Bounds { values: &[1, 2, 4, 8, 16, 32, 64], per_unit: 1 };

/// Counts of values by bucket.
#[derive(Debug)]
pub struct Histogram {
    bounds: Bounds,
    /// One bucket per bound, and one for larger values.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// The last sampled trace of each bucket; empty until there is one.
    exemplars: Mutex<Vec<Option<Exemplar>>>,
}

/// A value that belongs to a sampled trace.
#[derive(Clone, Debug)]
struct Exemplar {
    trace_id: u128,
    value: u64,
    at: SystemTime,
}

impl Histogram {
    /// Creates an empty histogram.
    pub fn new(bounds: Bounds) -> Self {
        let buckets = (0..=bounds.values.len()).map(|_| AtomicU64::default()).collect();
        Self { bounds, buckets, sum: AtomicU64::default(), exemplars: Mutex::default() }
    }

    /// Records a value.
    pub fn observe(&self, value: u64) {
        self.buckets[self.bucket(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Records a duration of a sampled trace, which becomes the exemplar of its bucket.
    #[expect(clippy::disallowed_methods, reason = "OpenMetrics shows when an exemplar was seen")]
    pub fn observe_trace(&self, time: Duration, trace_id: u128) {
        self.observe_time(time);
        let exemplar = Exemplar { trace_id, value: micros(time), at: SystemTime::now() };
        let mut exemplars = self.exemplars.lock().unwrap_or_else(PoisonError::into_inner);
        exemplars.resize(self.buckets.len(), None);
        exemplars[self.bucket(micros(time))] = Some(exemplar);
    }

    /// Returns the exemplar of each bucket in the syntax of `OpenMetrics`.
    pub fn exemplars(&self) -> Vec<Option<String>> {
        let mut exemplars = self.exemplars.lock().unwrap_or_else(PoisonError::into_inner).clone();
        exemplars.resize(self.buckets.len(), None);
        let show = |Exemplar { trace_id, value, at }: Exemplar| {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            format!(" # {{trace_id=\"{trace_id:032x}\"}} {} {at:.3}", self.shown(value))
        };
        exemplars.into_iter().map(|exemplar| exemplar.map(show)).collect()
    }

    /// Returns the index of a value's bucket.
    fn bucket(&self, value: u64) -> usize {
        self.bounds.values.partition_point(|&bound| bound < value)
    }

    /// Records a duration in microseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(micros(time));
    }

    /// Returns the number of values and their sum.
    pub fn total(&self) -> (u64, u64) {
        let count = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum();
        (count, self.sum.load(Ordering::Relaxed))
    }

    #[expect(clippy::cast_precision_loss, reason = "values beyond 2^53 need no exact display")]
    fn shown(&self, value: u64) -> f64 {
        value as f64 / f64::from(self.bounds.per_unit)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl EncodeMetric for &Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = self.bounds.values.iter().map(|&bound| self.shown(bound));
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        // Computed from the displayed buckets, so it agrees with them during concurrent
        // observations.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.shown(self.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(histogram: &Histogram) -> Vec<u64> {
        histogram.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn a_value_counts_under_the_first_bound_it_does_not_exceed() {
        let histogram = Histogram::new(SIZES);
        [0, 1, 2, 3, 64, 65, 1 << 40].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(counts(&histogram), [2, 1, 1, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn the_last_sampled_trace_is_the_exemplar_of_its_bucket() {
        let histogram = Histogram::new(QUICK);
        assert!(histogram.exemplars().iter().all(Option::is_none));
        histogram.observe_time(Duration::from_millis(2));
        histogram.observe_trace(Duration::from_millis(2), 1);
        histogram.observe_trace(Duration::from_micros(2100), 0xff);
        let exemplars = histogram.exemplars();
        assert_eq!(exemplars.len(), counts(&histogram).len());
        let exemplar = exemplars[4].as_ref().unwrap();
        let expected = " # {trace_id=\"000000000000000000000000000000ff\"} 0.0021 ";
        assert!(exemplar.starts_with(expected), "{exemplar}");
        assert_eq!(exemplars.iter().flatten().count(), 1);
        assert_eq!(histogram.total().0, 3);
    }

    #[test]
    fn times_are_shown_in_seconds() {
        let histogram = Histogram::new(QUICK);
        histogram.observe_time(Duration::from_millis(1500));
        assert!((histogram.shown(histogram.sum.load(Ordering::Relaxed)) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn bounds_rise() {
        for bounds in [QUICK, LONG, SIZES] {
            assert!(bounds.values.is_sorted_by(|one, next| one < next), "{bounds:?}");
        }
    }
}
