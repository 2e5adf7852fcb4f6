//! Cuts a dispatch group into micro-batches: what one call of ONNX Runtime runs. Pure; called by
//! [`crate::group`].
//!
//! Only texts of equal length share a micro-batch. So no padding is ever computed, and a text's
//! embedding does not depend on what else was asked for at the moment.

/// Texts in one micro-batch. More of them hardly run faster on one CPU, but delay the first.
pub(crate) const TEXTS_MAX: usize = 8;

/// Tokens in one micro-batch of more than one text. From about 32 tokens a text on, running texts
/// together gains nothing, and ONNX Runtime keeps the memory of the largest micro-batch for good.
const TOKENS_MAX: usize = 512;

/// The micro-batches for texts with these numbers of tokens, as places in `lengths`, shortest
/// texts first, because they are done soonest.
pub(crate) fn plan(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut places: Vec<usize> = (0..lengths.len()).collect();
    places.sort_by_key(|&place| lengths[place]);
    places
        .chunk_by(|&a, &b| lengths[a] == lengths[b])
        .flat_map(|equal| equal.chunks(texts_max(lengths[equal[0]])))
        .map(<[usize]>::to_vec)
        .collect()
}

fn texts_max(tokens: usize) -> usize {
    (TOKENS_MAX / tokens.max(1)).clamp(1, TEXTS_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_of_equal_length_run_together_and_the_shortest_first() {
        assert_eq!(plan(&[5, 3, 5, 4]), [vec![1], vec![3], vec![0, 2]]);
        assert_eq!(plan(&[2; 9]), [vec![0, 1, 2, 3, 4, 5, 6, 7], vec![8]]);
        assert!(plan(&[]).is_empty());
    }

    #[test]
    fn long_texts_run_with_fewer_others_or_alone() {
        let texts_together = |tokens: usize| plan(&[tokens; 8])[0].len();
        let expected = [(0, 8), (64, 8), (65, 7), (256, 2), (257, 1), (100_000, 1)];
        for (tokens, texts) in expected {
            assert_eq!(texts_together(tokens), texts, "{tokens}");
        }
    }

    proptest! {
        #[test]
        fn every_text_runs_once_and_never_padded(
            lengths in prop::collection::vec(prop_oneof![1_usize..12, 60_usize..600], 0..100),
        ) {
            let batches = plan(&lengths);
            let mut places = batches.concat();
            let order: Vec<usize> = places.iter().map(|&place| lengths[place]).collect();
            prop_assert!(order.is_sorted());
            places.sort_unstable();
            prop_assert_eq!(places, (0..lengths.len()).collect::<Vec<_>>());
            for batch in batches {
                prop_assert!((1..=TEXTS_MAX).contains(&batch.len()));
                prop_assert!(batch.len() == 1 || batch.len() * lengths[batch[0]] <= TOKENS_MAX);
                prop_assert!(batch.iter().all(|&place| lengths[place] == lengths[batch[0]]));
            }
        }
    }
}
