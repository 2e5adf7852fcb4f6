//! Measures what running a model for texts costs, by shape, and in which company a text gives what
//! it gives alone. Called when a compiled form is made.

use std::time::Duration;

use onnxd_proto::{
    domain::{
        Refusal,
        cost::{CostTable, Measured, TEXTS, TOKENS},
    },
    wire::ask::Side,
};

use super::{
    model::{Rows, TextModel},
    tokenize::Text,
};
use crate::{
    artifacts::{
        costs::{BUDGET, Company, Costs},
        probes,
    },
    process::cpu_time::CpuTime,
    session::Tokens,
};

/// Shapes with more tokens are measured for one text alone: there, running together gains nothing.
const TOGETHER_TOKENS_MAX: u32 = 128;
/// Runs of a shape after the first; the quickest counts.
const RUNS: usize = 2;
/// Runs that take longer are not repeated.
const REPEATED_MAX: Duration = Duration::from_millis(8);
/// Two texts that differ in length and in everything else.
const TEXTS_TO_PAIR: [&str; 2] = ["cat 9,787,426", probes::ORDINARY];

/// Runs all shapes that there is time for, the smallest first.
pub(super) fn measure(version: &mut TextModel) -> Result<Costs, Refusal> {
    let company = company(version)?;
    let begun = CpuTime::now();
    let mut measured = Measured::default();
    for (row, column) in shapes(version.settings().max_tokens) {
        if begun.elapsed() > BUDGET {
            break;
        }
        let micros = time(version, TEXTS[row], TOKENS[column])?.as_secs_f32() * 1e6;
        measured[row][column] = Some(micros);
    }
    Ok(Costs { table: CostTable::from_measured(&measured), company })
}

/// The places of the shapes that are worth measuring, the smallest first.
fn shapes(max_tokens: u32) -> Vec<(usize, usize)> {
    let all = (0..TEXTS.len()).flat_map(|row| (0..TOKENS.len()).map(move |column| (row, column)));
    let all_tokens = |&(row, column): &(usize, usize)| TEXTS[row] * TOKENS[column];
    let worth = |place: &(usize, usize)| {
        let (row, column) = *place;
        TOKENS[column] <= max_tokens && (row == 0 || all_tokens(place) <= TOGETHER_TOKENS_MAX)
    };
    let mut shapes: Vec<_> = all.filter(worth).collect();
    shapes.sort_by_key(all_tokens);
    shapes
}

/// The CPU time of a shape. The first run of each asks for memory.
fn time(version: &mut TextModel, texts: u32, tokens: u32) -> Result<Duration, Refusal> {
    let texts = usize::try_from(texts).unwrap_or(usize::MAX);
    let mut run = || {
        let begun = CpuTime::now();
        version.try_shape(texts, tokens, 0).map(|_| begun.elapsed())
    };
    let mut least = run()?;
    for _ in 0..RUNS {
        if least < REPEATED_MAX {
            least = least.min(run()?);
        }
    }
    Ok(least)
}

/// A model may compute something from padding, whatever it is told of it; and one that quantizes
/// while it runs scales all texts of a run by the largest value of any.
fn company(version: &mut TextModel) -> Result<Company, Refusal> {
    let tokens: Result<Vec<Tokens>, _> = TEXTS_TO_PAIR
        .iter()
        .map(|text| version.tokenize(&Text::One(text), Some(Side::Right)))
        .collect();
    let Ok(tokens) = tokens else { return Ok(Company::Alone) };
    let shortest = tokens.iter().map(|text| text.ids.len()).min().unwrap_or(0);
    let cut: Vec<Tokens> = tokens.iter().map(|text| text.cut(shortest)).collect();
    Ok(if !same_together(version, &cut)? {
        Company::Alone
    } else if version.is_masked() && same_together(version, &tokens)? {
        Company::Padded
    } else {
        Company::EqualLength
    })
}

/// Whether the texts give the same embeddings in one run as each alone.
fn same_together(version: &mut TextModel, texts: &[Tokens]) -> Result<bool, Refusal> {
    let mut together = Vec::new();
    let all: Vec<&Tokens> = texts.iter().collect();
    let Ok(dimension) = version.embed(&all, Rows::Pooled, &mut together) else { return Ok(false) };
    let mut same = true;
    for (text, embedding) in texts.iter().zip(together.chunks_exact(dimension)) {
        let mut alone = Vec::new();
        version
            .embed(&[text], Rows::Pooled, &mut alone)
            .map_err(|error| error.refuse(&version.model_file()))?;
        same &= probes::is_same(&alone, embedding);
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_shapes_are_measured_first_and_none_is_longer_than_the_model_takes() {
        let shapes = shapes(256);
        assert_eq!(shapes[0], (0, 0));
        assert!(shapes.contains(&(0, 5)) && !shapes.contains(&(0, 6)));
        assert!(shapes.contains(&(4, 0)) && !shapes.contains(&(5, 0)));
    }
}
