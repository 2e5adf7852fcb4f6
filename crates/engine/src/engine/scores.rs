//! Turns a model's raw outputs into numbers for clients. Pure.

use onnxd_proto::domain::Activation;

/// Reads little-endian f32.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// Applies an activation to raw scores.
pub fn activate(scores: &mut [f32], activation: Activation) {
    match activation {
        Activation::Identity => {}
        Activation::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
        Activation::Softmax => {
            // Subtract the largest first, so that the exponentials cannot overflow.
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

/// Returns the indices of scores, highest first; equal scores keep their order.
pub fn ranked(scores: &[f32]) -> Vec<usize> {
    let mut indexes: Vec<usize> = (0..scores.len()).collect();
    // Adding zero turns -0.0 into 0.0, so that both rank the same.
    let key = |index: usize| scores[index] + 0.0;
    indexes.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    indexes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_scores_become_probabilities_without_overflow() {
        let mut scores = [1000.0, 1000.0, -1000.0];
        activate(&mut scores, Activation::Softmax);
        assert_eq!(scores, [0.5, 0.5, 0.0]);
        let mut scores = [0.0, 1000.0, -1000.0];
        activate(&mut scores, Activation::Sigmoid);
        assert_eq!(scores, [0.5, 1.0, 0.0]);
    }

    #[test]
    fn ranking_is_descending_and_stable() {
        assert_eq!(ranked(&[0.1, 0.9, 0.1, 0.5]), [1, 3, 0, 2]);
        assert_eq!(ranked(&[-0.0, 0.0, -0.0]), [0, 1, 2]);
    }
}
