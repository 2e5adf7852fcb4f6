use std::future;

use axum::{body::Body, http::Response, routing::any};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};

use crate::transport::http2::*;
use crate::transport::slots::ConnectionSlots;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method: POST`, `:scheme: http`, `:path: /` in HPACK's static table.
const POST: &[u8] = &[0x83, 0x86, 0x84];

/// Frame types.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// Frame flags.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The setting MAX_CONCURRENT_STREAMS.
const STREAMS: u8 = 3;
/// Error codes.
const REFUSED: u8 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

fn no_call(_path: &str) -> bool {
    false
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the stream id of the nth call.
fn number(call: usize) -> u32 {
    u32::try_from(2 * call + 1).unwrap()
}

/// A client that sends raw frames to a server that never responds to a call.
struct Client {
    stream: DuplexStream,
    drain: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

impl Client {
    async fn new() -> Self {
        let mut client = Self::silent();
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        client
    }

    /// Returns a client that has sent nothing.
    fn silent() -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (drain, drained) = watch::channel(false);
        let silent = any(async || future::pending::<Response<Body>>().await);
        let router = Router::new().route("/", silent);
        let slot = Arc::new(ConnectionSlots::new(1).take().unwrap());
        let peer = [127, 0, 0, 1].into();
        let (metrics, may_idle, idle_timeout) = (Arc::default(), no_call as MayIdle, IDLE_TIMEOUT);
        let calls = Calls {
            router,
            rewrite: |_| None,
            peer,
            metrics: Arc::clone(&metrics),
            slot,
            may_idle,
            unread_bytes_max: UNREAD_BYTES_MAX,
            idle_timeout,
        };
        let watcher = GracefulShutdown::new().watcher();
        tokio::spawn(process(theirs, calls, watcher, drained));
        Self { stream: ours, drain, metrics }
    }

    /// Returns how many requests were counted as too large and as invalid.
    fn malformed(&self) -> Vec<u64> {
        self.metrics.requests_malformed_total.by_reason().map(|(_, count)| count).collect()
    }

    /// Reads until the server closes the connection. Answers pings if `pings`.
    async fn closed(&mut self, pings: bool) {
        while let Some(next) = self.next().await {
            if (next.kind, next.flags, pings) == (PING, 0, true) {
                let pong = frame(PING, ACK, 0, &next.payload);
                // The server may have closed the connection.
                let _ = self.stream.write_all(&pong).await;
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Returns the next frame, or `None` when the connection ends.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [high, middle, low, kind, flags, a, b, c, d] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes([a, b, c, d]), payload })
    }

    async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("a frame");
            if frame.kind == kind {
                return frame;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_above_the_limit_are_refused() {
    let mut client = Client::new().await;
    let settings = client.next_of(SETTINGS).await.payload;
    let (settings, []) = settings.as_chunks::<6>() else { panic!("{settings:?}") };
    let streams = settings.iter().find(|setting| setting[1] == STREAMS).unwrap();
    assert_eq!(streams[2..], STREAMS_MAX.to_be_bytes());
    for call in 0..=STREAMS_MAX as usize {
        client.send(&frame(HEADERS, END_HEADERS, number(call), POST)).await;
    }
    let refused = client.next_of(RESET).await;
    assert_eq!(refused.stream, number(STREAMS_MAX as usize));
    assert_eq!(refused.payload, [0, 0, 0, REFUSED]);
}

#[tokio::test(start_paused = true)]
async fn client_that_resets_every_call_is_disconnected() {
    let mut client = Client::new().await;
    let open_and_reset = |call| {
        let number = number(call);
        [frame(HEADERS, END_HEADERS, number, POST), frame(RESET, 0, number, &[0, 0, 0, 8])].concat()
    };
    client.send(&(0..RESETS_MAX * 2).flat_map(open_and_reset).collect::<Vec<_>>()).await;
    assert_eq!(client.next_of(GO_AWAY).await.payload[4..8], [0, 0, 0, ENHANCE_YOUR_CALM]);
}

#[tokio::test(start_paused = true)]
async fn dead_and_idle_clients_are_disconnected_in_time() {
    let mut client = Client::new().await;
    let start = Instant::now();
    client.next_of(PING).await;
    while client.next().await.is_some() {}
    let (ended, due) = (start.elapsed(), PING_INTERVAL + PING_TIMEOUT);
    assert!((due..due + PING_TIMEOUT).contains(&ended), "{ended:?}");
    let mut client = Client::new().await;
    let start = Instant::now();
    loop {
        let next = client.next().await.expect("a frame");
        match (next.kind, next.flags) {
            (PING, 0) => client.send(&frame(PING, ACK, 0, &next.payload)).await,
            (GO_AWAY, _) => break,
            _ => {}
        }
    }
    let idle = start.elapsed();
    assert!((IDLE_TIMEOUT..IDLE_TIMEOUT + PING_INTERVAL).contains(&idle), "{idle:?}");
}

/// Returns a block of headers for a request with this header.
fn block(name: &str, value: &str) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() >= 127);
    // An integer with a prefix of 7 bits (RFC 7541, 5.1).
    let (mut left, mut length) = (value.len() - 127, vec![127]);
    while left >= 128 {
        length.push(u8::try_from(left % 128).unwrap() | 128);
        left /= 128;
    }
    length.push(u8::try_from(left).unwrap());
    let name = [&[0, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    [POST, &name, &length, value.as_bytes()].concat()
}

#[tokio::test(start_paused = true)]
async fn malformed_calls_are_counted_once_by_reason() {
    let mut client = Client::new().await;
    let long = block("x", &"a".repeat(20_000));
    for call in [0, 1] {
        let ends = END_STREAM * u8::try_from(call).unwrap();
        client.send(&frame(HEADERS, ends, number(call), &long[..9000])).await;
        client.send(&frame(CONTINUATION, END_HEADERS, number(call), &long[9000..])).await;
    }
    assert_eq!(client.next_of(HEADERS).await.stream, 1);
    assert_eq!(client.next_of(HEADERS).await.stream, 3);
    assert_eq!(client.malformed(), [2, 0]);
    // A header of HTTP/1.1.
    let former = block("connection", &"a".repeat(127));
    client.send(&frame(HEADERS, END_HEADERS, number(2), &former)).await;
    loop {
        let reset = client.next_of(RESET).await;
        // h2 also resets the calls with 431.
        if reset.stream == number(2) {
            assert_eq!(reset.payload, [0, 0, 0, 1]);
            break;
        }
    }
    assert_eq!(client.malformed(), [2, 1]);
    // Data of no call is an error of the connection.
    client.send(&frame(DATA, 0, 0, b"x")).await;
    assert_eq!(client.next_of(GO_AWAY).await.payload[4..8], [0, 0, 0, 1]);
    client.closed(false).await;
    assert_eq!(client.malformed(), [2, 2]);

    let mut client = Client::silent();
    client.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    client.closed(false).await;
    assert_eq!(client.malformed(), [0, 1]);
    // A client that disconnects, or only cancels a call, sends nothing malformed.
    let mut client = Client::new().await;
    client.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.send(&frame(RESET, 0, 1, &[0, 0, 0, 8])).await;
    client.stream.shutdown().await.unwrap();
    client.closed(false).await;
    assert_eq!(client.malformed(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn clients_that_ignore_the_end_of_the_connection_are_disconnected() {
    // A client that never says that it speaks HTTP/2, one that answers no ping, and a live one.
    for (greets, pings) in [(false, false), (true, false), (true, true)] {
        let begin = || async { if greets { Client::new().await } else { Client::silent() } };
        let (mut client, start) = (begin().await, Instant::now());
        client.closed(pings).await;
        let idle = if greets && !pings { PING_INTERVAL + PING_TIMEOUT } else { IDLE_TIMEOUT };
        let idle = idle..idle + DRAIN_GRACE + Duration::from_secs(1);
        assert!(idle.contains(&start.elapsed()), "{greets} {pings}: {:?}", start.elapsed());

        let (mut client, start) = (begin().await, Instant::now());
        client.drain.send(true).unwrap();
        client.closed(pings).await;
        let due = FIRST_CALL_TIMEOUT + DRAIN_GRACE + Duration::from_secs(1);
        assert!(start.elapsed() < due, "{greets} {pings}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_open_call() {
    let mut client = Client::new().await;
    client.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.drain.send(true).unwrap();
    client.next_of(GO_AWAY).await;
    let open = time::timeout(DRAIN_GRACE * 4, async {
        loop {
            let next = client.next().await.expect("an open connection");
            if (next.kind, next.flags) == (PING, 0) {
                client.send(&frame(PING, ACK, 0, &next.payload)).await;
            }
        }
    });
    assert!(open.await.is_err());
    client.send(&frame(RESET, 0, 1, &[0, 0, 0, 8])).await;
    let start = Instant::now();
    client.closed(false).await;
    assert!(start.elapsed() <= DRAIN_GRACE, "{:?}", start.elapsed());
}
