//! Starts search: the link to the process that owns the collections. Called by [`super::start`].

use std::{io, sync::Arc};

use onnxd_engine::{
    Engine,
    models::{
        indexes::{Indexes, NoIndexes},
        registry::ModelSource,
    },
    tasks::EssentialTasks,
};
use onnxd_proto::exit::Failure;
use onnxd_search::{Catalog, Index, IndexExecutable, Search};

use crate::{
    api::app::SearchAbsent,
    config::{Config, SearchStore},
};

/// The collections' directory in the state directory.
const DIRECTORY: &str = "collections";

/// Returns the collections of documents, or why there are none. Those of a successor belong to its
/// predecessor at first.
///
/// # Errors
/// The executable cannot be opened, or a thread cannot be started.
pub(super) fn collections(
    config: &Config,
    is_successor: bool,
    tasks: &EssentialTasks,
) -> Result<Result<Arc<Catalog>, SearchAbsent>, Failure> {
    let executable = match &config.search {
        SearchStore::Off => return Ok(Err(SearchAbsent::Off)),
        SearchStore::Missing => return Ok(Err(SearchAbsent::NotInstalled)),
        SearchStore::Embedded(binary) => {
            IndexExecutable::embedded(binary, &config.state_dir.join(DIRECTORY), config.sandbox)
        }
        SearchStore::Postgres(binary, url) => {
            IndexExecutable::postgres(binary, &url.0, config.sandbox)
        }
    };
    let failed = |error: io::Error| Failure::configuration(format!("--index-binary: {error}"));
    let guard = tasks.guard("link to the index");
    let index = Index::start(executable.map_err(failed)?, config.request_timeout, guard);
    let served = |model: &ModelSource| {
        let name = model.name.to_string();
        model.aliases.clone().into_iter().map(move |alias| (alias, name.clone()))
    };
    let aliases = config.models.iter().flat_map(served).collect();
    let collections = Catalog::new(index.map_err(failed)?, aliases);
    // A database serves both.
    let is_embedded = matches!(config.search, SearchStore::Embedded(_));
    collections.await_predecessor(is_successor && is_embedded);
    Ok(Ok(Arc::new(collections)))
}

/// Returns the collections as updates see them.
pub(super) fn indexes(collections: &Result<Arc<Catalog>, SearchAbsent>) -> Arc<dyn Indexes> {
    match collections {
        Ok(collections) => Arc::clone(collections) as Arc<dyn Indexes>,
        Err(_) => Arc::new(NoIndexes),
    }
}

/// Returns the service of search over the collections, or why there is none.
pub(super) fn service(
    collections: &Result<Arc<Catalog>, SearchAbsent>,
    engine: &Arc<Engine>,
) -> Result<Arc<Search>, SearchAbsent> {
    let service = |catalog| Arc::new(Search::new(Arc::clone(catalog), Arc::clone(engine)));
    collections.as_ref().map(service).map_err(|absent| *absent)
}
