//! Chooses the ranges and labels of both axes. Pure.

use std::{ops::RangeInclusive, time::Duration};

use crate::picture::bins::Bin;

/// Most intervals between labels of the time axis.
const INTERVALS_MAX: u64 = 10;

/// Returns the exponents of the powers of ten, in milliseconds, that enclose all latencies.
pub(crate) fn decades<'a>(bins: impl IntoIterator<Item = &'a Bin>) -> RangeInclusive<i32> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (median, longest) in bins.into_iter().filter_map(|bin| bin.latency) {
        low = low.min(median);
        high = high.max(longest);
    }
    if low <= 0.0 || !low.is_finite() {
        return 0..=1;
    }
    #[expect(clippy::cast_possible_truncation, reason = "logarithms of latencies are small")]
    let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    low..=high.max(low + 1)
}

/// Formats a power of ten of a millisecond.
pub(crate) fn latency_label(exponent: i32) -> String {
    let value = 10_f64.powi(exponent);
    if exponent < 3 { format!("{value} ms") } else { format!("{} s", value / 1e3) }
}

/// Returns the seconds at which the time axis has labels.
pub(crate) fn ticks(length: Duration) -> impl Iterator<Item = u32> {
    let seconds = length.as_secs();
    let fits = |step: &u64| seconds / step <= INTERVALS_MAX;
    let step = [1, 2, 5, 10, 20, 60, 300, 600].into_iter().find(fits).unwrap_or(3600);
    (0..=seconds / step).filter_map(move |number| u32::try_from(number * step).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(median: f64, longest: f64) -> Bin {
        Bin { latency: Some((median, longest)), failed: 0 }
    }

    #[test]
    fn decades_enclose_all_latencies() {
        assert_eq!(decades(&[bin(2.5, 9.0), bin(8.0, 110.0)]), 0..=3);
        assert_eq!(decades(&[bin(0.5, 1.0)]), -1..=0);
        assert_eq!(decades(&[bin(10.0, 10.0)]), 1..=2);
        assert_eq!(decades(&[Bin { latency: None, failed: 4 }]), 0..=1);
    }

    #[test]
    fn latency_labels_have_units() {
        assert_eq!(
            [-1, 0, 2, 3, 4].map(latency_label),
            ["0.1 ms", "1 ms", "100 ms", "1 s", "10 s"]
        );
    }

    #[test]
    fn time_axis_has_few_labels() {
        let ticks = |seconds| ticks(Duration::from_secs(seconds)).collect::<Vec<_>>();
        assert_eq!(ticks(3), [0, 1, 2, 3]);
        assert_eq!(ticks(30), [0, 5, 10, 15, 20, 25, 30]);
        assert_eq!(ticks(61), [0, 10, 20, 30, 40, 50, 60]);
    }
}
