//! The calls of [`Search`]. Called by HTTP contracts.

mod binding;

use std::sync::Arc;

use bytes::Bytes;
use onnxd_engine::{Engine, RequestContext};
use onnxd_proto::search::{
    BATCH_MAX, CatalogEntry, CollectionInfo, DocumentId, Filter, FromIndex, Hit, PAYLOAD_BYTES_MAX,
    PayloadChange, Selection, Settings, Shown, ToIndex,
};
use tokio_util::task::AbortOnDropHandle;

use self::binding::Binding;
use crate::{
    catalog::{Bound, Call, Catalog, missing, unexpected},
    documents::{self, NewDocument},
    error::{SearchError, in_time},
    follow::follow,
    repair::Repairs,
    request::{Found, SearchRequest},
    searches,
    settings::check_name,
    writes::{self, Written, to_bytes},
};

/// Collections of documents, and search in them.
#[derive(Debug)]
pub struct Search {
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
    repairs: Arc<Repairs>,
    /// Keeps a database in step with others.
    _follower: Option<AbortOnDropHandle<()>>,
}

impl Search {
    /// Creates the service. Updates of the engine's models must complete the same collections.
    pub fn new(catalog: Arc<Catalog>, engine: Arc<Engine>) -> Self {
        // Clients send vectors back that they got here.
        engine.remember_issued();
        let repairs = Arc::default();
        let follower = catalog.is_shared().then(|| {
            let parts = (Arc::clone(&catalog), Arc::clone(&engine), Arc::clone(&repairs));
            AbortOnDropHandle::new(tokio::spawn(follow(parts)))
        });
        Self { catalog, engine, repairs, _follower: follower }
    }

    /// Admits a request whose body is read next, so that the collections are not left to a successor
    /// before it is served. It lasts until the result is dropped.
    ///
    /// # Errors
    /// A successor has the collections.
    pub fn enter(&self) -> Result<Call, SearchError> {
        Ok(self.catalog.enter()?)
    }

    /// Returns all collections, by name.
    ///
    /// # Errors
    /// The index cannot answer.
    pub async fn collections(&self) -> Result<Vec<CollectionInfo>, SearchError> {
        let _call = self.catalog.enter()?;
        Ok(self.catalog.list().await?)
    }

    /// Returns the names, aliases and settings of all collections, by name. Cheaper than
    /// [`Search::collections`], which opens all of them.
    ///
    /// # Errors
    /// The index cannot answer.
    pub async fn names(&self) -> Result<Vec<CatalogEntry>, SearchError> {
        let _call = self.catalog.enter()?;
        Ok(self.catalog.names().await?)
    }

    /// Returns the collection with this name or alias.
    ///
    /// # Errors
    /// No such collection exists, or the index cannot answer.
    pub async fn collection(&self, name: &str) -> Result<CollectionInfo, SearchError> {
        let _call = self.catalog.enter()?;
        Ok(self.catalog.describe(name).await?)
    }

    /// Returns the name and settings of the collection with this name or alias. Cheaper than
    /// [`Search::collection`], since it counts nothing.
    ///
    /// # Errors
    /// No such collection exists, or the index cannot answer.
    pub async fn settings(&self, name: &str) -> Result<(String, Settings), SearchError> {
        let bound = self.catalog.find(name).await?;
        Ok((bound.name, bound.settings))
    }

    /// Creates a collection. Its model, if it names one, must be served.
    ///
    /// # Errors
    /// The name or the settings are invalid or in use, or there are too many collections.
    pub async fn create(&self, name: &str, settings: Settings) -> Result<(), SearchError> {
        let _call = self.catalog.enter()?;
        check_name(name)?;
        let settings = self.checked(settings, Binding::New).await?;
        Ok(self.catalog.change(ToIndex::Create(name.to_owned(), settings)).await?)
    }

    /// Replaces what a collection is bound to. The model of a collection with documents stays.
    ///
    /// # Errors
    /// There is no such collection, or the settings are invalid.
    pub async fn configure(&self, name: &str, settings: Settings) -> Result<(), SearchError> {
        let _call = self.catalog.enter()?;
        let model = settings.model.as_deref();
        self.load_if_declared(&RequestContext::new(), &settings, model).await?;
        let _settings = self.catalog.hold_settings().await;
        self.set(self.catalog.describe(name).await?, settings).await
    }

    /// Removes a collection with its documents and aliases. An alias does not name it here: clients
    /// delete what an alias once meant.
    ///
    /// # Errors
    /// There is no such collection.
    pub async fn remove(&self, name: &str) -> Result<(), SearchError> {
        let _call = self.catalog.enter()?;
        let is_alias = |bound: &Bound| bound.name != name;
        if self.catalog.known().await?.get(name).is_some_and(is_alias) {
            return Err(missing(name).into());
        }
        Ok(self.catalog.change(ToIndex::Drop(name.to_owned())).await?)
    }

    /// Removes the aliases of the first list, then adds those of the second with their collections:
    /// all or none.
    ///
    /// # Errors
    /// A collection does not exist, or a name is in use.
    pub async fn set_aliases(
        &self,
        removed: Vec<String>,
        added: Vec<(String, String)>,
    ) -> Result<(), SearchError> {
        let _call = self.catalog.enter()?;
        for (alias, _) in &added {
            check_name(alias)?;
        }
        Ok(self.catalog.change(ToIndex::SetAliases(removed, added)).await?)
    }

    /// Adds or replaces documents. `model` binds a collection that has no model yet; for others it
    /// must be the same. Durable once this returns; large requests are stored in several steps.
    ///
    /// # Errors
    /// There is no such collection, a document is invalid, or the model cannot embed it.
    pub async fn put(
        &self,
        context: &RequestContext,
        collection: &str,
        model: Option<&str>,
        documents: Vec<NewDocument>,
    ) -> Result<Written, SearchError> {
        let _call = self.catalog.enter()?;
        let mut bound = in_time(context, self.catalog.find(collection)).await??;
        if documents.len() > BATCH_MAX {
            let message = format!(
                "{} documents in one request, at most {BATCH_MAX} are allowed; send them in several",
                documents.len()
            );
            return Err(SearchError::invalid(message));
        }
        documents.iter().try_for_each(documents::check)?;
        in_time(context, self.bind(context, &mut bound, model, &documents)).await??;
        writes::put((&self.catalog, &self.engine), context, &bound, documents).await
    }

    /// Deletes documents. Returns how many.
    ///
    /// # Errors
    /// There is no such collection, or the index cannot answer.
    pub async fn delete(&self, collection: &str, which: Selection) -> Result<u64, SearchError> {
        let _call = self.catalog.enter()?;
        let collection = self.catalog.find(collection).await?.name;
        Ok(self.catalog.count(ToIndex::Delete { collection, which }, Bytes::new()).await?)
    }

    /// Changes the payloads of documents. Returns how many.
    ///
    /// # Errors
    /// There is no such collection, or a payload is too large.
    pub async fn change_payload(
        &self,
        collection: &str,
        which: Selection,
        change: PayloadChange,
    ) -> Result<u64, SearchError> {
        let _call = self.catalog.enter()?;
        if let PayloadChange::Set(payload) | PayloadChange::Replace(payload) = &change
            && payload.len() > PAYLOAD_BYTES_MAX
        {
            let message = format!(
                "a payload has {} bytes, at most {PAYLOAD_BYTES_MAX} are allowed",
                payload.len()
            );
            return Err(SearchError::invalid(message));
        }
        let collection = self.catalog.find(collection).await?.name;
        let message = ToIndex::ChangePayload { collection, which, change };
        Ok(self.catalog.count(message, Bytes::new()).await?)
    }

    /// Counts documents.
    ///
    /// # Errors
    /// There is no such collection, or the index cannot answer.
    pub async fn count(&self, collection: &str, filter: Filter) -> Result<u64, SearchError> {
        let _call = self.catalog.enter()?;
        let collection = self.catalog.find(collection).await?.name;
        Ok(self.catalog.count(ToIndex::Count { collection, filter }, Bytes::new()).await?)
    }

    /// Returns the documents with these ids that exist. `vectors` asks for those of the serving
    /// version.
    ///
    /// # Errors
    /// There is no such collection, or the index cannot answer.
    pub async fn retrieve(
        &self,
        collection: &str,
        ids: Vec<DocumentId>,
        (text, payload, vectors): (bool, bool, bool),
    ) -> Result<Vec<Hit>, SearchError> {
        let _call = self.catalog.enter()?;
        let (collection, shown) = self.shown(collection, (text, payload, vectors)).await?;
        let version = shown.vector.clone().unwrap_or_default();
        let message = ToIndex::Retrieve { collection, ids, shown };
        match self.catalog.ask(message, Bytes::new()).await? {
            FromIndex::Page(hits, _) => {
                self.note_vectors(&version, &hits);
                Ok(hits)
            }
            other => Err(unexpected(&other).into()),
        }
    }

    /// Returns documents in the order of their ids, from an id on, and the id after them.
    ///
    /// # Errors
    /// There is no such collection, or the index cannot answer.
    pub async fn scroll(
        &self,
        collection: &str,
        filter: Filter,
        (from, limit): (Option<DocumentId>, usize),
        (text, payload, vectors): (bool, bool, bool),
    ) -> Result<(Vec<Hit>, Option<DocumentId>), SearchError> {
        let _call = self.catalog.enter()?;
        let (collection, shown) = self.shown(collection, (text, payload, vectors)).await?;
        let version = shown.vector.clone().unwrap_or_default();
        let message = ToIndex::Scroll { collection, filter, from, limit, shown };
        match self.catalog.ask(message, Bytes::new()).await? {
            FromIndex::Page(hits, next) => {
                self.note_vectors(&version, &hits);
                Ok((hits, next))
            }
            other => Err(unexpected(&other).into()),
        }
    }

    /// Embeds the queries of one request at once and finds the nearest documents of each. All results
    /// are of the same version, so that their scores can be compared.
    ///
    /// # Errors
    /// There is no such collection, a request is invalid, or the model cannot embed a query.
    pub async fn search_all(
        &self,
        context: &RequestContext,
        collection: &str,
        requests: &[SearchRequest],
    ) -> Result<Vec<Found>, SearchError> {
        let _call = self.catalog.enter()?;
        let bound = in_time(context, self.catalog.find(collection)).await??;
        let parts = (&self.catalog, &self.engine, &self.repairs);
        searches::search_all(parts, context, &bound, requests).await
    }

    /// Notes which version made vectors that a client gets, so that they are recognized when they are
    /// sent back. For those that [`Search::search_all`] found, of which a caller may return only some.
    pub fn note_vectors(&self, version: &str, hits: &[Hit]) {
        let vectors = hits.iter().filter_map(|hit| hit.vector.as_deref().map(to_bytes));
        let vectors: Vec<Bytes> = vectors.collect();
        // Empty if none serves.
        if !version.is_empty() && !vectors.is_empty() {
            self.engine.note_issued(version, &vectors);
        }
    }

    async fn shown(
        &self,
        collection: &str,
        (text, payload, vectors): (bool, bool, bool),
    ) -> Result<(String, Shown), SearchError> {
        let bound = self.catalog.find(collection).await?;
        let vector = match bound.settings.model.as_deref() {
            Some(_) if vectors => Some(writes::serving(writes::model_of(&self.engine, &bound)?)),
            _ => None,
        };
        Ok((bound.name, Shown { text, payload, vector }))
    }
}
