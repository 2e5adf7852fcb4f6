//! What all routes of search share: errors of the service, and the headers of an answer.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode},
};
use onnxd_engine::ErrorKind;
use onnxd_proto::search::{IndexErrorKind, Source};
use onnxd_search::{Found, SearchError, Times};

use crate::api::error::{Class, Fault};

impl From<SearchError> for Fault {
    fn from(error: SearchError) -> Self {
        let error = match error {
            SearchError::Engine(error) => return error.into(),
            SearchError::Index(error) => error,
        };
        let class = match error.kind {
            IndexErrorKind::NotFound => Class::Engine(ErrorKind::NotFound),
            IndexErrorKind::Exists | IndexErrorKind::Version => {
                Class::Transport(StatusCode::CONFLICT)
            }
            IndexErrorKind::Invalid => Class::INVALID,
            IndexErrorKind::Full => Class::Transport(StatusCode::INSUFFICIENT_STORAGE),
            IndexErrorKind::Storage
            | IndexErrorKind::Damaged
            | IndexErrorKind::Changed
            | IndexErrorKind::Unavailable => Class::Engine(ErrorKind::Unavailable),
        };
        Self::new(class, error.message)
    }
}

/// Returns where the time of searches went, for [`add_timing`]: the longest times of several, which ran
/// at once. A search that followed a graph says so, since it may miss documents.
pub(crate) fn server_timing(found: &[Found]) -> String {
    let longest = |part: fn(&Times) -> Duration| {
        let times = found.iter().map(|found| part(&found.times));
        times.max().unwrap_or_default()
    };
    let millis = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
    let is_graph = found.iter().any(|found| found.source == Source::Graph);
    let mut text = format!(
        "embed;dur={}, search;dur={}{}, index;dur={}",
        millis(longest(|times| times.embed)),
        millis(longest(|times| times.search)),
        if is_graph { ";desc=graph" } else { "" },
        millis(longest(|times| times.index)),
    );
    let rerank = longest(|times| times.rerank);
    if !rerank.is_zero() {
        text.push_str(&format!(", rerank;dur={}", millis(rerank)));
    }
    text
}

/// Adds the times of searches to a response.
pub(crate) fn add_timing(response: &mut Response<Body>, timing: &str) {
    // Never fails: plain ASCII.
    if let Ok(value) = HeaderValue::from_str(timing) {
        response.headers_mut().insert("server-timing", value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_times_and_a_graph_are_shown() {
        let found = |embed, index, source| {
            let millis = Duration::from_millis;
            let times = Times { embed: millis(embed), index: millis(index), ..Times::default() };
            Found { hits: Vec::new(), version: "v".into(), origin: None, times, source }
        };
        let exact = [found(2, 1, Source::Exact), found(1, 3, Source::Exact)];
        assert_eq!(server_timing(&exact), "embed;dur=2.000, search;dur=0.000, index;dur=3.000");
        let mut mixed = [found(1, 1, Source::Exact), found(1, 1, Source::Graph)];
        mixed[0].times.rerank = Duration::from_micros(1_500);
        assert_eq!(
            server_timing(&mixed),
            "embed;dur=1.000, search;dur=0.000;desc=graph, index;dur=1.000, rerank;dur=1.500"
        );
    }
}
