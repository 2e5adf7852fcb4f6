//! The Open Inference Protocol, version 2, apart from how it travels. JSON over HTTP is [`rest`]; gRPC
//! is [`crate::api::grpc`]. Both call the engine for inference on tensors.

pub(crate) mod metadata;
pub(crate) mod request;
pub(crate) mod rest;
