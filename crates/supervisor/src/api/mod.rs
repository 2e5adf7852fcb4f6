//! The contracts, one file or folder each, and what they share: finding a model and having it run
//! ([`inference`]), how inputs are written ([`inputs`]), numbers and scores.

pub(crate) mod cohere;
pub(crate) mod error;
pub(crate) mod grpc;
pub(crate) mod health;
pub(crate) mod inference;
pub(crate) mod inputs;
mod measure;
pub(crate) mod metrics;
pub(crate) mod numbers;
pub(crate) mod oip;
pub(crate) mod openai;
pub(crate) mod openapi;
pub(crate) mod router;
pub(crate) mod scores;
pub(crate) mod tei;
