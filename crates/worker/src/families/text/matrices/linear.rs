//! A matrix with an optional bias, like torch's `nn.Linear`, applied to rows. Used by
//! [`super::dense`].

use onnxd_proto::domain::Refusal;

use super::weights::{Floats, Weights};

/// Maximum width of a row before or after a matrix. The widest encoders have 8,192.
pub(super) const FEATURES_MAX: usize = 1 << 17;
/// The tensor names of the matrix in a dense module.
pub(super) const WEIGHT: &str = "linear.weight";
pub(super) const BIAS: &str = "linear.bias";

/// Partial sums per dot product, so that the compiler can vectorize it.
const LANES: usize = 16;
/// Rows per pass over the matrix. They fit into the first-level cache.
const BLOCK_ROWS: usize = 8;

/// `rows · weightᵀ + bias`.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    inputs: usize,
    outputs: usize,
    /// One row of `inputs` numbers per output.
    weight: Floats,
    bias: Option<Floats>,
}

impl Matrix {
    /// Reads the tensors whose names start with `prefix`. `source` is the file that sets the shape
    /// (outputs, inputs).
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub(super) fn open(
        weights: &Weights,
        prefix: &str,
        (outputs, inputs): (usize, usize),
        has_bias: bool,
        source: &str,
    ) -> Result<Self, Refusal> {
        let weight = weights.floats(&format!("{prefix}.weight"), &[outputs, inputs], source)?;
        let bias = match has_bias {
            true => Some(weights.floats(&format!("{prefix}.bias"), &[outputs], source)?),
            false => None,
        };
        Ok(Self { inputs, outputs, weight, bias })
    }

    /// Returns the width of a row before the matrix.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the width of a row after the matrix.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Appends the products of `rows` to `out`.
    pub(super) fn apply(&self, rows: &[f32], out: &mut Vec<f32>) {
        debug_assert_eq!(rows.len() % self.inputs, 0, "whole rows");
        let start = out.len();
        out.resize(start + rows.len() / self.inputs * self.outputs, 0.0);
        let blocks = rows.chunks(BLOCK_ROWS * self.inputs);
        for (block, out) in blocks.zip(out[start..].chunks_mut(BLOCK_ROWS * self.outputs)) {
            self.apply_block(block, out);
        }
    }

    fn apply_block(&self, rows: &[f32], out: &mut [f32]) {
        let (weight, bias) = (&self.weight[..], self.bias.as_deref());
        for (output, weights) in weight.chunks_exact(self.inputs).enumerate() {
            let bias = bias.map_or(0.0, |bias| bias[output]);
            let products = rows.chunks_exact(self.inputs).map(|row| dot(row, weights));
            for (row, product) in out.chunks_exact_mut(self.outputs).zip(products) {
                row[output] = product + bias;
            }
        }
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    // Pairwise: the rounding error of a sum grows with the depth of its additions.
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums[0] + rest
}
