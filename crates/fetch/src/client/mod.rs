//! The only HTTP client. It follows redirects, sends credentials only to the server they are for,
//! and applies limits of time and addresses. Used by all sources.

mod body;
mod connector;
mod policy;
pub(crate) mod redirects;
mod sent;
mod tls;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, DATE, LOCATION, PROXY_AUTHORIZATION,
        RETRY_AFTER, USER_AGENT,
    },
};
use http_body_util::Full;
use hyper_util::{
    client::{legacy, proxy::matcher::Matcher},
    rt::{TokioExecutor, TokioTimer},
};
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

pub(crate) use self::{body::Body, sent::SentSecrets};
use self::{body::cause, connector::Connector};
use crate::environment::Environment;

/// Maximum bytes of a response's status line and headers.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Maximum bytes of a URL's path in a message. A redirect may lead to any.
const PATH_BYTES_MAX: usize = 300;
/// Maximum characters of an error's body that a message quotes.
const REASON_CHARS_MAX: usize = 200;
/// Maximum time to connect to the credential service of the machine.
const METADATA_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits of time.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Maximum time to connect.
    pub connect: Duration,
    /// Maximum time without a byte.
    pub stall: Duration,
    /// A body must deliver [`Times::window_bytes`] in this time of waiting.
    pub window: Duration,
    /// See [`Times::window`].
    pub window_bytes: u64,
    /// Maximum time of a download, besides that for its bytes at [`Times::download_rate`].
    pub download: Duration,
    /// Bytes per second.
    pub download_rate: u64,
    /// Pause before a failed download is resumed, and between two listings.
    pub pause: Duration,
    /// Minimum age of the newest object in a listing that is a snapshot.
    pub settle: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            window: Duration::from_secs(60),
            window_bytes: 60 * 1024,
            download: Duration::from_secs(10 * 60),
            download_rate: 1 << 20,
            pause: Duration::from_secs(2),
            settle: Duration::from_secs(60),
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    /// Sent only to the URL's scheme, host and port.
    authorization: Option<HeaderValue>,
    body: Bytes,
    /// Whether a redirect to another server is an answer.
    stays: bool,
}

impl Request {
    /// Creates a GET request.
    pub(crate) fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    /// Creates a HEAD request.
    pub(crate) fn head(url: Url) -> Self {
        Self::new(Method::HEAD, url)
    }

    /// Creates a request.
    pub(crate) fn new(method: Method, url: Url) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self { method, url, headers, authorization: None, body, stays: false }
    }

    /// Adds a header. A value that no header can contain is left out.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Creates a POST request. Values of `headers` may be secret.
    pub(crate) fn post(url: Url, headers: HeaderMap, body: Bytes) -> Self {
        Self { headers, body, ..Self::new(Method::POST, url) }
    }

    /// Returns redirects to other servers instead of following them.
    pub(crate) fn stay(self) -> Self {
        Self { stays: true, ..self }
    }

    /// Adds credentials.
    pub(crate) fn authorization(mut self, value: Option<HeaderValue>) -> Self {
        self.authorization = value;
        self
    }
}

/// A response, after redirects.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Headers of the first redirect. The hub states digests there.
    pub(crate) redirected: Option<HeaderMap>,
    pub(crate) body: Body,
    /// The final URL, without query, for messages.
    pub(crate) url: String,
    sent: SentSecrets,
}

impl Response {
    /// Returns a header.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns this response if it is a success, or else an error that ends with `remedy`.
    pub(crate) async fn success(self, remedy: &str) -> Result<Self, FetchError> {
        match self.status.is_success() {
            true => Ok(self),
            false => Err(self.error(remedy).await),
        }
    }

    /// Returns the error that this response means. `remedy` is shown if credentials are missing.
    pub(crate) async fn error(self, remedy: &str) -> FetchError {
        let mut error = status_error(self.status, &self.headers, &self.url, remedy);
        let type_ = self.header(CONTENT_TYPE).unwrap_or_default();
        if type_.contains("json") || type_.starts_with("text/plain") {
            let text = self.body.all(HEAD_BYTES_MAX as u64).await.unwrap_or_default();
            // Redacted first: half a token is a secret, too.
            let text = self.sent.redact(&String::from_utf8_lossy(&text));
            let plain: String = text.chars().take(REASON_CHARS_MAX).collect();
            if !plain.trim().is_empty() {
                error.message = format!("{} (the server says: {})", error.message, plain.trim());
            }
        }
        error
    }
}

/// Returns the error that a status means. `remedy` is shown if credentials are missing.
pub(crate) fn status_error(
    status: StatusCode,
    headers: &HeaderMap,
    url: &str,
    remedy: &str,
) -> FetchError {
    let (kind, advice) = match status.as_u16() {
        401 | 403 => (FetchErrorKind::Unauthorized, remedy),
        407 => {
            (FetchErrorKind::Unauthorized, "write the proxy's user and password into HTTPS_PROXY")
        }
        404 | 410 => (FetchErrorKind::NotFound, ""),
        408 | 425 | 429 | 500..=599 => (FetchErrorKind::Unreachable, ""),
        412 => (FetchErrorKind::Incomplete, "the file changed"),
        _ => (FetchErrorKind::Malformed, "unexpected answer"),
    };
    let mut message = format!("{} from {url}", status.to_string().trim_end());
    if !advice.is_empty() {
        message = format!("{message}: {advice}");
    }
    FetchError { kind, message, retry_after_seconds: retry_after(headers) }
}

/// Returns the pause in seconds that a server asks for. A date is compared with the server's own
/// clock.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(now).unwrap_or_default().as_secs())
}

/// The client. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    connector: Connector,
    times: Times,
    sent: SentSecrets,
}

impl Client {
    /// Creates a client with the proxies and CAs of `environment`. Reads files.
    ///
    /// # Errors
    /// Returns an error if a CA file is invalid.
    pub(crate) fn new(
        environment: &Environment,
        times: Times,
        allows_private: bool,
    ) -> Result<Self, FetchError> {
        let value = |names: &[&str]| environment.first(names).unwrap_or_default().to_owned();
        let proxies = Matcher::builder()
            .all(value(&["all_proxy", "ALL_PROXY"]))
            .http(value(&["http_proxy", "HTTP_PROXY"]))
            .https(value(&["https_proxy", "HTTPS_PROXY"]))
            .no(value(&["no_proxy", "NO_PROXY"]))
            .build();
        let connector = Connector {
            tls: TlsConnector::from(Arc::new(tls::configuration(environment)?)),
            proxies: Arc::new(proxies),
            allows_private,
            trusted: None,
            connect_timeout: times.connect,
        };
        Ok(Self::over(connector, times, SentSecrets::default()))
    }

    fn over(connector: Connector, times: Times, sent: SentSecrets) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new())
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector.clone());
        Self { http, connector, times, sent }
    }

    /// Allows a server that the administrator configured, even with a private address.
    pub(crate) fn trusting(self, server: &Url) -> Self {
        let host = server.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = server.port_or_known_default().unwrap_or_default();
        let connector = Connector { trusted: Some((host, port)), ..self.connector };
        Self::over(connector, self.times, self.sent)
    }

    /// Returns a client for the credential service of the machine, which is close or does not
    /// exist.
    pub(crate) fn for_metadata(&self) -> Self {
        let connect = METADATA_CONNECT_TIMEOUT.min(self.times.connect);
        let connector = Connector {
            allows_private: true,
            // A proxy would answer for its own machine.
            proxies: Arc::new(Matcher::builder().build()),
            connect_timeout: connect,
            ..self.connector.clone()
        };
        Self::over(connector, Times { connect, ..self.times }, self.sent.clone())
    }

    /// Returns the credentials that this client and its clones have sent.
    pub(crate) fn sent(&self) -> SentSecrets {
        self.sent.clone()
    }

    /// Returns the limits of time.
    pub(crate) fn times(&self) -> Times {
        self.times
    }

    /// Sends a request and follows redirects. Any status that is no redirect is a success.
    ///
    /// # Errors
    /// The server cannot be reached, or a redirect is not allowed.
    pub(crate) async fn send(&self, mut request: Request) -> Result<Response, FetchError> {
        let mut redirected = None;
        for _ in 0..=redirects::MAX {
            let mut response = self.send_once(&request).await?;
            if !redirects::is_redirect(response.status) {
                response.redirected = redirected;
                return Ok(response);
            }
            let location = response.header(LOCATION).unwrap_or_default();
            let next = redirects::follow(&request.url, location)?;
            tracing::debug!(from = response.url, to = shown(&next), "following redirect");
            if !redirects::is_same_server(&request.url, &next) {
                if request.stays {
                    return Ok(response);
                }
                request.authorization = None;
            }
            request.url = next;
            redirected.get_or_insert(response.headers);
        }
        let message = format!("{}: more than {} redirects", shown(&request.url), redirects::MAX);
        Err(FetchErrorKind::Forbidden.because(message))
    }

    /// Sends a request without following redirects.
    pub(crate) async fn send_once(&self, request: &Request) -> Result<Response, FetchError> {
        let url = shown(&request.url);
        let mut built = http::Request::builder()
            .method(request.method.clone())
            .uri(request.url.as_str())
            .body(Full::new(request.body.clone()))
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{url}: {error}")))?;
        let headers = built.headers_mut();
        headers.extend(request.headers.clone());
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("onnxd-fetch/", env!("CARGO_PKG_VERSION"))),
        );
        // Digests and ranges are of the plain bytes.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(authorization) = &request.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let response = self.exchange(built, &url).await?;
        let (head, body) = response.into_parts();
        Ok(Response {
            status: head.status,
            headers: head.headers,
            redirected: None,
            body: Body::new(body, url.clone(), self.times),
            url,
            sent: self.sent.clone(),
        })
    }

    /// Applies the limits to a body that [`Client::exchange`] returned.
    pub(crate) fn limited(&self, body: hyper::body::Incoming, url: &str) -> Body {
        Body::new(body, url.to_owned(), self.times)
    }

    /// Sends a request as it is, except for the proxy's credentials.
    pub(crate) async fn exchange(
        &self,
        mut request: http::Request<Full<Bytes>>,
        url: &str,
    ) -> Result<http::Response<hyper::body::Incoming>, FetchError> {
        if let Some(proxy) = self.connector.proxy(request.uri())
            && let Some(credentials) = proxy.basic_auth()
        {
            self.sent.add(credentials);
            // In a tunnel, the connector authenticates instead.
            if request.uri().scheme_str() == Some("http") {
                request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.clone());
            }
        }
        self.sent.record(request.headers());
        // Connecting has its own, shorter limit.
        let limit = self.times.connect + self.times.stall;
        let unreachable =
            |cause: String| FetchErrorKind::Unreachable.because(format!("{url}: {cause}"));
        let answer = timeout(limit, self.http.request(request)).await;
        let answer = answer
            .map_err(|_| unreachable(format!("no answer within {} s", limit.as_secs_f32())))?;
        answer.map_err(|error| match of_connector(&error) {
            Some(found) => FetchError { message: format!("{url}: {found}"), ..found.clone() },
            None => unreachable(cause(&error).to_string()),
        })
    }
}

/// Returns the connector's error inside another.
fn of_connector<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a FetchError> {
    error.downcast_ref().or_else(|| of_connector(error.source()?))
}

/// Returns a URL as messages show it: without query and user, which may be secrets.
pub(crate) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    // The URL parser has encoded all but ASCII.
    let (path, rest) = url.path().split_at_checked(PATH_BYTES_MAX).unwrap_or((url.path(), ""));
    let rest = if rest.is_empty() { "" } else { "…" };
    format!("{}://{}{port}{path}{rest}", url.scheme(), url.host_str().unwrap_or_default())
}
