//! Summarizes samples, as a whole and per interval of time. Pure.

use std::{ops::Range, time::Duration};

use crate::{
    picture::clients::Sample,
    stats::{Latencies, millis},
};

/// Length of a bin.
pub(crate) const WIDTH: Duration = Duration::from_millis(100);

/// All requests of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub requests: usize,
    pub failed: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub longest: Duration,
}

impl Summary {
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let answers = samples.iter().filter_map(|sample| sample.answer.as_ref());
        let answered: Latencies = answers.map(|answer| answer.latency).collect();
        Self {
            requests: samples.len(),
            failed: samples.len() - answered.len(),
            p50: answered.median(),
            p99: answered.p99(),
            longest: answered.longest(),
        }
    }
}

/// The requests sent within one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bin {
    /// Median and longest latency of answered requests in milliseconds, if there are any.
    pub latency: Option<(f64, f64)>,
    pub failed: usize,
}

impl Bin {
    /// Divides a run into bins by the time at which requests were sent.
    pub(crate) fn all(samples: &[Sample], length: Duration) -> Vec<Self> {
        let index = |start: Duration| start.as_millis() / WIDTH.as_millis();
        let count = usize::try_from(length.as_millis().div_ceil(WIDTH.as_millis()));
        let mut bins = vec![(Vec::new(), 0); count.unwrap_or_default()];
        for sample in samples {
            let bin = usize::try_from(index(sample.start)).ok().and_then(|at| bins.get_mut(at));
            let Some((latencies, failed)) = bin else { continue };
            match &sample.answer {
                Some(answer) => latencies.push(answer.latency),
                None => *failed += 1,
            }
        }
        bins.into_iter().map(|(latencies, failed)| Self::of(latencies, failed)).collect()
    }

    fn of(latencies: Vec<Duration>, failed: usize) -> Self {
        let latencies: Latencies = latencies.into_iter().collect();
        let values = (millis(latencies.median()), millis(latencies.longest()));
        Self { latency: (latencies.len() > 0).then_some(values), failed }
    }
}

/// Returns the runs of neighbouring bins that satisfy `belongs`.
pub(crate) fn runs(bins: &[Bin], belongs: impl Fn(&Bin) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, _) in bins.iter().enumerate().filter(|(_, bin)| belongs(bin)) {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::clients::Answer;

    fn sample(start: u64, latency: Option<u64>) -> Sample {
        let latency = latency.map(Duration::from_millis);
        let answer = latency.map(|latency| Answer { latency, content: String::new() });
        Sample { start: Duration::from_millis(start), answer }
    }

    fn bin(latency: Option<(f64, f64)>, failed: usize) -> Bin {
        Bin { latency, failed }
    }

    #[test]
    fn requests_are_binned_by_their_start() {
        let samples = [
            sample(0, Some(3)),
            sample(99, Some(80)),
            sample(20, Some(5)),
            sample(100, None),
            sample(299, Some(7)),
            sample(310, Some(7)),
        ];
        let bins = Bin::all(&samples, Duration::from_millis(300));
        let expected = [bin(Some((5.0, 80.0)), 0), bin(None, 1), bin(Some((7.0, 7.0)), 0)];
        assert_eq!(bins, expected);
    }

    #[test]
    fn summary_counts_failures_but_not_their_latency() {
        let samples: Vec<Sample> =
            (1..=100).map(|ms| sample(ms, Some(ms))).chain([sample(0, None)]).collect();
        let summary = Summary::of(&samples);
        assert_eq!((summary.requests, summary.failed), (101, 1));
        let millis = [summary.p50, summary.p99, summary.longest].map(|time| time.as_millis());
        assert_eq!(millis, [50, 99, 100]);
    }

    #[test]
    fn runs_end_at_the_first_bin_that_does_not_belong() {
        let failed = [1, 1, 0, 2, 0, 0, 3].map(|failed| bin(None, failed));
        assert_eq!(runs(&failed, |bin| bin.failed > 0), [0..2, 3..4, 6..7]);
        assert!(runs(&failed, |bin| bin.latency.is_some()).is_empty());
    }
}
