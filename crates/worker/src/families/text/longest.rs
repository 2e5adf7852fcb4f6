//! Finds the longest text that fits this machine. Runs texts of increasing length, predicts the
//! needs of the next one, and stops before a limit. Called by a check; [`super::files::length`]
//! reads the declared length.

use std::time::Instant;

use onnxd_proto::domain::{Refusal, RefusalKind, Shortened};

use super::{
    growth::{Growth, Need},
    model::TextModel,
};
use crate::{
    families::family::{Budget, Fit},
    process::{ceiling::Ceiling, cpu_time::CpuTime, resident},
};

/// The first length to try. A model limited to less is useless.
const FIRST: u32 = 128;
/// Lengths are multiples of this, except for the declared length.
const STEP: u32 = 64;
/// Minimum gain of another run, as a percentage of the longest length that fits.
const GAIN_PERCENT_MIN: u64 = 110;
/// The search ends after this many runs that do not fit.
const MISSES_MAX: u32 = 2;
/// Safety margins. `caution` multiplies predicted times. One text may use `memory_part` of the
/// memory that the check has left, and all runs together `time_part` of the time.
#[derive(Clone, Copy, Debug)]
struct Margins {
    caution: f64,
    memory_part: f64,
    text_time_factor: f64,
    time_part: f64,
}

/// Margins for a length that the search picks.
const SEARCHED: Margins =
    Margins { caution: 1.15, memory_part: 0.9, text_time_factor: 1.0, time_part: 0.5 };
/// Margins for a length that `onnxd.toml` sets. They are looser, so that a picked length that was
/// written down fits again.
const CONFIGURED: Margins =
    Margins { caution: 1.0, memory_part: 1.0, text_time_factor: 2.0, time_part: 0.8 };
/// The part of a worker's memory that one text may use. The arena keeps the memory of shorter texts
/// in pieces that are too small for longer ones: with doubling lengths, a third of the last one.
const WORKER_PART: f64 = 0.75;
/// Memory that earlier runs may retain. More would be mistaken for a need of the next run.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// Distance to the limit at which the supervisor kills the check.
const MEMORY_MARGIN: u64 = 16 << 20;

/// Limits of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Memory in addition to the loaded model, and which setting limits it.
    pub(super) memory: (f64, Cause),
    /// CPU seconds of one text.
    pub(super) text_seconds: f64,
    /// Seconds of all runs together.
    pub(super) all_seconds: f64,
    /// Factor for predicted times before they are compared. Memory needs none: an allocation beyond
    /// the limit simply fails.
    pub(super) caution: f64,
}

/// The limit that keeps texts short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    CheckMemory,
    WorkerMemory,
    TextTime,
    CheckTime,
}

/// The result of a search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Longest {
    /// The longest text that fits, in tokens; 0 if none does.
    pub(super) tokens: u32,
    /// The limit that was reached and the needs of a text of the wanted length. `None` if that
    /// length fits.
    pub(super) shortfall: Option<(Cause, Need)>,
}

/// Tries lengths up to the declared one, and limits the model to the longest that fits.
///
/// # Errors
/// The model fails for a reason other than its resource needs, no length fits, or the length set in
/// `onnxd.toml` does not fit.
pub(super) fn fit(version: &mut TextModel, budget: &Budget) -> Result<Fit, Refusal> {
    let declared = version.settings().max_tokens;
    let loaded = resident::anonymous_bytes();
    let limits = limits(budget, loaded.unwrap_or(0));
    let ceiling = budget.check_bytes.map(|bytes| bytes.saturating_sub(MEMORY_MARGIN));
    let _ceiling = ceiling.and_then(Ceiling::lower);
    let found = search(declared, &limits, |tokens| run(version, tokens, loaded))?;
    let Some((cause, need)) = found.shortfall else {
        return Ok(Fit { tokens: declared, shortened: None });
    };
    let reason = explain(cause, declared, (need, found.tokens), budget);
    if found.tokens == 0 || budget.is_explicit {
        let kind = match cause {
            Cause::CheckMemory | Cause::WorkerMemory => RefusalKind::Memory,
            Cause::TextTime | Cause::CheckTime => RefusalKind::Timeout,
        };
        let prefix = if budget.is_explicit { "onnxd.toml: max_tokens: " } else { "" };
        return Err(kind.because(format!("{prefix}{reason}")));
    }
    version.limit_tokens(found.tokens);
    tracing::info!(declared, tokens = found.tokens, reason, "reduced the maximum text length");
    let shortened = Some(Shortened { declared_tokens: declared, reason });
    Ok(Fit { tokens: found.tokens, shortened })
}

fn limits(budget: &Budget, loaded: u64) -> Limits {
    let margins = if budget.is_explicit { CONFIGURED } else { SEARCHED };
    let check = budget.check_bytes.map_or(f64::INFINITY, |all| {
        to_f64(all.saturating_sub(MEMORY_MARGIN).saturating_sub(loaded)) * margins.memory_part
    });
    let worker = budget.worker_bytes.map_or(f64::INFINITY, |bytes| to_f64(bytes) * WORKER_PART);
    let memory =
        if worker < check { (worker, Cause::WorkerMemory) } else { (check, Cause::CheckMemory) };
    let remaining = budget.deadline.map(|at| at.saturating_duration_since(Instant::now()));
    Limits {
        memory,
        text_seconds: budget
            .text_time
            .map_or(f64::INFINITY, |time| time.as_secs_f64() * margins.text_time_factor),
        all_seconds: remaining
            .map_or(f64::INFINITY, |remaining| remaining.as_secs_f64() * margins.time_part),
        caution: margins.caution,
    }
}

/// Runs one text; returns `None` if memory is insufficient. The session retains what a run
/// allocates, so memory is measured afterwards and released before the next run.
fn run(version: &mut TextModel, tokens: u32, loaded: Option<u64>) -> Result<Option<Need>, Refusal> {
    let kept =
        resident::anonymous_bytes().zip(loaded).map(|(now, before)| now.saturating_sub(before));
    if kept.is_some_and(|bytes| bytes > KEPT_BYTES_MAX)
        && let Err(error) = version.release_memory()
    {
        tracing::debug!(%error, "cannot release memory of earlier runs");
    }
    let (started, cpu) = (Instant::now(), CpuTime::now());
    match version.try_shape(1, tokens, 0) {
        Ok(numbers) => {
            super::trial::require_finite(version, &numbers.values)?;
            let used = resident::anonymous_bytes().zip(loaded);
            let used = used.map_or(0, |(now, before)| now.saturating_sub(before));
            let (cpu, all) = (cpu.elapsed().as_secs_f64(), started.elapsed().as_secs_f64());
            tracing::debug!(tokens, used, cpu, all, "tried a text length");
            Ok(Some(Need { bytes: to_f64(used), cpu_seconds: cpu, seconds: all }))
        }
        Err(refusal) if refusal.kind == RefusalKind::Memory => Ok(None),
        Err(mut refusal) => {
            refusal.message += "; if the model takes shorter texts than its files declare, set \
                                max_tokens in onnxd.toml";
            Err(refusal)
        }
    }
}

/// Finds the longest text up to `wanted` tokens in a few runs, each at most twice as long as the
/// longest that fits. `run` returns the needs of one run.
pub(super) fn search<E>(
    wanted: u32,
    limits: &Limits,
    mut run: impl FnMut(u32) -> Result<Option<Need>, E>,
) -> Result<Longest, E> {
    let (mut growth, mut spent, mut fits, mut misses) = (Growth::default(), 0.0, 0, 0);
    let (mut ceiling, mut cause) = (wanted, None);
    let mut next = FIRST.min(wanted);
    loop {
        let ran = run(next)?;
        let missed = match ran {
            Some(run) => {
                growth.add(next, run);
                spent += run.seconds;
                exceeded_limit(&run, limits, f64::INFINITY)
            }
            None => Some(limits.memory.1),
        };
        match missed {
            None => fits = next,
            // A slow model is better than no model.
            Some(Cause::TextTime) if fits == 0 => fits = next,
            missed => {
                (cause, misses) = (cause.or(missed), misses + 1);
                ceiling = if ran.is_some() { next - 1 } else { u32::midpoint(fits, next) };
            }
        }
        if fits == wanted {
            return Ok(Longest { tokens: wanted, shortfall: None });
        }
        let predicted_limit = |tokens| {
            let need = growth.predict(tokens).slower(limits.caution);
            exceeded_limit(&need, limits, limits.all_seconds - spent)
        };
        let longest = ceiling.min(fits.saturating_mul(2));
        let candidate =
            longest_below(longest, wanted, fits, |tokens| predicted_limit(tokens).is_none());
        // The cause is whatever limits the first step.
        cause = cause.or_else(|| predicted_limit((candidate + STEP).min(longest)));
        let is_worthwhile = u64::from(candidate) * 100 >= u64::from(fits) * GAIN_PERCENT_MIN;
        if fits == 0 || misses >= MISSES_MAX || !(is_worthwhile || candidate == wanted) {
            let cause = cause.or_else(|| predicted_limit(wanted)).unwrap_or(limits.memory.1);
            return Ok(Longest { tokens: fits, shortfall: Some((cause, growth.predict(wanted))) });
        }
        next = candidate;
    }
}

/// Returns the longest text that is predicted to fit, or `fits`.
fn longest_below(longest: u32, wanted: u32, fits: u32, is_fine: impl Fn(u32) -> bool) -> u32 {
    if longest == wanted && is_fine(wanted) {
        return wanted;
    }
    let mut steps = (fits / STEP + 1..=longest / STEP).rev().map(|step| step * STEP);
    steps.find(|&tokens| is_fine(tokens)).unwrap_or(fits)
}

/// Returns the first limit that this need exceeds. `remaining` is the number of seconds left for a run.
fn exceeded_limit(need: &Need, limits: &Limits, remaining: f64) -> Option<Cause> {
    if need.bytes > limits.memory.0 {
        Some(limits.memory.1)
    } else if need.cpu_seconds > limits.text_seconds {
        Some(Cause::TextTime)
    } else {
        (need.seconds > remaining).then_some(Cause::CheckTime)
    }
}

/// Explains what a text of `declared` tokens needs, which limit that exceeds, and how to change it.
fn explain(cause: Cause, declared: u32, (need, fits): (Need, u32), budget: &Budget) -> String {
    let mebibytes = |bytes: Option<u64>| bytes.unwrap_or(0) >> 20;
    let needs = format!("a text of {declared} tokens needs about");
    let (memory, seconds) = (need.bytes / f64::from(1 << 20), need.cpu_seconds);
    let why = match cause {
        Cause::CheckMemory => format!(
            "{needs} {memory:.0} MiB in addition to the model, but the check may use {} MiB in \
             total: raise --check-memory",
            mebibytes(budget.check_bytes)
        ),
        Cause::WorkerMemory => format!(
            "{needs} {memory:.0} MiB, but this machine has {} MiB for each worker: lower --workers",
            mebibytes(budget.worker_bytes)
        ),
        Cause::TextTime => format!(
            "{needs} {seconds:.1} s on one CPU, but half of the request timeout is {:.1} s: raise \
             --request-timeout",
            budget.text_time.unwrap_or_default().as_secs_f64()
        ),
        Cause::CheckTime => format!(
            "{needs} {:.1} s, more than the check has left: raise --check-timeout",
            need.seconds
        ),
    };
    match fits {
        0 => why,
        fits => format!("{why}, or set max_tokens = {fits} in onnxd.toml"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a process are compared roughly")]
fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
#[path = "longest_tests.rs"]
mod tests;
