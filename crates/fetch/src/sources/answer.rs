//! Requests and answers as all kinds of sources need them.

use http::{
    StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
        IF_RANGE, LAST_MODIFIED, RANGE,
    },
};
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    client::{Body, Request, Response},
    digest::Digest,
    environment::Environment,
    part::Offset,
};

/// Maximum bytes of an answer about files.
const ANSWER_BYTES_MAX: u64 = 32 << 20;

/// Headers that identify a version of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validators {
    pub(super) etag: Option<String>,
    last_modified: Option<String>,
}

/// An open file.
pub(crate) struct Opened {
    /// Offset of the first byte of the body: 0 if the server ignored the range.
    pub(crate) start: u64,
    /// Length of the whole file, if the server states it.
    pub(crate) total: Option<u64>,
    /// Identifies these bytes, to resume later.
    pub(crate) validator: Option<String>,
    /// The digest that the answer states.
    pub(crate) digest: Option<Digest>,
    pub(crate) body: Body,
}

/// Percent-encodes a path for a URL, except for its slashes.
pub(super) fn encoded(path: &str) -> String {
    path.split('/').map(part_encoded).collect::<Vec<_>>().join("/")
}

/// Percent-encodes one part of a path, or the value of a query.
pub(super) fn part_encoded(part: &str) -> String {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(part, PLAIN).to_string()
}

/// Returns the address in a variable, or a default.
pub(super) fn endpoint(
    environment: &Environment,
    variable: &str,
    default: &str,
) -> Result<Url, FetchError> {
    let text = environment.get(variable).unwrap_or(default).trim_end_matches('/');
    let parsed = Url::parse(&format!("{text}/")).ok();
    let is_valid =
        |url: &Url| matches!(url.scheme(), "http" | "https") && url.username().is_empty();
    parsed.filter(is_valid).ok_or_else(|| {
        // The value may contain a password.
        let message = format!("{variable}: expected an http or https URL without user or password");
        FetchErrorKind::Configuration.because(message)
    })
}

/// Parses a JSON answer.
pub(super) async fn json<T: DeserializeOwned>(response: Response) -> Result<T, FetchError> {
    let from = response.url;
    let bytes = response.body.all(ANSWER_BYTES_MAX).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| FetchErrorKind::Malformed.because(format!("{from}: {error}")))
}

impl Validators {
    /// Returns validators that consist of an ETag.
    pub(super) fn of_etag(etag: Option<String>) -> Self {
        Self { etag, last_modified: None }
    }

    /// Returns the validators of a response.
    pub(crate) fn of(response: &Response) -> Self {
        let header = |name| response.header(name).map(str::to_owned);
        Self { etag: header(ETAG), last_modified: header(LAST_MODIFIED) }
    }

    /// Makes a request conditional.
    pub(crate) fn apply(&self, request: Request) -> Request {
        match (&self.etag, &self.last_modified) {
            (Some(etag), _) => request.header(IF_NONE_MATCH, etag),
            (None, Some(date)) => request.header(IF_MODIFIED_SINCE, date),
            (None, None) => request,
        }
    }

    /// Returns the validator for a range: a strong ETag, or a date.
    pub(super) fn strong(&self) -> Option<String> {
        let strong = self.etag.as_ref().filter(|etag| !etag.starts_with("W/"));
        strong.or(self.last_modified.as_ref()).cloned()
    }
}

/// Asks for the bytes from an offset.
pub(super) fn ranged(request: Request, from: &Offset) -> Request {
    if from.bytes == 0 {
        return request;
    }
    let request = request.header(RANGE, &format!("bytes={}-", from.bytes));
    match &from.validator {
        Some(validator) => request.header(IF_RANGE, validator),
        None => request,
    }
}

/// Interprets a successful answer to a request for a file.
pub(super) fn opened(response: Response, from: &Offset) -> Result<Opened, FetchError> {
    let malformed = |reason: &str| {
        Err(FetchErrorKind::Malformed.because(format!("{}: {reason}", response.url)))
    };
    let encoding = response.header(CONTENT_ENCODING).unwrap_or("identity");
    if !encoding.eq_ignore_ascii_case("identity") {
        return malformed("the server compresses files though asked not to");
    }
    let length = response.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
    let (start, total) = match response.status {
        StatusCode::PARTIAL_CONTENT => {
            match response.header(CONTENT_RANGE).and_then(content_range) {
                Some((start, total)) if start == from.bytes => (start, total),
                _ => return malformed("the server sent another range than it was asked for"),
            }
        }
        _ => (0, length),
    };
    let validator = Validators::of(&response).strong();
    Ok(Opened { start, total, validator, digest: None, body: response.body })
}

/// Parses `bytes START-END/TOTAL`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    let total: Option<u64> = total.parse().ok();
    // A range up to less than the end would be taken for the whole file.
    let is_rest = total.is_none_or(|total| end.checked_add(1) == Some(total));
    is_rest.then_some((start, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_range_up_to_the_end_is_accepted() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in ["bytes 5-8/10", "bytes */10", "5-9/10", "bytes -9/10", "bytes a-9/10"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn a_weak_etag_resumes_nothing() {
        let of = |etag: &str, date: Option<&str>| Validators {
            etag: Some(etag.to_owned()),
            last_modified: date.map(str::to_owned),
        };
        assert_eq!(of("\"a\"", None).strong().as_deref(), Some("\"a\""));
        assert_eq!(of("W/\"a\"", None).strong(), None);
        assert_eq!(of("W/\"a\"", Some("date")).strong().as_deref(), Some("date"));
    }
}
