//! Turns the logits of a masked language model into one sparse vector over its vocabulary.

use crate::families::text::files::plan::Splade;

/// Appends the vector of a text. `tokens` has `vocabulary` logits for each attended token; others
/// would count as zeros.
pub(crate) fn pool(splade: Splade, tokens: &[f32], vocabulary: usize, vector: &mut Vec<f32>) {
    let start = vector.len();
    vector.resize(start + vocabulary, 0.0);
    let sums = &mut vector[start..];
    for token in tokens.chunks_exact(vocabulary) {
        for (sum, &logit) in sums.iter_mut().zip(token) {
            if splade.is_sum {
                *sum += saturate(splade, logit);
            } else if logit > *sum || logit.is_nan() {
                // The function is monotonic, so the largest logit has the largest weight.
                *sum = logit;
            }
        }
    }
    if !splade.is_sum {
        sums.iter_mut().for_each(|largest| *largest = saturate(splade, *largest));
    }
}

fn saturate(splade: Splade, logit: f32) -> f32 {
    // Not `max`, which would turn NaN into zero.
    let positive = if logit < 0.0 { 0.0 } else { logit };
    let once = positive.ln_1p();
    if splade.is_twice { once.ln_1p() } else { once }
}

/// Encodes the nonzero weights for the wire: pairs of token and weight, in ascending order of
/// tokens.
pub(crate) fn entries(vector: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (token, weight) in (0_u32..).zip(vector) {
        if *weight > 0.0 {
            bytes.extend_from_slice(&token.to_le_bytes());
            bytes.extend_from_slice(&weight.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_max_or_sum_of_saturated_logits() {
        let tokens = [1.0, -1.0, 2.0, 3.0, -2.0, 0.5];
        let pooled = |is_sum, is_twice| {
            let mut vector = vec![9.0];
            pool(Splade { is_sum, is_twice }, &tokens, 3, &mut vector);
            vector.split_off(1)
        };
        let (ln2, ln3, ln4) = (1_f32.ln_1p(), 2_f32.ln_1p(), 3_f32.ln_1p());
        assert_eq!(pooled(false, false), [ln4, 0.0, ln3]);
        assert_eq!(pooled(true, false), [ln2 + ln4, 0.0, ln3 + 0.5_f32.ln_1p()]);
        assert_eq!(pooled(false, true), [ln4.ln_1p(), 0.0, ln3.ln_1p()]);
    }

    #[test]
    fn only_nonzero_weights_are_sent_and_nan_is_kept() {
        let bytes = entries(&[0.0, 0.5, 0.0, 2.0]);
        assert_eq!(bytes.len(), 16);
        assert_eq!((&bytes[..4], &bytes[12..]), (&[1, 0, 0, 0][..], &2_f32.to_le_bytes()[..]));
        let mut vector = Vec::new();
        pool(Splade::default(), &[f32::NAN], 1, &mut vector);
        assert!(vector[0].is_nan());
    }
}
