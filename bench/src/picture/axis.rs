//! Chooses the ranges and labels of both axes. Pure.

use std::{ops::Range, time::Duration};

use crate::picture::bins::Bin;

/// Most intervals between labels of the time axis.
const INTERVALS_MAX: u64 = 10;
/// Space above the slowest request, for labels, as a factor on the logarithmic axis.
const HEADROOM: f64 = 1.6;

/// Returns the range of the latency axis in milliseconds: steps that enclose all latencies.
pub(crate) fn range<'a>(bins: impl IntoIterator<Item = &'a Bin>) -> Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (median, longest) in bins.into_iter().filter_map(|bin| bin.latency) {
        low = low.min(median);
        high = high.max(longest * HEADROOM);
    }
    let all = || steps().collect::<Vec<_>>();
    let start = all().into_iter().rfind(|step| *step <= low).unwrap_or(0.01);
    let end = all().into_iter().find(|step| *step >= high && *step > start).unwrap_or(1e6);
    if low.is_finite() { start..end } else { 1.0..10.0 }
}

/// Returns the latencies that have labels: the steps within a range.
pub(crate) fn latencies(range: &Range<f64>) -> impl Iterator<Item = f64> {
    steps().filter(|step| (range.start..=range.end).contains(step))
}

/// Returns 1, 2 and 5 times all powers of ten from 10 µs to 100 s, in milliseconds.
fn steps() -> impl Iterator<Item = f64> {
    let power = |exponent: i32| match exponent {
        ..0 => 1.0 / 10_f64.powi(-exponent),
        _ => 10_f64.powi(exponent),
    };
    (-2..=5).flat_map(move |exponent| [1.0, 2.0, 5.0].map(|digit| digit * power(exponent)))
}

/// Returns the seconds at which the time axis has labels.
pub(crate) fn seconds(length: Duration) -> impl Iterator<Item = u32> {
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
    fn range_encloses_all_latencies() {
        assert_eq!(range(&[bin(2.5, 9.0), bin(8.0, 110.0)]), 2.0..200.0);
        assert_eq!(range(&[bin(0.5, 1.0)]), 0.5..2.0);
        assert_eq!(range(&[bin(10.0, 10.0)]), 10.0..20.0);
        assert_eq!(range(&[Bin { latency: None, failed: 4 }]), 1.0..10.0);
    }

    #[test]
    fn latency_labels_are_the_steps_in_range() {
        let labels: Vec<String> =
            latencies(&(0.2..20.0)).map(|latency| latency.to_string()).collect();
        assert_eq!(labels, ["0.2", "0.5", "1", "2", "5", "10", "20"]);
    }

    #[test]
    fn time_axis_has_few_labels() {
        let seconds = |length| seconds(Duration::from_secs(length)).collect::<Vec<_>>();
        assert_eq!(seconds(3), [0, 1, 2, 3]);
        assert_eq!(seconds(30), [0, 5, 10, 15, 20, 25, 30]);
        assert_eq!(seconds(61), [0, 10, 20, 30, 40, 50, 60]);
    }
}
