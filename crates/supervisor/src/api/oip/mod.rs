//! The transport-independent part of the Open Inference Protocol, version 2. [`rest`] is JSON over
//! HTTP; [`crate::api::grpc`] is gRPC. Both call the engine for inference on tensors.

pub(crate) mod metadata;
pub(crate) mod request;
pub(crate) mod rest;
