//! The contracts, one folder each, and what they share. A contract parses a request, calls the
//! engine, and renders the response or error in its own format. No contract imports another.
//!
//! - [`contract`]: the definition of a contract; [`router`] combines all of them.
//! - [`tei`], [`openai`], [`cohere`], [`oip`], [`qdrant`] and [`grpc`]: the contracts; [`shared`]: routes that
//!   several share.
//! - [`request`], [`inputs`], [`options`]: parsing. [`answer`], [`numbers`]: rendering. [`error`]:
//!   errors.
//! - [`metrics`], [`openapi`], [`request_metrics`], [`traces`]: independent of contracts.

mod answer;
pub(crate) mod app;
mod cohere;
mod contract;
pub(crate) mod error;
pub(crate) mod grpc;
mod inputs;
pub(crate) mod metrics;
mod numbers;
pub(crate) mod oip;
mod openai;
pub(crate) mod openapi;
mod options;
mod qdrant;
mod request;
mod request_metrics;
pub(crate) mod router;
mod search;
mod shared;
mod tei;
mod traces;
