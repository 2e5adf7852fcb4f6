use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use tokio::{sync::mpsc, time};
use tonic::Code;

use crate::api::grpc::body::*;

/// Memory budget for large messages, in KiB.
const ROOM: usize = 8 * 1024;

/// A body that a test sends piece by piece.
struct Call {
    client: mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>,
    body: RequestBody,
    memory: MemoryBudget,
    _drain: watch::Sender<bool>,
}

impl Call {
    fn new(method: &str, packing: Option<Packing>) -> Self {
        let memory = MemoryBudget::new(ROOM * 1024);
        let (client, mut pieces) = mpsc::channel(16);
        let methods = crate::api::grpc::methods::methods();
        let method = methods.iter().find(|known| known.path.ends_with(&format!("/{method}")));
        let (drain, drained) = watch::channel(false);
        let pieces = stream::poll_fn(move |context| pieces.poll_recv(context));
        let body = Body::new(StreamBody::new(pieces));
        let body = RequestBody::new(body, memory.clone(), packing, method, drained);
        Self { client, body, memory, _drain: drain }
    }

    fn send(&self, bytes: &[u8]) {
        self.client.try_send(Ok(Frame::data(Bytes::copy_from_slice(bytes)))).unwrap();
    }

    /// Returns the length of the next frame that reaches the decoder.
    async fn next(&mut self) -> Result<usize, Code> {
        let frame = self.body.frame().await.unwrap();
        frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|error| error.code())
    }

    /// Returns how much of the budget is charged, in KiB.
    fn charged(&self) -> usize {
        ROOM - self.memory.available_bytes() / 1024
    }
}

fn head(flags: u8, bytes: usize) -> Vec<u8> {
    let bytes = u32::try_from(bytes).unwrap();
    [&[flags], &bytes.to_be_bytes()[..]].concat()
}

#[tokio::test]
async fn only_inference_may_reserve_memory_for_large_messages() {
    for method in ["ServerLive", "ServerReady", "Check", "ServerReflectionInfo", "NoSuchMethod"] {
        let mut call = Call::new(method, None);
        call.send(&head(0, CONTROL_BYTES_MAX + 1));
        assert_eq!((call.next().await, call.charged()), (Err(Code::OutOfRange), 0), "{method}");
        let mut call = Call::new(method, None);
        call.send(&head(0, CONTROL_BYTES_MAX));
        assert_eq!((call.next().await, call.charged()), (Ok(5), 0), "{method}");
    }
    // The same limit holds after decompression.
    let mut call = Call::new("ServerLive", Some(Packing::Gzip));
    call.send(&head(COMPRESSED, CONTROL_BYTES_MAX));
    assert_eq!((call.next().await, call.charged()), (Ok(0), 0));
    let mut call = Call::new("ModelInfer", None);
    call.send(&head(0, 1 << 20));
    assert_eq!((call.next().await, call.charged()), (Ok(5), 1024));
    call.body.reservations().end(0);
    assert_eq!(call.charged(), 0);
}

#[tokio::test(start_paused = true)]
async fn unary_calls_take_one_message_and_time_out_without_an_end() {
    let mut call = Call::new("ModelInfer", None);
    call.send(&[&head(0, 1)[..], &[7]].concat());
    assert_eq!(call.next().await, Ok(6));
    // The client never half-closes the stream.
    let ended = time::timeout(MESSAGE_TIMEOUT * 2, call.next()).await;
    assert_eq!(ended.unwrap(), Err(Code::DeadlineExceeded));
    let mut call = Call::new("ModelInfer", None);
    call.send(&[&head(0, 1)[..], &[7], &head(0, 1)].concat());
    assert_eq!(call.next().await, Err(Code::InvalidArgument));
}

// Decompression uses `block_in_place`, which needs the multi-threaded runtime.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_message_reserves_worst_case_until_size_is_known() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&[1; 2000]).unwrap();
    let packed = encoder.finish().unwrap();
    let mut call = Call::new("ModelStreamInfer", Some(Packing::Gzip));
    call.send(&head(1, packed.len()));
    assert_eq!(call.next().await, Ok(0));
    assert_eq!(call.charged(), (packed.len() * DEFLATE_RATIO_MAX).div_ceil(1024));
    call.send(&packed);
    assert_eq!(call.next().await, Ok(5 + 2000));
    assert_eq!(call.charged(), 0);
    // An uncompressed message in a compressed call is charged as is.
    call.send(&head(0, 100 * 1024));
    assert_eq!((call.next().await, call.charged()), (Ok(0), 100));
}

#[tokio::test(start_paused = true)]
async fn stream_may_idle_and_the_next_message_gets_the_full_timeout() {
    let mut call = Call::new("ModelStreamInfer", None);
    let waits = |call| time::timeout(Duration::from_secs(3600), call);
    assert!(waits(call.next()).await.is_err());
    // The header arrives in two pieces.
    call.send(&head(0, 1)[..2]);
    assert_eq!(call.next().await, Ok(2));
    time::sleep(MESSAGE_TIMEOUT / 2).await;
    call.send(&head(0, 1)[2..]);
    assert_eq!(call.next().await, Ok(3));
    // The reader pauses. That does not count towards the timeout.
    time::sleep(MESSAGE_TIMEOUT * 3).await;
    assert!(time::timeout(MESSAGE_TIMEOUT / 2, call.next()).await.is_err());
    call.send(&[7]);
    assert_eq!(call.next().await, Ok(1));
    // A stalled partial message times out.
    call.send(&head(0, 1));
    assert_eq!(call.next().await, Ok(5));
    let late = time::timeout(MESSAGE_TIMEOUT * 2, call.next()).await;
    assert_eq!(late.unwrap(), Err(Code::DeadlineExceeded));
}
