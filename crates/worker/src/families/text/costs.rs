//! Measures the cost of running a text model by shape, and which texts can share a run without
//! changing the output. Called when a compiled form is built.

use std::time::Duration;

use onnxd_proto::domain::{
    Refusal, Task,
    cost::{CostTable, Measured, TEXTS, TOKENS},
};

use super::{
    model::TextModel,
    prepare::{Prepared, TextRequest},
    readout::{Numbers, Rows},
};
use crate::{
    artifacts::{
        costs::{BUDGET, Batching, Costs},
        probes,
    },
    process::cpu_time::CpuTime,
};

/// Larger shapes are measured for one text only: there, sharing a run gains nothing.
const SHARED_TOKENS_MAX: u32 = 128;
/// Runs of a shape after the first; the fastest counts.
const RUNS: usize = 2;
/// Longer runs are not repeated.
const REPEATED_MAX: Duration = Duration::from_millis(8);
/// Two texts that differ in length and in every token.
const TEXTS_TO_PAIR: [&str; 2] = ["cat 9,787,426", probes::ORDINARY];

/// Measures all shapes that the time budget allows, the smallest first.
pub(super) fn measure(version: &mut TextModel) -> Result<Costs, Refusal> {
    let batching = batching(version)?;
    let cpu_start = CpuTime::now();
    let mut measured = Measured::default();
    for (row, column) in shapes(version.settings().max_tokens) {
        if cpu_start.elapsed() > BUDGET {
            break;
        }
        let micros = time(version, TEXTS[row], TOKENS[column])?.as_secs_f32() * 1e6;
        measured[row][column] = Some(micros);
    }
    Ok(Costs { table: CostTable::from_measured(&measured), batching })
}

/// Returns the table positions of the shapes worth measuring, the smallest first.
fn shapes(max_tokens: u32) -> Vec<(usize, usize)> {
    let all = (0..TEXTS.len()).flat_map(|row| (0..TOKENS.len()).map(move |column| (row, column)));
    let all_tokens = |&(row, column): &(usize, usize)| TEXTS[row] * TOKENS[column];
    let worth = |cell: &(usize, usize)| {
        let (row, column) = *cell;
        TOKENS[column] <= max_tokens && (row == 0 || all_tokens(cell) <= SHARED_TOKENS_MAX)
    };
    let mut shapes: Vec<_> = all.filter(worth).collect();
    shapes.sort_by_key(all_tokens);
    shapes
}

/// Returns the CPU time of a shape. The first run of each shape also allocates memory.
fn time(version: &mut TextModel, texts: u32, tokens: u32) -> Result<Duration, Refusal> {
    let texts = usize::try_from(texts).unwrap_or(usize::MAX);
    let mut run = || {
        let cpu_start = CpuTime::now();
        version.try_shape(texts, tokens, 0).map(|_| cpu_start.elapsed())
    };
    let mut least = run()?;
    for _ in 0..RUNS {
        if least < REPEATED_MAX {
            least = least.min(run()?);
        }
    }
    Ok(least)
}

/// Returns which texts may share a run. A model may compute from padding despite the mask, and
/// dynamic quantization scales all texts of a run by their largest value.
fn batching(version: &mut TextModel) -> Result<Batching, Refusal> {
    let prepared: Result<Vec<Prepared>, _> =
        TEXTS_TO_PAIR.iter().map(|text| version.prepare_any(&request(version, text))).collect();
    let Ok(prepared) = prepared else { return Ok(Batching::Separate) };
    let shortest = prepared.iter().map(|text| text.tokens.ids.len()).min().unwrap_or(0);
    let cut: Vec<Prepared> = prepared.iter().map(|text| text.cut(shortest)).collect();
    Ok(if !is_batch_invariant(version, &cut)? {
        Batching::Separate
    } else if version.is_masked() && is_batch_invariant(version, &prepared)? {
        Batching::Padded
    } else {
        Batching::EqualLength
    })
}

/// Returns the input for this text that fits the model's task.
fn request<'t>(version: &TextModel, text: &'t str) -> TextRequest<'t> {
    match version.settings().task {
        Task::Rerank => TextRequest::pair(text, text),
        _ => TextRequest::text(text),
    }
}

/// Returns whether the texts have the same outputs together as each on its own.
fn is_batch_invariant(version: &mut TextModel, texts: &[Prepared]) -> Result<bool, Refusal> {
    let mut together = Numbers::default();
    let all: Vec<&Prepared> = texts.iter().collect();
    if version.run(&all, Rows::Pooled, &mut together).is_err() {
        return Ok(false);
    }
    let (mut same, mut start) = (true, 0);
    for (text, length) in texts.iter().zip(&together.lengths) {
        let mut single = Numbers::default();
        version
            .run(&[text], Rows::Pooled, &mut single)
            .map_err(|error| error.refuse(version.model_file()))?;
        same &= probes::is_same(&single.values, &together.values[start..start + length]);
        start += length;
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_measured_smallest_first_within_the_limit() {
        let shapes = shapes(256);
        assert_eq!(shapes[0], (0, 0));
        assert!(shapes.contains(&(0, 5)) && !shapes.contains(&(0, 6)));
        assert!(shapes.contains(&(4, 0)) && !shapes.contains(&(5, 0)));
    }
}
