//! Lets `object_store` send its requests with our client, and converts its errors.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    StatusCode,
    header::{DATE, RANGE},
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, SizeHint};
use object_store::{
    ClientConfigKey, ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use tokio::sync::mpsc;

use crate::client::{Body, Client, SentSecrets, status_error};

/// Chunks that wait for the reader of a body.
const CHUNKS_MAX: usize = 4;
/// Maximum bytes of an error's body.
const REASON_BYTES_MAX: u64 = 64 * 1024;
/// Advice for missing credentials.
const REMEDY: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or \
                      GOOGLE_APPLICATION_CREDENTIALS to credentials that may read the bucket; for a \
                      public bucket, set AWS_SKIP_SIGNATURE=true or GOOGLE_SKIP_SIGNATURE=true";

/// The clock of the server, which times in listings are of. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerClock(Arc<Mutex<Option<SystemTime>>>);

impl ServerClock {
    /// Returns the date of the last answer, or this machine's if the server states none.
    #[expect(clippy::disallowed_methods, reason = "compared with times that a server states")]
    pub(super) fn now(&self) -> SystemTime {
        let date = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        date.unwrap_or_else(SystemTime::now)
    }

    fn set(&self, headers: &http::HeaderMap) {
        let date =
            headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
    }
}

/// Creates clients for `object_store`.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client,
    clock: ServerClock,
}

impl Transport {
    /// Sends requests with this client, and sets the clock.
    pub(super) fn new(client: Client, clock: ServerClock) -> Self {
        Self { client, clock }
    }
}

impl HttpConnector for Transport {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // Only the credential services of machines and containers are asked without TLS.
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let clock = self.clock.clone();
        Ok(HttpClient::new(match allows_http.as_deref() {
            Some("true") => {
                Service { client: self.client.for_metadata(), clock, is_credentials: true }
            }
            _ => Service { client: self.client.clone(), clock, is_credentials: false },
        }))
    }
}

/// Sends requests for `object_store`.
#[derive(Debug)]
struct Service {
    client: Client,
    clock: ServerClock,
    /// Whether statuses have a meaning to the caller.
    is_credentials: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let url = head.uri.to_string();
        // The query may be a signature.
        let url = url.split('?').next().unwrap_or_default().to_owned();
        let has_range = head.headers.contains_key(RANGE);
        let is_listing = head.uri.query().is_some_and(|query| query.contains("list-type="));
        let request = http::Request::from_parts(head, Full::new(body));
        let response = self.client.exchange(request, &url).await;
        let response = response.map_err(|error| match self.is_credentials {
            true => {
                fatal(FetchErrorKind::Unauthorized.because(format!("no credentials: {REMEDY}")))
            }
            false => fatal(error),
        })?;
        let (head, body) = response.into_parts();
        self.clock.set(&head.headers);
        if has_range && head.status == StatusCode::OK {
            return Err(HttpError::new(HttpErrorKind::Unknown, RangeIgnored));
        }
        let mut body = self.client.limited(body, &url);
        // A missing object is for the caller to judge; a missing bucket is not.
        let is_told = matches!(head.status.as_u16(), 301 | 307 | 401 | 403 | 429 | 503)
            || is_listing && head.status == StatusCode::NOT_FOUND;
        if is_told && !self.is_credentials {
            return Err(fatal(refused(&head, &url, body, &self.client.sent()).await));
        }
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        tokio::spawn(async move {
            loop {
                let sent = match body.chunk().await {
                    Ok(None) => return,
                    Ok(Some(chunk)) => sender.send(Ok(chunk)).await,
                    Err(error) => sender.send(Err(fatal(error))).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(Chunks(receiver))))
    }
}

/// The server sent a whole object instead of a range.
#[derive(Debug)]
struct RangeIgnored;

impl fmt::Display for RangeIgnored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the server ignores ranges")
    }
}

impl Error for RangeIgnored {}

/// Returns whether the server sent a whole object instead of a range.
pub(super) fn is_range_ignored(error: &object_store::Error) -> bool {
    innermost(error).is::<RangeIgnored>()
}

/// Converts our errors for `object_store`, which must not retry: our download resumes.
fn fatal(error: FetchError) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

/// Returns the error for a status. Quotes only the code of an answer in XML, because the rest may
/// repeat what was signed.
async fn refused(
    head: &http::response::Parts,
    url: &str,
    body: Body,
    sent: &SentSecrets,
) -> FetchError {
    let (status, headers) = (head.status, &head.headers);
    let text = body.all(REASON_BYTES_MAX).await.unwrap_or_default();
    let text = sent.redact(&String::from_utf8_lossy(&text));
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map(|(code, _)| code.chars().take(80).collect::<String>());
    if matches!(status.as_u16(), 301 | 307) {
        let region = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
        let message =
            format!("{status} from {url}: the bucket is in another region; set AWS_REGION");
        let message = region.map(|region| format!("{message}={region}")).unwrap_or(message);
        return FetchErrorKind::Forbidden.because(message);
    }
    let mut error = status_error(status, headers, url, REMEDY);
    if let Some(code) = code {
        error.message = format!("{} (the server says: {code})", error.message);
    }
    error
}

/// A body whose chunks another task reads.
struct Chunks(mpsc::Receiver<Result<Bytes, HttpError>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Converts an error of `object_store`, which may contain one of ours.
pub(super) fn fetch_error(uri: &str, error: object_store::Error) -> FetchError {
    if let Some(ours) = ours(&error) {
        return FetchError { message: format!("{uri}: {}", ours.message), ..ours.clone() };
    }
    use object_store::Error as Store;
    let (kind, reason) = match &error {
        Store::NotFound { .. } => (FetchErrorKind::NotFound, "not found".to_owned()),
        Store::Precondition { .. } => (FetchErrorKind::Incomplete, "an object changed".to_owned()),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            (FetchErrorKind::Unauthorized, REMEDY.to_owned())
        }
        Store::InvalidPath { source } => (FetchErrorKind::Malformed, source.to_string()),
        // The innermost cause: outer ones quote URLs.
        _ => (FetchErrorKind::Unreachable, innermost(&error).to_string()),
    };
    // XML may repeat what was signed.
    let reason = reason.split('<').next().unwrap_or_default().trim_end_matches([' ', ':']);
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(400).collect();
    kind.because(format!("{uri}: {reason}"))
}

fn ours<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a FetchError> {
    error.downcast_ref().or_else(|| ours(error.source()?))
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    error.source().map_or(error, innermost)
}
