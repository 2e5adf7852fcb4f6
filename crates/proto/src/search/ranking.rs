//! How vectors are compared and rankings combined, the same in every store. Pure.

use std::{collections::HashMap, hash::Hash};

/// Ranks of a text search that are combined with those of a vector search.
pub const FUSED_RANKS: usize = 100;
/// Dampens the weight of the first ranks, as usual in reciprocal rank fusion.
const FUSION_CONSTANT: f32 = 60.0;

/// Scales a vector to length 1. One of length 0 stays.
pub fn normalize(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let norm = square.sqrt();
    if norm > 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "vectors are f32")]
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}

/// Combines two rankings by reciprocal rank fusion. Equal scores are ordered by key.
pub fn fuse<K: Copy + Eq + Hash + Ord>(by_vector: &[(K, f32)], by_text: &[K]) -> Vec<(K, f32)> {
    let mut scores: HashMap<K, f32> = HashMap::new();
    let by_vector = by_vector.iter().map(|(key, _)| *key);
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    let share = |rank: usize| 1.0 / (FUSION_CONSTANT + rank as f32 + 1.0);
    for (rank, key) in by_vector.enumerate().chain(by_text.iter().copied().enumerate()) {
        *scores.entry(key).or_default() += share(rank);
    }
    let mut fused: Vec<(K, f32)> = scores.into_iter().collect();
    fused.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    fused
}
