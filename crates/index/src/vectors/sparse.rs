//! The sparse vectors of one version in memory: for each token, the documents that have it with its
//! weight. A search adds up the products of the query's tokens, so its result is exact.

use std::collections::HashMap;

use roaring::RoaringBitmap;

/// Sparse vectors by the keys of their documents.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    /// By token; each list is sorted by key.
    lists: HashMap<u32, Vec<(u32, f32)>>,
    /// The tokens of each key, so that a vector can be removed.
    tokens: HashMap<u32, Box<[u32]>>,
    present: RoaringBitmap,
}

impl Postings {
    /// Returns the keys that have a vector.
    pub(super) fn present(&self) -> &RoaringBitmap {
        &self.present
    }

    /// Sets the vector of a key.
    pub(super) fn insert(&mut self, key: u32, vector: &[(u32, f32)]) {
        self.remove(key);
        for (token, weight) in vector {
            let list = self.lists.entry(*token).or_default();
            let place = list.partition_point(|(other, _)| *other < key);
            list.insert(place, (key, *weight));
        }
        self.tokens.insert(key, vector.iter().map(|(token, _)| *token).collect());
        self.present.insert(key);
    }

    /// Removes the vector of a key.
    pub(super) fn remove(&mut self, key: u32) {
        self.present.remove(key);
        for token in self.tokens.remove(&key).unwrap_or_default() {
            let Some(list) = self.lists.get_mut(&token) else { continue };
            if let Ok(place) = list.binary_search_by_key(&key, |(other, _)| *other) {
                list.remove(place);
            }
            if list.is_empty() {
                self.lists.remove(&token);
            }
        }
    }

    /// Returns the `limit` keys with the largest inner product with `query` among those that have one
    /// of its tokens, best first. Equal products are ordered by key. `allowed` restricts the keys.
    pub(crate) fn search(
        &self,
        query: &[(u32, f32)],
        allowed: Option<&RoaringBitmap>,
        limit: usize,
    ) -> Vec<(u32, f32)> {
        let mut scores = vec![0.0_f32; self.present.max().map_or(0, |max| max as usize + 1)];
        let mut touched = RoaringBitmap::new();
        for (token, weight) in query {
            let list = self.lists.get(token).map(Vec::as_slice).unwrap_or_default();
            for (key, other) in list {
                scores[*key as usize] += weight * other;
            }
            touched |= list.iter().map(|(key, _)| *key).collect::<RoaringBitmap>();
        }
        if let Some(allowed) = allowed {
            touched &= allowed;
        }
        let mut found: Vec<(u32, f32)> =
            touched.iter().map(|key| (key, scores[key as usize])).collect();
        let order = |one: &(u32, f32), other: &(u32, f32)| {
            other.1.total_cmp(&one.1).then(one.0.cmp(&other.0))
        };
        if found.len() > limit && limit > 0 {
            found.select_nth_unstable_by(limit - 1, order);
        }
        found.truncate(limit);
        found.sort_unstable_by(order);
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn vector() -> impl Strategy<Value = Vec<(u32, f32)>> {
        prop::collection::btree_map(0_u32..12, 0.0_f32..2.0, 0..6)
            .prop_map(|entries| entries.into_iter().collect())
    }

    fn product(query: &[(u32, f32)], vector: &[(u32, f32)]) -> Option<f32> {
        let weights: BTreeMap<u32, f32> = vector.iter().copied().collect();
        let shared = query.iter().filter_map(|(token, weight)| Some(weight * weights.get(token)?));
        shared.reduce(|sum, product| sum + product)
    }

    proptest! {
        #[test]
        fn a_sparse_search_equals_comparing_every_vector(
            steps in prop::collection::vec((0_u32..20, prop::option::of(vector())), 0..60),
            query in vector(),
            allowed in prop::option::of(prop::collection::vec(0_u32..20, 0..15)),
            limit in 0_usize..8,
        ) {
            let (mut postings, mut all) = (Postings::default(), BTreeMap::new());
            for (key, vector) in steps {
                match vector {
                    Some(vector) => {
                        postings.insert(key, &vector);
                        all.insert(key, vector);
                    }
                    None => {
                        postings.remove(key);
                        all.remove(&key);
                    }
                }
            }
            let allowed = allowed.map(RoaringBitmap::from_iter);
            let scored = all.iter().filter_map(|(key, vector)| Some((*key, product(&query, vector)?)));
            let mut expected: Vec<(u32, f32)> = scored
                .filter(|(key, _)| allowed.as_ref().is_none_or(|allowed| allowed.contains(*key)))
                .collect();
            expected.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
            expected.truncate(limit);
            prop_assert_eq!(postings.present().iter().collect::<Vec<_>>(), all.into_keys().collect::<Vec<_>>());
            prop_assert_eq!(postings.search(&query, allowed.as_ref(), limit), expected);
        }
    }
}
