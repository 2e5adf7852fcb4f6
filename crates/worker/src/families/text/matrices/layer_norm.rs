//! Layer norms after pooling in `modules.json`, as sentence-transformers saves them. Called by the
//! [readout](crate::families::text::readout).

use std::path::Path;

use onnxd_proto::domain::Refusal;

use super::{
    linear::FEATURES_MAX,
    weights::{Floats, Weights, inside},
};
use crate::families::text::files::json::{JsonFile, contract};

/// Added to the variance to avoid division by zero for constant rows. Torch's default, which the
/// module cannot change.
const EPSILON: f64 = 1e-5;

/// Normalizes rows to mean 0 and variance 1, then scales and shifts each dimension.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    scale: Floats,
    shift: Floats,
}

impl LayerNorm {
    /// Reads the module in `folder`, a folder within `dir`.
    ///
    /// # Errors
    /// A file is missing or malformed, or a shape does not match.
    pub(crate) fn open(dir: &Path, folder: &str) -> Result<Self, Refusal> {
        let name = inside(folder, "config.json");
        let Some(config) = JsonFile::read(dir, &name)? else {
            return Err(contract(format!("{name} is missing; a LayerNorm module needs it")));
        };
        let dimension = match config.get::<u64>("dimension")?.map(usize::try_from) {
            Some(Ok(dimension @ 1..=FEATURES_MAX)) => dimension,
            None => return Err(contract(format!("{name}: dimension is missing"))),
            Some(_) => {
                return Err(contract(format!(
                    "{name}: dimension: expected a number between 1 and {FEATURES_MAX}"
                )));
            }
        };
        let weights = Weights::open(dir, folder)?;
        let scale = weights.floats("norm.weight", &[dimension], &name)?;
        let shift = weights.floats("norm.bias", &[dimension], &name)?;
        weights.expect_only(&["norm.weight", "norm.bias"])?;
        Ok(Self { scale, shift })
    }

    /// Returns the width of a row, before and after the module.
    pub(crate) fn dimension(&self) -> usize {
        self.scale.len()
    }

    /// Normalizes each row in place.
    pub(crate) fn apply(&self, rows: &mut [f32]) {
        let (scale, shift) = (&self.scale[..], &self.shift[..]);
        // Exact: dimensions are far below 2⁵².
        let count = scale.len() as f64;
        for row in rows.chunks_exact_mut(scale.len()) {
            let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
            let squares = row.iter().map(|&value| (f64::from(value) - mean).powi(2));
            let factor = (squares.sum::<f64>() / count + EPSILON).sqrt().recip();
            for ((value, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
                let centred = (f64::from(*value) - mean) * factor;
                #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest")]
                let centred = centred as f32;
                *value = centred * scale + shift;
            }
        }
    }
}

#[cfg(test)]
#[path = "layer_norm_tests.rs"]
mod tests;
