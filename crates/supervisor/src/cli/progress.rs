//! Shows the progress of an update: a line for each completed step and, on a terminal, a bar for the current one.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use onnxd_proto::domain::Drift;

use super::print_line;
use onnxd_proto::domain::{Outcome, Step};

/// Shows steps as they arrive.
#[derive(Debug)]
pub(super) struct Display {
    shown: bool,
    /// The current step, on a terminal.
    bar: Option<ProgressBar>,
}

impl Display {
    /// Returns a display that prints nothing unless `shown`.
    pub(super) fn new(shown: bool) -> Self {
        let bar = (shown && std::io::stdout().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { shown, bar }
    }

    /// Shows a step.
    pub(super) fn show(&self, step: &Step) {
        if let Some(bar) = &self.bar {
            update_bar(bar, step);
        }
        if let (true, Some(line)) = (self.shown, describe(step)) {
            match &self.bar {
                Some(bar) => bar.println(line),
                None => print_line(&line),
            }
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Sets the bar to the step that runs now.
fn update_bar(bar: &ProgressBar, step: &Step) {
    let counted = |template: &str, done: u64, of: u64| {
        let style = ProgressStyle::with_template(template).expect("our own templates are valid");
        bar.set_style(style.progress_chars("=> "));
        bar.set_length(of);
        bar.set_position(done);
    };
    let spinning = |message: &'static str| {
        bar.set_style(ProgressStyle::default_spinner());
        bar.set_message(message);
    };
    match step {
        Step::Staging { bytes, of } => {
            counted("staging  [{bar:40}] {bytes}/{total_bytes}", *bytes, *of);
        }
        Step::Staged { .. } => spinning("checking"),
        Step::Passed { .. } => {}
        Step::Checked { .. } => spinning("loading"),
        Step::Loaded { done, of, .. } => {
            counted("loading  [{bar:40}] {pos}/{len} workers", *done as u64, *of as u64);
        }
    }
}

/// Returns the line for a completed step.
fn describe(step: &Step) -> Option<String> {
    Some(match step {
        Step::Staging { .. } => return None,
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
    })
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
