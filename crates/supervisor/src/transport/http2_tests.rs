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
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
/// Frame flags.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The setting MAX_CONCURRENT_STREAMS.
const STREAMS: u8 = 3;
/// Error codes.
const REFUSED: u8 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

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
    _drain: watch::Sender<bool>,
}

impl Client {
    async fn new() -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (drain, drained) = watch::channel(false);
        let silent = any(async || future::pending::<Response<Body>>().await);
        let router = Router::new().route("/", silent);
        let slot = Arc::new(ConnectionSlots::new(1).take().unwrap());
        let peer = [127, 0, 0, 1].into();
        let calls = Calls { router, peer, slot, may_idle: |_| false, idle_timeout: IDLE_TIMEOUT };
        let watcher = GracefulShutdown::new().watcher();
        tokio::spawn(process(theirs, calls, watcher, drained));
        let mut client = Self { stream: ours, _drain: drain };
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        client
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
