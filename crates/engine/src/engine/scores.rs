//! Turns a model's raw outputs into numbers for clients. Pure.

use onnxd_proto::domain::Activation;

/// Reads little-endian f32.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// Turns scores as the model gives them into what its activation makes of them.
pub fn activate(scores: &mut [f32], activation: Activation) {
    match activation {
        Activation::Identity => {}
        Activation::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
        Activation::Softmax => {
            // The largest becomes 1 before the sum, so that none overflows.
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
        }
    }
}

/// The logistic function.
pub fn sigmoid(score: f32) -> f32 {
    1.0 / (1.0 + (-score).exp())
}

/// Returns the indexes of scores, the highest first; equal scores keep their order.
pub fn ranked(scores: &[f32]) -> Vec<usize> {
    let mut indexes: Vec<usize> = (0..scores.len()).collect();
    // Zero is zero, whatever its sign.
    let key = |index: usize| scores[index] + 0.0;
    indexes.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    indexes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_become_probabilities_however_large_they_are() {
        let mut scores = [1000.0, 1000.0, -1000.0];
        activate(&mut scores, Activation::Softmax);
        assert_eq!(scores, [0.5, 0.5, 0.0]);
        let mut scores = [0.0, 1000.0, -1000.0];
        activate(&mut scores, Activation::Sigmoid);
        assert_eq!(scores, [0.5, 1.0, 0.0]);
    }

    #[test]
    fn the_highest_score_is_first_and_equal_ones_keep_their_order() {
        assert_eq!(ranked(&[0.1, 0.9, 0.1, 0.5]), [1, 3, 0, 2]);
        assert_eq!(ranked(&[-0.0, 0.0, -0.0]), [0, 1, 2]);
    }
}
