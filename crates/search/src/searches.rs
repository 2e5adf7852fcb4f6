//! Embeds queries and finds the nearest documents among the vectors of the version that embedded
//! them. Called by [`crate::service`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use onnxd_engine::{
    Engine, RequestContext,
    engine::{
        Origin,
        texts::{Embed, Purpose, Text, TextOptions},
    },
    models::registry::Model,
};
use onnxd_proto::search::{
    DocumentId, FromIndex, Hit, IndexError, IndexErrorKind, Query, Settings, Shown, Source, ToIndex,
};

use crate::{
    catalog::{Bound, Catalog, unexpected},
    embedding::{self, Kind},
    error::{SearchError, in_time},
    repair::Repairs,
    request::{ATTEMPTS_MAX, Found, SearchQuery, SearchRequest, Times, outdated},
    reranking::rerank_all,
    writes::{model_of, serving, to_bytes, version_of},
};

/// Texts that were embedded at once, and so by one version.
struct Embedded {
    kind: Kind,
    origin: Origin,
    /// In the order of the texts.
    vectors: Vec<Bytes>,
    time: Duration,
}

/// A search whose text is embedded, if it has one.
struct Prepared<'r> {
    request: &'r SearchRequest,
    text: Option<&'r str>,
    /// `None` for the vector of a document, which the index has.
    vector: Option<Bytes>,
}

/// What the index found for one query.
struct Nearest {
    hits: Vec<Hit>,
    source: Source,
    /// Without waiting.
    time: Duration,
}

/// Searches a collection whose model is known. All results are of the same version.
pub(crate) async fn search_all(
    (catalog, engine, repairs): (&Arc<Catalog>, &Arc<Engine>, &Arc<Repairs>),
    context: &RequestContext,
    bound: &Bound,
    requests: &[SearchRequest],
) -> Result<Vec<Found>, SearchError> {
    let model = model_of(engine, bound)?;
    requests.iter().try_for_each(SearchRequest::check)?;
    for _ in 0..ATTEMPTS_MAX {
        let embedded = embed(engine, context, (bound, model), requests).await?;
        let version = match &embedded {
            Some(embedded) => embedded.origin.record.version.clone(),
            None => serving(model),
        };
        let Some(prepared) = prepare(engine, (bound, model), (&version, &embedded), requests)?
        else {
            continue;
        };
        let start = Instant::now();
        let kind = embedded.as_ref().map_or(Kind::Dense, |embedded| embedded.kind);
        let target = (bound.name.as_str(), version.as_str(), kind);
        let hits = prepared.iter().map(|prepared| nearest(catalog, target, prepared));
        match in_time(context, try_join_all(hits)).await? {
            Ok(lists) => {
                let time = embedded.as_ref().map_or(Duration::ZERO, |embedded| embedded.time);
                let times = Times { embed: time, search: start.elapsed(), ..Times::default() };
                let origin = embedded.map(|embedded| embedded.origin);
                let found = |(nearest, request): (Nearest, &SearchRequest)| Found {
                    hits: nearest.hits,
                    version: version.clone(),
                    origin: origin.clone().filter(|_| request.text().is_some()),
                    times: Times { index: nearest.time, ..times },
                    source: nearest.source,
                };
                let found = lists.into_iter().zip(requests).map(found).collect();
                return rerank_all(engine, context, requests, found).await;
            }
            // A commit overtook the request, or the serving version lacks documents.
            Err(error) if error.kind == IndexErrorKind::Version => {
                if version == serving(model) {
                    in_time(context, repairs.run((catalog, engine), (bound, model))).await??;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(outdated(&model.name))
}

fn query(request: &SearchRequest, version: &str, text: Option<&str>) -> Query {
    let SearchRequest { query, filter, limit, offset, score_threshold, hybrid, rerank, shown } =
        request;
    let (limit, offset) = match rerank {
        Some(rerank) => (rerank.candidates.max(limit.saturating_add(*offset)), 0),
        None => (*limit, *offset),
    };
    let mut filter = filter.clone();
    if let SearchQuery::Document(id) = query {
        filter.must_not.push(onnxd_proto::search::Condition::HasId(vec![id.clone()]));
    }
    Query {
        version: version.to_owned(),
        filter,
        limit,
        offset,
        // A reranker's scores are compared instead.
        score_threshold: score_threshold.filter(|_| rerank.is_none()),
        text: text.filter(|_| *hybrid).map(str::to_owned),
        shown: Shown {
            text: shown.text || rerank.is_some(),
            // Those that were compared.
            vector: shown.vector.as_ref().map(|_| version.to_owned()),
            ..shown.clone()
        },
    }
}

/// Embeds the texts of a request at once; `None` if there are none.
async fn embed(
    engine: &Engine,
    context: &RequestContext,
    (bound, model): (&Bound, &Arc<Model>),
    requests: &[SearchRequest],
) -> Result<Option<Embedded>, SearchError> {
    let start = Instant::now();
    let texts: Vec<Text> = requests
        .iter()
        .filter_map(SearchRequest::text)
        .map(|text| Text::Text(text.to_owned()))
        .collect();
    if texts.is_empty() {
        return Ok(None);
    }
    let request = query_request(&bound.settings, texts);
    let (kind, answer) = embedding::embed(engine, context, model, request).await?;
    let (origin, vectors) = (answer.origin, answer.output);
    Ok(Some(Embedded { kind, origin, vectors, time: start.elapsed() }))
}

/// Returns each search with its vector; `None` if a commit came between the texts and a vector.
///
/// # Errors
/// A vector is not the serving version's.
fn prepare<'r>(
    engine: &Engine,
    (bound, model): (&Bound, &Model),
    (version, embedded): (&str, &Option<Embedded>),
    requests: &'r [SearchRequest],
) -> Result<Option<Vec<Prepared<'r>>>, SearchError> {
    let mut embedded = embedded.iter().flat_map(|embedded| embedded.vectors.iter().cloned());
    let mut prepared = Vec::with_capacity(requests.len());
    for request in requests {
        let vector = match &request.query {
            SearchQuery::Text(_) => embedded.next(),
            SearchQuery::Vector(_) | SearchQuery::Document(_)
                if Kind::serving(model) == Kind::Sparse =>
            {
                let message =
                    "the model has sparse vectors, so a search needs the text of the query";
                return Err(SearchError::invalid(message));
            }
            SearchQuery::Vector(vector) => {
                if version_of(engine, (bound, model), vector)? != version {
                    return Ok(None);
                }
                Some(to_bytes(&vector.components))
            }
            SearchQuery::Document(_) => None,
        };
        prepared.push(Prepared { request, text: request.text(), vector });
    }
    Ok(Some(prepared))
}

/// Finds the documents nearest to one query.
async fn nearest(
    catalog: &Catalog,
    (collection, version, kind): (&str, &str, Kind),
    prepared: &Prepared<'_>,
) -> Result<Nearest, IndexError> {
    let Prepared { request, text, vector } = prepared;
    let vector = match (vector, &request.query) {
        (None, SearchQuery::Document(id)) => {
            vector_of(catalog, (collection, version), id.clone()).await?
        }
        (vector, _) => vector.clone().unwrap_or_default(),
    };
    let message = kind.search(collection.to_owned(), query(request, version, *text));
    match catalog.ask(message, kind.payload(&[vector])).await? {
        FromIndex::Hits { hits, source, micros } => {
            Ok(Nearest { hits, source, time: Duration::from_micros(micros) })
        }
        other => Err(unexpected(&other)),
    }
}

/// Returns the vector that a version made of a document.
async fn vector_of(
    catalog: &Catalog,
    (collection, version): (&str, &str),
    id: DocumentId,
) -> Result<Bytes, IndexError> {
    let shown = Shown { vector: Some(version.to_owned()), ..Shown::default() };
    let message = ToIndex::Retrieve { collection: collection.to_owned(), ids: vec![id], shown };
    let mut hits = match catalog.ask(message, Bytes::new()).await? {
        FromIndex::Page(hits, _) => hits,
        other => return Err(unexpected(&other)),
    };
    let hit = hits.pop().ok_or_else(|| {
        IndexErrorKind::NotFound.because("the document to search by does not exist")
    })?;
    let vector = hit.vector.ok_or_else(|| {
        IndexErrorKind::Version.because("the document to search by is not embedded yet")
    })?;
    Ok(to_bytes(&vector))
}

fn query_request(settings: &Settings, texts: Vec<Text>) -> Embed {
    let Settings { query_prompt, dimensions, .. } = settings;
    let purpose = Some(Purpose::new("query", "input_type"));
    let options = TextOptions { prompt: query_prompt.clone(), purpose, ..TextOptions::cut() };
    Embed { texts, field: "query", options, normalize: None, dimensions: *dimensions }
}
