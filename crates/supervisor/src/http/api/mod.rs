//! The contracts, one file each, and what those that embed texts share.

pub(crate) mod embedding;
pub(crate) mod health;
pub(crate) mod inputs;
pub(crate) mod metrics;
pub(crate) mod numbers;
pub(crate) mod openai;
pub(crate) mod tei;
