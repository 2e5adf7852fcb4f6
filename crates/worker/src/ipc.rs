//! The socket to the supervisor as whole messages. What they mean is [`crate::serve`]'s affair.
//! Reading and writing are separate values, so that a second thread could write one day.

use std::{io, os::unix::net::UnixStream};

use onnxd_proto::{
    frame::{self, Direction, Frame},
    message::{self, FromWorker, ToWorker},
};

use crate::fault::Fault;

/// Reads what the supervisor says.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: UnixStream,
    frame: Frame,
}

/// Says something to the supervisor.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: UnixStream,
}

/// Both halves of the socket.
pub(crate) fn split(stream: UnixStream) -> io::Result<(Receiver, Sender)> {
    let sender = Sender { stream: stream.try_clone()? };
    Ok((Receiver { stream, frame: Frame::default() }, sender))
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
    /// Sends a message that answers the one with the same id, or none where the id is 0.
    pub(crate) fn send(
        &mut self,
        id: u64,
        message: &FromWorker,
        payload: &[u8],
    ) -> Result<(), Fault> {
        let control = message::encode(message)?;
        Ok(frame::write(&mut self.stream, Direction::FromWorker, id, &control, payload)?)
    }

    /// Sends a message that answers none.
    pub(crate) fn tell(&mut self, message: &FromWorker) -> Result<(), Fault> {
        self.send(0, message, &[])
    }
}
