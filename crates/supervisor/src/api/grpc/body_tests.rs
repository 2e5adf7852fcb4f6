use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use tokio::{sync::mpsc, time};
use tonic::Code;

use crate::api::grpc::body::*;

/// Kibibytes of room for large messages.
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
        let memory = MemoryBudget::of(ROOM * 1024);
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

    /// What who takes messages apart gets next.
    async fn next(&mut self) -> Result<usize, Code> {
        let frame = self.body.frame().await.unwrap();
        frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|error| error.code())
    }

    /// Kibibytes that are paid.
    fn paid(&self) -> usize {
        ROOM - self.memory.available_bytes() / 1024
    }
}

fn head(flags: u8, bytes: usize) -> Vec<u8> {
    let bytes = u32::try_from(bytes).unwrap();
    [&[flags], &bytes.to_be_bytes()[..]].concat()
}

#[tokio::test]
async fn only_who_asks_for_inference_can_claim_room_for_a_large_message() {
    for method in ["ServerLive", "ServerReady", "Check", "ServerReflectionInfo", "NoSuchMethod"] {
        let mut call = Call::new(method, None);
        call.send(&head(0, QUESTION_BYTES_MAX + 1));
        assert_eq!((call.next().await, call.paid()), (Err(Code::OutOfRange), 0), "{method}");
        let mut call = Call::new(method, None);
        call.send(&head(0, QUESTION_BYTES_MAX));
        assert_eq!((call.next().await, call.paid()), (Ok(5), 0), "{method}");
    }
    // Packed, it may become no more than that.
    let mut call = Call::new("ServerLive", Some(Packing::Gzip));
    call.send(&head(PACKED, QUESTION_BYTES_MAX));
    assert_eq!((call.next().await, call.paid()), (Ok(0), 0));
    let mut call = Call::new("ModelInfer", None);
    call.send(&head(0, 1 << 20));
    assert_eq!((call.next().await, call.paid()), (Ok(5), 1024));
    call.body.paid().end(0);
    assert_eq!(call.paid(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_for_one_message_takes_no_other_and_does_not_wait_for_its_end_for_ever() {
    let mut call = Call::new("ModelInfer", None);
    call.send(&[&head(0, 1)[..], &[7]].concat());
    assert_eq!(call.next().await, Ok(6));
    // Not half-closed.
    let ended = time::timeout(MESSAGE_TIMEOUT * 2, call.next()).await;
    assert_eq!(ended.unwrap(), Err(Code::DeadlineExceeded));
    let mut call = Call::new("ModelInfer", None);
    call.send(&[&head(0, 1)[..], &[7], &head(0, 1)].concat());
    assert_eq!(call.next().await, Err(Code::InvalidArgument));
}

// Unpacking asks for another thread.
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_message_pays_for_what_it_may_become_until_it_is_known_what_it_is() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&[1; 2000]).unwrap();
    let packed = encoder.finish().unwrap();
    let mut call = Call::new("ModelStreamInfer", Some(Packing::Gzip));
    call.send(&head(1, packed.len()));
    assert_eq!(call.next().await, Ok(0));
    assert_eq!(call.paid(), (packed.len() * PACKED_AT_MOST).div_ceil(1024));
    call.send(&packed);
    assert_eq!(call.next().await, Ok(5 + 2000));
    assert_eq!(call.paid(), 0);
    // One that is not packed, though others may be, is what it is.
    call.send(&head(0, 100 * 1024));
    assert_eq!((call.next().await, call.paid()), (Ok(0), 100));
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_rest_between_messages_and_its_next_one_has_all_the_time() {
    let mut call = Call::new("ModelStreamInfer", None);
    let waits = |call| time::timeout(Duration::from_secs(3600), call);
    assert!(waits(call.next()).await.is_err());
    // The head comes in two pieces.
    call.send(&head(0, 1)[..2]);
    assert_eq!(call.next().await, Ok(2));
    time::sleep(MESSAGE_TIMEOUT / 2).await;
    call.send(&head(0, 1)[2..]);
    assert_eq!(call.next().await, Ok(3));
    // For a while nobody asks for more: that is not the client's fault.
    time::sleep(MESSAGE_TIMEOUT * 3).await;
    assert!(time::timeout(MESSAGE_TIMEOUT / 2, call.next()).await.is_err());
    call.send(&[7]);
    assert_eq!(call.next().await, Ok(1));
    // Half a message is not waited for.
    call.send(&head(0, 1));
    assert_eq!(call.next().await, Ok(5));
    let late = time::timeout(MESSAGE_TIMEOUT * 2, call.next()).await;
    assert_eq!(late.unwrap(), Err(Code::DeadlineExceeded));
}
