//! Models for tensors: any that takes and gives nothing but tensors.

pub(crate) mod answer;
pub(crate) mod model;
