//! Queries as Qdrant's clients write them, and what they mean for onnxd. Pure.

use onnxd_proto::search::{Condition, Filter, Shown};
use onnxd_search::{Rerank, SearchQuery, SearchRequest};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::{
    error::Fault,
    qdrant::{
        diversity::Diversity,
        error::wrong,
        filter::{self, GivenFilter},
        ids::PointId,
        payloads::{Parts, WithPayload, WithVector},
        points::limit_of,
        vectors::{Embeddable, Given, GivenText, raw},
    },
};

/// Points of an answer if the request names no number, as in Qdrant.
const LIMIT: usize = 10;
/// Documents that a reranker scores if the request names no number.
const CANDIDATES: usize = 50;
/// The model that Qdrant's clients name for a search by words.
const WORDS: &str = "qdrant/bm25";

/// A query.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryRequest {
    /// A vector, `{"text": …, "model": …}` or an id; also as `{"nearest": …}`, or
    /// `{"fusion": "rrf"}` of a text and the same text for `Qdrant/bm25` in `prefetch`. Without a
    /// query, points are returned in the order of their ids.
    pub(super) query: Option<Given>,
    /// Only for a fusion.
    #[schema(value_type = Option<Object>)]
    prefetch: Option<Prefetches>,
    /// The name of the collection's vector.
    pub(super) using: Option<String>,
    pub(super) filter: Option<GivenFilter>,
    /// Ignored: searches are exact.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    params: Option<Value>,
    pub(super) score_threshold: Option<f32>,
    /// Points to return. Default: 10.
    pub(super) limit: Option<usize>,
    pub(super) offset: Option<usize>,
    /// Default: false.
    pub(super) with_payload: Option<WithPayload>,
    /// Default: false.
    pub(super) with_vector: Option<WithVector>,
    /// Refused.
    #[schema(value_type = Option<Object>)]
    lookup_from: Option<Value>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
    /// Also rank by full text, and combine both ranks. Qdrant does not have it.
    #[serde(default)]
    hybrid: bool,
    /// Let a reranker order the best points. Qdrant does not have it.
    rerank: Option<GivenRerank>,
}

/// How the best points are ordered again.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = QdrantRerank)]
#[serde(
    deny_unknown_fields,
    expecting = "`rerank` as an object, {\"model\": \"NAME\", \"candidates\": 50}"
)]
pub(crate) struct GivenRerank {
    /// The served name of the reranker.
    model: String,
    /// Best points that it scores. Default: 50.
    candidates: Option<usize>,
}

/// One query whose results another uses, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a prefetch that onnxd has, or a list of them")]
enum Prefetches {
    Several(Vec<Prefetch>),
    One(#[expect(dead_code, reason = "always refused")] Box<Prefetch>),
}

/// A query whose results another uses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prefetch {
    query: Option<Given>,
    filter: Option<GivenFilter>,
    #[expect(dead_code, reason = "the model of the text says what is compared")]
    using: Option<String>,
    #[expect(dead_code, reason = "accepted: at least as many candidates are ranked")]
    limit: Option<usize>,
    #[expect(dead_code, reason = "accepted, and changes no result")]
    params: Option<Value>,
}

/// What a query asks for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// The nearest points.
    Nearest {
        request: Box<SearchRequest>,
        /// The model that the text names.
        model: Option<String>,
        /// Choose points that are unlike one another.
        diversity: Option<Diversity>,
    },
    /// Points in the order of their ids.
    All { filter: Filter, limit: usize, offset: usize },
}

impl QueryRequest {
    /// A query of the older routes of Qdrant.
    pub(super) fn nearest(query: Given, using: Option<String>) -> Self {
        Self { query: Some(query), using, ..Self::default() }
    }

    /// Returns what the query asks for, and which parts of points. `name` is the name of the
    /// collection's vector; `version` made the query's vector, if it is known.
    ///
    /// # Errors
    /// It asks for something that onnxd does not have.
    pub(super) fn interpret(
        self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<(Asked, Parts), Fault> {
        if self.lookup_from.is_some() {
            return Err(wrong("`lookup_from` is not supported; query the other collection"));
        }
        let parts = Parts::new(self.with_payload, self.with_vector, (name, false));
        let (limit, offset) = (limit_of(self.limit, LIMIT)?, self.offset.unwrap_or(0));
        let mut filter = filter::convert(self.filter)?;
        let mut diversity = None;
        let (query, model, hybrid) = match (self.query, self.prefetch) {
            (None, None) if self.hybrid || self.rerank.is_some() => {
                return Err(wrong("`hybrid` and `rerank` need the text of a query"));
            }
            (None, None) => return Ok((Asked::All { filter, limit, offset }, parts)),
            (Some(mut query), None) => {
                check_name(self.using.as_deref(), name)?;
                diversity = take_diversity(&mut query, limit)?;
                let (query, model) = nearest(query, version)?;
                (query, model, self.hybrid)
            }
            (query, Some(prefetches)) => {
                let (text, fused) = fusion(query.as_ref(), prefetches)?;
                if !fused.is_empty() {
                    let of_prefetches = Condition::Nested(Box::new(fused));
                    filter.must.push(of_prefetches);
                }
                (SearchQuery::Text(text.text), text.model, true)
            }
        };
        let rerank = self.rerank.map(|GivenRerank { model, candidates }| Rerank {
            model,
            candidates: candidates.unwrap_or(CANDIDATES),
        });
        // Those of the version that is compared.
        let vector = parts.vector().then(String::new);
        let shown = Shown { text: false, payload: parts.payload(), vector };
        let request = SearchRequest {
            query,
            filter,
            limit,
            offset,
            score_threshold: self.score_threshold,
            hybrid,
            rerank,
            shown,
        };
        if diversity.is_some() && (hybrid || request.rerank.is_some()) {
            return Err(wrong("`mmr` cannot be combined with `hybrid` or `rerank`"));
        }
        Ok((Asked::Nearest { request: Box::new(request), model, diversity }, parts))
    }
}

/// Returns what to search for, and the model that its text names.
fn nearest(query: Given, version: Option<&str>) -> Result<(SearchQuery, Option<String>), Fault> {
    match query {
        Given::Id(id) => Ok((SearchQuery::Document(id.into_document()?), None)),
        Given::Object(mut object) if object.contains_key("nearest") => {
            let inner = object.remove("nearest").unwrap_or(Given::Other);
            match (object.keys().next(), inner) {
                (Some(other), _) => Err(wrong(format!(
                    "`{other:.100}` of a query is not supported; send {{\"nearest\": …}} only"
                ))),
                (None, Given::Object(object)) if object.contains_key("nearest") => {
                    Err(wrong("`nearest` within `nearest`"))
                }
                (None, inner) => nearest(inner, version),
            }
        }
        query => {
            let kind = match &query {
                Given::Object(object) => object.keys().next().cloned().unwrap_or_default(),
                _ => String::new(),
            };
            match query.into_embeddable()? {
                Some(Embeddable::Vector(components)) => {
                    Ok((SearchQuery::Vector(raw(components, version)), None))
                }
                Some(Embeddable::Text(GivenText { text, model })) => {
                    Ok((SearchQuery::Text(text), model))
                }
                None => Err(wrong(format!(
                    "queries with `{kind:.100}` are not supported; send a vector, an id or {{\"text\": …, \"model\": …}}"
                ))),
            }
        }
    }
}

/// Takes the parameters of maximal marginal relevance out of a query.
fn take_diversity(query: &mut Given, limit: usize) -> Result<Option<Diversity>, Fault> {
    let Given::Object(object) = query else { return Ok(None) };
    let mut parameters = match (object.contains_key("nearest"), object.remove("mmr")) {
        (true, Some(Given::Object(parameters))) => parameters,
        (_, None) => return Ok(None),
        _ => return Err(wrong("`mmr` must be an object beside `nearest`")),
    };
    let diversity = match parameters.remove("diversity") {
        None => 0.5,
        Some(Given::Number(number)) if (0.0..=1.0).contains(&number) => number,
        Some(Given::Id(PointId::Number(0))) => 0.0,
        Some(Given::Id(PointId::Number(1))) => 1.0,
        Some(_) => return Err(wrong("`diversity` of `mmr` must be a number from 0 to 1")),
    };
    let candidates = match parameters.remove("candidates_limit") {
        None => limit,
        Some(Given::Id(PointId::Number(number))) => usize::try_from(number).unwrap_or(usize::MAX),
        Some(_) => return Err(wrong("`candidates_limit` of `mmr` must be a number")),
    };
    if let Some(other) = parameters.keys().next() {
        return Err(wrong(format!("unknown field `{other:.100}` of `mmr`")));
    }
    #[expect(clippy::cast_possible_truncation, reason = "scores are single precision")]
    let diversity = diversity as f32;
    Ok(Some(Diversity { diversity, candidates: limit_of(Some(candidates.max(1)), limit)? }))
}

fn check_name(using: Option<&str>, name: Option<&str>) -> Result<(), Fault> {
    match using {
        Some(using) if using != name.unwrap_or_default() => Err(wrong(format!(
            "no vector is named `{using:.100}`; the collection's is `{}`",
            name.unwrap_or_default()
        ))),
        _ => Ok(()),
    }
}

/// Reads the one fusion that onnxd has: of the vector and the words of the same text, by reciprocal
/// rank. Returns the text and the filter.
fn fusion(query: Option<&Given>, prefetches: Prefetches) -> Result<(GivenText, Filter), Fault> {
    let unsupported = || {
        wrong(
            "of `prefetch`, only the fusion \"rrf\" of a text for the collection's model and the same text for `Qdrant/bm25` is supported, with equal filters; or send the text as the query and set `hybrid`: true",
        )
    };
    let is_rrf = match query {
        Some(Given::Object(object)) => {
            let kind = object.get("fusion");
            object.len() == 1 && kind == Some(&Given::Id(PointId::Text("rrf".to_owned())))
        }
        _ => false,
    };
    let Prefetches::Several(prefetches) = prefetches else { return Err(unsupported()) };
    let two: [Prefetch; 2] = prefetches.try_into().map_err(|_| unsupported())?;
    if !is_rrf {
        return Err(unsupported());
    }
    let read = |prefetch: Prefetch| match nearest(prefetch.query.ok_or_else(unsupported)?, None)? {
        (SearchQuery::Text(text), model) => {
            Ok((GivenText { text, model }, filter::convert(prefetch.filter)?))
        }
        _ => Err(unsupported()),
    };
    let is_words = |text: &GivenText| {
        text.model.as_deref().is_some_and(|model| model.eq_ignore_ascii_case(WORDS))
    };
    let [one, other] = two;
    let ((one, filter), (other, other_filter)) = (read(one)?, read(other)?);
    if filter != other_filter || one.text != other.text || is_words(&one) == is_words(&other) {
        return Err(unsupported());
    }
    Ok((if is_words(&one) { other } else { one }, filter))
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
