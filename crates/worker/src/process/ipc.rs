//! The socket to the supervisor as whole messages. What they mean is [`crate::serving::serve`]'s affair.
//! One thread reads; several may write, one whole message after the other.

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

/// Reads what the supervisor says.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// A frame is mostly read at once, and what waits behind it, too.
    stream: BufReader<UnixStream>,
    frame: Frame,
}

/// Says something to the supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// Locked for the writing alone.
    stream: Arc<Mutex<UnixStream>>,
}

/// Both halves of the socket.
pub(crate) fn split(stream: UnixStream) -> io::Result<(Receiver, Sender)> {
    let sender = Sender { stream: Arc::new(Mutex::new(stream.try_clone()?)) };
    Ok((Receiver { stream: BufReader::new(stream), frame: Frame::default() }, sender))
}

impl Receiver {
    /// Waits for the next message; gives its id, itself, and its payload.
    pub(crate) fn receive(&mut self) -> Result<(u64, ToWorker, &[u8]), Fault> {
        if !self.frame.read(&mut self.stream, Direction::ToWorker)? {
            return Err(Fault::HungUp);
        }
        let message = message::decode(&self.frame.control)?;
        Ok((self.frame.id, message, &self.frame.payload))
    }
}

impl Sender {
    /// Sends a message about the group with this id, and what it describes, which may lie in
    /// several places.
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

    /// Answers the message with this id, which is about no group.
    pub(crate) fn answer(&self, id: u64, message: &FromWorker) -> Result<(), Fault> {
        self.tell_group(id, message, &[])
    }

    /// Sends a message that answers none.
    pub(crate) fn tell(&self, message: &FromWorker) -> Result<(), Fault> {
        self.tell_group(0, message, &[])
    }
}
