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
    assert_eq!(last(refused), 429);
    assert_eq!(memory.available_bytes(), BUDGET);
    let refused = read_charged(&memory, request(pieces()), UNCHARGED_BYTES_MAX, 1 << 20).await;
    assert_eq!(last(refused), 413);
    assert_eq!(memory.available_bytes(), BUDGET);
}
