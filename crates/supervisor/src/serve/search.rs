//! Starts search: the link to the process that owns the collections. Called by [`super::start`].

use std::{io, path::Path, sync::Arc};

use onnxd_engine::{
    Engine,
    models::{
        indexes::{Indexes, NoIndexes},
        registry::ModelSource,
    },
    tasks::EssentialTasks,
};
use onnxd_proto::{exit::Failure, search::DatabaseProbe};
use onnxd_search::{Catalog, Index, IndexExecutable, Search};
use onnxd_telemetry::metrics::Metrics;

use crate::{
    api::app::SearchAbsent,
    config::{Config, DatabaseUrl, SearchStore},
};

/// What a server does without its database.
const AWAY: &str = "the database of --search cannot be reached: until it can, search requests are answered 503, and all others as usual";
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
    (tasks, metrics): (&EssentialTasks, &Arc<Metrics>),
) -> Result<Result<Arc<Catalog>, SearchAbsent>, Failure> {
    let executable = match &config.search {
        SearchStore::Off => return Ok(Err(SearchAbsent::Off)),
        SearchStore::Missing => return Ok(Err(SearchAbsent::NotInstalled)),
        SearchStore::Embedded(binary) => {
            IndexExecutable::embedded(binary, &config.state_dir.join(DIRECTORY), config.sandbox)
        }
        SearchStore::Postgres(binary, url) => postgres(config, binary, url),
    };
    let guard = tasks.guard("link to the index");
    let executable = executable.map_err(failed)?;
    let index = Index::start(executable, config.request_timeout, Arc::clone(metrics), guard);
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

/// Asks the database, if collections are in one, whether it can be used. Warns if it cannot be reached:
/// it may be started later.
///
/// # Errors
/// The database refuses the URL, or lacks something.
pub(super) async fn probe(config: &Config) -> Result<(), Failure> {
    let SearchStore::Postgres(binary, url) = &config.search else { return Ok(()) };
    let executable = postgres(config, binary, url).map_err(failed)?;
    match executable.probe().await.map_err(failed)? {
        DatabaseProbe::Usable => Ok(()),
        DatabaseProbe::Unavailable(reason) => {
            tracing::warn!(reason, "{AWAY}");
            Ok(())
        }
        DatabaseProbe::Refused(reason) => {
            Err(Failure::configuration(format!("--search: {reason}")))
        }
    }
}

fn postgres(config: &Config, binary: &Path, url: &DatabaseUrl) -> io::Result<IndexExecutable> {
    IndexExecutable::postgres(binary, &url.0, config.sandbox)
}

fn failed(error: io::Error) -> Failure {
    Failure::configuration(format!("--index-binary: {error}"))
}

/// Returns the collections as updates see them.
pub(super) fn indexes(collections: &Result<Arc<Catalog>, SearchAbsent>) -> Arc<dyn Indexes> {
    match collections {
        Ok(collections) => Arc::clone(collections) as Arc<dyn Indexes>,
        Err(_) => Arc::new(NoIndexes),
    }
}

/// Returns the search service, or why there is none.
pub(super) fn service(
    collections: &Result<Arc<Catalog>, SearchAbsent>,
    engine: &Arc<Engine>,
) -> Result<Arc<Search>, SearchAbsent> {
    let service = |catalog| Arc::new(Search::new(Arc::clone(catalog), Arc::clone(engine)));
    collections.as_ref().map(service).map_err(|absent| *absent)
}
