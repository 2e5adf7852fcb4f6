//! The Open Inference Protocol over HTTP, with Triton's extensions: binary tensor data, statistics,
//! model configuration. What it means is [`crate::api::oip`]'s affair; here it is read and written.

mod at_most;
pub(crate) mod binary;
pub(crate) mod elements;
pub(crate) mod infer;
pub(crate) mod metadata;
