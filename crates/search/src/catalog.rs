//! The collections as the supervisor knows them, and one fence for each model: a write holds its
//! model's fence for reading from the comparison of versions until its documents are durable; an
//! update holds it for writing from the last text that it embeds until its commit. So no document
//! is acknowledged that the committed version cannot find. Called by the other files.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use onnxd_proto::search::{
    CatalogEntry, CollectionInfo, FromIndex, IndexError, IndexErrorKind, Settings, ToIndex,
};
use serde_json::Value;
use tokio::sync::{
    Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify, OwnedRwLockReadGuard,
    OwnedRwLockWriteGuard, RwLock as Fence, watch,
};

use crate::process::Index;

/// A collection's name and what it is bound to.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) settings: Settings,
}

impl Bound {
    /// Returns whether the documents are the rows of a table that others write.
    pub(crate) fn shows_table(&self) -> bool {
        shows_table(&self.settings)
    }
}

/// Returns whether documents are the rows of a table that others write.
pub(crate) fn shows_table(settings: &Settings) -> bool {
    let metadata: Value = serde_json::from_str(&settings.metadata).unwrap_or_default();
    metadata.get("table").is_some()
}

/// Holds back writes of a model's documents until dropped.
#[derive(Debug)]
pub(crate) struct HeldWrites {
    _fence: OwnedRwLockWriteGuard<()>,
    dropped: Arc<Notify>,
}

impl Drop for HeldWrites {
    fn drop(&mut self) {
        self.dropped.notify_one();
    }
}

/// A call that needs the collections, until dropped.
#[derive(Debug)]
#[must_use]
pub struct Call(watch::Sender<Calls>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|calls| calls.running -= 1);
    }
}

/// Counts calls until the collections are released.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    running: usize,
    released: bool,
}

/// Names and aliases of collections.
type Known = HashMap<String, Bound>;

/// What was listed last.
#[derive(Debug, Default)]
struct Listed {
    /// By name and by alias; `None` until they are listed, and after a change.
    known: RwLock<Option<Arc<Known>>>,
    /// Counts changes, so that a list from before one is not kept.
    changes: AtomicU64,
}

/// Forgets what was listed when dropped: the index has answered a change, or never will.
#[derive(Debug)]
struct Forget(Arc<Listed>);

impl Drop for Forget {
    fn drop(&mut self) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        *known = None;
    }
}

/// The collections, as they were listed last. Updates see them as
/// [`Indexes`](onnxd_engine::models::indexes::Indexes).
#[derive(Debug)]
pub struct Catalog {
    index: Index,
    /// Served names of models by their aliases.
    aliases: HashMap<String, String>,
    listed: Arc<Listed>,
    calls: watch::Sender<Calls>,
    /// Held from the check of a collection's settings until they are stored.
    settings: AsyncMutex<()>,
    /// Whether a predecessor still has the collections.
    awaited: AtomicBool,
    /// By served name.
    fences: Mutex<HashMap<String, Arc<Fence<()>>>>,
    /// Told whenever an update no longer holds back writes.
    fence_dropped: Arc<Notify>,
}

impl Catalog {
    /// Returns the collections of an index. Nothing is read yet. `aliases` are the served names of models
    /// by their aliases: a collection may be bound to the name that a model had before.
    pub fn new(index: Index, aliases: HashMap<String, String>) -> Self {
        Self {
            index,
            aliases,
            listed: Arc::default(),
            calls: watch::Sender::default(),
            settings: AsyncMutex::default(),
            awaited: AtomicBool::new(false),
            fences: Mutex::default(),
            fence_dropped: Arc::default(),
        }
    }

    /// Says whether a predecessor still has the collections. Meanwhile no update can complete their
    /// indexes.
    pub fn await_predecessor(&self, awaited: bool) {
        self.awaited.store(awaited, Ordering::Relaxed);
    }

    /// Waits until no call is left, and leaves the collections to a successor. Later calls fail; those
    /// that begin meanwhile do not.
    pub async fn release(&self) {
        let mut calls = self.calls.subscribe();
        let release = |calls: &mut Calls| {
            calls.released = calls.running == 0;
            calls.released
        };
        while !self.calls.send_if_modified(release) {
            // Never fails: the sender is here.
            let _ = calls.wait_for(|calls| calls.running == 0).await;
        }
        self.index.release().await;
    }

    /// Admits a call, which lasts until the result is dropped. Calls may be nested.
    ///
    /// # Errors
    /// A successor has the collections.
    pub(crate) fn enter(&self) -> Result<Call, IndexError> {
        let enter = |calls: &mut Calls| {
            calls.running += usize::from(!calls.released);
            !calls.released
        };
        match self.calls.send_if_modified(enter) {
            true => Ok(Call(self.calls.clone())),
            false => Err(IndexErrorKind::Storage
                .because("a successor has taken over the collections; connect again")),
        }
    }

    /// Holds back other changes of settings until dropped.
    pub(crate) async fn hold_settings(&self) -> AsyncMutexGuard<'_, ()> {
        self.settings.lock().await
    }

    /// Returns whether a predecessor still has the collections.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Returns whether there may be collections. Does not start the index process.
    pub(crate) fn may_have_collections(&self) -> bool {
        self.index.exists()
    }

    /// Returns whether a collection is bound to a model. Does not block: collections that are not
    /// listed yet count.
    pub(crate) fn binds(&self, model: &str) -> bool {
        self.has_bound(model).unwrap_or_else(|| self.index.exists())
    }

    /// Returns whether the last list has a collection that is bound to a model; `None` if none was listed
    /// since the last change.
    pub(crate) fn has_bound(&self, model: &str) -> Option<bool> {
        let known = self.listed.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_own = |bound: &Bound| self.is_bound(&bound.settings, model);
        known.as_ref().map(|known| known.values().any(is_own))
    }

    /// Returns whether settings name the model with this served name, or an alias of it.
    pub(crate) fn is_bound(&self, settings: &Settings, model: &str) -> bool {
        settings.model.as_deref().is_some_and(|named| self.served(named) == model)
    }

    /// Returns the served name of a model.
    fn served<'n>(&'n self, named: &'n str) -> &'n str {
        self.aliases.get(named).map_or(named, String::as_str)
    }

    /// Lists all collections, with their counts.
    ///
    /// # Errors
    /// The index cannot answer.
    pub(crate) async fn list(&self) -> Result<Vec<CollectionInfo>, IndexError> {
        match self.ask(ToIndex::List, Bytes::new()).await? {
            FromIndex::Collections(listed) => Ok(listed),
            other => Err(unexpected(&other)),
        }
    }

    /// Describes the collection with this name or alias.
    ///
    /// # Errors
    /// No such collection exists, or the index cannot answer.
    pub(crate) async fn describe(&self, name: &str) -> Result<CollectionInfo, IndexError> {
        match self.ask(ToIndex::Describe(name.to_owned()), Bytes::new()).await {
            Ok(FromIndex::Collections(mut infos)) => infos.pop().ok_or_else(|| missing(name)),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if error.kind == IndexErrorKind::NotFound => Err(missing(name)),
            Err(error) => Err(error),
        }
    }

    /// Lists the names, aliases and settings of all collections, for which none is opened.
    ///
    /// # Errors
    /// The index cannot answer.
    pub(crate) async fn names(&self) -> Result<Vec<CatalogEntry>, IndexError> {
        Ok(self.list_known().await?.0)
    }

    async fn list_known(&self) -> Result<(Vec<CatalogEntry>, Arc<Known>), IndexError> {
        let changes = self.listed.changes.load(Ordering::Acquire);
        let entries = match self.ask(ToIndex::Names, Bytes::new()).await? {
            FromIndex::Names(entries) => entries,
            other => return Err(unexpected(&other)),
        };
        let mut names = HashMap::new();
        for CatalogEntry { name, aliases, settings } in entries.iter().cloned() {
            let bound = Bound { name: name.clone(), settings };
            names.extend(aliases.into_iter().map(|alias| (alias, bound.clone())));
            names.insert(name, bound);
        }
        let names = Arc::new(names);
        let mut known = self.listed.known.write().unwrap_or_else(PoisonError::into_inner);
        if self.listed.changes.load(Ordering::Acquire) == changes {
            *known = Some(Arc::clone(&names));
        }
        drop(known);
        Ok((entries, names))
    }

    /// Returns all names and aliases with what they are bound to.
    ///
    /// # Errors
    /// The index cannot answer.
    pub(crate) async fn known(&self) -> Result<Arc<Known>, IndexError> {
        let known = self.listed.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(known) => Ok(known),
            None => Ok(self.list_known().await?.1),
        }
    }

    /// Finds a collection by its name or an alias.
    ///
    /// # Errors
    /// No such collection exists, or the index cannot answer.
    pub(crate) async fn find(&self, name: &str) -> Result<Bound, IndexError> {
        if let Some(found) = self.known().await?.get(name) {
            return Ok(found.clone());
        }
        if self.is_shared() {
            // Another server may have created it.
            self.list_known().await?;
        }
        self.known().await?.get(name).cloned().ok_or_else(|| missing(name))
    }

    /// Asks for a change of the catalog.
    ///
    /// # Errors
    /// The index refuses it or cannot answer.
    pub(crate) async fn change(&self, message: ToIndex) -> Result<(), IndexError> {
        // The index may answer after the caller has stopped waiting.
        let forget = Box::new(Forget(Arc::clone(&self.listed)));
        match self.index.ask_holding(message, Bytes::new(), Some(forget)).await {
            FromIndex::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The index refuses it or cannot answer.
    pub(crate) async fn ask(
        &self,
        message: ToIndex,
        payload: Bytes,
    ) -> Result<FromIndex, IndexError> {
        match self.index.ask(message, payload).await {
            FromIndex::Failed(error) => Err(error),
            answer => Ok(answer),
        }
    }

    /// Asks for something that is answered by a number.
    ///
    /// # Errors
    /// The index refuses it or cannot answer.
    pub(crate) async fn count(&self, message: ToIndex, payload: Bytes) -> Result<u64, IndexError> {
        counted(self.index.ask(message, payload).await)
    }

    /// Changes documents, and holds back commits until that is done, even if the caller goes away.
    ///
    /// # Errors
    /// The index refuses it or cannot answer.
    pub(crate) async fn count_fenced(
        &self,
        message: ToIndex,
        payload: Bytes,
        fence: OwnedRwLockReadGuard<()>,
    ) -> Result<u64, IndexError> {
        counted(self.index.ask_holding(message, payload, Some(Box::new(fence))).await)
    }

    /// Holds back commits of a model until dropped.
    pub(crate) async fn hold_commits(&self, model: &str) -> OwnedRwLockReadGuard<()> {
        self.fence(model).read_owned().await
    }

    /// Holds back writes of a model's documents until dropped.
    pub(crate) async fn hold_writes(&self, model: &str) -> HeldWrites {
        let _fence = self.fence(model).write_owned().await;
        HeldWrites { _fence, dropped: Arc::clone(&self.fence_dropped) }
    }

    /// Waits until an update no longer holds back writes: it has committed, or it was refused.
    pub(crate) async fn wait_for_fence(&self) {
        self.fence_dropped.notified().await;
    }

    /// Returns whether other programs may use the collections as well.
    pub(crate) fn is_shared(&self) -> bool {
        self.index.is_shared()
    }

    fn fence(&self, model: &str) -> Arc<Fence<()>> {
        let mut fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(fences.entry(model.to_owned()).or_default())
    }
}

/// Says that no collection has this name.
pub(crate) fn missing(name: &str) -> IndexError {
    let message = format!("collection `{name}` does not exist; create it first");
    IndexErrorKind::NotFound.because(message)
}

/// Reads an answer that must be a number.
fn counted(answer: FromIndex) -> Result<u64, IndexError> {
    match answer {
        FromIndex::Changed(count) => Ok(count),
        FromIndex::Failed(error) => Err(error),
        other => Err(unexpected(&other)),
    }
}

/// Reports an answer of the wrong kind.
pub(crate) fn unexpected(answer: &FromIndex) -> IndexError {
    let kind = match answer {
        FromIndex::Done => "done",
        FromIndex::Changed(_) => "a number",
        FromIndex::Collections(_) => "collections",
        FromIndex::Hits { .. } => "hits",
        FromIndex::Page(..) => "a page",
        FromIndex::Unembedded(..) => "texts",
        FromIndex::Failed(_) => "an error",
        FromIndex::Names(_) => "names",
    };
    IndexErrorKind::Storage
        .because(format!("the index process answered with {kind}, which was not asked for"))
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
