//! Models for texts: one encoder that embeds, classifies or reranks.

pub(crate) mod answer;
pub(crate) mod config;
pub(crate) mod microbatch;
pub(crate) mod model;
pub(crate) mod pooling;
pub(crate) mod task;
pub(crate) mod tokenize;
pub(crate) mod wide;
