//! Steps after a graph or table: pooling, sparse weights and entities. Pure; called by
//! [`super::readout`] and [`super::answer`] for every micro-batch.

pub(crate) mod entities;
pub(crate) mod pooling;
pub(crate) mod splade;
