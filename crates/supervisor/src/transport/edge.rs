//! Guards the routes with API keys, CORS and TLS, each in its own file. `serve` loads them at start and reloads them
//! on SIGHUP.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, Response, header},
    middleware::{self, Next},
};

use crate::transport::{
    access::AccessLog,
    bodies::{BODY_BYTES_MAX, discard_later},
    cors::{self, Origin},
    error::{Shapes, TransportError, shape_of},
    keys::Keys,
    tls::{Tls, TlsFiles},
};
use onnxd_proto::exit::Failure;

/// Idle time of connections by default: longer than that of common proxies.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Paths of health probes, which need no key.
const OPEN: [&str; 5] = ["/health", "/", "/ping", "/v2/health/live", "/v2/health/ready"];

/// The settings of the edge.
#[derive(Clone, Debug)]
pub(crate) struct EdgeConfig {
    /// Which requests are logged.
    pub access_log: AccessLog,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// File of API keys. `None`: requests need no key.
    pub api_key_file: Option<PathBuf>,
    /// Origins that browsers may send requests from.
    pub origins: Vec<Origin>,
    /// Certificate and key. `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// Parses the origins of `--cors-allow-origin`.
///
/// # Errors
/// The first invalid one.
pub(crate) fn origins(given: &[String]) -> Result<Vec<Origin>, Failure> {
    let origin = |text: &String| {
        text.parse().map_err(|error| {
            Failure::configuration(format!("--cors-allow-origin: {error}, got {text:?}"))
        })
    };
    given.iter().map(origin).collect()
}

/// Combines `--tls-cert` and `--tls-key`.
///
/// # Errors
/// One is given without the other.
pub(crate) fn tls_files(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<TlsFiles>, Failure> {
    let incomplete = |given: &str, missing: &str| {
        let message = format!("{given}: needs {missing} FILE");
        Err(Failure::configuration(message))
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (Some(_), None) => incomplete("--tls-cert", "--tls-key"),
        (None, Some(_)) => incomplete("--tls-key", "--tls-cert"),
        (None, None) => Ok(None),
    }
}

/// Loads the API keys, if there is a file of them.
///
/// # Errors
/// The file is unreadable or invalid.
pub(crate) fn load_keys(config: &EdgeConfig) -> Result<Option<Keys>, Failure> {
    let Some(file) = &config.api_key_file else { return Ok(None) };
    let keys = Keys::load(file.clone()).map_err(|error| {
        Failure::configuration(format!("--api-key-file: {}: {error}", file.display()))
    })?;
    Ok(Some(keys))
}

/// Loads the certificate and its key, if there is one.
///
/// # Errors
/// A file is unreadable or invalid.
pub(crate) fn load_tls(config: &EdgeConfig) -> Result<Option<Tls>, Failure> {
    let loaded = config.tls.clone().map(Tls::load).transpose();
    loaded.map_err(|error| Failure::configuration(error.to_string()))
}

/// API keys, origins and TLS in effect.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    /// Which requests are logged.
    pub access_log: AccessLog,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    origins: Vec<Origin>,
    api_key_file: PathBuf,
    /// Accepted keys. `None`: requests need no key.
    pub keys: Option<Arc<Keys>>,
    /// The certificate. `None`: plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

impl Edge {
    /// Returns an edge without keys, origins and TLS.
    pub(crate) fn open(access_log: AccessLog) -> Self {
        Self {
            access_log,
            idle_timeout: IDLE_TIMEOUT,
            origins: Vec::new(),
            api_key_file: PathBuf::new(),
            keys: None,
            tls: None,
        }
    }

    /// Returns an edge with these settings and what [`load_keys`] and [`load_tls`] return.
    pub(crate) fn new(config: EdgeConfig, keys: Option<Keys>, tls: Option<Tls>) -> Self {
        Self {
            access_log: config.access_log,
            idle_timeout: config.idle_timeout,
            origins: config.origins,
            api_key_file: config.api_key_file.unwrap_or_default(),
            keys: keys.map(Arc::new),
            tls: tls.map(Arc::new),
        }
    }

    /// Reloads all files. Returns an error for each invalid one, whose previous content stays in effect.
    pub(crate) async fn reload(&self) -> Vec<String> {
        let edge = self.clone();
        // A hanging file system must not block requests.
        let read = tokio::task::spawn_blocking(move || edge.reload_now());
        read.await.unwrap_or_else(|error| vec![format!("internal error: reloading files: {error}")])
    }

    fn reload_now(&self) -> Vec<String> {
        let file = self.api_key_file.display();
        let keys = self.keys.as_ref().and_then(|keys| keys.reload().err());
        let keys = keys.map(|error| format!("--api-key-file: {file}: {error}"));
        let tls = self.tls.as_ref().and_then(|tls| tls.reload().err());
        let refused: Vec<String> =
            keys.into_iter().chain(tls.map(|error| error.to_string())).collect();
        for reason in &refused {
            tracing::error!(reason, "reload refused, keeping the previous keys or certificate");
        }
        refused
    }

    /// Wraps the routes. Preflights are answered before keys are checked: browsers send them without one.
    pub(crate) fn around(&self, router: Router, shapes: &Arc<dyn Shapes>) -> Router {
        let state = |keys: &Arc<Keys>| (Arc::clone(keys), Arc::clone(shapes));
        let router = match &self.keys {
            Some(keys) => router.layer(middleware::from_fn_with_state(state(keys), check)),
            None => router,
        };
        if self.origins.is_empty() { router } else { router.layer(cors::layer(&self.origins)) }
    }
}

/// Passes on a request that presents a valid key or needs none. Does not read the body.
async fn check(
    State((keys, shapes)): State<(Arc<Keys>, Arc<dyn Shapes>)>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let probe = matches!(*request.method(), Method::GET | Method::HEAD);
    if (probe && OPEN.contains(&request.uri().path())) || keys.allow(request.headers()) {
        return next.run(request).await;
    }
    let mut response = shape_of(&shapes, &request).render(TransportError::Unauthorized);
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    if !hyper::body::Body::is_end_stream(request.body()) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        // A client that expects 100 Continue has not sent the body.
        if !request.headers().contains_key(header::EXPECT) {
            discard_later(request.into_body(), BODY_BYTES_MAX);
        }
    }
    response
}
