use std::io;

use futures_util::stream::{self, Stream};
use tokio::time::Instant;

use crate::transport::bodies::*;

/// Bytes of memory for large bodies.
const ROOM: usize = 2 << 20;

fn request(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Request<Body> {
    Request::new(Body::from_stream(pieces))
}

/// The status of a refusal, which must be the last answer on its connection.
fn last(refused: Result<Bytes, BodyError>) -> u16 {
    let refused = refused.unwrap_err();
    assert!(refused.closes);
    refused.error.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_takes_too_long_is_given_up_also_if_a_little_comes_all_the_time() {
    let memory = MemoryBudget::of(ROOM);
    let begin = Instant::now();
    assert_eq!(last(read_body(&memory, request(stream::pending())).await), 408);
    assert!(begin.elapsed() < BODY_TIMEOUT + Duration::from_secs(1));
    let trickle = stream::unfold((), async |()| {
        time::sleep(Duration::from_secs(1)).await;
        Some((Ok(Bytes::from_static(b" ")), ()))
    });
    let begin = Instant::now();
    assert_eq!(last(read_body(&memory, request(trickle)).await), 408);
    assert!((BODY_TIMEOUT..BODY_TIMEOUT * 2).contains(&begin.elapsed()));
}

#[tokio::test]
async fn a_body_for_which_the_room_ends_in_the_middle_gives_back_what_it_had() {
    let memory = MemoryBudget::of(ROOM);
    let pieces = || stream::iter((0..3).map(|_| Ok(Bytes::from(vec![0; 1 << 20]))));
    let bytes_max = 16 << 20;
    let refused = read_paid(&memory, request(pieces()), UNPAID_BYTES_MAX, bytes_max).await;
    assert_eq!(last(refused), 429);
    assert_eq!(memory.available_bytes(), ROOM);
    let refused = read_paid(&memory, request(pieces()), UNPAID_BYTES_MAX, 1 << 20).await;
    assert_eq!(last(refused), 413);
    assert_eq!(memory.available_bytes(), ROOM);
}
