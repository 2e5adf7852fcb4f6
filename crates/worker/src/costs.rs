//! What running a version costs on this machine: measured once, when its compiled form is made,
//! and kept beside it. A file that cannot be read is as good as none: then nothing is assumed.

use std::{fs, io, path::Path, time::Duration};

use onnxd_proto::{
    cost::{CostTable, Measured, TEXTS, TOKENS},
    message::Refusal,
};
use serde::{Deserialize, Serialize};

use crate::{cpu_time::CpuTime, probes, tokenize::Tokens, version::LoadedVersion};

/// The file beside the compiled model.
const FILE: &str = "costs";
/// Measuring takes no longer than about this; larger shapes are left out.
const BUDGET: Duration = Duration::from_millis(400);
/// Shapes with more tokens are measured for one text alone: there, running together gains nothing.
const TOGETHER_TOKENS_MAX: u32 = 128;
/// Runs of a shape after the first; the quickest counts.
const RUNS: usize = 2;
/// Runs that take longer are not repeated.
const REPEATED_MAX: Duration = Duration::from_millis(8);
/// Two texts that differ in length, to see whether padding changes anything.
const PADDED: [&str; 2] = ["cat", probes::ORDINARY];

/// What is known of a version's runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Costs {
    /// By shape.
    pub(crate) table: CostTable,
    /// Whether a text gives the same embedding when it is padded.
    pub(crate) pads: bool,
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

    /// Runs all shapes that there is time for, the smallest first.
    pub(crate) fn measure(version: &mut LoadedVersion) -> Result<Self, Refusal> {
        let pads = pads(version)?;
        let begun = CpuTime::now();
        let mut measured = Measured::default();
        for (row, column) in shapes(version.settings().max_tokens) {
            if begun.elapsed() > BUDGET {
                break;
            }
            let micros = time(version, TEXTS[row], TOKENS[column])?.as_secs_f32() * 1e6;
            measured[row][column] = Some(micros);
        }
        Ok(Self { table: CostTable::from_measured(&measured), pads })
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
fn time(version: &mut LoadedVersion, texts: u32, tokens: u32) -> Result<Duration, Refusal> {
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

/// A model may compute something from padding, too, whatever it is told of it.
fn pads(version: &mut LoadedVersion) -> Result<bool, Refusal> {
    if !version.is_masked() {
        return Ok(false);
    }
    let tokens: Result<Vec<Tokens>, _> =
        PADDED.iter().map(|text| version.tokenize(text, true)).collect();
    let Ok(tokens) = tokens else { return Ok(false) };
    let mut together = Vec::new();
    let Ok(dimension) = version.embed(&tokens.iter().collect::<Vec<_>>(), &mut together) else {
        return Ok(false);
    };
    let mut same = true;
    for (text, padded) in PADDED.iter().zip(together.chunks_exact(dimension)) {
        same &= probes::cosine(&version.embed_text(text)?, padded) >= probes::SAME_COSINE_MIN;
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
        let written = Costs { pads: true, ..Costs::default() };
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
