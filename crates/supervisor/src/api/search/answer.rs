//! What all routes of search share: errors of the service, and the headers of an answer.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode},
};
use onnxd_engine::ErrorKind;
use onnxd_proto::search::IndexErrorKind;
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
            IndexErrorKind::Storage | IndexErrorKind::Unavailable => {
                Class::Engine(ErrorKind::Unavailable)
            }
        };
        Self::new(class, error.message)
    }
}

/// Adds the time of each part of searches to a response.
pub(crate) fn add_times(response: &mut Response<Body>, times: Times) {
    let Times { embed, search, rerank } = times;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let mut text = format!("embed;dur={:.3}, search;dur={:.3}", millis(embed), millis(search));
    if !rerank.is_zero() {
        text.push_str(&format!(", rerank;dur={:.3}", millis(rerank)));
    }
    // Digits and letters only.
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert("server-timing", value);
    }
}

/// Returns the longest times of several searches, which ran at once.
pub(crate) fn longest(found: &[Found]) -> Times {
    found.iter().fold(Times::default(), |longest, found| Times {
        embed: longest.embed.max(found.times.embed),
        search: longest.search.max(found.times.search),
        rerank: longest.rerank.max(found.times.rerank),
    })
}
