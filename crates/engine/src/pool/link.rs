//! Exchanges frames with one worker. A link is two tasks: one writes outgoing frames, the other
//! reads and reports incoming ones. Any error closes the link, and the dispatcher then ends the
//! worker.

use std::{io, os::unix::net};

use bytes::{Buf, Bytes, BytesMut};
use onnxd_proto::{
    limits::MODELS_MAX,
    wire::{
        frame::{Direction, HEADER_BYTES, Header},
        message::{self, FromWorker, ToWorker},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

/// Frames that may be queued for writing: two groups, a ping, one load or drop per model, and some
/// to spare.
const OUTGOING_MAX: usize = 8 + MODELS_MAX;

/// Minimum read size, enough for the answers to a few texts.
const READ_BYTES: usize = 16 * 1024;

/// A received message.
#[derive(Debug)]
pub struct Incoming {
    /// The id of the message that this answers.
    pub id: u64,
    /// The control message.
    pub message: FromWorker,
    /// The payload that the message describes: numbers, text or tensors.
    pub payload: Bytes,
}

/// A frame's header and control message, and the parts of its payload.
type Outgoing = (Bytes, Vec<Bytes>);

/// The sending end. Dropping it makes the worker exit.
#[derive(Debug)]
pub struct Link {
    outgoing: mpsc::Sender<Outgoing>,
}

impl Link {
    /// Starts the two tasks. `events` receives every message and finally an error, which is
    /// `UnexpectedEof` if the worker simply disconnected.
    ///
    /// # Errors
    /// The runtime cannot use the socket.
    pub fn open<E: Send + 'static>(
        socket: net::UnixStream,
        events: mpsc::Sender<E>,
        event: impl Fn(io::Result<Incoming>) -> E + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (read, write) = UnixStream::from_std(socket)?.into_split();
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        tokio::spawn(write_all(write, queue));
        tokio::spawn(read_all(read, events, event));
        Ok(Self { outgoing })
    }

    /// Hands a message to the writing task. The payload may consist of several parts.
    ///
    /// # Errors
    /// The message is too large, or the worker has not read the previous ones.
    pub fn send(&self, id: u64, message: &ToWorker, payload: Vec<Bytes>) -> io::Result<()> {
        let control = message::encode(message)?;
        let payload_bytes = payload.iter().map(Bytes::len).sum();
        let header = Header::new(Direction::ToWorker, id, control.len(), payload_bytes)?;
        let mut head = BytesMut::with_capacity(HEADER_BYTES + control.len());
        head.extend_from_slice(&header.to_bytes());
        head.extend_from_slice(&control);
        self.outgoing
            .try_send((head.freeze(), payload))
            .map_err(|_| io::Error::other("the worker is not reading its socket"))
    }
}

async fn write_all(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = queue.recv().await {
        if write(&mut socket, outgoing).await.is_err() {
            // The reading task sees the closed socket and reports it.
            return;
        }
    }
}

/// Writes a frame. Most payloads have one part, which is written together with the head.
async fn write(socket: &mut OwnedWriteHalf, (head, payload): Outgoing) -> io::Result<()> {
    let mut parts = payload.into_iter();
    socket.write_all_buf(&mut head.chain(parts.next().unwrap_or_default())).await?;
    for mut part in parts {
        socket.write_all_buf(&mut part).await?;
    }
    Ok(())
}

async fn read_all<E>(
    mut socket: OwnedReadHalf,
    events: mpsc::Sender<E>,
    event: impl Fn(io::Result<Incoming>) -> E,
) {
    let mut buffer = BytesMut::new();
    loop {
        let incoming = read(&mut socket, &mut buffer).await;
        let ended = incoming.is_err();
        if events.send(event(incoming)).await.is_err() || ended {
            return;
        }
    }
}

/// Reads the next frame. Bytes of later frames stay in the buffer.
async fn read(socket: &mut OwnedReadHalf, buffer: &mut BytesMut) -> io::Result<Incoming> {
    fill(socket, buffer, HEADER_BYTES).await?;
    let bytes = buffer.split_to(HEADER_BYTES);
    let bytes = bytes.as_ref().try_into().expect("`HEADER_BYTES` bytes were split off");
    let header = Header::parse(bytes, Direction::FromWorker)?;
    fill(socket, buffer, header.control_len() + header.payload_len()).await?;
    let control = buffer.split_to(header.control_len());
    let message = message::decode(&control)?;
    let payload = buffer.split_to(header.payload_len()).freeze();
    Ok(Incoming { id: header.id(), message, payload })
}

/// Fills the buffer to at least `length` bytes. The caller has checked the length.
async fn fill(socket: &mut OwnedReadHalf, buffer: &mut BytesMut, length: usize) -> io::Result<()> {
    while buffer.len() < length {
        buffer.reserve(READ_BYTES.max(length - buffer.len()));
        if socket.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
