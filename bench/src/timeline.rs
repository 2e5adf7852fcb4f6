//! Assigns each request to the update stage that it overlapped.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{
    control::CallResult,
    traffic::{Recording, RequestSample},
};

/// Time after a commit in which it still has effects: old versions are freed and, with `lazy`, new
/// ones are loaded.
const AFTERMATH: Duration = Duration::from_millis(250);

/// Stage of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// No update is running.
    Quiet,
    /// Copying the source.
    Staging,
    /// Checking and compiling.
    Checking,
    /// Workers are loading.
    Loading,
    /// Recording and committing.
    Committing,
    /// Within [`AFTERMATH`] of the end.
    After,
}

impl Stage {
    pub(crate) const ALL: [Self; 6] =
        [Self::Quiet, Self::Staging, Self::Checking, Self::Loading, Self::Committing, Self::After];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quiet => "no update",
            Self::Staging => "staging",
            Self::Checking => "checking",
            Self::Loading => "loading",
            Self::Committing => "committing",
            Self::After => "just after",
        }
    }
}

/// Time span of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub stage: Stage,
    pub start: Instant,
    pub end: Instant,
}

/// Returns the stages of one update.
pub(crate) fn spans(called: &CallResult) -> Vec<Span> {
    let last = |name: &str| {
        let mut found = called.steps.iter().rev();
        found.find(|(step, _)| step == name).map(|(_, at)| *at)
    };
    let ends = [
        (Stage::Staging, last("staged")),
        (Stage::Checking, last("checked")),
        (Stage::Loading, last("loaded")),
        (Stage::Committing, Some(called.end)),
        (Stage::After, Some(called.end + AFTERMATH)),
    ];
    let mut start = called.start;
    let mut spans = Vec::new();
    for (stage, end) in ends {
        if let Some(end) = end.filter(|end| *end > start) {
            spans.push(Span { stage, start, end });
            start = end;
        }
    }
    spans
}

/// Returns every request with the stage at its midpoint.
pub(crate) fn staged(recording: &Recording) -> Vec<(Stage, RequestSample)> {
    let all: Vec<Span> = recording.updates.iter().flat_map(spans).collect();
    let stage = |seen: &RequestSample| {
        let middle = recording.started + seen.start + seen.latency() / 2;
        // The later update wins if two overlap.
        let found = all.iter().rev().find(|span| span.start <= middle && middle < span.end);
        found.map_or(Stage::Quiet, |span| span.stage)
    };
    recording.seen.iter().map(|seen| (stage(seen), *seen)).collect()
}

/// Returns the durations of a stage in all updates.
pub(crate) fn durations(updates: &[CallResult], stage: Stage) -> Vec<Duration> {
    let spans = updates.iter().flat_map(spans).filter(|span| span.stage == stage);
    spans.map(|span| span.end - span.start).collect()
}

#[cfg(test)]
mod tests {
    use e2e::admin::Refusal;

    use super::*;

    #[test]
    fn an_update_splits_into_its_stages() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let step = |name: &str, millis| (name.to_owned(), at(millis));
        let steps =
            vec![step("staging", 10), step("staged", 30), step("loaded", 50), step("loaded", 70)];
        let result = Err(Refusal { kind: String::new(), message: String::new() });
        let called = CallResult { start, end: at(80), steps, result };
        let found: Vec<(Stage, u128)> = spans(&called)
            .iter()
            .map(|span| (span.stage, (span.end - start).as_millis()))
            .collect();
        let after = 80 + AFTERMATH.as_millis();
        assert_eq!(
            found,
            [
                (Stage::Staging, 30),
                (Stage::Loading, 70),
                (Stage::Committing, 80),
                (Stage::After, after)
            ]
        );
        assert_eq!(durations(&[called], Stage::Loading), [Duration::from_millis(40)]);
    }
}
