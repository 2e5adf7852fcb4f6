//! Shows the progress of an update: a line for each completed step and, on a terminal, a bar for the current one.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use onnxd_proto::domain::{Drift, IndexStatus, Outcome, Step};

use super::print_line;

/// How often the progress of embedding is printed where there is no bar.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows steps as they arrive.
#[derive(Debug)]
pub(super) struct Display {
    shown: bool,
    model: String,
    /// When the progress of embedding was printed last.
    printed: Mutex<Option<Instant>>,
    /// The current step, on a terminal.
    bar: Option<ProgressBar>,
}

impl Display {
    /// Returns a display of updates of a model. It prints nothing unless `shown`.
    pub(super) fn new(shown: bool, model: &str) -> Self {
        let bar = (shown && std::io::stdout().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { shown, model: model.to_owned(), printed: Mutex::default(), bar }
    }

    /// Shows a step.
    pub(super) fn show(&self, step: &Step) {
        if let Some(bar) = &self.bar {
            update_bar(bar, step, &self.model);
        }
        let line = match step {
            Step::Indexing(status) if self.bar.is_none() && self.is_due() => {
                Some(embedding(&self.model, status))
            }
            step => describe(step),
        };
        if let (true, Some(line)) = (self.shown, line) {
            match &self.bar {
                Some(bar) => bar.println(line),
                None => print_line(&line),
            }
        }
    }

    /// Returns whether the progress of embedding is printed now.
    fn is_due(&self) -> bool {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = printed.is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if is_due {
            *printed = Some(Instant::now());
        }
        is_due
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Sets the bar to the step that runs now.
fn update_bar(bar: &ProgressBar, step: &Step, model: &str) {
    let counted = |template: &str, done: u64, of: u64| {
        let style = ProgressStyle::with_template(template).expect("our own templates are valid");
        bar.set_style(style.progress_chars("=> "));
        bar.set_length(of);
        bar.set_position(done);
    };
    let spinning = |message: String| {
        bar.set_style(ProgressStyle::default_spinner());
        bar.set_message(message);
    };
    match step {
        Step::Staging { bytes, of } => {
            counted("staging  [{bar:40}] {bytes}/{total_bytes}", *bytes, *of);
        }
        Step::Staged { .. } => spinning("checking".to_owned()),
        Step::Passed { .. } => {}
        Step::Checked { .. } => spinning("loading".to_owned()),
        Step::Loaded { done, of, .. } => {
            counted("loading  [{bar:40}] {pos}/{len} workers", *done as u64, *of as u64);
        }
        Step::Indexing(status) => spinning(embedding(model, status)),
        Step::Indexed { .. } => spinning("committing".to_owned()),
    }
}

/// Returns the line for a completed step.
fn describe(step: &Step) -> Option<String> {
    Some(match step {
        Step::Staging { .. } | Step::Indexing(_) => return None,
        Step::Staged { version, bytes, seconds } => {
            #[expect(clippy::cast_precision_loss, reason = "for people, to one decimal place")]
            let megabytes = *bytes as f64 / 1e6;
            format!("staged   version {}, {megabytes:.1} MB, {seconds:.2} s", short(version))
        }
        Step::Passed { part } => format!("passed   {part}"),
        Step::Checked { dimension, drift, not_compiled, seconds } => {
            let drift = drift.map_or(String::new(), |drift| {
                let Drift { min_cosine, mean_cosine, .. } = drift;
                format!(", cosine to serving version: mean {mean_cosine:.4}, min {min_cosine:.4}")
            });
            let uncompiled = not_compiled
                .as_ref()
                .map_or(String::new(), |reason| format!(", not compiled: {reason}"));
            format!("checked  {dimension} dimensions{drift}{uncompiled}, {seconds:.2} s")
        }
        Step::Loaded { worker, done, of } => format!("loaded   worker {worker} ({done} of {of})"),
        Step::Indexed { documents, reused_from, seconds } => {
            let reused = reused_from
                .as_deref()
                .map_or(String::new(), |from| format!(", vectors of version {} kept", short(from)));
            format!("indexed  {} documents{reused}, {seconds:.2} s", grouped(*documents))
        }
    })
}

/// Describes how far documents are embedded again.
pub(super) fn embedding(model: &str, status: &IndexStatus) -> String {
    let IndexStatus { done, of, per_second, seconds_left } = *status;
    let (done, of) = (grouped(done), grouped(of));
    let rate = per_second.map_or(String::new(), |rate| format!(", {rate:.0}/s"));
    let left = seconds_left.map_or(String::new(), |left| format!(", {} left", duration(left)));
    format!("re-embedding {model}: {done} of {of} documents{rate}{left}")
}

/// Returns a number with commas between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a duration in its two largest units.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float saturates, and durations are positive"
)]
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{hours} h {} min", minutes % 60),
    }
}

/// Returns the last line of an update.
pub(super) fn summary(outcome: &Outcome) -> String {
    let Outcome { model, generation, previous_generation, version, seconds, .. } = outcome;
    let version = short(version);
    format!(
        "{model}: generation {previous_generation} -> {generation}, version {version}, {seconds:.2} s"
    )
}

/// Returns the first digits of a version.
pub(super) fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedding_shows_the_rate_and_the_time_left() {
        let status = |done, of, rate: Option<f64>| IndexStatus {
            done,
            of,
            per_second: rate,
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            seconds_left: rate.map(|rate| (of - done) as f64 / rate),
        };
        for (status, expected) in [
            (status(0, 999, None), "re-embedding m: 0 of 999 documents"),
            (
                status(1_200, 50_000, Some(310.0)),
                "re-embedding m: 1,200 of 50,000 documents, 310/s, 2 min 37 s left",
            ),
            (
                status(1, 1_234_568, Some(100.0)),
                "re-embedding m: 1 of 1,234,568 documents, 100/s, 3 h 25 min left",
            ),
            (status(90, 100, Some(2.0)), "re-embedding m: 90 of 100 documents, 2/s, 5 s left"),
        ] {
            assert_eq!(embedding("m", &status), expected);
        }
    }

    #[test]
    fn kept_vectors_are_named() {
        let step = |reused_from| Step::Indexed { documents: 1000, reused_from, seconds: 0.5 };
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(describe(&step(None)).unwrap(), "indexed  1,000 documents, 0.50 s");
        assert_eq!(
            describe(&step(Some(digest))).unwrap(),
            "indexed  1,000 documents, vectors of version 0123456789ab kept, 0.50 s"
        );
    }
}
