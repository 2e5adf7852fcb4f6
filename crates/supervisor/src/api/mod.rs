//! The contracts, a folder each, and what they share. A contract reads a request, calls the engine,
//! and renders the answer or the error in its own words. No contract imports another.
//!
//! - [`contract`]: what a contract is; [`router`] puts all of them behind one listener.
//! - [`tei`], [`openai`], [`cohere`], [`oip`] and [`grpc`]: the contracts; [`mixed`]: routes that several share.
//! - [`request`], [`inputs`], [`options`]: reading. [`answer`], [`numbers`]: writing. [`error`]: what goes wrong.
//! - [`metrics`], [`openapi`]: what belongs to no contract.

mod answer;
pub(crate) mod app;
mod cohere;
mod contract;
pub(crate) mod error;
pub(crate) mod grpc;
mod inputs;
mod measure;
pub(crate) mod metrics;
mod mixed;
mod numbers;
pub(crate) mod oip;
mod openai;
pub(crate) mod openapi;
mod options;
mod request;
pub(crate) mod router;
mod tei;
