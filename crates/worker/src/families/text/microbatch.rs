//! Splits a dispatch group into micro-batches, each run by one call to ONNX Runtime. Pure; called
//! by [`super::answer`].
//!
//! Texts that run together are padded to the longest, so the best split depends on their lengths
//! and on the machine's cost of each shape. Dynamic programming over the sorted lengths finds the
//! split with the least predicted time. Sorting loses nothing: swapping texts into sorted order
//! makes no micro-batch longer.

use onnxd_proto::domain::cost::CostTable;

use crate::artifacts::costs::Batching;

/// Maximum texts in one micro-batch: a full group.
pub(crate) const TEXTS_MAX: usize = onnxd_proto::limits::GROUP_ITEMS_MAX;

/// Maximum tokens in a micro-batch of several texts, including padding. ONNX Runtime retains the
/// memory of the largest micro-batch, and beyond a few hundred tokens larger ones gain nothing.
pub(crate) const TOKENS_MAX: usize = 1024;

/// A shared run must beat separate runs by this factor: predictions are inexact, and the shortest
/// text waits for the others.
const SHARED_RUN_MARGIN: f32 = 1.02;

/// Returns the micro-batches for texts of these lengths in tokens, as indices into `lengths`. The
/// shortest texts come first because they finish soonest.
pub(crate) fn plan(lengths: &[usize], costs: &CostTable, batching: Batching) -> Vec<Vec<usize>> {
    plan_within(lengths, costs, batching, TOKENS_MAX)
}

/// Like [`plan`], for a model with a large output: a micro-batch of several texts has at most
/// `tokens_max` tokens.
pub(crate) fn plan_within(
    lengths: &[usize],
    costs: &CostTable,
    batching: Batching,
    tokens_max: usize,
) -> Vec<Vec<usize>> {
    let mut indices: Vec<usize> = (0..lengths.len()).collect();
    indices.sort_by_key(|&index| lengths[index]);
    let sorted: Vec<usize> = indices.iter().map(|&index| lengths[index]).collect();
    let mut ends = cuts(&sorted, costs, batching, tokens_max.min(TOKENS_MAX));
    let mut batches = Vec::with_capacity(ends.len());
    while let Some((start, end)) = ends.pop() {
        batches.push(indices[start..end].to_vec());
    }
    batches
}

/// Returns the split of ascending lengths with the least predicted time, as ranges, the last one
/// first.
fn cuts(
    sorted: &[usize],
    costs: &CostTable,
    batching: Batching,
    tokens_max: usize,
) -> Vec<(usize, usize)> {
    // The least time for the texts before each index, and the start of the last micro-batch.
    let mut best = vec![(0.0_f32, 0_usize); sorted.len() + 1];
    for end in 1..=sorted.len() {
        let longest = sorted[end - 1];
        let mut least = (best[end - 1].0 + weighted_time(costs, 1, longest), end - 1);
        for start in (0..end - 1).rev() {
            let texts = end - start;
            let fits = texts <= TEXTS_MAX && texts * longest <= tokens_max;
            let allowed = match batching {
                Batching::Separate => false,
                Batching::EqualLength => sorted[start] == longest,
                Batching::Padded => true,
            };
            if !fits || !allowed {
                break;
            }
            let time = best[start].0 + weighted_time(costs, texts, longest);
            if time < least.0 {
                least = (time, start);
            }
        }
        best[end] = least;
    }
    let mut ranges = Vec::new();
    let mut end = sorted.len();
    while end > 0 {
        let start = best[end].1;
        ranges.push((start, end));
        end = start;
    }
    ranges
}

/// The cost to minimize: predicted time plus a margin for waiting.
fn weighted_time(costs: &CostTable, texts: usize, tokens: usize) -> f32 {
    costs.predict(texts, tokens) * if texts > 1 { SHARED_RUN_MARGIN } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::cost::{Measured, TEXTS, TOKENS};
    use proptest::prelude::*;

    use super::*;

    /// A machine on which a call costs `call` and each token `token`, up to 256 tokens per call;
    /// larger calls gain nothing.
    fn machine(call: f32, token: f32) -> CostTable {
        let mut measured = Measured::default();
        for (row, texts) in TEXTS.into_iter().enumerate() {
            for (column, tokens) in TOKENS.into_iter().enumerate() {
                if texts == 1 || texts * tokens <= 256 {
                    measured[row][column] = Some(call + token * (texts * tokens) as f32);
                }
            }
        }
        CostTable::from_measured(&measured)
    }

    #[test]
    fn texts_of_similar_length_share_runs_shortest_first() {
        let costs = machine(2000.0, 200.0);
        assert_eq!(plan(&[30, 9, 31, 10], &costs, Batching::Padded), [vec![1, 3], vec![0, 2]]);
        assert_eq!(plan(&[8; 6], &costs, Batching::Padded), [vec![0, 1, 2, 3, 4, 5]]);
        assert!(plan(&[], &costs, Batching::Padded).is_empty());
    }

    #[test]
    fn texts_are_padded_only_where_it_saves_time() {
        // Another call costs 2 ms, as much as 10 tokens of padding.
        let costs = machine(2000.0, 200.0);
        assert_eq!(plan(&[10, 19], &costs, Batching::Padded).len(), 1);
        assert_eq!(plan(&[10, 21], &costs, Batching::Padded).len(), 2);
        // If a call costs nothing, sharing a run saves nothing.
        assert_eq!(plan(&[10, 10], &machine(0.0, 200.0), Batching::Padded).len(), 2);
    }

    #[test]
    fn batch_sensitive_model_runs_texts_separately() {
        let costs = machine(50_000.0, 1.0);
        assert_eq!(plan(&[5, 6, 5], &costs, Batching::EqualLength), [vec![0, 2], vec![1]]);
        assert_eq!(plan(&[5, 6, 5], &costs, Batching::Padded).len(), 1);
        assert_eq!(plan(&[5, 6, 5], &costs, Batching::Separate).len(), 3);
    }

    /// Tries every split of `sorted` into ranges, encoded as the bits of a number.
    fn least_of_all_cuts(sorted: &[usize], costs: &CostTable, batching: Batching) -> f32 {
        let gaps = sorted.len() - 1;
        let cut = |bits: usize| {
            let mut ends: Vec<usize> =
                (1..=gaps).filter(|gap| bits >> (gap - 1) & 1 == 1).collect();
            ends.push(sorted.len());
            ends
        };
        let time = |ends: Vec<usize>| {
            let (mut start, mut sum) = (0, 0.0);
            for end in ends {
                let (texts, longest) = (end - start, sorted[end - 1]);
                let padded = sorted[start] != longest;
                let allowed = match batching {
                    Batching::Separate => texts == 1,
                    Batching::EqualLength => !padded,
                    Batching::Padded => true,
                };
                if !allowed || texts > 1 && texts * longest > TOKENS_MAX {
                    return f32::INFINITY;
                }
                sum += weighted_time(costs, texts, longest);
                start = end;
            }
            sum
        };
        (0..1 << gaps).map(|bits| time(cut(bits))).fold(f32::INFINITY, f32::min)
    }

    proptest! {
        #[test]
        fn no_other_cut_takes_less_time(
            mut lengths in prop::collection::vec(prop_oneof![1_usize..30, 60_usize..600], 1..11),
            call in 0.0_f32..5000.0,
            token in 1.0_f32..500.0,
            batching in prop_oneof![Just(Batching::Separate), Just(Batching::EqualLength), Just(Batching::Padded)],
        ) {
            lengths.sort_unstable();
            let costs = machine(call, token);
            let batches = plan(&lengths, &costs, batching);
            let time: f32 = batches
                .iter()
                .map(|batch| weighted_time(&costs, batch.len(), lengths[batch[batch.len() - 1]]))
                .sum();
            let least = least_of_all_cuts(&lengths, &costs, batching);
            prop_assert!(time <= least * 1.0001, "{time} {least}");
        }

        #[test]
        fn every_text_runs_once(
            lengths in prop::collection::vec(1_usize..600, 0..TEXTS_MAX),
            call in 0.0_f32..5000.0,
            batching in prop_oneof![Just(Batching::Separate), Just(Batching::EqualLength), Just(Batching::Padded)],
        ) {
            let batches = plan(&lengths, &machine(call, 200.0), batching);
            let mut indices = batches.concat();
            let order: Vec<usize> = indices.iter().map(|&index| lengths[index]).collect();
            prop_assert!(order.is_sorted());
            indices.sort_unstable();
            prop_assert_eq!(indices, (0..lengths.len()).collect::<Vec<_>>());
            for batch in batches {
                let longest = lengths[batch[batch.len() - 1]];
                prop_assert!(batch.len() == 1 || batch.len() * longest <= TOKENS_MAX);
                prop_assert!(batching != Batching::Separate || batch.len() == 1);
                let equal = batch.iter().all(|&index| lengths[index] == longest);
                prop_assert!(batching == Batching::Padded || equal);
            }
        }
    }
}
