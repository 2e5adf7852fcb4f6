//! What stands before the routes: who may ask (API keys), from which web pages (CORS), and over
//! what (TLS). Put together here for the server that starts and for SIGHUP; each of them has a
//! file of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, Response, header},
    middleware::{self, Next},
};

use crate::transport::{
    bodies::{BODY_BYTES_MAX, discard_later},
    cors::{self, Origin},
    error::{Shapes, TransportError, shape_of},
    keys::Keys,
    tls::{Tls, TlsFiles},
};
use onnxd_proto::exit::Failure;

/// Paths that probes ask for, and probes have no key.
const OPEN: [&str; 5] = ["/health", "/", "/ping", "/v2/health/live", "/v2/health/ready"];

/// The part of the configuration that belongs here.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeConfig {
    /// Where the keys are; without it nobody needs one.
    pub api_key_file: Option<PathBuf>,
    /// Whose web pages may call; nobody's without any.
    pub origins: Vec<Origin>,
    /// Where the certificate is; without it HTTP is served in the clear.
    pub tls: Option<TlsFiles>,
}

/// The origins that are given.
///
/// # Errors
/// The first that is none.
pub(crate) fn origins(given: &[String]) -> Result<Vec<Origin>, Failure> {
    let origin = |text: &String| {
        text.parse().map_err(|error| {
            Failure::configuration(format!("--cors-allow-origin {text:?}: {error}"))
        })
    };
    given.iter().map(origin).collect()
}

/// A certificate and its key.
///
/// # Errors
/// One is given without the other, and of no use.
pub(crate) fn tls_files(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<TlsFiles>, Failure> {
    let alone = |given: &str, path: &Path, missing: &str| {
        let message = format!("{given} {} needs {missing} FILE, too", path.display());
        Err(Failure::configuration(message))
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (Some(certificate), None) => alone("--tls-cert", &certificate, "--tls-key"),
        (None, Some(key)) => alone("--tls-key", &key, "--tls-cert"),
        (None, None) => Ok(None),
    }
}

/// What stands before the routes.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    origins: Vec<Origin>,
    api_key_file: PathBuf,
    /// Who may ask; everybody without.
    pub keys: Option<Arc<Keys>>,
    /// What listeners shake hands with; they serve in the clear without.
    pub tls: Option<Arc<Tls>>,
}

impl Edge {
    /// Nothing: everybody may ask, in the clear.
    pub(crate) fn open() -> Self {
        Self { origins: Vec::new(), api_key_file: PathBuf::new(), keys: None, tls: None }
    }

    /// Reads the files that are named.
    ///
    /// # Errors
    /// One cannot be used.
    pub(crate) fn load(config: &EdgeConfig) -> Result<Self, Failure> {
        let api_key_file = config.api_key_file.clone().unwrap_or_default();
        let keys = match &config.api_key_file {
            Some(file) => Some(Keys::load(file.clone()).map_err(|error| {
                Failure::configuration(format!("--api-key-file {}: {error}", file.display()))
            })?),
            None => None,
        };
        let tls = match &config.tls {
            Some(files) => Some(
                Tls::load(files.clone())
                    .map_err(|error| Failure::configuration(error.to_string()))?,
            ),
            None => None,
        };
        Ok(Self {
            origins: config.origins.clone(),
            api_key_file,
            keys: keys.map(Arc::new),
            tls: tls.map(Arc::new),
        })
    }

    /// Reads the files again, and says of each that cannot be used why; what it held before stays
    /// then.
    pub(crate) async fn reload(&self) -> Vec<String> {
        let edge = self.clone();
        // Files may be on a file system that hangs, and requests must not wait for that.
        let read = tokio::task::spawn_blocking(move || edge.reload_now());
        read.await.unwrap_or_else(|error| vec![format!("reading files again: {error}")])
    }

    fn reload_now(&self) -> Vec<String> {
        let file = self.api_key_file.display();
        let keys = self.keys.as_ref().and_then(|keys| keys.reload().err());
        let keys = keys.map(|error| format!("--api-key-file {file}: {error}"));
        let tls = self.tls.as_ref().and_then(|tls| tls.reload().err());
        let refused: Vec<String> =
            keys.into_iter().chain(tls.map(|error| error.to_string())).collect();
        for reason in &refused {
            tracing::error!("a reload was refused, what was there before stays: {reason}");
        }
        refused
    }

    /// The routes behind what stands before them. Preflights are answered first: browsers send
    /// them without a key.
    pub(crate) fn around(&self, router: Router, shapes: &Arc<dyn Shapes>) -> Router {
        let state = |keys: &Arc<Keys>| (Arc::clone(keys), Arc::clone(shapes));
        let router = match &self.keys {
            Some(keys) => router.layer(middleware::from_fn_with_state(state(keys), check)),
            None => router,
        };
        if self.origins.is_empty() { router } else { router.layer(cors::layer(&self.origins)) }
    }
}

/// Lets a request through that shows a key or needs none; its body has not been read.
async fn check(
    State((keys, shapes)): State<(Arc<Keys>, Arc<dyn Shapes>)>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let probe = matches!(*request.method(), Method::GET | Method::HEAD);
    if (probe && OPEN.contains(&request.uri().path())) || keys.allow(request.headers()) {
        return next.run(request).await;
    }
    let mut response = shape_of(&shapes, &request).render(TransportError::KeyNeeded);
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    if !hyper::body::Body::is_end_stream(request.body()) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        // Who waits to be told to send the body is not told so.
        if !request.headers().contains_key(header::EXPECT) {
            discard_later(request.into_body(), BODY_BYTES_MAX);
        }
    }
    response
}
