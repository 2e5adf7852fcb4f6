//! The calls of [`Search`]. Called by HTTP contracts.

use std::sync::Arc;

use bytes::Bytes;
use onnxd_engine::{Engine, RequestContext};
use onnxd_proto::{
    domain::Task,
    search::{
        BATCH_MAX, CollectionInfo, DocumentId, Filter, FromIndex, Hit, PAYLOAD_BYTES_MAX,
        PayloadChange, Selection, Settings, Shown, ToIndex,
    },
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    catalog::{Bound, Call, Catalog, missing, shows_table, unexpected},
    documents::{self, Content, NewDocument, RawVector},
    embedding::TASKS,
    error::{SearchError, in_time},
    follow::follow,
    repair::Repairs,
    request::{Found, SearchRequest},
    searches,
    settings::{check_name, fits},
    writes::{self, Written},
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

    /// Returns the collection with this name or alias.
    ///
    /// # Errors
    /// No such collection exists, or the index cannot answer.
    pub async fn collection(&self, name: &str) -> Result<CollectionInfo, SearchError> {
        let _call = self.catalog.enter()?;
        self.info(name).await
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
        let settings = self.checked(settings)?;
        Ok(self.catalog.change(ToIndex::Create(name.to_owned(), settings)).await?)
    }

    /// Replaces what a collection is bound to. The model of a collection with documents stays.
    ///
    /// # Errors
    /// There is no such collection, or the settings are invalid.
    pub async fn configure(&self, name: &str, settings: Settings) -> Result<(), SearchError> {
        let _call = self.catalog.enter()?;
        let _settings = self.catalog.hold_settings().await;
        self.set(self.info(name).await?, settings).await
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
        in_time(context, self.bind(&mut bound, model, &documents)).await??;
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
        let message = ToIndex::Retrieve { collection, ids, shown };
        match self.catalog.ask(message, Bytes::new()).await? {
            FromIndex::Page(hits, _) => Ok(hits),
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
        let message = ToIndex::Scroll { collection, filter, from, limit, shown };
        match self.catalog.ask(message, Bytes::new()).await? {
            FromIndex::Page(hits, next) => Ok((hits, next)),
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

    async fn info(&self, name: &str) -> Result<CollectionInfo, SearchError> {
        let all = self.catalog.list().await?;
        let is_named = |info: &CollectionInfo| {
            info.name == name || info.aliases.iter().any(|alias| alias == name)
        };
        let found = all.into_iter().find(is_named);
        Ok(found.ok_or_else(|| missing(name))?)
    }

    async fn set(&self, info: CollectionInfo, settings: Settings) -> Result<(), SearchError> {
        let mut settings = self.checked(settings)?;
        let is_same = |model: &String| self.catalog.is_bound(&info.settings, model);
        if settings.model.as_ref().is_some_and(is_same) {
            // It may be an alias by now.
            settings.model.clone_from(&info.settings.model);
        }
        let bound = |settings: &Settings| {
            let Settings { model, dimensions, document_prompt, distance, .. } = settings;
            (model.clone(), *dimensions, document_prompt.clone(), *distance)
        };
        if info.documents > 0 && bound(&info.settings) != bound(&settings) {
            let message = "the model, dimensions, distance and document prompt of a collection with documents cannot be changed; create another collection and import the documents";
            return Err(SearchError::invalid(message));
        }
        Ok(self.catalog.change(ToIndex::Configure(info.name, settings)).await?)
    }

    async fn shown(
        &self,
        collection: &str,
        (text, payload, vectors): (bool, bool, bool),
    ) -> Result<(String, Shown), SearchError> {
        let bound = self.catalog.find(collection).await?;
        let vector = match bound.settings.model.as_deref() {
            Some(model) if vectors => Some(writes::serving(self.engine.find(Some(model))?)),
            _ => None,
        };
        Ok((bound.name, Shown { text, payload, vector }))
    }

    /// Binds a collection to the model of its first documents, or compares the model.
    async fn bind(
        &self,
        bound: &mut Bound,
        model: Option<&str>,
        documents: &[NewDocument],
    ) -> Result<(), SearchError> {
        if bound.settings.model.is_none() {
            let _settings = self.catalog.hold_settings().await;
            let info = self.info(&bound.name).await?;
            bound.settings = info.settings.clone();
            // Another request may have bound it meanwhile.
            if bound.settings.model.is_none() {
                let model = Some(self.first_model(bound, model, documents)?);
                bound.settings.model = model;
                self.set(info, bound.settings.clone()).await?;
            }
        }
        let own = writes::model_of(&self.engine, bound)?;
        let named = model.map(|model| self.engine.find(Some(model))).transpose()?;
        match named {
            Some(named) if named.name != own.name => Err(SearchError::invalid(format!(
                "collection `{}` is bound to model `{}`, not `{}`",
                bound.name, own.name, named.name
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the model that the first documents bind a collection to.
    fn first_model(
        &self,
        bound: &Bound,
        model: Option<&str>,
        documents: &[NewDocument],
    ) -> Result<String, SearchError> {
        if let Some(model) = model {
            return Ok(self.engine.find(Some(model))?.name.to_string());
        }
        match documents.first() {
            // Vectors that this server issued say which model made them; see `Settings::model`.
            Some(NewDocument { content: Content::Vector(vector), .. }) => {
                self.maker(vector).map_or_else(|| self.only_embedder(&bound.name), Ok)
            }
            _ => Ok(writes::model_of(&self.engine, bound)?.name.to_string()),
        }
    }

    /// Returns the model that serves the version that made a vector, if that is known.
    fn maker(&self, vector: &RawVector) -> Option<String> {
        let version = writes::known_version(&self.engine, vector)?;
        let mut models = self.engine.models().iter();
        models.find(|model| writes::serving(model) == version).map(|model| model.name.to_string())
    }

    /// Returns the only served model that embeds texts.
    fn only_embedder(&self, collection: &str) -> Result<String, SearchError> {
        let embeds = |task: Task| TASKS.contains(&task);
        let mut models =
            self.engine.models().iter().filter(|model| {
                model.serving().is_some_and(|(_, record)| embeds(record.facts.task))
            });
        match (models.next(), models.next()) {
            (Some(only), None) => Ok(only.name.to_string()),
            _ => Err(SearchError::invalid(format!(
                "collection `{collection}` is bound to no model, and several are served; name one in its metadata, {{\"model\": \"NAME\"}}"
            ))),
        }
    }

    /// Returns settings with the served name of their model.
    fn checked(&self, settings: Settings) -> Result<Settings, SearchError> {
        if shows_table(&settings) && !self.catalog.is_shared() {
            let message = "a collection that shows a table needs its database; start onnxd with --search postgres://USER:PASSWORD@HOST/DATABASE";
            return Err(SearchError::invalid(message));
        }
        let Some(name) = settings.model.as_deref() else { return Ok(settings) };
        let model = self.engine.find(Some(name))?;
        if let Some((_, record)) = model.serving() {
            fits(&record.facts, &settings)
                .map_err(|why| SearchError::invalid(format!("model `{name}` {why}")))?;
        }
        Ok(Settings { model: Some(model.name.to_string()), ..settings })
    }
}
