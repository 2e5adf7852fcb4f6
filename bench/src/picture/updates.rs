//! The updates of a run: when they took place, what failed, and whether they had their effect.
//! Pure.

use std::time::Duration;

use crate::picture::clients::Sample;

/// One update, with times since the clients started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    /// Start of `onnxd update`, or SIGTERM.
    pub start: Duration,
    /// Commit, or the time at which the restarted service listens.
    pub end: Duration,
    /// Content that serves from then on.
    pub content: &'static str,
}

impl Update {
    pub(crate) fn duration(&self) -> Duration {
        self.end - self.start
    }
}

/// Returns the number of requests that failed between the start of each update and the next.
pub(crate) fn failures(updates: &[Update], samples: &[Sample]) -> Vec<usize> {
    let failed = |range: (Duration, Duration)| {
        let within = |sample: &&Sample| sample.start >= range.0 && sample.start < range.1;
        samples.iter().filter(within).filter(|sample| sample.answer.is_none()).count()
    };
    periods(updates).map(|(update, next)| failed((update.start, next))).collect()
}

/// Checks that the last answers before each next update come from the new content.
pub(crate) fn check(updates: &[Update], samples: &[Sample]) -> Result<(), String> {
    for (number, (update, next)) in periods(updates).enumerate() {
        let within = samples.iter().filter(|sample| (update.end..next).contains(&sample.start));
        let last = within.filter(|sample| sample.answer.is_some()).max_by_key(|one| one.start);
        let answer = last.and_then(|sample| sample.answer.as_ref());
        let content = answer.map(|answer| answer.content.as_str());
        if content != Some(update.content) {
            let expected = update.content;
            return Err(format!(
                "update {}: expected answers of content {expected}, got {content:?}",
                number + 1
            ));
        }
    }
    Ok(())
}

/// Returns each update with the start of the next one.
fn periods(updates: &[Update]) -> impl Iterator<Item = (&Update, Duration)> {
    let next = updates.iter().skip(1).map(|update| update.start).chain([Duration::MAX]);
    updates.iter().zip(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::clients::Answer;

    fn update(start: u64, end: u64, content: &'static str) -> Update {
        let [start, end] = [start, end].map(Duration::from_secs);
        Update { start, end, content }
    }

    fn sample(start: u64, content: Option<&str>) -> Sample {
        let answer =
            content.map(|content| Answer { latency: Duration::ZERO, content: content.to_owned() });
        Sample { start: Duration::from_secs(start), answer }
    }

    #[test]
    fn failures_count_until_the_next_update() {
        let samples = [0, 10, 12, 19, 20, 31].map(|start| sample(start, None));
        let answered = [sample(11, Some("a"))];
        let all: Vec<Sample> = samples.into_iter().chain(answered).collect();
        let updates = [update(10, 13, "a"), update(20, 22, "b")];
        assert_eq!(failures(&updates, &all), [3, 2]);
    }

    #[test]
    fn check_requires_answers_of_the_new_content() {
        let updates = [update(10, 13, "b"), update(20, 22, "a")];
        let answers = [(5, "a"), (12, "a"), (15, "b"), (25, "a")];
        let samples = answers.map(|(start, content)| sample(start, Some(content)));
        assert_eq!(check(&updates, &samples), Ok(()));
        assert!(check(&updates, &samples[..3]).is_err());
        assert!(check(&[update(10, 13, "a")], &samples[..3]).is_err());
    }
}
