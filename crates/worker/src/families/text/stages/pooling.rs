//! Pools token vectors into one vector per text and scales it to length 1. Pure; called for every
//! micro-batch.

use std::ops::Range;

use onnxd_proto::domain::PoolingMode;

/// Smallest divisor, as in torch's `normalize`: zero vectors stay zero.
const NORM_MIN: f32 = 1e-12;

/// Appends one vector of `modes.len() * dimension` components for a text. `tokens` has the vectors
/// of its tokens without padding, of which those in `pooled` count.
pub(crate) fn pool(
    modes: &[PoolingMode],
    tokens: &[f32],
    dimension: usize,
    pooled: Range<usize>,
    vector: &mut Vec<f32>,
) {
    for mode in modes {
        let start = vector.len();
        vector.resize(start + dimension, 0.0);
        let part = &mut vector[start..];
        let row = |place: usize| &tokens[place * dimension..(place + 1) * dimension];
        match mode {
            PoolingMode::Cls | PoolingMode::LastToken if pooled.is_empty() => {}
            PoolingMode::Cls => part.copy_from_slice(row(pooled.start)),
            PoolingMode::LastToken => part.copy_from_slice(row(pooled.end - 1)),
            PoolingMode::Max => {
                part.fill(if pooled.is_empty() { 0.0 } else { f32::NEG_INFINITY });
                for place in pooled.clone() {
                    for (max, &value) in part.iter_mut().zip(row(place)) {
                        // Keep NaN.
                        if value > *max || value.is_nan() {
                            *max = value;
                        }
                    }
                }
            }
            PoolingMode::Mean => sum(part, row, pooled.clone(), |_| 1.0, |weights| weights),
            PoolingMode::MeanSqrtLen => sum(part, row, pooled.clone(), |_| 1.0, f32::sqrt),
            PoolingMode::WeightedMean => {
                sum(part, row, pooled.clone(), |place| (place + 1) as f32, |weights| weights);
            }
        }
    }
}

/// Adds weighted rows and divides by a function of the total weight.
fn sum<'t>(
    sums: &mut [f32],
    row: impl Fn(usize) -> &'t [f32],
    pooled: Range<usize>,
    weight: impl Fn(usize) -> f32,
    divisor: impl Fn(f32) -> f32,
) {
    let mut weights = 0.0;
    for place in pooled {
        let weight = weight(place);
        weights += weight;
        for (sum, value) in sums.iter_mut().zip(row(place)) {
            *sum += value * weight;
        }
    }
    if weights > 0.0 {
        let divisor = divisor(weights);
        sums.iter_mut().for_each(|sum| *sum /= divisor);
    }
}

/// Scales a vector to length 1.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(NORM_MIN);
    for value in vector {
        *value /= norm;
    }
}

#[cfg(test)]
mod tests {
    use PoolingMode::{Cls, LastToken, Max, Mean, MeanSqrtLen, WeightedMean};

    use super::*;

    /// Three tokens with two components each.
    const TOKENS: [f32; 6] = [1.0, 10.0, 2.0, -20.0, 3.0, 30.0];

    fn pooled(modes: &[PoolingMode], range: Range<usize>) -> Vec<f32> {
        let mut vector = Vec::new();
        pool(modes, &TOKENS, 2, range, &mut vector);
        vector
    }

    #[test]
    fn pooling_modes_match_sentence_transformers() {
        assert_eq!(pooled(&[Cls], 0..3), [1.0, 10.0]);
        assert_eq!(pooled(&[LastToken], 0..3), [3.0, 30.0]);
        assert_eq!(pooled(&[Max], 0..3), [3.0, 30.0]);
        assert_eq!(pooled(&[Mean], 0..3), [2.0, 20.0 / 3.0]);
        assert_eq!(pooled(&[MeanSqrtLen], 0..2), [3.0 / 2.0_f32.sqrt(), -10.0 / 2.0_f32.sqrt()]);
        assert_eq!(pooled(&[WeightedMean], 0..3), [14.0 / 6.0, 60.0 / 6.0]);
    }

    #[test]
    fn several_modes_are_concatenated() {
        assert_eq!(pooled(&[Cls, Mean], 0..2), [1.0, 10.0, 1.5, -5.0]);
    }

    #[test]
    fn prompt_tokens_are_not_pooled() {
        assert_eq!(pooled(&[Cls, Max, Mean], 1..3), [2.0, -20.0, 3.0, 30.0, 2.5, 5.0]);
        assert_eq!(pooled(&[WeightedMean], 1..3), [13.0 / 5.0, 50.0 / 5.0]);
    }

    #[test]
    fn pooling_no_tokens_yields_zeros() {
        assert_eq!(pooled(&[LastToken, Max, Mean, MeanSqrtLen, WeightedMean], 3..3), [0.0; 10]);
    }

    #[test]
    fn normalize_scales_to_length_one_and_keeps_zeros() {
        let mut vector = [3.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut zeros = [0.0; 3];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
        let mut tiny = [1e-13, 0.0];
        normalize(&mut tiny);
        assert!((tiny[0] - 0.1).abs() < 1e-6, "below the minimum, the divisor is the minimum");
    }
}
