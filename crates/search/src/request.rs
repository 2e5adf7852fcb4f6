//! What a search asks for, and what it finds. Called by [`crate::searches`] and
//! [`crate::reranking`].

use std::{fmt::Display, time::Duration};

use onnxd_engine::engine::Origin;
use onnxd_proto::search::{DocumentId, Filter, Hit, IndexErrorKind, Shown, Source};

use crate::{documents::RawVector, error::SearchError};

/// How often a request is answered again because a commit overtook it.
pub(crate) const ATTEMPTS_MAX: u32 = 10;

/// What to search for.
#[derive(Clone, Debug)]
pub enum SearchQuery {
    /// Documents like this text.
    Text(String),
    /// Documents near a vector that the client got from this server.
    Vector(RawVector),
    /// Documents like this one, which is left out.
    Document(DocumentId),
}

/// A search in one collection.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// What to search for.
    pub query: SearchQuery,
    /// Documents that do not satisfy it are not found.
    pub filter: Filter,
    /// Documents to return.
    pub limit: usize,
    /// Documents to skip.
    pub offset: usize,
    /// Leaves out documents with a lower score.
    pub score_threshold: Option<f32>,
    /// Also rank by full text, and combine both ranks. Needs the query's text.
    pub hybrid: bool,
    /// Let a reranker order the best documents.
    pub rerank: Option<Rerank>,
    /// Which parts of the documents are returned. Vectors are those of the version that is compared,
    /// whichever is named.
    pub shown: Shown,
}

/// How the best documents are ordered again.
#[derive(Clone, Debug)]
pub struct Rerank {
    /// The served name of the reranker.
    pub model: String,
    /// How many of the best documents it scores.
    pub candidates: usize,
}

/// The result of a search.
#[derive(Clone, Debug)]
pub struct Found {
    /// The documents, the best first.
    pub hits: Vec<Hit>,
    /// The version whose vectors were compared.
    pub version: String,
    /// Where the query's vector comes from, if it was embedded.
    pub origin: Option<Origin>,
    /// Where the time went.
    pub times: Times,
    /// Whether every vector was compared, or a graph was followed, which may miss some.
    pub source: Source,
}

/// Where the time of a search went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Until the query was embedded, together with the others of its request.
    pub embed: Duration,
    /// Until the index answered.
    pub search: Duration,
    /// What the index needed of that, from its start on the request.
    pub index: Duration,
    /// Until the reranker answered; zero without one.
    pub rerank: Duration,
}

impl SearchRequest {
    /// Returns the text of the query, unless it is a vector.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.query {
            SearchQuery::Text(text) => Some(text),
            SearchQuery::Vector(_) | SearchQuery::Document(_) => None,
        }
    }

    /// Checks that what is asked for can be combined.
    ///
    /// # Errors
    /// It needs a text, and has no text; or a reranker would have nothing to order.
    pub(crate) fn check(&self) -> Result<(), SearchError> {
        if self.text().is_none() && (self.hybrid || self.rerank.is_some()) {
            let message = "hybrid search and reranking need the text of the query, not its vector";
            return Err(SearchError::invalid(message));
        }
        if self.rerank.as_ref().is_some_and(|rerank| rerank.candidates == 0) {
            let message = "`rerank.candidates` is 0, so the reranker would have nothing to order; leave it out, or send at least 1";
            return Err(SearchError::invalid(message));
        }
        Ok(())
    }
}

/// Says that a model was updated again and again.
pub(crate) fn outdated(model: impl Display) -> SearchError {
    let message =
        format!("model `{model}` was updated {ATTEMPTS_MAX} times during this search; try again");
    SearchError::Index(IndexErrorKind::Storage.because(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_ordered_is_refused() {
        let check = |query, candidates| {
            let request = SearchRequest {
                query,
                filter: Filter::default(),
                limit: 10,
                offset: 0,
                score_threshold: None,
                hybrid: false,
                rerank: Some(Rerank { model: "r".into(), candidates }),
                shown: Shown::default(),
            };
            request.check().map_err(|error| error.to_string())
        };
        let text = || SearchQuery::Text("a".into());
        assert_eq!(check(text(), 1), Ok(()));
        assert!(check(text(), 0).unwrap_err().starts_with("`rerank.candidates` is 0"));
        let id = SearchQuery::Document(DocumentId::Number(1));
        assert!(check(id, 1).unwrap_err().contains("need the text"));
    }
}
