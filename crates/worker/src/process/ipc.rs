//! The socket to the supervisor, as whole messages. One thread reads; several may write, one
//! message at a time. [`crate::serving::serve`] interprets the messages.

use std::{
    io::{self, BufReader},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
};

use onnxd_proto::wire::{
    frame::{self, Direction, Frame},
    message::{self, FromWorker, ToWorker},
};

use crate::process::fault::Fault;

/// Receives messages from the supervisor.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// Buffered: one read usually yields a whole frame, and often the next.
    stream: BufReader<UnixStream>,
    frame: Frame,
}

/// Sends messages to the supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// Locked only while writing.
    stream: Arc<Mutex<UnixStream>>,
}

/// Splits the socket into its halves.
pub(crate) fn split(stream: UnixStream) -> io::Result<(Receiver, Sender)> {
    let sender = Sender { stream: Arc::new(Mutex::new(stream.try_clone()?)) };
    Ok((Receiver { stream: BufReader::new(stream), frame: Frame::default() }, sender))
}

impl Receiver {
    /// Waits for the next message. Returns its id, the message and its payload.
    pub(crate) fn receive(&mut self) -> Result<(u64, ToWorker, &[u8]), Fault> {
        if !self.frame.read(&mut self.stream, Direction::ToWorker)? {
            return Err(Fault::HungUp);
        }
        let message = message::decode(&self.frame.control)?;
        Ok((self.frame.id, message, &self.frame.payload))
    }
}

impl Sender {
    /// Sends a message about the group with this id. The payload may consist of several slices.
    pub(crate) fn tell_group(
        &self,
        id: u64,
        message: &FromWorker,
        payload: &[&[u8]],
    ) -> Result<(), Fault> {
        let control = message::encode(message)?;
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(frame::write(&mut *stream, Direction::FromWorker, id, &control, payload)?)
    }

    /// Answers the message with this id, which is not about a group.
    pub(crate) fn answer(&self, id: u64, message: &FromWorker) -> Result<(), Fault> {
        self.tell_group(id, message, &[])
    }

    /// Sends a message that answers none.
    pub(crate) fn tell(&self, message: &FromWorker) -> Result<(), Fault> {
        self.tell_group(0, message, &[])
    }
}
