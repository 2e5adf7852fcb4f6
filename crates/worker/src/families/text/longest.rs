//! Finds the longest text that fits this machine: runs rising lengths, predicts from what they
//! used what the next one needs, and stops before a limit. Called by a check. What a version's files
//! say is read by [`super::length`].

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

/// The first length. Whatever fits less is of no use.
const FIRST: u32 = 128;
/// Lengths are multiples of this, but for the longest that the files say.
const STEP: u32 = 64;
/// Another run must promise this much more, as a percentage of what is known to fit.
const WORTH_PERCENT: u64 = 110;
/// Runs that turn out not to fit; then the search ends.
const MISSES_MAX: u32 = 2;
/// What leaves room for chance: predicted times are multiplied by `caution`; a text may use a part of
/// the memory, and all runs of the time, that is left to the check.
#[derive(Clone, Copy, Debug)]
struct Margins {
    caution: f64,
    memory_part: f64,
    text_time_factor: f64,
    time_part: f64,
}

/// Of a length that the search picks.
const PICKED: Margins =
    Margins { caution: 1.15, memory_part: 0.9, text_time_factor: 1.0, time_part: 0.5 };
/// Of one that `onnxd.toml` asks for: what was picked once and written down fits again.
const ASKED: Margins =
    Margins { caution: 1.0, memory_part: 1.0, text_time_factor: 2.0, time_part: 0.8 };
/// Part of a worker's memory that one text may use: the arena keeps what shorter ones took, in pieces
/// that are too small, by lengths that double a third of the last one.
const WORKER_PART: f64 = 0.75;
/// What earlier runs may keep; more would be taken for what the next one needs.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// Below the limit at which the supervisor ends the check.
const MEMORY_MARGIN: u64 = 16 << 20;

/// Limits of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Memory on top of the loaded model, and what sets the limit.
    pub(super) memory: (f64, Cause),
    /// CPU seconds of one text.
    pub(super) text_seconds: f64,
    /// Seconds of all runs together.
    pub(super) all_seconds: f64,
    /// What a predicted time is multiplied by before it is compared. More memory than predicted
    /// only fails to be had.
    pub(super) caution: f64,
}

/// Which limit keeps texts short.
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
    /// The longest text that fits; 0 if none does.
    pub(super) tokens: u32,
    /// What keeps it shorter than wanted, and what a text as long as wanted would need.
    pub(super) shortfall: Option<(Cause, Need)>,
}

/// Tries lengths up to what the version's files say, and limits the model to the longest that fits.
///
/// # Errors
/// The model fails for another reason than its needs, not even a short text fits, or less fits
/// than `onnxd.toml` asks for.
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
    if found.tokens == 0 || budget.is_asked {
        let kind = match cause {
            Cause::CheckMemory | Cause::WorkerMemory => RefusalKind::Memory,
            Cause::TextTime | Cause::CheckTime => RefusalKind::Timeout,
        };
        let asked = if budget.is_asked { "onnxd.toml: max_tokens: " } else { "" };
        return Err(kind.because(format!("{asked}{reason}")));
    }
    version.limit_tokens(found.tokens);
    tracing::info!(declared, tokens = found.tokens, reason, "longest text shortened");
    let shortened = Some(Shortened { declared_tokens: declared, reason });
    Ok(Fit { tokens: found.tokens, shortened })
}

fn limits(budget: &Budget, loaded: u64) -> Limits {
    let margins = if budget.is_asked { ASKED } else { PICKED };
    let check = budget.check_bytes.map_or(f64::INFINITY, |all| {
        real(all.saturating_sub(MEMORY_MARGIN).saturating_sub(loaded)) * margins.memory_part
    });
    let worker = budget.worker_bytes.map_or(f64::INFINITY, |bytes| real(bytes) * WORKER_PART);
    let memory =
        if worker < check { (worker, Cause::WorkerMemory) } else { (check, Cause::CheckMemory) };
    let left = budget.deadline.map(|at| at.saturating_duration_since(Instant::now()));
    Limits {
        memory,
        text_seconds: budget
            .text_time
            .map_or(f64::INFINITY, |time| time.as_secs_f64() * margins.text_time_factor),
        all_seconds: left.map_or(f64::INFINITY, |left| left.as_secs_f64() * margins.time_part),
        caution: margins.caution,
    }
}

/// Runs one text; `None` if there is not enough memory. What a run used stays with the session, so
/// that memory is looked at afterwards, and given back before the next.
fn run(version: &mut TextModel, tokens: u32, loaded: Option<u64>) -> Result<Option<Need>, Refusal> {
    let kept =
        resident::anonymous_bytes().zip(loaded).map(|(now, before)| now.saturating_sub(before));
    if kept.is_some_and(|bytes| bytes > KEPT_BYTES_MAX)
        && let Err(error) = version.release_memory()
    {
        tracing::debug!(%error, "memory of earlier runs is counted");
    }
    let (started, cpu) = (Instant::now(), CpuTime::now());
    match version.try_shape(1, tokens, 0) {
        Ok(numbers) => {
            super::trial::require_finite(version, &numbers.values)?;
            let used = resident::anonymous_bytes().zip(loaded);
            let used = used.map_or(0, |(now, before)| now.saturating_sub(before));
            let (cpu, all) = (cpu.elapsed().as_secs_f64(), started.elapsed().as_secs_f64());
            tracing::debug!(tokens, used, cpu, all, "length tried");
            Ok(Some(Need { bytes: real(used), cpu_seconds: cpu, seconds: all }))
        }
        Err(refusal) if refusal.kind == RefusalKind::Memory => Ok(None),
        Err(mut refusal) => {
            refusal.message += "; if the model takes shorter texts than its files say, set \
                                max_tokens in onnxd.toml";
            Err(refusal)
        }
    }
}

/// Finds the longest text up to `wanted` tokens by a handful of runs, each at most twice as long as
/// the longest that fits. `run` gives what one run used.
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
                over(&run, limits, f64::INFINITY)
            }
            None => Some(limits.memory.1),
        };
        match missed {
            None => fits = next,
            // A slow model is better than none.
            Some(Cause::TextTime) if fits == 0 => fits = next,
            missed => {
                (cause, misses) = (cause.or(missed), misses + 1);
                ceiling = if ran.is_some() { next - 1 } else { u32::midpoint(fits, next) };
            }
        }
        if fits == wanted {
            return Ok(Longest { tokens: wanted, shortfall: None });
        }
        let fitting = |tokens| {
            let need = growth.predict(tokens).slower(limits.caution);
            over(&need, limits, limits.all_seconds - spent)
        };
        let longest = ceiling.min(fits.saturating_mul(2));
        let candidate = longest_below(longest, wanted, fits, |tokens| fitting(tokens).is_none());
        // What keeps the first step short is the cause.
        cause = cause.or_else(|| fitting((candidate + STEP).min(longest)));
        let is_worth = u64::from(candidate) * 100 >= u64::from(fits) * WORTH_PERCENT;
        if fits == 0 || misses >= MISSES_MAX || !(is_worth || candidate == wanted) {
            let cause = cause.or_else(|| fitting(wanted)).unwrap_or(limits.memory.1);
            return Ok(Longest { tokens: fits, shortfall: Some((cause, growth.predict(wanted))) });
        }
        next = candidate;
    }
}

/// The longest text that is predicted to fit, or `fits`.
fn longest_below(longest: u32, wanted: u32, fits: u32, is_fine: impl Fn(u32) -> bool) -> u32 {
    if longest == wanted && is_fine(wanted) {
        return wanted;
    }
    let mut steps = (fits / STEP + 1..=longest / STEP).rev().map(|step| step * STEP);
    steps.find(|&tokens| is_fine(tokens)).unwrap_or(fits)
}

/// The first limit that this is over. `left` are the seconds that are left for a run.
fn over(need: &Need, limits: &Limits, left: f64) -> Option<Cause> {
    if need.bytes > limits.memory.0 {
        Some(limits.memory.1)
    } else if need.cpu_seconds > limits.text_seconds {
        Some(Cause::TextTime)
    } else {
        (need.seconds > left).then_some(Cause::CheckTime)
    }
}

/// Says what a text of `declared` tokens needs, which limit that is over, and how to change it.
fn explain(cause: Cause, declared: u32, (need, fits): (Need, u32), budget: &Budget) -> String {
    let mebibytes = |bytes: Option<u64>| bytes.unwrap_or(0) >> 20;
    let needs = format!("a text of {declared} tokens needs about");
    let (memory, seconds) = (need.bytes / f64::from(1 << 20), need.cpu_seconds);
    let why = match cause {
        Cause::CheckMemory => format!(
            "{needs} {memory:.0} MiB on top of the model, and the check may use {} MiB in all: \
             raise --check-memory",
            mebibytes(budget.check_bytes)
        ),
        Cause::WorkerMemory => format!(
            "{needs} {memory:.0} MiB, and this machine has {} MiB for each worker: lower --workers",
            mebibytes(budget.worker_bytes)
        ),
        Cause::TextTime => format!(
            "{needs} {seconds:.1} s on one CPU, and half of the request timeout is {:.1} s: raise \
             --request-timeout",
            budget.text_time.unwrap_or_default().as_secs_f64()
        ),
        Cause::CheckTime => format!(
            "{needs} {:.1} s, more than the check has time for: raise --check-timeout",
            need.seconds
        ),
    };
    match fits {
        0 => why,
        fits => format!("{why}, or set max_tokens = {fits} in onnxd.toml"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a process are compared roughly")]
fn real(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
#[path = "longest_tests.rs"]
mod tests;
