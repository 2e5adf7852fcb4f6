//! Latency histogram with buckets a sixteenth of an octave wide.

use std::time::Duration;

const BUCKETS: usize = 16 * 40;

/// Counts requests by latency.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, longest: Duration::ZERO }
    }
}

impl Latency {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, above 0")]
    pub(crate) fn add(&mut self, took: Duration) {
        let micros = (took.as_secs_f64() * 1e6).max(1.0);
        let bucket = (micros.log2() * 16.0) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }

    /// Returns the latency that this fraction of requests did not exceed, to a sixteenth of an
    /// octave.
    #[expect(clippy::cast_precision_loss, reason = "buckets and counts are far below 2^52")]
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let wanted = part * self.count as f64;
        let mut sum = 0;
        let reaches = |count: &u64| {
            sum += count;
            sum as f64 >= wanted
        };
        let bucket = self.buckets.iter().position(reaches).unwrap_or_default();
        let upper = Duration::from_secs_f64(((bucket + 1) as f64 / 16.0).exp2() / 1e6);
        upper.min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_accurate_to_a_bucket() {
        let mut latency = Latency::default();
        (1..=1000).for_each(|millis| latency.add(Duration::from_millis(millis)));
        for (part, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = latency.quantile(part).as_secs_f64() * 1000.0;
            assert!((found / expected - 1.0).abs() < 0.06, "{part}: {found}");
        }
        assert_eq!(latency.longest(), Duration::from_secs(1));
        assert_eq!(latency.count(), 1000);
    }
}
