//! Searches by one client at one number of documents: alone, end to end, and against numpy.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::{
    options::SearchOptions,
    report::{Report, Table, fixed},
    search::{
        HITS, Prepared,
        clients::{Exchanges, send_all},
        collection::{Collection, found},
        documents,
        exact::{self, Exact, Numpy, Vectors},
    },
    stats::{Latencies, millis, ratio},
};

/// Documents for which the targets hold.
const TARGET_SIZE: usize = 100_000;
/// Maximum p50 of a search alone.
const ALONE_MAX_MS: f64 = 2.0;
/// Maximum that a search adds to the p50 of embedding its query.
const ADDED_MAX_MS: f64 = 2.5;
/// Minimum recall: the search is exact.
const RECALL_MIN: f64 = 1.0;

/// Queries and their embeddings.
#[derive(Debug)]
pub(super) struct Queries {
    pub texts: Vec<String>,
    pub vectors: Vectors,
    /// The version that embedded them.
    version: String,
}

impl Queries {
    /// Generates queries and embeds them.
    pub(super) async fn new(
        collection: &Collection,
        options: &SearchOptions,
    ) -> Result<Self, String> {
        let texts = documents::queries(options.seed, options.queries);
        let bodies = collection.query_embeddings(&texts);
        let embedded = send_all(&collection.embedding(), &bodies, 1).await?;
        let mut vectors = Vectors::default();
        for response in embedded.by_body() {
            vectors.add_all(&response.body)?;
        }
        let version = embedded.all.first().and_then(|one| one.response.version());
        let version = version.ok_or("/embed named no version")?.to_owned();
        Ok(Self { texts, vectors, version })
    }

    /// Returns numpy with these queries.
    pub(super) fn numpy(
        &self,
        vectors: &Vectors,
        directory: &Path,
        python: &Path,
    ) -> Result<Numpy, String> {
        let file = |name: &str, vectors: &Vectors| {
            let path = directory.join(name);
            vectors.write(&path).map(|()| path)
        };
        Ok(Numpy {
            python: python.to_owned(),
            vectors: file("vectors", vectors)?,
            queries: file("queries", &self.vectors)?,
            dimension: vectors.dimension(),
        })
    }
}

/// What one kind of request took, in all rounds.
#[derive(Debug, Default)]
struct Times {
    /// `/embed`, as the client sees it.
    embedding: Vec<Duration>,
    /// `/search`, as the client sees it.
    searching: Vec<Duration>,
    /// The part of `/search` after embedding.
    alone: Vec<Duration>,
    /// Qdrant's route with an embedded query, as the client sees it.
    querying: Vec<Duration>,
    numpy: Vec<Duration>,
}

pub(super) async fn measure(
    prepared: &Prepared,
    options: &SearchOptions,
    report: &mut Report,
) -> Result<(), String> {
    let Prepared { collection, filled, queries, files } = prepared;
    let numpy = queries.numpy(&filled.vectors, files, &options.python)?;
    let embeddings = collection.query_embeddings(&queries.texts);
    let searches = collection.searches(&queries.texts);
    let vector_queries = Collection::vector_queries(queries.vectors.rows());
    let (mut times, mut recalls) = (Times::default(), Vec::new());
    let mut exact = numpy.search(HITS).await?;
    // The first search after a start reads the vectors from disk.
    send_all(&collection.searching(), &searches, 1).await?;
    for round in 0..options.rounds {
        let mut steps = [0, 1, 2, 3];
        if round % 2 == 1 {
            steps.reverse();
        }
        for step in steps {
            match step {
                0 => {
                    let sent = send_all(&collection.embedding(), &embeddings, 1).await?;
                    times.embedding.extend(sent.all.iter().map(|one| one.latency()));
                }
                1 => {
                    let sent = send_all(&collection.searching(), &searches, 1).await?;
                    times.searching.extend(sent.all.iter().map(|one| one.latency()));
                    for one in &sent.all {
                        times.alone.push(one.part("search")?);
                    }
                    recalls.push(recall(prepared, &exact, &sent)?);
                }
                2 => {
                    let sent = send_all(&collection.querying(&queries.version), &vector_queries, 1)
                        .await?;
                    times.querying.extend(sent.all.iter().map(|one| one.latency()));
                    recalls.push(recall(prepared, &exact, &sent)?);
                }
                _ => {
                    exact = numpy.search(HITS).await?;
                    times.numpy.extend(exact.times());
                }
            }
        }
    }
    let recall = recalls.into_iter().fold(1.0, f64::min);
    conclude(filled.vectors.len(), times, recall, report);
    Ok(())
}

/// Returns the recall of the searches that clients sent.
pub(super) fn recall(
    Prepared { filled, queries, .. }: &Prepared,
    exact: &Exact,
    sent: &Exchanges,
) -> Result<f64, String> {
    let found: Vec<Vec<usize>> = sent.by_body().into_iter().map(found).collect::<Result<_, _>>()?;
    Ok(exact::recall(&filled.vectors, &queries.vectors, exact, &found))
}

fn conclude(size: usize, times: Times, recall: f64, report: &mut Report) {
    let Times { embedding, searching, alone, querying, numpy } = times;
    let all = [embedding, searching, alone, querying, numpy];
    let all = all.map(|times| times.into_iter().collect::<Latencies>());
    let [embedding, searching, alone, querying, numpy] = &all;
    let mut table = Table::new(format!("{size} documents, 1 client"));
    let names =
        ["/embed", "/search", "  after embedding", "query with a vector", "numpy, 1 thread"];
    for (name, latencies) in names.into_iter().zip(&all) {
        let to_numpy = ratio(latencies.median(), numpy.median());
        let [p50, p99, _] = latencies.cells();
        table.row(name, [p50, p99, ("to numpy", fixed(to_numpy, 2))]);
    }
    table.print();
    let added = millis(searching.median()) - millis(embedding.median());
    if size >= TARGET_SIZE {
        let what = format!("{size} documents: p50 of a search alone");
        report.at_most(&what, millis(alone.median()), ALONE_MAX_MS, " ms");
        let what = format!("{size} documents: p50 of /search less that of /embed");
        report.at_most(&what, added, ADDED_MAX_MS, " ms");
    }
    report.at_least(&format!("{size} documents: recall@{HITS}"), recall, RECALL_MIN, "");
    let figures = json!({
        "embed": embedding.summary(),
        "search": searching.summary(),
        "after_embedding": alone.summary(),
        "vector_query": querying.summary(),
        "numpy": numpy.summary(),
        "added_ms": added,
        "recall": recall,
    });
    report.figures(&format!("documents_{size}"), figures);
}
