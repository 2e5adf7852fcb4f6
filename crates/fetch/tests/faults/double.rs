//! A web server for tests: answers as it is told, breaks off in the middle, and records requests.

use std::{
    collections::BTreeMap,
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Asked {
    /// Returns a header, or an empty text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Returns the first byte of the range that was asked for.
    pub(crate) fn start(&self) -> usize {
        let range = self.header("range").trim_start_matches("bytes=").trim_end_matches('-');
        range.parse().unwrap_or(0)
    }
}

/// How an answer goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection closes after this many bytes.
    Truncate(usize),
    /// No byte follows these, while the connection stays open.
    Stall(usize),
    /// A byte comes in each of these intervals.
    Trickle(Duration),
    /// A byte of an endless header comes in each of these intervals.
    TrickleHead(Duration),
    /// The body follows again and again as chunks of one endless body.
    Endless,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    fault: Option<Fault>,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into(), fault: None }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::ok("") }
    }

    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::status(302).header("Location", to)
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn fault(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// Answers a range with 206, or the whole with 200 if the validator is stale.
    pub(crate) fn of_file(asked: &Asked, body: &[u8], etag: &str) -> Self {
        let start = asked.start();
        let is_current = asked.header("if-range").is_empty() || asked.header("if-range") == etag;
        let whole = Self::ok(body).header("ETag", etag);
        if start == 0 || !is_current {
            return whole;
        }
        let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
        Self { status: 206, body: body[start..].to_vec(), ..whole }.header("Content-Range", range)
    }
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A server. Its threads end with the test's process.
pub(crate) struct Double {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    scheme: &'static str,
}

impl Double {
    /// Starts a server.
    pub(crate) fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::over(None, handler)
    }

    /// Starts a server with TLS.
    pub(crate) fn start_tls(
        tls: ServerConfig,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::over(Some(Arc::new(tls)), handler)
    }

    fn over(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (record, handler): (_, Arc<Handler>) = (Arc::clone(&asked), Arc::new(handler));
        let scheme = if tls.is_some() { "https" } else { "http" };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (record, handler, tls) =
                    (Arc::clone(&record), Arc::clone(&handler), tls.clone());
                thread::spawn(move || match tls {
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        serve(StreamOwned::new(connection, stream), &record, &*handler);
                    }
                    None => serve(stream, &record, &*handler),
                });
            }
        });
        Self { address, asked, scheme }
    }

    /// Returns a URL below this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Returns the address without a scheme.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Takes the requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// Takes the requests so far, as `METHOD PATH`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }
}

/// Answers the requests of a connection until it breaks.
fn serve(stream: impl Read + Write, record: &Mutex<Vec<Asked>>, handler: &Handler) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read(&mut stream) {
        record.lock().unwrap().push(asked.clone());
        let reply = handler(&asked);
        if write(stream.get_mut(), &asked, &reply).is_err() || reply.fault.is_some() {
            return;
        }
    }
}

fn read(stream: &mut impl std::io::BufRead) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Asked { method, path, headers })
}

fn write(stream: &mut impl Write, asked: &Asked, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Test\r\n", reply.status);
    let states_length = reply.fault == Some(Fault::Endless)
        || reply.headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
        });
    if !states_length {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    if reply.fault == Some(Fault::Endless) {
        head.push_str("Transfer-Encoding: chunked\r\n");
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(Fault::TrickleHead(interval)) = reply.fault {
        stream.write_all(format!("{head}X-Endless: ").as_bytes())?;
        return trickle(stream, std::iter::repeat(&b'x'), interval);
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method == "HEAD" || reply.status == 304 {
        return stream.flush();
    }
    match reply.fault {
        None => stream.write_all(&reply.body)?,
        Some(Fault::Truncate(bytes)) => stream.write_all(&reply.body[..bytes])?,
        Some(Fault::Stall(bytes)) => {
            stream.write_all(&reply.body[..bytes])?;
            stream.flush()?;
            thread::sleep(Duration::from_secs(60));
        }
        Some(Fault::Trickle(interval)) => trickle(stream, reply.body.iter(), interval)?,
        Some(Fault::Endless) => {
            let length = format!("{:x}\r\n", reply.body.len());
            let chunk = [length.as_bytes(), &reply.body, b"\r\n"].concat();
            loop {
                stream.write_all(&chunk)?;
            }
        }
        Some(Fault::TrickleHead(_)) => {}
    }
    stream.flush()
}

fn trickle<'a>(
    stream: &mut impl Write,
    bytes: impl Iterator<Item = &'a u8>,
    interval: Duration,
) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        stream.flush()?;
        thread::sleep(interval);
    }
    Ok(())
}

/// Returns an address of this machine on which nothing listens.
pub(crate) fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
