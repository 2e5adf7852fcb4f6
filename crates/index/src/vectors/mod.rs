//! The vectors of one version in memory, and exact search in them. Called by [`crate::collection`].

mod dense;
mod dot;
mod sparse;

use roaring::RoaringBitmap;

pub(crate) use self::{dense::Vectors, sparse::Postings};
use crate::vector::Vector;

/// The vectors of one version, all of one kind.
#[derive(Debug)]
pub(crate) enum Searchable {
    Dense(Vectors),
    Sparse(Postings),
}

impl Searchable {
    /// Returns an empty set of vectors with this number of components; 0 means sparse vectors.
    pub(crate) fn new(dimension: usize) -> Self {
        match dimension {
            0 => Self::Sparse(Postings::default()),
            _ => Self::Dense(Vectors::new(dimension)),
        }
    }

    /// Returns the keys that have a vector.
    pub(crate) fn present(&self) -> &RoaringBitmap {
        match self {
            Self::Dense(vectors) => vectors.present(),
            Self::Sparse(postings) => postings.present(),
        }
    }

    /// Sets the vector of a key, which must be of this kind.
    pub(crate) fn insert(&mut self, key: u32, vector: &Vector) {
        match (self, vector) {
            (Self::Dense(vectors), Vector::Dense(vector)) => vectors.insert(key, vector),
            (Self::Sparse(postings), Vector::Sparse(vector)) => postings.insert(key, vector),
            _ => debug_assert!(false, "the caller compares dimensions"),
        }
    }

    /// Removes the vector of a key.
    pub(crate) fn remove(&mut self, key: u32) {
        match self {
            Self::Dense(vectors) => vectors.remove(key),
            Self::Sparse(postings) => postings.remove(key),
        }
    }
}
