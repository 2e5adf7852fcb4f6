//! Statistics of latencies.

use std::time::Duration;

use serde::Serialize;

/// Latencies in ascending order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl FromIterator<Duration> for Latencies {
    fn from_iter<T: IntoIterator<Item = Duration>>(latencies: T) -> Self {
        let mut all: Vec<Duration> = latencies.into_iter().collect();
        all.sort();
        Self(all)
    }
}

impl Latencies {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the smallest value that at least this share of values does not exceed. 1 gives the
    /// longest.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let rank = (self.0.len() as f64 * share).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let index = (rank as usize).clamp(1, self.0.len().max(1)) - 1;
        self.0.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    pub(crate) fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    pub(crate) fn longest(&self) -> Duration {
        self.quantile(1.0)
    }

    pub(crate) fn mean(&self) -> Duration {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX).max(1);
        self.0.iter().sum::<Duration>() / count
    }

    /// Returns cells for a table row.
    pub(crate) fn cells(&self) -> [(&'static str, String); 3] {
        [
            ("p50 ms", ms(self.median())),
            ("p99 ms", ms(self.p99())),
            ("longest ms", ms(self.longest())),
        ]
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            count: self.len(),
            p50_ms: millis(self.median()),
            p90_ms: millis(self.quantile(0.9)),
            p99_ms: millis(self.p99()),
            p999_ms: millis(self.quantile(0.999)),
            longest_ms: millis(self.longest()),
        }
    }
}

/// Summary for the JSON file.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    pub count: usize,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub longest_ms: f64,
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Formats milliseconds for display.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2}", millis(time))
}

/// Returns the first duration divided by the second.
pub(crate) fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "sizes and counts here are far below 2^52")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let all: Latencies = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(all.median().as_millis(), 100);
        assert_eq!(all.p99().as_millis(), 198);
        assert_eq!(all.longest().as_millis(), 200);
        assert_eq!(Latencies::default().p99(), Duration::ZERO);
        let one: Latencies = [Duration::from_millis(3)].into_iter().collect();
        assert_eq!(one.quantile(0.01).as_millis(), 3);
    }
}
