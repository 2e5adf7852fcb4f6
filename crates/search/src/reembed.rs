//! Completes the indexes of a version before it is committed: embeds every document by the
//! candidate, then holds back writes and embeds what they left. Called by updates, through
//! [`Indexes`].

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use onnxd_engine::models::{
    indexes::{Copies, Embedder, Fence, IndexProgress, Indexes},
    workers::Boxed,
};
use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    search::{
        CollectionInfo, FromIndex, IndexError, IndexErrorKind, ToIndex, Unembedded, VersionInfo,
    },
};
use tokio::time;

use crate::{
    catalog::{Catalog, shows_table, unexpected},
    documents::shown,
    embedding::Kind,
    writes::options,
};

/// Texts that are embedded in one call.
const EMBEDDED_AT_ONCE: usize = 32;
/// Calls' worth of texts that are read at once, for each call that may run.
const READ_AHEAD: usize = 8;
/// Documents that may lack a vector when writes are first held back.
const LEFT_FOR_FENCE: u64 = 256;
/// How long the passes before it may take if writes are faster than the candidate.
const PASSES_MAX: Duration = Duration::from_secs(24 * 3600);
/// For the log.
const KEEP_FAILED: &str = "failed to remove vectors of retired versions";
/// Characters of a text that name its document in errors if its id is unknown.
const SHOWN_CHARACTERS: usize = 80;

impl Indexes for Catalog {
    fn has_documents(&self, model: &str) -> bool {
        self.binds(model)
    }

    fn complete<'a>(
        &'a self,
        model: &'a str,
        candidate: &'a dyn Embedder,
        copies: Copies<'a>,
        progress: &'a (dyn Fn(IndexProgress) + Sync),
    ) -> Boxed<'a, Result<Fence, Refusal>> {
        let update = Reembedding { catalog: self, model, candidate, progress };
        Box::pin(async move { update.run(copies).await })
    }

    fn keep<'a>(&'a self, model: &'a str, versions: Vec<String>) -> Boxed<'a, ()> {
        Box::pin(async move {
            if !self.may_have_collections() {
                return;
            }
            if let Err(error) = self.keep_versions(model, &versions).await {
                tracing::warn!(model, %error, "{KEEP_FAILED}");
            }
        })
    }
}

/// Embeds the documents of one model by one version.
pub(crate) struct Reembedding<'u> {
    pub(crate) catalog: &'u Catalog,
    pub(crate) model: &'u str,
    pub(crate) candidate: &'u dyn Embedder,
    pub(crate) progress: &'u (dyn Fn(IndexProgress) + Sync),
}

impl fmt::Debug for Reembedding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reembedding").field("model", &self.model).finish_non_exhaustive()
    }
}

/// What one batch did.
struct Batch {
    /// Documents that lacked a vector before.
    missing: u64,
    /// Those of them that were embedded.
    texts: u64,
    /// Those whose vectors were stored, since their texts had not changed meanwhile.
    embedded: u64,
}

impl Reembedding<'_> {
    async fn run(&self, copies: Copies<'_>) -> Result<Fence, Refusal> {
        if self.catalog.may_have_collections() && self.catalog.is_awaited() {
            let message = "the predecessor still has the collections of documents; update again after the upgrade";
            return Err(RefusalKind::Busy.because(message));
        }
        match self.complete(copies).await {
            Ok(fence) => Ok(fence),
            Err(refusal) => self.without_collections(refusal).await,
        }
    }

    /// Embeds what is missing, holds back writes, and embeds what they left.
    async fn complete(&self, copies: Copies<'_>) -> Result<Fence, Refusal> {
        if self.catalog.may_have_collections() {
            for collection in self.collections().await? {
                self.copy(&collection, copies).await?;
            }
            let passes = async {
                while self.pass().await? > LEFT_FOR_FENCE {}
                Ok(())
            };
            // After that time the fence has more to do.
            time::timeout(PASSES_MAX, passes).await.unwrap_or(Ok(()))?;
        }
        let fence = self.catalog.hold_writes(self.model).await;
        if self.catalog.may_have_collections() {
            // The fence does not hold back programs that write tables, so one pass over those must do.
            let mut left = self.pass().await?;
            while left > 0 {
                let mut own = self.collections().await?;
                own.retain(|info| !shows_table(&info.settings));
                left = self.embed_missing(&own).await?;
            }
            self.verify().await?;
        }
        Ok(Box::new(fence))
    }

    /// Lets a model be updated although the index fails, if no collection is bound to it: there is nothing
    /// to complete.
    async fn without_collections(&self, refusal: Refusal) -> Result<Fence, Refusal> {
        let has_none = || self.catalog.has_bound(self.model) == Some(false);
        // A write that waits for the index may hold the fence for long.
        if !has_none() {
            return Err(refusal);
        }
        let fence = self.catalog.hold_writes(self.model).await;
        // One may have been bound meanwhile. Documents of one that is bound from now on wait for the
        // commit.
        if !has_none() {
            return Err(refusal);
        }
        let (model, reason) = (self.model, refusal.message);
        tracing::warn!(
            model,
            reason,
            "the index cannot answer; no collection was bound to the model"
        );
        Ok(Box::new(fence))
    }

    /// Embeds as many documents as lack a vector of the candidate now. Returns how many lack one then.
    pub(crate) async fn pass(&self) -> Result<u64, Refusal> {
        self.embed_missing(&self.collections().await?).await
    }

    /// Embeds as many documents of these collections as lack a vector now. Documents that are written
    /// meanwhile may leave as many, so it does not wait until there are none. Returns how many lack a
    /// vector then, without those of tables, of which there may always be some.
    async fn embed_missing(&self, collections: &[CollectionInfo]) -> Result<u64, Refusal> {
        let mut progress = self.report(collections);
        for collection in collections {
            let mut left = u64::MAX;
            while left > 0 {
                let Batch { missing, texts, embedded } = self.batch(collection).await?;
                if texts == 0 {
                    break;
                }
                left = left.min(missing).saturating_sub(texts);
                progress.done += embedded;
                let total = progress.done + missing.saturating_sub(embedded);
                progress.total = progress.total.max(total);
                (self.progress)(progress);
            }
        }
        let missing = |info: &CollectionInfo| info.documents.saturating_sub(self.embedded(info));
        let collections = self.collections().await?;
        self.report(&collections);
        let own = collections.iter().filter(|info| !shows_table(&info.settings));
        Ok(own.map(missing).sum())
    }

    /// Embeds some documents of a collection; none if it is not the listed one any more.
    async fn batch(&self, collection: &CollectionInfo) -> Result<Batch, Refusal> {
        let concurrency = self.candidate.concurrency().max(1);
        let message = ToIndex::Unembedded {
            collection: collection.name.clone(),
            version: self.candidate.version().to_owned(),
            limit: concurrency * READ_AHEAD * EMBEDDED_AT_ONCE,
        };
        let (texts, missing) = match self.ask(message, Bytes::new()).await? {
            Some(FromIndex::Unembedded(texts, missing)) => (texts, missing),
            Some(other) => return Err(refusal(&unexpected(&other))),
            None => (Vec::new(), 0),
        };
        let calls: Vec<_> =
            texts.chunks(EMBEDDED_AT_ONCE).map(|texts| self.embed(collection, texts)).collect();
        let calls = stream::iter(calls).buffer_unordered(concurrency);
        let embedded = calls.try_fold(0, |sum, one| future::ready(Ok(sum + one))).await?;
        Ok(Batch { missing, texts: texts.len() as u64, embedded })
    }

    /// Embeds texts and stores their vectors. Returns how many were stored.
    async fn embed(
        &self,
        collection: &CollectionInfo,
        texts: &[Unembedded],
    ) -> Result<u64, Refusal> {
        let documents = texts.iter().map(|text| (text.key, text.edition)).collect();
        let vectors = self.vectors(collection, texts).await?;
        let target = (collection.name.clone(), collection.settings.embedded_as());
        let kind = Kind::of(self.candidate.task());
        let message = kind.embedded(target, self.candidate.version().to_owned(), documents);
        match self.ask(message, kind.payload(&vectors)).await? {
            Some(FromIndex::Changed(stored)) => Ok(stored),
            Some(other) => Err(refusal(&unexpected(&other))),
            None => Ok(0),
        }
    }

    /// Embeds texts together. If that fails, embeds one after the other to name the document that the
    /// version cannot embed.
    async fn vectors(
        &self,
        collection: &CollectionInfo,
        texts: &[Unembedded],
    ) -> Result<Vec<Bytes>, Refusal> {
        let options = options(&collection.settings);
        let all = texts.iter().map(|text| text.text.clone()).collect();
        match self.candidate.embed(all, options.clone()).await {
            Ok(vectors) => return Ok(vectors),
            // No document is the cause.
            Err(refusal) if refusal.kind == RefusalKind::Superseded => return Err(refusal),
            Err(_) => {}
        }
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let vector = self.candidate.embed(vec![text.text.clone()], options.clone()).await;
            vectors.extend(vector.map_err(|refusal| {
                let (document, collection) = (name(text), &collection.name);
                let Refusal { kind, message, .. } = refusal;
                kind.because(format!(
                    "the version cannot embed document {document} of collection {collection}: {message}"
                ))
            })?);
        }
        Ok(vectors)
    }

    /// Removes vectors of the candidate that are copies but may not be, and copies those that may.
    async fn copy(&self, info: &CollectionInfo, copies: Copies<'_>) -> Result<(), Refusal> {
        let from = match copies {
            Copies::Kept => return Ok(()),
            Copies::Removed => None,
            Copies::From(from) => Some(from),
        };
        let to = self.candidate.version();
        // Even copies from `from`: its vectors may have been copies themselves then, and replaced since.
        if self.own(info).is_some_and(|version| version.reused_from.is_some()) {
            let (collection, version) = (info.name.clone(), to.to_owned());
            let message = "copied vectors of an earlier update are removed";
            tracing::info!(model = self.model, collection, copied = from, "{message}");
            self.ask(ToIndex::Discard { collection, version }, Bytes::new()).await?;
        }
        if let Some(from) = from {
            let (collection, from, to) = (info.name.clone(), from.to_owned(), to.to_owned());
            self.ask(ToIndex::Reuse { collection, from, to }, Bytes::new()).await?;
        }
        Ok(())
    }

    /// Checks under the fence that no document lacks a vector.
    async fn verify(&self) -> Result<(), Refusal> {
        let collections = self.collections().await?;
        self.report(&collections);
        for info in collections.iter().filter(|info| !shows_table(&info.settings)) {
            let embedded = self.embedded(info);
            if embedded != info.documents {
                let message = format!(
                    "collection {} has {} documents, but {embedded} vectors of the new version",
                    info.name, info.documents
                );
                return Err(RefusalKind::Internal.because(message));
            }
        }
        Ok(())
    }

    fn report(&self, collections: &[CollectionInfo]) -> IndexProgress {
        let done = collections.iter().map(|info| self.embedded(info)).sum();
        let total = collections.iter().map(|info| info.documents).sum();
        let progress = IndexProgress { done, total };
        (self.progress)(progress);
        progress
    }

    /// Returns how many documents have a vector of the candidate.
    fn embedded(&self, info: &CollectionInfo) -> u64 {
        self.own(info).map_or(0, |version| version.documents)
    }

    /// Returns what a collection has of the candidate.
    fn own<'i>(&self, info: &'i CollectionInfo) -> Option<&'i VersionInfo> {
        info.versions.iter().find(|version| version.version == self.candidate.version())
    }

    /// Returns the collections of the model.
    ///
    /// # Errors
    /// The index cannot list them, and some may exist.
    async fn collections(&self) -> Result<Vec<CollectionInfo>, Refusal> {
        let mut all = self.catalog.list().await.map_err(|error| self.unlisted(&error))?;
        all.retain(|info| {
            let is_own = self.catalog.is_bound(&info.settings, self.model);
            if let (true, Some(reason)) = (is_own, &info.damaged) {
                tracing::warn!(collection = info.name, reason, "skipping a damaged collection");
            }
            is_own && info.damaged.is_none()
        });
        Ok(all)
    }

    /// Returns the refusal if the collections cannot be listed.
    fn unlisted(&self, error: &IndexError) -> Refusal {
        if self.catalog.has_bound(self.model).is_some() {
            return refusal(error);
        }
        RefusalKind::Internal.because(format!(
            "it is unknown whether collections are bound to {}, because they cannot be listed: {error}; once they can, update again",
            self.model
        ))
    }

    /// Asks about a collection. Returns `None` if it is not the listed one any more, which the next
    /// list shows: it was deleted, or bound to something else; or if it is damaged.
    async fn ask(&self, message: ToIndex, payload: Bytes) -> Result<Option<FromIndex>, Refusal> {
        match self.catalog.ask(message, payload).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => match error.kind {
                IndexErrorKind::NotFound | IndexErrorKind::Changed => Ok(None),
                IndexErrorKind::Damaged => {
                    tracing::warn!(model = self.model, %error, "skipping a damaged collection");
                    Ok(None)
                }
                _ => Err(refusal(&error)),
            },
        }
    }
}

impl Catalog {
    async fn keep_versions(&self, model: &str, versions: &[String]) -> Result<(), IndexError> {
        for entry in self.names().await? {
            if !self.is_bound(&entry.settings, model) {
                continue;
            }
            let (collection, versions) = (entry.name, versions.to_vec());
            // One that is damaged must not keep those of the others.
            if let Err(error) = self.ask(ToIndex::Keep { collection, versions }, Bytes::new()).await
                && error.kind != IndexErrorKind::NotFound
            {
                tracing::warn!(model, %error, "{KEEP_FAILED}");
            }
        }
        Ok(())
    }
}

/// Returns the id of a document, or the beginning of its text.
fn name(text: &Unembedded) -> String {
    match &text.id {
        Some(id) => shown(id),
        None => format!("`{:.SHOWN_CHARACTERS$}`", text.text),
    }
}

fn refusal(error: &IndexError) -> Refusal {
    RefusalKind::Internal
        .because(format!("the index of the documents cannot be completed: {error}"))
}

#[cfg(test)]
#[path = "reembed_tests.rs"]
mod tests;
