//! `cargo xtask bench search`: documents that the server embeds and finds.
//!
//! - [`filling`] adds documents, and compares that with embedding the same texts. [`sizes`] measures
//!   searches at each number of documents, alone and end to end, against [`exact`] search by numpy.
//! - [`peers`] compares with a service in Python over pgvector or Chroma. [`update`] measures what
//!   clients notice of an update that embeds all documents again.
//! - [`documents`] are generated; [`collection`] is where they are, [`clients`] send requests.

mod clients;
mod collection;
mod documents;
mod exact;
mod filling;
mod peers;
mod sizes;
mod update;

use std::path::PathBuf;

use crate::{
    options::{SearchOptions, SearchPart},
    report::Report,
    search::{collection::Collection, documents::documents, filling::Filled, sizes::Queries},
    subject::ModelPair,
};

/// Documents that a search returns.
const HITS: usize = 10;

/// A collection with documents, and what is asked.
struct Prepared {
    collection: Collection,
    filled: Filled,
    queries: Queries,
    /// The directory for files that scripts read.
    files: PathBuf,
}

/// Runs the selected parts. Returns false if a guarantee was violated.
pub(crate) async fn run(
    options: &SearchOptions,
    workers: usize,
    mut report: Report,
) -> Result<bool, String> {
    if options.documents.is_empty() || !options.documents.is_sorted() {
        return Err("--documents: expected numbers in ascending order".to_owned());
    }
    let pair = ModelPair::minilm();
    if options.has(SearchPart::Sizes) || options.has(SearchPart::Peers) {
        let server = pair.builder(workers).start().await;
        let collection = Collection::create(&server, pair.model, "documents").await?;
        let all = documents(options.seed, options.documents[options.documents.len() - 1]);
        let queries = Queries::new(&collection, options).await?;
        let (filled, files) = (Filled::default(), server.home().models());
        let mut prepared = Prepared { collection, filled, queries, files };
        for size in &options.documents {
            let collection = &prepared.collection;
            prepared.filled.add(collection, &all[..*size], options.clients).await?;
            if options.has(SearchPart::Sizes) {
                sizes::measure(&prepared, options, &mut report).await?;
            }
        }
        prepared.filled.report(options.clients, &mut report);
        if options.has(SearchPart::Peers) {
            let peers = peers::Setting { server: &server, pair: &pair, documents: &all, options };
            peers.run(&prepared, &mut report).await?;
        }
        server.stop().await;
    }
    if options.has(SearchPart::Update) {
        update::run(&pair, workers, options, &mut report).await?;
    }
    let sound = report.conclude();
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    Ok(sound)
}
