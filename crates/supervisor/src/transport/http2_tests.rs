use std::future;

use axum::{http::Response, routing::any};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};

use crate::transport::http2::*;
use crate::transport::places::Places;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method: POST`, `:scheme: http`, `:path: /`, as HPACK has them.
const POST: &[u8] = &[0x83, 0x86, 0x84];

/// Kinds of frames.
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
/// Flags of frames.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// What SETTINGS call the most calls at once.
const STREAMS: u8 = 3;
/// Reasons.
const REFUSED: u8 = 7;
const CALM: u8 = 11;

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

/// The number of a connection's call.
fn number(call: usize) -> u32 {
    u32::try_from(2 * call + 1).unwrap()
}

/// A client that speaks frames, to a server that answers no call.
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
        let place = Arc::new(Places::new(1).take().unwrap());
        let calls = Calls { router, place, may_rest: |_| false };
        let watcher = GracefulShutdown::new().watcher();
        tokio::spawn(converse(theirs, calls, watcher, drained));
        let mut client = Self { stream: ours, _drain: drain };
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame, until the connection ends.
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
async fn a_connection_carries_so_many_calls_and_the_next_is_refused() {
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
async fn who_opens_calls_only_to_take_them_back_is_sent_away() {
    let mut client = Client::new().await;
    let open_and_back = |call| {
        let number = number(call);
        [frame(HEADERS, END_HEADERS, number, POST), frame(RESET, 0, number, &[0, 0, 0, 8])].concat()
    };
    client.send(&(0..RESETS_MAX * 2).flat_map(open_and_back).collect::<Vec<_>>()).await;
    assert_eq!(client.next_of(GO_AWAY).await.payload[4..8], [0, 0, 0, CALM]);
}

#[tokio::test(start_paused = true)]
async fn who_answers_no_ping_and_who_makes_no_call_is_closed_in_time() {
    let mut client = Client::new().await;
    let begin = Instant::now();
    client.next_of(PING).await;
    while client.next().await.is_some() {}
    let (ended, due) = (begin.elapsed(), PING_INTERVAL + PING_TIMEOUT);
    assert!((due..due + PING_TIMEOUT).contains(&ended), "{ended:?}");
    let mut client = Client::new().await;
    let begin = Instant::now();
    loop {
        let next = client.next().await.expect("a frame");
        match (next.kind, next.flags) {
            (PING, 0) => client.send(&frame(PING, ACK, 0, &next.payload)).await,
            (GO_AWAY, _) => break,
            _ => {}
        }
    }
    let idle = begin.elapsed();
    assert!((IDLE_TIMEOUT..IDLE_TIMEOUT + PING_INTERVAL).contains(&idle), "{idle:?}");
}
