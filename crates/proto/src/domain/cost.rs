//! Cost of running texts together on one CPU: a small table by number of texts and tokens per text,
//! measured when a version is compiled. Pure. The worker cuts micro-batches by it and corrects it
//! with observations; the supervisor sizes dispatch groups by it.

use serde::{Deserialize, Serialize};

/// Row headings: numbers of texts.
pub const TEXTS: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// Column headings: tokens per text.
pub const TOKENS: [u32; 7] = [8, 16, 32, 64, 128, 256, 512];

/// Assumed cost of an unmeasured model: a fixed part plus a part per token, typical of a small
/// sentence embedder. Observations soon replace it.
const GUESS_FIXED_MICROS: f32 = 1000.0;
const GUESS_TOKEN_MICROS: f32 = 250.0;
/// Share of the difference between table and observation that one observation corrects.
const RATE: f32 = 0.05;
/// Observations are clamped to this factor of the prediction: the machine was busy with something
/// else.
const OUTLIER: f32 = 2.0;
/// Minimum cost of anything, so that ratios are finite.
const MICROS_MIN: f32 = 1.0;

/// Measured cells, indexed like [`TEXTS`] and [`TOKENS`]; `None` for unmeasured cells.
pub type Measured = [[Option<f32>; TOKENS.len()]; TEXTS.len()];

/// Costs in microseconds of CPU time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostTable {
    micros: [[f32; TOKENS.len()]; TEXTS.len()],
}

impl Default for CostTable {
    fn default() -> Self {
        Self::from_measured(&Measured::default())
    }
}

/// A position between two grid points: the lower one and the fraction of the way to the next.
#[derive(Clone, Copy, Debug)]
struct GridPosition {
    low: usize,
    part: f32,
}

impl CostTable {
    /// Completes the measured cells. A missing cell is extrapolated in proportion to its neighbor,
    /// per token or per text, so batching gains nothing there.
    pub fn from_measured(measured: &Measured) -> Self {
        let mut micros = [[0.0_f32; TOKENS.len()]; TEXTS.len()];
        for texts in 0..TEXTS.len() {
            for tokens in 0..TOKENS.len() {
                let known = measured[texts][tokens].filter(|cost| cost.is_finite());
                let assumed = || match (texts, tokens) {
                    (0, 0) => GUESS_FIXED_MICROS + GUESS_TOKEN_MICROS * to_f32(TOKENS[0]),
                    (0, _) => {
                        micros[0][tokens - 1] * to_f32(TOKENS[tokens]) / to_f32(TOKENS[tokens - 1])
                    }
                    _ => {
                        micros[texts - 1][tokens] * to_f32(TEXTS[texts]) / to_f32(TEXTS[texts - 1])
                    }
                };
                let mut cost = known.unwrap_or_else(assumed).max(MICROS_MIN);
                // More work never costs less; a measurement that says so is noise.
                if texts > 0 {
                    cost = cost.max(micros[texts - 1][tokens]);
                }
                if tokens > 0 {
                    cost = cost.max(micros[texts][tokens - 1]);
                }
                micros[texts][tokens] = cost;
            }
        }
        Self { micros }
    }

    /// Returns the table for texts that run one at a time.
    pub fn one_at_a_time(&self) -> Self {
        let single = self.micros[0];
        let micros = TEXTS.map(|texts| single.map(|cost| cost * to_f32(texts)));
        Self { micros }
    }

    /// Returns whether the values are plausible. A table read from a file or message may hold
    /// anything.
    pub fn is_plausible(&self) -> bool {
        self.micros.iter().flatten().all(|cost| cost.is_finite() && *cost >= MICROS_MIN)
    }

    /// Returns the microseconds for one run of `texts` texts of `tokens` tokens each, interpolated
    /// between the grid points and extrapolated in proportion beyond them.
    pub fn predict(&self, texts: usize, tokens: usize) -> f32 {
        let (row, more_texts) = locate(&TEXTS, texts);
        let (column, more_tokens) = locate(&TOKENS, tokens);
        let cell = |texts: usize, tokens: usize| self.micros[texts][tokens];
        let along = |texts: usize| {
            let low = cell(texts, column.low);
            match column.part {
                0.0 => low,
                part => low + part * (cell(texts, column.low + 1) - low),
            }
        };
        let low = along(row.low);
        let cost = match row.part {
            0.0 => low,
            part => low + part * (along(row.low + 1) - low),
        };
        cost * more_texts * more_tokens
    }

    /// Corrects the surrounding cells by the observed cost of a run.
    pub fn observe(&mut self, texts: usize, tokens: usize, micros: f32) {
        if !micros.is_finite() || micros <= 0.0 {
            return;
        }
        let off = (micros / self.predict(texts, tokens)).clamp(1.0 / OUTLIER, OUTLIER);
        let (row, _) = locate(&TEXTS, texts);
        let (column, _) = locate(&TOKENS, tokens);
        for (texts, row_part) in row.corners() {
            for (tokens, column_part) in column.corners() {
                let cell = &mut self.micros[texts][tokens];
                let corrected = *cell * (1.0 + RATE * row_part * column_part * (off - 1.0));
                *cell = corrected.max(MICROS_MIN);
            }
        }
    }
}

impl GridPosition {
    /// Returns the grid points on both sides with their weights.
    fn corners(self) -> impl Iterator<Item = (usize, f32)> {
        let both = [(self.low, 1.0 - self.part), (self.low + 1, self.part)];
        both.into_iter().filter(|(_, part)| *part > 0.0)
    }
}

/// Locates `value` on an ascending grid. The factor says how far it lies beyond the grid's end.
fn locate(grid: &[u32], value: usize) -> (GridPosition, f32) {
    let value = u32::try_from(value).unwrap_or(u32::MAX);
    let next = grid.partition_point(|&point| point <= value);
    if next == 0 {
        return (GridPosition { low: 0, part: 0.0 }, 1.0);
    }
    let low = next - 1;
    match grid.get(next) {
        Some(&high) => {
            let part = to_f32(value - grid[low]) / to_f32(high - grid[low]);
            (GridPosition { low, part }, 1.0)
        }
        None => (GridPosition { low, part: 0.0 }, to_f32(value) / to_f32(grid[low])),
    }
}

#[expect(clippy::cast_precision_loss, reason = "texts and tokens are far below 2^24")]
fn to_f32(count: u32) -> f32 {
    count as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(one: f32, other: f32) -> bool {
        (one - other).abs() <= other.abs() * 1e-4
    }

    /// A table with a few measured cells.
    fn table() -> CostTable {
        let mut measured = Measured::default();
        measured[0][0] = Some(4000.0);
        measured[0][1] = Some(5000.0);
        measured[1][0] = Some(5000.0);
        measured[2][0] = Some(8000.0);
        CostTable::from_measured(&measured)
    }

    #[test]
    fn predictions_match_measurements_and_interpolate_between_them() {
        let table = table();
        assert!(near(table.predict(1, 8), 4000.0));
        assert!(near(table.predict(1, 12), 4500.0));
        assert!(near(table.predict(3, 8), 6500.0));
        assert!(
            near(table.predict(1, 3), 4000.0),
            "fewer tokens than the first column cost the same"
        );
    }

    #[test]
    fn unmeasured_cells_gain_nothing_by_batching() {
        let table = table();
        assert!(near(table.predict(8, 8), 16_000.0));
        assert!(near(table.predict(2, 16), 10_000.0));
        assert!(near(table.predict(1, 1024), 5000.0 * 64.0));
        assert!(near(table.predict(64, 8), 8000.0 * 16.0));
        assert!(CostTable::default().is_plausible());
        assert!(near(table.one_at_a_time().predict(4, 8), 16_000.0));
    }

    #[test]
    fn observations_converge_and_outliers_hardly_count() {
        let mut table = table();
        let before = table.predict(2, 12);
        table.observe(2, 12, 1e9);
        assert!(table.predict(2, 12) < before * 1.06);
        (0..400).for_each(|_| table.observe(2, 12, 3000.0));
        assert!((table.predict(2, 12) - 3000.0).abs() < 60.0, "{}", table.predict(2, 12));
        for nothing in [f32::NAN, 0.0, -1.0] {
            let before = table.clone();
            table.observe(1, 8, nothing);
            assert_eq!(table, before);
        }
    }

    proptest! {
        #[test]
        fn any_measurement_or_observation_leaves_a_plausible_table(
            cells in prop::collection::vec(prop::option::of(prop::num::f32::ANY), 42),
            seen in prop::collection::vec((1..100_usize, 0..2000_usize, prop::num::f32::ANY), 0..50),
        ) {
            let mut measured = Measured::default();
            for (index, cell) in cells.into_iter().enumerate() {
                measured[index / TOKENS.len()][index % TOKENS.len()] =
                    cell.map(|cost| cost.clamp(-1e9, 1e9));
            }
            let mut table = CostTable::from_measured(&measured);
            for texts in 1..40 {
                prop_assert!(table.predict(texts, 20) <= table.predict(texts + 1, 20) * 1.0001);
            }
            for (texts, tokens, micros) in seen {
                table.observe(texts, tokens, micros);
            }
            prop_assert!(table.is_plausible());
        }
    }
}
