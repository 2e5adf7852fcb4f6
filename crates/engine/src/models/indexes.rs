//! The indexes of documents, as updates see them. A version may be committed only when the index of
//! each collection of its model is complete for it. Implemented by the search crate; without
//! documents, by [`NoIndexes`].

use std::{any::Any, fmt::Debug, future, sync::Arc};

use bytes::Bytes;
use onnxd_proto::{
    domain::{Record, Refusal, Task, model_name::ModelName},
    wire::operation::Side,
};

use crate::models::{store::pins::PinnedVersion, workers::Boxed};

/// Holds back writes of a model's documents until it is dropped. A write that waited compares the
/// serving version again.
pub type Fence = Box<dyn Any + Send>;

/// The indexes of all models, as updates see them.
pub trait Indexes: Debug + Send + Sync {
    /// Returns whether documents are bound to the model with this name. Does not block.
    fn has_documents(&self, model: &str) -> bool;

    /// Embeds all texts that lack a vector of the candidate, until none is missing. Then holds back
    /// writes of the model's documents, embeds what was written meanwhile, and returns the fence. It
    /// is held until the commit is published, or until the update ends.
    ///
    /// It is called before each commit of a model, also without documents: one that is bound to the model
    /// just now must not miss the commit. A generation that served before a restart is committed without:
    /// its index was complete, and what lacks a vector since is embedded while it serves. Dropping the
    /// future ends the work. Vectors that are stored stay, so that the next call goes on there.
    ///
    /// `progress` is called before anything is embedded, and then after each batch. It is cheap.
    ///
    /// `copies` says which vectors of the candidate may be another version's.
    ///
    /// # Errors
    /// The index cannot become complete. The update is then refused. A rollback goes on, and so does the
    /// update of a model that does not serve: searches are refused until the index is complete for the
    /// version after all.
    fn complete<'a>(
        &'a self,
        model: &'a str,
        candidate: &'a dyn Embedder,
        copies: Copies<'a>,
        progress: &'a (dyn Fn(IndexProgress) + Sync),
    ) -> Boxed<'a, Result<Fence, Refusal>>;

    /// Removes a model's vectors of other versions than these. They include the serving one and those
    /// that a rollback may serve. Never called during [`Indexes::complete`] of the same model.
    fn keep<'a>(&'a self, model: &'a str, versions: Vec<String>) -> Boxed<'a, ()>;
}

/// Which vectors of a candidate may be another version's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies<'v> {
    /// All that it has: they were accepted when it served.
    Kept,
    /// None. Those that an earlier update copied are removed, and their texts embedded.
    Removed,
    /// Those of this version, which is in the same space. They are copied, so that only texts that lack
    /// both are embedded. Copies of other versions are removed first.
    From(&'v str),
}

/// Embeds documents by one version of a model, which need not serve.
pub trait Embedder: Debug + Send + Sync {
    /// Returns the version's digest.
    fn version(&self) -> &str;

    /// Embeds texts. Returns one vector per text, of little-endian f32 or, if the task is sparse, of
    /// tokens with weights as in [`Engine::embed_sparse`](crate::engine::Engine::embed_sparse): the same that requests get
    /// while the version serves. May be called concurrently: [`Embedder::concurrency`] calls of a
    /// few dozen texts keep its workers busy. The first call starts them.
    ///
    /// # Errors
    /// The version cannot embed one of the texts, or its workers failed repeatedly.
    fn embed(
        &self,
        texts: Vec<String>,
        options: DocumentOptions,
    ) -> Boxed<'_, Result<Vec<Bytes>, Refusal>>;

    /// Returns the version's task, by which its vectors are dense or sparse.
    fn task(&self) -> Task;

    /// Returns how many concurrent calls keep its workers busy.
    fn concurrency(&self) -> usize;
}

/// How documents are embedded. The fields have the meaning of those of
/// [`TextOptions`](crate::engine::texts::TextOptions) and [`Embed`](crate::engine::texts::Embed). The
/// purpose is always a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentOptions {
    /// The end at which a text that is too long is truncated; `None` refuses it.
    pub truncate: Option<Side>,
    /// The name of the model's prompt to put before each text; `None` means the one for documents, if
    /// it has one.
    pub prompt: Option<String>,
    /// Return only this number of leading components.
    pub dimensions: Option<u32>,
    /// Whether to scale to length 1; `None` follows the model's files.
    pub normalize: Option<bool>,
}

/// How far an index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexProgress {
    /// Documents of all collections of the model that have a vector of the candidate.
    pub done: u64,
    /// All documents of the model.
    pub total: u64,
}

/// A kept version that embeds documents.
#[derive(Clone, Debug)]
pub struct IndexedVersion {
    /// The model.
    pub model: ModelName,
    /// The version. It is not removed meanwhile.
    pub pin: PinnedVersion,
    /// Describes the version like the record of a generation, which it may not be yet.
    pub record: Arc<Record>,
}

/// Provides embedders of versions that need not serve.
pub trait Candidates: Debug + Send + Sync {
    /// Returns an embedder. Its workers start with the first call, and end when it is dropped.
    fn embedder(&self, version: IndexedVersion) -> Arc<dyn Embedder>;
}

/// No collections.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIndexes;

impl Indexes for NoIndexes {
    fn has_documents(&self, _: &str) -> bool {
        false
    }

    fn complete<'a>(
        &'a self,
        _: &'a str,
        _: &'a dyn Embedder,
        _: Copies<'a>,
        _: &'a (dyn Fn(IndexProgress) + Sync),
    ) -> Boxed<'a, Result<Fence, Refusal>> {
        Box::pin(future::ready(Ok(Box::new(()) as Fence)))
    }

    fn keep<'a>(&'a self, _: &'a str, _: Vec<String>) -> Boxed<'a, ()> {
        Box::pin(future::ready(()))
    }
}
