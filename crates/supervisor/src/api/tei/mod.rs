//! The contract of text-embeddings-inference: one file for each kind of call. Fields that a request
//! has and this server does not know are ignored, as TEI does.

pub(crate) mod embed;
pub(crate) mod info;
pub(crate) mod predict;
pub(crate) mod rerank;
pub(crate) mod root;
pub(crate) mod tokens;
