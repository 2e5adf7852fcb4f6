//! Opens connections: resolves a name, checks the addresses against [`policy`], connects to exactly
//! the checked address, directly or through a proxy, and starts TLS.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Uri};
use hyper_util::{
    client::{
        legacy::connect::{Connected, Connection},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::policy::is_private;

/// Maximum bytes of a proxy's answer to CONNECT.
const TUNNEL_HEAD_BYTES_MAX: usize = 8192;

/// A byte stream: TCP or TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open connection to a server or to a proxy.
pub(super) struct Open {
    stream: TokioIo<Box<dyn Stream>>,
    /// Whether requests name their server, because a proxy reads them.
    is_proxied: bool,
}

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) tls: TlsConnector,
    pub(super) proxies: Arc<Matcher>,
    pub(super) allows_private: bool,
    /// A host and port that may have a private address anyway.
    pub(super) trusted: Option<(String, u16)>,
    /// Maximum time to connect, including name resolution and TLS.
    pub(super) connect_timeout: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Open;
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<Open, FetchError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), FetchError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let limit = connector.connect_timeout;
            timeout(limit, connector.open(&uri)).await.unwrap_or_else(|_| {
                let host = uri.authority().map_or("", |authority| authority.as_str());
                let message = format!("{host}: no connection within {} s", limit.as_secs_f32());
                Err(FetchErrorKind::Unreachable.because(message))
            })
        })
    }
}

impl Connector {
    /// Returns the proxy for a URI, if one is configured.
    pub(super) fn proxy(&self, uri: &Uri) -> Option<Intercept> {
        self.proxies.intercept(uri)
    }

    async fn open(&self, uri: &Uri) -> Result<Open, FetchError> {
        let (host, port) = host_and_port(uri)?;
        let is_tls = uri.scheme_str() == Some("https");
        let (mut stream, is_proxied) = match self.proxy(uri) {
            Some(proxy) => {
                // The proxy resolves names, so only a literal address can be checked here.
                if let Ok(address) = host.parse() {
                    self.check(host, SocketAddr::new(address, port))?;
                }
                (self.open_proxy(&proxy, (host, port), is_tls).await?, !is_tls)
            }
            None => (self.connect(host, port, self.allows_private).await?, false),
        };
        if is_tls {
            stream = self.secure(host, stream).await?;
        }
        Ok(Open { stream: TokioIo::new(stream), is_proxied })
    }

    async fn open_proxy(
        &self,
        proxy: &Intercept,
        (host, port): (&str, u16),
        needs_tunnel: bool,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let uri = proxy.uri();
        let (proxy_host, proxy_port) = host_and_port(uri)?;
        // The administrator configured the proxy, so it may be anywhere.
        let mut stream = match uri.scheme_str() {
            Some("http") => self.connect(proxy_host, proxy_port, true).await?,
            Some("https") => {
                let stream = self.connect(proxy_host, proxy_port, true).await?;
                self.secure(proxy_host, stream).await?
            }
            _ => {
                let message = format!("proxy {proxy_host}: set HTTPS_PROXY to an http:// proxy");
                return Err(FetchErrorKind::Forbidden.because(message));
            }
        };
        if needs_tunnel {
            let proxy_name = format!("proxy {proxy_host}:{proxy_port}");
            let to = if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            };
            tunnel(&mut stream, &proxy_name, &to, proxy.basic_auth()).await?;
        }
        Ok(stream)
    }

    /// Connects to the first address that answers.
    async fn connect(
        &self,
        host: &str,
        port: u16,
        allows_private: bool,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let unreachable = |cause: String| FetchErrorKind::Unreachable.because(cause);
        let found = lookup_host((host, port)).await;
        let found =
            found.map_err(|error| unreachable(format!("failed to resolve {host}: {error}")))?;
        let addresses: Vec<SocketAddr> = found.collect();
        let mut error = unreachable(format!("failed to resolve {host}: no addresses"));
        let limit = self.connect_timeout / u32::try_from(addresses.len().clamp(1, 4)).unwrap_or(1);
        for address in addresses {
            if !allows_private && let Err(refused) = self.check(host, address) {
                error = refused;
                continue;
            }
            match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are small, and each waits for its answer.
                    let _ = stream.set_nodelay(true);
                    return Ok(Box::new(stream));
                }
                Ok(Err(cause)) => {
                    error =
                        unreachable(format!("failed to connect to {host} ({address}): {cause}"));
                }
                Err(_) => {
                    error =
                        unreachable(format!("failed to connect to {host} ({address}): no answer"));
                }
            }
        }
        Err(error)
    }

    fn check(&self, host: &str, address: SocketAddr) -> Result<(), FetchError> {
        let is_trusted =
            |(trusted, port): &(String, u16)| trusted == host && *port == address.port();
        if self.allows_private
            || self.trusted.as_ref().is_some_and(is_trusted)
            || !is_private(address.ip())
        {
            return Ok(());
        }
        Err(FetchErrorKind::Forbidden.because(format!(
            "{host} has the private address {}, which this source may not use; configure the source \
             in the server's configuration instead",
            address.ip()
        )))
    }

    async fn secure(
        &self,
        host: &str,
        stream: Box<dyn Stream>,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let invalid = |cause: String| {
            FetchErrorKind::Unreachable.because(format!("TLS with {host}: {cause}"))
        };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| invalid(error.to_string()))?;
        match self.tls.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(invalid(explain(&error))),
        }
    }
}

/// Returns the host, without the brackets of an IPv6 address, and the port.
fn host_and_port(uri: &Uri) -> Result<(&str, u16), FetchError> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() {
        return Err(FetchErrorKind::Malformed.because("the URL has no host"));
    }
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Ok((host, uri.port_u16().unwrap_or(default)))
}

/// Adds a remedy to a TLS error.
fn explain(error: &std::io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            format!("{error}; set SSL_CERT_FILE or ONNXD_SOURCE_CA_FILE to the server's CA")
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("{error}; check the port, or write http:// if the server has no TLS")
        }
        _ => error.to_string(),
    }
}

/// Asks a proxy for a tunnel.
async fn tunnel(
    stream: &mut Box<dyn Stream>,
    proxy: &str,
    to: &str,
    credentials: Option<&HeaderValue>,
) -> Result<(), FetchError> {
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(credentials) = credentials {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(credentials.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let broken = |error| FetchErrorKind::Unreachable.because(format!("{proxy}: {error}"));
    stream.write_all(&request).await.map_err(broken)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < TUNNEL_HEAD_BYTES_MAX {
        // Bytes behind the head belong to the server, so read one at a time.
        head.push(stream.read_u8().await.map_err(broken)?);
    }
    let text = String::from_utf8_lossy(&head);
    let status = text.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Ok(()),
        // tinyproxy answers a wrong password with 401.
        "401" | "407" => Err(FetchErrorKind::Unauthorized.because(format!(
            "{status} from {proxy}: write the user and password into HTTPS_PROXY"
        ))),
        "403" => Err(FetchErrorKind::Forbidden.because(format!("{proxy} does not allow {to}"))),
        // The rest of the line could repeat the credentials.
        _ => {
            let status = status.parse().unwrap_or(0_u16);
            let message = format!("{proxy}: no tunnel to {to}: the proxy answers {status}");
            Err(FetchErrorKind::Unreachable.because(message))
        }
    }
}

impl Connection for Open {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl hyper::rt::Read for Open {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Open {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
