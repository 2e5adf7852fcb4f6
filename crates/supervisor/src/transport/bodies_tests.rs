use std::io;

use futures_util::stream::{self, Stream};
use tokio::time::Instant;

use crate::transport::bodies::*;

/// Memory budget for large bodies, in bytes.
const BUDGET: usize = 2 << 20;

fn request(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Request<Body> {
    Request::new(Body::from_stream(pieces))
}

/// Returns the status of a refusal, which must close the connection.
fn last(refused: Result<Bytes, BodyError>) -> u16 {
    let refused = refused.unwrap_err();
    assert!(refused.closes);
    refused.error.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn slow_body_times_out_even_if_bytes_keep_arriving() {
    let memory = MemoryBudget::new(BUDGET);
    let start = Instant::now();
    assert_eq!(last(read_body(&memory, request(stream::pending())).await), 408);
    assert!(start.elapsed() < BODY_TIMEOUT + Duration::from_secs(1));
    let trickle = stream::unfold((), async |()| {
        time::sleep(Duration::from_secs(1)).await;
        Some((Ok(Bytes::from_static(b" ")), ()))
    });
    let start = Instant::now();
    assert_eq!(last(read_body(&memory, request(trickle)).await), 408);
    assert!((BODY_TIMEOUT..BODY_TIMEOUT * 2).contains(&start.elapsed()));
}

#[tokio::test]
async fn body_refused_midway_releases_its_memory() {
    let memory = MemoryBudget::new(BUDGET);
    let pieces = || stream::iter((0..3).map(|_| Ok(Bytes::from(vec![0; 1 << 20]))));
    let bytes_max = 16 << 20;
    let refused = read_charged(&memory, request(pieces()), UNCHARGED_BYTES_MAX, bytes_max).await;
    assert_eq!(last(refused), 413, "more than the whole budget");
    assert_eq!(memory.available_bytes(), BUDGET);
    let refused = read_charged(&memory, request(pieces()), UNCHARGED_BYTES_MAX, 1 << 20).await;
    assert_eq!(last(refused), 413);
    assert_eq!(memory.available_bytes(), BUDGET);
}

#[tokio::test]
async fn bodies_of_one_http2_connection_share_what_is_not_charged() {
    const BODY: usize = 40 * 1024;
    let (memory, allowance) = (MemoryBudget::new(1 << 20), Allowance::default());
    let read = || async {
        let mut request = Request::new(Body::from(vec![0; BODY]));
        request.extensions_mut().insert(allowance.clone());
        read_body(&memory, request).await
    };
    let mut held = vec![read().await.unwrap()];
    assert_eq!(memory.available_bytes(), 1 << 20, "the first is not charged");
    let refused = loop {
        match read().await {
            Ok(bytes) => held.push(bytes),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.error.status(), 429);
    // The first, and those in the budget, charged as 64 KiB each.
    assert_eq!(held.len(), 1 + (1 << 20) / (64 * 1024));
    drop(held.remove(0));
    held.push(read().await.unwrap());
    drop(held);
    assert_eq!(memory.available_bytes(), 1 << 20);
    // Over HTTP/1.1 a connection has one body at a time.
    let bodies = [(); 64].map(|()| Request::new(Body::from(vec![0; BODY])));
    let mut held = Vec::new();
    for body in bodies {
        held.push(read_body(&memory, body).await.unwrap());
    }
    assert_eq!(memory.available_bytes(), 1 << 20);
}

#[tokio::test]
async fn a_body_larger_than_the_whole_budget_is_413_with_the_remedy() {
    let memory = MemoryBudget::new(100 * 1024);
    let pieces = |count| stream::iter((0..count).map(|_| Ok(Bytes::from(vec![0; 1024]))));
    for request in [Request::new(Body::from(vec![0; 101 * 1024])), request(pieces(101))] {
        let refused = read_body(&memory, request).await.unwrap_err();
        assert_eq!(refused.error.status(), 413);
        let message = refused.error.to_string();
        assert!(message.contains("--body-memory") && message.contains("102400"), "{message}");
        assert_eq!(refused.error.retry_after(), None);
    }
    // A step of the charge refuses no body that fits.
    for request in [Request::new(Body::from(vec![0; 100 * 1024])), request(pieces(100))] {
        assert_eq!(read_body(&memory, request).await.unwrap().len(), 100 * 1024);
    }
    let held = read_body(&memory, request(pieces(100))).await.unwrap();
    assert_eq!(last(read_body(&memory, request(pieces(100))).await), 429);
    drop(held);
}
