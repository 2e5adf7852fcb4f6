//! What is made of the vectors that a graph or a table gives: pooling, matrices, sparse weights,
//! entities. Pure; called by [`super::readout`] for every micro-batch.

pub(crate) mod entities;
pub(crate) mod pooling;
pub(crate) mod splade;
