//! From token embeddings to one embedding per text, and its scaling to length 1. Pure; called
//! for every micro-batch.

use onnxd_proto::domain::Pooling;

/// What a vector is divided by at least, as in torch's `normalize`: zeros stay zeros.
const NORM_MIN: f32 = 1e-12;

/// Appends one embedding per text to `embeddings`. `values` holds, text after text, `rows` rows
/// of `dimension` components, of which the first `lengths[text]` are the text's and the rest is
/// padding.
pub(crate) fn pool(
    pooling: Pooling,
    values: &[f32],
    (rows, dimension): (usize, usize),
    lengths: impl Iterator<Item = usize>,
    embeddings: &mut Vec<f32>,
) {
    for (text, length) in values.chunks_exact(rows * dimension).zip(lengths) {
        match pooling {
            Pooling::Mean => append_mean(&text[..length * dimension], dimension, embeddings),
            Pooling::LastToken => {
                let start = (length.max(1) - 1) * dimension;
                embeddings.extend_from_slice(&text[start..start + dimension]);
            }
            // The model's own pooling leaves one row, so that both are the first.
            Pooling::Cls | Pooling::None => embeddings.extend_from_slice(&text[..dimension]),
        }
    }
}

/// Appends the embeddings of all tokens that are not padding, text after text.
pub(crate) fn keep(
    values: &[f32],
    (rows, dimension): (usize, usize),
    lengths: impl Iterator<Item = usize>,
    embeddings: &mut Vec<f32>,
) {
    for (text, length) in values.chunks_exact(rows * dimension).zip(lengths) {
        embeddings.extend_from_slice(&text[..length * dimension]);
    }
}

fn append_mean(text: &[f32], dimension: usize, embeddings: &mut Vec<f32>) {
    let start = embeddings.len();
    embeddings.resize(start + dimension, 0.0);
    let mean = &mut embeddings[start..];
    let mut tokens = 0.0;
    for token in text.chunks_exact(dimension) {
        tokens += 1.0;
        for (sum, value) in mean.iter_mut().zip(token) {
            *sum += value;
        }
    }
    for sum in mean {
        *sum /= tokens;
    }
}

/// Scales an embedding to length 1.
pub(crate) fn normalize(embedding: &mut [f32]) {
    let norm = embedding.iter().map(|value| value * value).sum::<f32>().sqrt().max(NORM_MIN);
    for value in embedding {
        *value /= norm;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two texts of three tokens with two components each.
    const VALUES: [f32; 12] = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, -1.0, 0.0, 0.0, 0.0, 4.0, 0.5];

    fn pooled(pooling: Pooling, lengths: &[usize], shape: (usize, usize)) -> Vec<f32> {
        let mut embeddings = Vec::new();
        pool(pooling, &VALUES, shape, lengths.iter().copied(), &mut embeddings);
        embeddings
    }

    #[test]
    fn the_mean_is_taken_over_the_tokens_of_each_text() {
        assert_eq!(pooled(Pooling::Mean, &[3, 3], (3, 2)), [2.0, 20.0, 1.0, 0.5 / 3.0]);
        assert_eq!(pooled(Pooling::Mean, &[1], (1, 12)), VALUES);
    }

    #[test]
    fn padding_does_not_count() {
        assert_eq!(pooled(Pooling::Mean, &[2, 1], (3, 2)), [1.5, 15.0, -1.0, 0.0]);
        assert_eq!(pooled(Pooling::Cls, &[2, 1], (3, 2)), [1.0, 10.0, -1.0, 0.0]);
    }

    #[test]
    fn cls_is_the_first_token_of_each_text() {
        assert_eq!(pooled(Pooling::Cls, &[3, 3], (3, 2)), [1.0, 10.0, -1.0, 0.0]);
    }

    #[test]
    fn the_last_token_is_the_last_before_the_padding() {
        assert_eq!(pooled(Pooling::LastToken, &[3, 1], (3, 2)), [3.0, 30.0, -1.0, 0.0]);
    }

    #[test]
    fn what_is_kept_of_a_text_is_all_but_its_padding() {
        let mut embeddings = Vec::new();
        keep(&VALUES, (3, 2), [2, 1].into_iter(), &mut embeddings);
        assert_eq!(embeddings, [1.0, 10.0, 2.0, 20.0, -1.0, 0.0]);
    }

    #[test]
    fn what_the_model_has_pooled_is_left_as_it_is() {
        assert_eq!(pooled(Pooling::None, &[1, 1, 1], (1, 4)), VALUES);
    }

    #[test]
    fn a_normalized_embedding_has_length_one_and_zeros_stay_zeros() {
        let mut embedding = [3.0, 4.0];
        normalize(&mut embedding);
        assert_eq!(embedding, [0.6, 0.8]);
        let mut zeros = [0.0; 3];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
        let mut tiny = [1e-13, 0.0];
        normalize(&mut tiny);
        assert!((tiny[0] - 0.1).abs() < 1e-6, "below the minimum only the minimum divides");
    }
}
