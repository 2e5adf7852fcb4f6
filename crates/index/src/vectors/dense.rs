//! The dense vectors of one version in memory, 8 bits per component, and exact search in them.
//!
//! Each vector is stored as `scale · codes + rest`, of which only the norm of the rest is kept. The
//! codes are split into two planes of 4 bits. The product of a query with the high plane, or with
//! both, lies within a known bound of the product with the vector itself. A search scans the high
//! plane of all vectors, looks at the low plane of those that may be among the best, and reads from
//! disk only those that still may. So its result equals that of comparing every vector in full
//! precision, and no recall has to be measured.

use std::{cmp::Reverse, collections::BinaryHeap};

use roaring::RoaringBitmap;

use super::dot::{self, CODE_MIDDLE, HIGH_MIDDLE, HIGH_STEP, Products};

/// Relative error of products in f32, for vectors of up to 65,536 components.
const ROUNDING: f32 = 1e-5;
/// A filter that allows fewer than this share of the vectors has each of them multiplied by itself.
const SCATTERED: u64 = 8;
/// Vectors whose full precision is read at once, after those that are read anyway.
const READ_AT_ONCE: usize = 8;

/// The vectors of one version, by the keys of their documents.
#[derive(Debug)]
pub(crate) struct Vectors {
    /// Bytes of a vector's codes in one plane.
    stride: usize,
    /// The upper 4 bits of the codes, `stride` bytes for each key; see [`dot::pack`].
    high: Vec<u8>,
    /// The lower 4 bits.
    low: Vec<u8>,
    rows: Vec<Row>,
    /// Keys that have a vector.
    present: RoaringBitmap,
}

/// What a vector's codes stand for.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// Length of one unit of the codes.
    scale: f32,
    /// At least the norm of what the codes stand for, in both planes and in the high one.
    norm: f32,
    /// Norm of what the high plane leaves out.
    rest_of_high: f32,
    /// Norm of what both planes leave out.
    rest: f32,
}

/// A key that may be among the best.
#[derive(Clone, Copy, Debug)]
struct Possible {
    key: u32,
    /// No less than the vector's score.
    at_most: f32,
}

/// The largest bounds so far, with their keys.
struct Best {
    limit: usize,
    bounds: BinaryHeap<Reverse<(Bound, u32)>>,
    /// The smallest of them, once there are enough.
    threshold: f32,
}

/// A score that can be ordered.
#[derive(Clone, Copy, Debug)]
struct Bound(f32);

impl Vectors {
    /// Returns an empty set of vectors with this number of components.
    pub(super) fn new(dimension: usize) -> Self {
        Self {
            stride: dot::plane_bytes(dimension),
            high: Vec::new(),
            low: Vec::new(),
            rows: Vec::new(),
            present: RoaringBitmap::new(),
        }
    }

    /// Returns the keys that have a vector.
    pub(super) fn present(&self) -> &RoaringBitmap {
        &self.present
    }

    /// Sets the vector of a key.
    pub(super) fn insert(&mut self, key: u32, vector: &[f32]) {
        let row = key as usize;
        if row >= self.rows.len() {
            self.rows.resize(row + 1, Row::default());
            self.high.resize((row + 1) * self.stride, 0);
            self.low.resize((row + 1) * self.stride, 0);
        }
        let codes = row * self.stride..(row + 1) * self.stride;
        self.rows[row] = encode(vector, &mut self.high[codes.clone()], &mut self.low[codes]);
        self.present.insert(key);
    }

    /// Removes the vector of a key.
    pub(super) fn remove(&mut self, key: u32) {
        self.present.remove(key);
    }

    /// Returns the `limit` keys whose vectors have the largest inner product with `query`, with
    /// that product, best first. Equal products are ordered by key. `allowed` restricts the keys.
    /// `read` returns vectors in full precision, in the order of the keys that it is given.
    ///
    /// # Errors
    /// Returns the error of `read`.
    pub(crate) fn search<E>(
        &self,
        query: &[f32],
        allowed: Option<&RoaringBitmap>,
        limit: usize,
        mut read: impl FnMut(&[u32]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Vec<(u32, f32)>, E> {
        let possible = self.possible(query, allowed, limit);
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(limit + READ_AT_ONCE);
        let (first, others) = possible.split_at(limit.min(possible.len()));
        for keys in std::iter::once(first).chain(others.chunks(READ_AT_ONCE)) {
            let Some(next) = keys.first() else { break };
            if best.len() == limit && best[limit - 1].1 > next.at_most {
                break;
            }
            let wanted: Vec<u32> = keys.iter().map(|possible| possible.key).collect();
            let vectors = read(&wanted)?;
            let score = |vector: &Vec<f32>| dot::exact(query, vector);
            best.extend(wanted.iter().copied().zip(vectors.iter().map(score)));
            best.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
            best.truncate(limit);
        }
        Ok(best)
    }

    /// Returns every key that may be among the best, the most promising first.
    fn possible(
        &self,
        query: &[f32],
        allowed: Option<&RoaringBitmap>,
        limit: usize,
    ) -> Vec<Possible> {
        if limit == 0 {
            return Vec::new();
        }
        let products = Products::new(query);
        let norm = dot::exact(query, query).sqrt();
        let error = |row: &Row, rest_of_query: f32, rest: f32| {
            row.norm * (rest_of_query + ROUNDING * norm) + rest * (norm + ROUNDING * norm)
        };
        // What the high planes allow at most.
        let (mut promising, mut all) = (Best::new(limit), Vec::with_capacity(self.rows.len()));
        let mut scan = |key: u32, product: f32| {
            let row = &self.rows[key as usize];
            let rest = error(row, products.rest_of_short(), row.rest_of_high);
            let at_most = product * row.scale + rest;
            promising.add(at_most, key);
            all.push((key, at_most));
        };
        match allowed {
            Some(allowed) if allowed.len() < self.present.len() / SCATTERED => {
                for key in allowed & &self.present {
                    let high = &self.high[key as usize * self.stride..][..self.stride];
                    products.with_high(high, self.stride, &mut |product| scan(key, product));
                }
            }
            // It is faster to pass over some vectors than to jump to each of the others.
            _ => {
                let mut allowed = allowed.map(|allowed| allowed.iter().peekable());
                let mut key = 0;
                products.with_high(&self.high, self.stride, &mut |product| {
                    let is_allowed =
                        allowed.as_mut().is_none_or(|keys| keys.next_if_eq(&key).is_some());
                    if is_allowed {
                        scan(key, product);
                    }
                    key += 1;
                });
            }
        }
        // What both planes allow. The most promising come first: they decide early which others
        // cannot be among the best.
        let (mut best, mut possible) = (Best::new(limit), Vec::new());
        let mut consider = |key: u32, best: &mut Best| {
            let (row, place) = (&self.rows[key as usize], key as usize * self.stride);
            let (high, low) =
                (&self.high[place..][..self.stride], &self.low[place..][..self.stride]);
            let score = products.with_both(high, low) * row.scale;
            let error = error(row, products.rest(), row.rest);
            best.add(score - error, key);
            possible.push(Possible { key, at_most: score + error });
        };
        // Removed vectors still have codes.
        let first: RoaringBitmap = promising.keys().collect::<RoaringBitmap>() & &self.present;
        first.iter().for_each(|key| consider(key, &mut best));
        for (key, at_most) in all {
            if at_most >= best.threshold && !first.contains(key) && self.present.contains(key) {
                consider(key, &mut best);
            }
        }
        possible.retain(|possible| possible.at_most >= best.threshold);
        possible.sort_by(|one, other| other.at_most.total_cmp(&one.at_most));
        possible
    }
}

impl Best {
    fn new(limit: usize) -> Self {
        Self { limit, bounds: BinaryHeap::new(), threshold: f32::NEG_INFINITY }
    }

    #[inline]
    fn add(&mut self, bound: f32, key: u32) {
        if bound > self.threshold || self.bounds.len() < self.limit {
            self.replace(bound, key);
        }
    }

    fn replace(&mut self, bound: f32, key: u32) {
        if self.bounds.len() == self.limit {
            self.bounds.pop();
        }
        self.bounds.push(Reverse((Bound(bound), key)));
        if self.bounds.len() == self.limit
            && let Some(Reverse((least, _))) = self.bounds.peek()
        {
            self.threshold = least.0;
        }
    }

    fn keys(&self) -> impl Iterator<Item = u32> {
        self.bounds.iter().map(|Reverse((_, key))| *key)
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Bound {}

/// Rounds a vector to codes.
fn encode(vector: &[f32], high: &mut [u8], low: &mut [u8]) -> Row {
    let largest = vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / CODE_MIDDLE;
    if scale <= f32::MIN_POSITIVE {
        // Too small for codes: all of it is in the rest.
        let rest = dot::exact(vector, vector).sqrt();
        return Row { scale: 0.0, norm: 0.0, rest_of_high: rest, rest };
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the sum is within 0 and 255"
    )]
    let code = |value: &f32| (value / scale + CODE_MIDDLE).round().clamp(0.0, 255.0) as u8;
    let codes: Vec<u8> = vector.iter().map(code).collect();
    dot::pack(&codes, high, low);
    let unit = f64::from(scale);
    let (mut both, mut high, mut rest, mut rest_of_high) = (0.0, 0.0, 0.0, 0.0);
    for (value, code) in vector.iter().zip(&codes) {
        let value = f64::from(*value);
        let kept = unit * (f64::from(*code) - f64::from(CODE_MIDDLE));
        let kept_high =
            unit * f64::from(HIGH_STEP) * (f64::from(code >> 4) - f64::from(HIGH_MIDDLE));
        both += kept * kept;
        high += kept_high * kept_high;
        rest += (value - kept) * (value - kept);
        rest_of_high += (value - kept_high) * (value - kept_high);
    }
    #[expect(clippy::cast_possible_truncation, reason = "norms need no more precision")]
    let root = |square: f64| square.sqrt() as f32;
    let norm = root(both).max(root(high));
    Row { scale, norm, rest_of_high: root(rest_of_high), rest: root(rest) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// Searches by comparing every vector in full precision.
    fn exhaustive(
        all: &[Vec<f32>],
        query: &[f32],
        allowed: Option<&RoaringBitmap>,
        limit: usize,
    ) -> Vec<(u32, f32)> {
        let keys = 0..u32::try_from(all.len()).unwrap();
        let keys = keys.filter(|key| allowed.is_none_or(|allowed| allowed.contains(*key)));
        let score = |key: u32| (key, dot::exact(query, &all[key as usize]));
        let mut found: Vec<(u32, f32)> = keys.map(score).collect();
        found.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        found.truncate(limit);
        found
    }

    fn filled(all: &[Vec<f32>]) -> Vectors {
        let mut vectors = Vectors::new(all.first().map_or(3, Vec::len));
        for (key, vector) in (0..).zip(all) {
            vectors.insert(key, vector);
        }
        vectors
    }

    fn search(
        vectors: &Vectors,
        all: &[Vec<f32>],
        query: &[f32],
        allowed: Option<&RoaringBitmap>,
        limit: usize,
    ) -> (Vec<(u32, f32)>, usize) {
        let mut reads = 0;
        let found = vectors.search(query, allowed, limit, |keys| {
            reads += keys.len();
            Ok::<_, Infallible>(keys.iter().map(|key| all[*key as usize].clone()).collect())
        });
        (found.unwrap(), reads)
    }

    fn vector(dimension: usize) -> impl Strategy<Value = Vec<f32>> {
        let component = prop_oneof![-1.0_f32..1.0, Just(0.0), -1e-3_f32..1e-3, -1e3_f32..1e3];
        prop::collection::vec(component, dimension)
    }

    proptest! {
        #[test]
        fn a_search_equals_comparing_every_vector(
            (all, query) in (1_usize..40).prop_flat_map(|dimension| {
                (prop::collection::vec(vector(dimension), 0..80), vector(dimension))
            }),
            allowed in prop::option::of(prop::collection::vec(0_u32..80, 0..60)),
            limit in 0_usize..20,
        ) {
            let allowed = allowed.map(RoaringBitmap::from_iter);
            let (found, _) = search(&filled(&all), &all, &query, allowed.as_ref(), limit);
            prop_assert_eq!(found, exhaustive(&all, &query, allowed.as_ref(), limit));
        }
    }

    #[test]
    fn only_promising_vectors_are_read() {
        let dimension = 384;
        let mut seed = 7_u64;
        let mut draw = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
        };
        let all: Vec<Vec<f32>> =
            (0..2000).map(|_| (0..dimension).map(|_| draw()).collect()).collect();
        let (found, reads) = search(&filled(&all), &all, &all[77], None, 10);
        assert_eq!(found[0].0, 77);
        assert!(reads <= 200, "{reads} of 2000 vectors were read");
    }

    #[test]
    fn removed_and_replaced_vectors_are_not_found() {
        let all = [vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]];
        let mut vectors = filled(&all);
        vectors.remove(0);
        assert_eq!(search(&vectors, &all, &[1.0, 0.5, 0.0], None, 1).0, [(1, 0.5)]);
        vectors.insert(0, &[-1.0, 0.0, 0.0]);
        assert_eq!(vectors.present().len(), 3);
    }
}
