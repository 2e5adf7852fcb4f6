//! Lets rerankers order what searches found. Called by [`crate::searches`].

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use onnxd_engine::{
    Engine, RequestContext,
    engine::{labels, texts::TextOptions},
};

use crate::{
    error::SearchError,
    request::{ATTEMPTS_MAX, Found, Rerank, SearchRequest, outdated},
};

/// Orders the hits by rerankers where one is asked for. Scores of one request are comparable: all are
/// of the same version of a reranker.
pub(crate) async fn rerank_all(
    engine: &Engine,
    context: &RequestContext,
    requests: &[SearchRequest],
    found: Vec<Found>,
) -> Result<Vec<Found>, SearchError> {
    let Some(Rerank { model, .. }) = requests.iter().find_map(|request| request.rerank.as_ref())
    else {
        return Ok(found);
    };
    for _ in 0..ATTEMPTS_MAX {
        let start = Instant::now();
        let scores = requests.iter().zip(&found).map(|pair| rerank(engine, context, pair));
        let scores: Vec<Option<Scores>> = try_join_all(scores).await?;
        let mut rerankers = scores.iter().flatten().map(|scores| &scores.reranker);
        let first = rerankers.next();
        if rerankers.any(|other| Some(other) != first) {
            continue;
        }
        let time = start.elapsed();
        let ordered = requests.iter().zip(found).zip(scores);
        return Ok(ordered
            .map(|((request, found), scores)| order(request, found, scores, time))
            .collect());
    }
    Err(outdated(model))
}

/// What a reranker says about the hits of a search.
struct Scores {
    /// Its name and version.
    reranker: (String, String),
    scores: Vec<f32>,
}

/// Scores hits; `None` if no reranker is asked for, or there is nothing to score.
async fn rerank(
    engine: &Engine,
    context: &RequestContext,
    (request, found): (&SearchRequest, &Found),
) -> Result<Option<Scores>, SearchError> {
    let (Some(Rerank { model, .. }), Some(query)) = (&request.rerank, request.text()) else {
        return Ok(None);
    };
    if found.hits.is_empty() {
        return Ok(None);
    }
    let reranker = engine.find(Some(model))?;
    let texts: Vec<String> =
        found.hits.iter().map(|hit| hit.text.clone().unwrap_or_default()).collect();
    let (query, options) = (query.to_owned(), TextOptions::cut());
    let request = labels::Rerank { query, texts: &texts, field: "documents", options };
    let answer = engine.rerank(context, reranker, request).await?;
    let reranker = (reranker.name.to_string(), answer.origin.record.version.clone());
    Ok(Some(Scores { reranker, scores: answer.output }))
}

/// Orders the candidates of a search by their scores, and keeps those that are asked for.
fn order(
    request: &SearchRequest,
    mut found: Found,
    scores: Option<Scores>,
    time: Duration,
) -> Found {
    if request.rerank.is_none() {
        return found;
    }
    let scores = scores.map(|scores| scores.scores).unwrap_or_default();
    for (hit, score) in found.hits.iter_mut().zip(scores) {
        hit.score = score;
    }
    found.hits.sort_by(|one, other| other.score.total_cmp(&one.score));
    let threshold = request.score_threshold.unwrap_or(f32::NEG_INFINITY);
    let hits = found.hits.into_iter().filter(|hit| hit.score >= threshold);
    found.hits = hits.skip(request.offset).take(request.limit).collect();
    if !request.shown.text {
        found.hits.iter_mut().for_each(|hit| hit.text = None);
    }
    found.times.rerank = time;
    found
}
