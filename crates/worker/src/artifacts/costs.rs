//! What running a version costs on this machine: measured once, when its compiled form is made,
//! and kept beside it. A file that cannot be read is as good as none: then nothing is assumed.

use std::{fs, io, path::Path, time::Duration};

use onnxd_proto::{
    domain::{
        Refusal,
        cost::{CostTable, Measured, TEXTS, TOKENS},
    },
    wire::ask::Side,
};
use serde::{Deserialize, Serialize};

use crate::{
    artifacts::probes,
    families::text::{
        microbatch::Company,
        model::{Rows, TextModel},
        tokenize::{Text, Tokens},
    },
    process::cpu_time::CpuTime,
};

/// The file beside the compiled model.
const FILE: &str = "costs";
/// Measuring takes no longer than about this; larger shapes are left out.
pub(crate) const BUDGET: Duration = Duration::from_millis(400);
/// Shapes with more tokens are measured for one text alone: there, running together gains nothing.
const TOGETHER_TOKENS_MAX: u32 = 128;
/// Runs of a shape after the first; the quickest counts.
const RUNS: usize = 2;
/// Runs that take longer are not repeated.
const REPEATED_MAX: Duration = Duration::from_millis(8);
/// Two texts that differ in length and in everything else.
const TEXTS_TO_PAIR: [&str; 2] = ["cat 9,787,426", probes::ORDINARY];

/// What is known of a version's runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Costs {
    /// By shape.
    pub(crate) table: CostTable,
    /// In which company a text gives the same embedding as alone.
    pub(crate) company: Company,
}

impl Costs {
    /// Reads what was measured for the compiled form in `dir`.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        let costs: Self = serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()?;
        costs.table.is_sound().then_some(costs)
    }

    /// Puts it where [`Costs::read`] finds it.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(FILE), serde_json::to_vec(self)?)
    }

    /// What the supervisor is told: what cannot run together gains nothing by it.
    pub(crate) fn table_to_tell(&self) -> CostTable {
        if self.company == Company::Padded { self.table.clone() } else { self.table.apart() }
    }

    /// Runs all shapes that there is time for, the smallest first.
    pub(crate) fn measure(version: &mut TextModel) -> Result<Self, Refusal> {
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
        Ok(Self { table: CostTable::from_measured(&measured), company })
    }
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
            .map_err(|error| error.refuse(version.model_file()))?;
        same &= probes::is_same(&alone, embedding);
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Costs::read(dir.path()), None);
        let written = Costs { company: Company::Padded, ..Costs::default() };
        written.write(dir.path()).unwrap();
        assert_eq!(Costs::read(dir.path()), Some(written));
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        for damaged in
            [&text[1..], &text.replace("3000.0", "-1.0"), &text.replace("3000.0", "null")]
        {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(Costs::read(dir.path()), None, "{damaged}");
        }
    }

    #[test]
    fn small_shapes_are_measured_first_and_none_is_longer_than_the_model_takes() {
        let shapes = shapes(256);
        assert_eq!(shapes[0], (0, 0));
        assert!(shapes.contains(&(0, 5)) && !shapes.contains(&(0, 6)));
        assert!(shapes.contains(&(4, 0)) && !shapes.contains(&(5, 0)));
    }
}
