//! A matrix with an optional bias, as torch's `nn.Linear`, applied to rows of numbers. Used by
//! [`super::dense`].

use onnxd_proto::domain::Refusal;

use super::weights::{Floats, Weights};

/// Most numbers of a row before or after a matrix. The widest encoders have 8,192.
pub(super) const FEATURES_MAX: usize = 1 << 17;
/// The tensors of the matrix that every dense module has.
pub(super) const WEIGHT: &str = "linear.weight";
pub(super) const BIAS: &str = "linear.bias";

/// Sums that run side by side, so that the compiler can use vector instructions.
const LANES: usize = 16;
/// Rows that share one pass over the matrix. They stay in the first-level cache meanwhile.
const BLOCK_ROWS: usize = 8;

/// `rows · weightᵀ + bias`.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    inputs: usize,
    outputs: usize,
    /// One row of `inputs` numbers for each output.
    weight: Floats,
    bias: Option<Floats>,
}

impl Matrix {
    /// Reads the tensors that torch names after `prefix`. `source` is the file that asks for the
    /// shape (outputs, inputs).
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

    /// Numbers of a row before the matrix.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers of a row after it.
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
    // In pairs: the error of a sum grows with the depth of its additions.
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
