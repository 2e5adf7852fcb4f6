//! A collector of OpenTelemetry traces. Takes, refuses or ignores requests, and keeps them.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;

/// The collector's answer to each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// 200.
    Take,
    /// This status.
    Refuse(u16),
    /// No answer.
    Hang,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// Whether it was answered with 200.
    pub taken: bool,
}

/// A span of a request in JSON.
#[derive(Clone, Debug)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty at the root.
    pub parent: String,
    pub name: String,
    pub is_server: bool,
    /// Nanoseconds since the Unix epoch.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    pub error: Option<String>,
}

/// A collector, which runs until the process ends.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    behavior: Mutex<Behavior>,
    posts: Mutex<Vec<Post>>,
}

impl Collector {
    /// Starts a collector.
    ///
    /// # Panics
    /// Panics if no port is free.
    pub fn start(behavior: Behavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared { behavior: Mutex::new(behavior), posts: Mutex::default() };
        let shared = Arc::new(shared);
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                // A client may close its connection at any time.
                thread::spawn(move || drop(shared.serve(&stream)));
            }
        });
        Self { address, shared }
    }

    /// Returns the URL of the collector.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers differently from now on.
    ///
    /// # Panics
    /// Panics if a connection's thread panicked.
    pub fn behave(&self, behavior: Behavior) {
        *self.shared.behavior.lock().unwrap() = behavior;
    }

    /// Returns the requests so far.
    ///
    /// # Panics
    /// Panics if a connection's thread panicked.
    pub fn posts(&self) -> Vec<Post> {
        self.shared.posts.lock().unwrap().clone()
    }

    /// Returns the spans that were taken so far, from requests in JSON.
    ///
    /// # Panics
    /// Panics if a request is not OTLP in JSON.
    pub fn spans(&self) -> Vec<Span> {
        let taken = self.posts().into_iter().filter(|post| post.taken);
        let bodies = taken.map(|post| serde_json::from_slice::<Value>(&post.body).unwrap());
        bodies.flat_map(|body| spans(&body)).collect()
    }

    /// Waits until a span satisfies a condition, and returns all spans of its trace, root first.
    pub async fn trace(&self, about: &str, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        crate::eventually(about, Duration::from_secs(20), async || {
            let all = self.spans();
            let found = all.iter().find(|span| wanted(span))?;
            Some(all.iter().filter(|span| span.trace == found.trace).cloned().collect())
        })
        .await
    }
}

fn spans(body: &Value) -> Vec<Span> {
    let scope = &body["resourceSpans"][0]["scopeSpans"][0];
    scope["spans"].as_array().unwrap().iter().map(Span::read).collect()
}

impl Span {
    fn read(json: &Value) -> Self {
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| text(name).parse().unwrap();
        let attribute = |json: &Value| {
            let value = json["value"].as_object().unwrap().values().next().unwrap();
            let value = value.as_str().unwrap().to_owned();
            (json["key"].as_str().unwrap().to_owned(), value)
        };
        Self {
            trace: text("traceId"),
            id: text("spanId"),
            parent: text("parentSpanId"),
            name: text("name"),
            is_server: json["kind"] == 2,
            start: number("startTimeUnixNano"),
            end: number("endTimeUnixNano"),
            attributes: json["attributes"].as_array().unwrap().iter().map(attribute).collect(),
            error: (json["status"]["code"] == 2)
                .then(|| json["status"]["message"].as_str().unwrap().to_owned()),
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut headers = BTreeMap::new();
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let Some((name, value)) = header.trim().split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            let length = headers.get("content-length").and_then(|length| length.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body)?;
            let behavior = *self.behavior.lock().expect("no panic while it is held");
            let taken = behavior == Behavior::Take;
            let post = Post { path, headers, body, taken };
            self.posts.lock().expect("no panic while it is held").push(post);
            let status = match behavior {
                Behavior::Take => 200,
                Behavior::Refuse(status) => status,
                Behavior::Hang => {
                    // Until the client gives up.
                    return reader.read_line(&mut String::new()).map(drop);
                }
            };
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\n{{}}")?;
        }
    }
}
