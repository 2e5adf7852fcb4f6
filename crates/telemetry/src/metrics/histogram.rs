//! Histograms without a lock: an observation adds to two atomics. The Prometheus library's own
//! histogram locks a mutex, but the library can still encode this one.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
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
}

impl Histogram {
    /// Creates an empty histogram.
    pub fn new(bounds: Bounds) -> Self {
        let buckets = (0..=bounds.values.len()).map(|_| AtomicU64::default()).collect();
        Self { bounds, buckets, sum: AtomicU64::default() }
    }

    /// Records a value.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.values.partition_point(|&bound| bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Records a duration in microseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
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
