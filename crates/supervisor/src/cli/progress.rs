//! What a person sees of an update: a line for each step that is done, and on a terminal a bar
//! for the one that runs.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use onnxd_proto::domain::Drift;

use super::say;
use onnxd_proto::domain::{Outcome, Step};

/// Shows steps as they come.
#[derive(Debug)]
pub(super) struct Display {
    /// Whether anything is shown.
    shown: bool,
    /// On a terminal, the step that runs.
    bar: Option<ProgressBar>,
}

impl Display {
    /// A display that stays silent unless `shown`.
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
            prepare(bar, step);
        }
        if let (true, Some(line)) = (self.shown, describe(step)) {
            match &self.bar {
                Some(bar) => bar.println(line),
                None => say(&line),
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Sets the bar to what runs after, or in, this step.
fn prepare(bar: &ProgressBar, step: &Step) {
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

/// The line for a step that is done.
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
                format!(", cosine to the serving one {mean_cosine:.4}, at least {min_cosine:.4}")
            });
            let plain = not_compiled
                .as_ref()
                .map_or(String::new(), |reason| format!(", not compiled: {reason}"));
            format!("checked  {dimension} components{drift}{plain}, {seconds:.2} s")
        }
        Step::Loaded { worker, done, of } => format!("loaded   worker {worker} ({done} of {of})"),
    })
}

/// The last line of an update.
pub(super) fn summary(outcome: &Outcome) -> String {
    let Outcome { model, generation, previous_generation, version, seconds, .. } = outcome;
    let version = short(version);
    format!(
        "{model}: generation {previous_generation} -> {generation}, version {version}, {seconds:.2} s"
    )
}

/// As much of a version as people compare.
fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}
