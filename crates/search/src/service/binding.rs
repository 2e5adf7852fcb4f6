//! Binds collections to models, and checks what they are bound to. Called by [`super`].

use onnxd_engine::RequestContext;
use onnxd_proto::{
    domain::Task,
    search::{CollectionInfo, Settings, ToIndex},
};

use super::Search;
use crate::{
    catalog::{Bound, shows_table},
    documents::{Content, NewDocument, RawVector},
    embedding::TASKS,
    error::SearchError,
    settings::{fits, fits_declared},
    writes,
};

/// Whether a collection is bound to its model by this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    New,
    /// An update may have changed the dimension of the model since.
    Earlier,
}

impl Search {
    /// Replaces the settings of a collection.
    pub(super) async fn set(
        &self,
        info: CollectionInfo,
        settings: Settings,
    ) -> Result<(), SearchError> {
        let model = settings.model.as_deref().map(|named| self.engine.find(Some(named)));
        let model = model.transpose()?.map(|model| model.name.as_str());
        let is_same = model.is_some_and(|model| self.catalog.is_bound(&info.settings, model));
        let binding = if is_same { Binding::Earlier } else { Binding::New };
        let mut settings = self.checked(settings, binding).await?;
        if is_same {
            // It may be an alias by now.
            settings.model.clone_from(&info.settings.model);
        }
        if info.documents > 0 && info.settings.embedded_as() != settings.embedded_as() {
            let message = "the model, dimensions, distance and document prompt of a collection with documents cannot be changed; create another collection and import the documents";
            return Err(SearchError::invalid(message));
        }
        Ok(self.catalog.change(ToIndex::Configure(info.name, settings)).await?)
    }

    /// Loads the model that settings are compared with, if it loads on first use. To be called before
    /// the settings are locked, so that no other collection waits for the load.
    pub(super) async fn load_if_declared(
        &self,
        context: &RequestContext,
        settings: &Settings,
        model: Option<&str>,
    ) -> Result<(), SearchError> {
        let (Some(_), Some(model)) = (settings.declared_dimension, model) else { return Ok(()) };
        let model = self.engine.find(Some(model))?;
        if model.serving().is_none() {
            self.engine.ready(context, model, &TASKS).await?;
        }
        Ok(())
    }

    /// Binds a collection to the model of its first documents, or compares the model.
    pub(super) async fn bind(
        &self,
        context: &RequestContext,
        bound: &mut Bound,
        model: Option<&str>,
        documents: &[NewDocument],
    ) -> Result<(), SearchError> {
        if bound.settings.model.is_none() {
            let first = self.first_model(bound, model, documents)?;
            self.load_if_declared(context, &bound.settings, Some(&first)).await?;
            let _settings = self.catalog.hold_settings().await;
            let info = self.catalog.describe(&bound.name).await?;
            bound.settings = info.settings.clone();
            // Another request may have bound it meanwhile.
            if bound.settings.model.is_none() {
                bound.settings.model = Some(first);
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
    pub(super) async fn checked(
        &self,
        settings: Settings,
        binding: Binding,
    ) -> Result<Settings, SearchError> {
        if shows_table(&settings) && !self.catalog.is_shared() {
            let message = "a collection that shows a table needs its database; start onnxd with --search postgres://USER:PASSWORD@HOST/DATABASE";
            return Err(SearchError::invalid(message));
        }
        let Some(name) = settings.model.as_deref() else { return Ok(settings) };
        let model = self.engine.find(Some(name))?;
        let wrong = |why: String| SearchError::invalid(format!("model `{name}` {why}"));
        let declares = binding == Binding::New && settings.declared_dimension.is_some();
        let serving = match model.serving() {
            // Loads a model that loads on first use: its dimension is not known before.
            None if declares => {
                Some(self.engine.ready(&RequestContext::new(), model, &TASKS).await?)
            }
            serving => serving,
        };
        if let Some((_, record)) = serving {
            fits(&record.facts, &settings).map_err(wrong)?;
            if declares {
                fits_declared(&record.facts, &settings).map_err(wrong)?;
            }
        }
        Ok(Settings { model: Some(model.name.to_string()), ..settings })
    }
}
