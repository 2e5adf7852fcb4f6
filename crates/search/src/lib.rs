//! Search in collections of documents: embeds texts with the served models and finds the nearest
//! documents in one call. Protocol-agnostic, like the engine; HTTP contracts are its callers.
//!
//! - [`service`]: the calls: collections, documents, searches.
//! - `writes` and `searches`: the two that embed, and keep every vector in its version.
//! - `request`: what a search asks for and finds. `reranking`: a reranker's order.
//! - `documents`: documents as clients send them. `embedding`: dense and sparse vectors.
//! - `reembed`: completes the indexes of a version before it is committed.
//! - `repair`: embeds what the serving version lacks after all.
//! - `follow`: keeps a database in step with others that use it.
//! - `settings`: checks names and settings of collections.
//! - `catalog`: what collections are bound to, and the fence between writes and commits.
//! - `process`: keeps `onnxd-index` running, which owns the documents, and talks to it.
//! - `executable`: starts that process.
//!
//! An index belongs to a version of a model; see [`onnxd_proto::search`].
//!
//! Imports point one way: `service` → `searches` → {`reranking` → `request`, `writes`,
//! `follow` → `repair` → `reembed`} → `catalog` → `process` → `executable`.

mod catalog;
mod documents;
mod embedding;
mod error;
mod executable;
mod follow;
mod process;
mod reembed;
mod repair;
mod request;
mod reranking;
mod searches;
mod service;
mod settings;
mod writes;

pub use catalog::{Call, Catalog};
pub use documents::{Content, NewDocument, RawVector};
pub use error::{SearchError, SearchErrorKind};
pub use executable::IndexExecutable;
pub use process::Index;
pub use request::{Found, Rerank, SearchQuery, SearchRequest, Times};
pub use service::Search;
pub use writes::Written;
