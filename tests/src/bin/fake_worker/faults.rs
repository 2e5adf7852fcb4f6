//! Implements the faults, by the names that tests use.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process,
};

use e2e::fake::{DONE, Order};
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use onnxd_proto::{
    limits::{FRAME_CONTROL_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX},
    wire::{
        frame::{Direction, Frame, HEADER_BYTES, Header},
        message::{self, FromWorker},
        operation::{BatchResult, Rejection},
    },
};

/// Offsets of header fields.
const VERSION: usize = 4;
const DIRECTION: usize = 6;
const CONTROL_BYTES: usize = 16;
const PAYLOAD_BYTES: usize = 20;

/// Number of messages in a flood.
const FLOOD: usize = 50_000;

/// Faults after which the worker exits.
const EXITING_FAULTS: [&str; 8] = [
    "payload that never comes",
    "half a frame",
    "half a header",
    "answers and ends",
    "ends without an answer",
    "answers half of a group and ends",
    "fails to load what is not served",
    "flood",
];

/// Relays the real worker's messages until the fault is due.
#[derive(Debug)]
pub(crate) struct Liar {
    supervisor: UnixStream,
    page: OwnedFd,
    fault: String,
    done: PathBuf,
    has_lied: bool,
}

impl Liar {
    pub(crate) fn new(supervisor: UnixStream, page: OwnedFd, order: &Order) -> io::Result<Self> {
        let done = order.home.join(DONE);
        setsockopt(&supervisor, SndBuf, &1)?;
        Ok(Self { supervisor, page, fault: order.fault.clone(), done, has_lied: false })
    }

    /// Relays a frame, or carries out the fault.
    pub(crate) fn relay(&mut self, frame: &Frame) -> io::Result<()> {
        let message: FromWorker = message::decode(&frame.control)?;
        if self.fault == "one byte at a time" {
            return self.in_single_bytes(frame, &message);
        }
        if !self.has_lied && self.lie(frame, &message)? {
            self.has_lied = true;
            return self.note("done");
        }
        self.supervisor.write_all(&wire(frame))
    }

    fn note(&self, how: &str) -> io::Result<()> {
        fs::write(&self.done, how)
    }

    fn in_single_bytes(&mut self, frame: &Frame, message: &FromWorker) -> io::Result<()> {
        for byte in wire(frame) {
            self.supervisor.write_all(&[byte])?;
        }
        match message {
            FromWorker::Answered(_) => self.note("done"),
            _ => Ok(()),
        }
    }

    /// Returns whether a faulty message replaced this frame.
    fn lie(&mut self, frame: &Frame, message: &FromWorker) -> io::Result<bool> {
        match message {
            FromWorker::Hello { pinned, .. } if self.fault == "hello of another build" => {
                let pinned = pinned.clone();
                let hello = FromWorker::Hello { build_id: "another".into(), pinned };
                self.message(0, &hello, &[])?;
            }
            FromWorker::Pong if self.fault == "leaves a ping unanswered" => {}
            FromWorker::Ready if self.fault == "ends before it is ready" => self.end()?,
            FromWorker::Answered(answered) => return self.lie_about(frame, answered),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Does the same for an answer.
    fn lie_about(&mut self, frame: &Frame, answered: &BatchResult) -> io::Result<bool> {
        let fault = self.fault.as_str();
        let bytes = match fault {
            "writes to the control page" => return self.write_to_page().map(|()| false),
            "answers half of a group and ends" if answered.items.len() < 2 => return Ok(false),
            _ => match broken(fault, frame)? {
                Some(bytes) => bytes,
                None => match unsolicited(fault)? {
                    Some(bytes) => bytes,
                    None => mismatched_answer(fault, frame, answered.clone())?,
                },
            },
        };
        self.supervisor.write_all(&bytes)?;
        if EXITING_FAULTS.contains(&fault) {
            self.end()?;
        }
        Ok(true)
    }

    fn write_to_page(&mut self) -> io::Result<()> {
        self.has_lied = true;
        let path = format!("/proc/self/fd/{}", self.page.as_raw_fd());
        let written =
            OpenOptions::new().write(true).open(path).and_then(|mut page| page.write(&[0xff; 128]));
        self.note(if written.is_ok() { "written" } else { "refused" })
    }

    fn message(&mut self, id: u64, message: &FromWorker, payload: &[u8]) -> io::Result<()> {
        self.supervisor.write_all(&encoded(id, message, payload)?)
    }

    /// Exits. Nothing more is written.
    fn end(&self) -> io::Result<()> {
        self.note("done")?;
        process::exit(3)
    }
}

/// Returns malformed or surplus bytes in place of this frame.
fn broken(fault: &str, frame: &Frame) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = wire(frame);
    match fault {
        "bad magic" => bytes[0] ^= 1,
        "another version" => bytes[VERSION] ^= 0x40,
        "wrong direction" => bytes[DIRECTION] = Direction::ToWorker as u8,
        "control length over the limit" => {
            claim(&mut bytes, CONTROL_BYTES, FRAME_CONTROL_BYTES_MAX + 1);
        }
        "payload length over the limit" => {
            claim(&mut bytes, PAYLOAD_BYTES, FRAME_PAYLOAD_BYTES_MAX + 1);
        }
        "payload that never comes" => claim(&mut bytes, PAYLOAD_BYTES, FRAME_PAYLOAD_BYTES_MAX),
        "half a frame" => bytes.truncate(HEADER_BYTES + 3),
        "half a header" => bytes.truncate(HEADER_BYTES / 2),
        "trailing bytes" => {
            let control = [&frame.control[..], b"x"].concat();
            bytes = frame_of(frame.id, &control, &frame.payload)?;
        }
        "no message" => bytes = frame_of(frame.id, &[0xff; 40], &frame.payload)?,
        "answers twice" => bytes.extend(wire(frame)),
        "answers and ends" => {}
        "ends without an answer" => bytes.clear(),
        _ => return Ok(None),
    }
    Ok(Some(bytes))
}

/// Returns unsolicited messages.
fn unsolicited(fault: &str) -> io::Result<Option<Vec<u8>>> {
    let (slot, reason) = (u16::MAX, "none".to_owned());
    let messages = match fault {
        "rejects what it was not given" => {
            vec![FromWorker::Rejected { items: vec![77], reason: Rejection::Inference(reason) }]
        }
        "loads a model that is not served" => vec![FromWorker::Unloaded { slot }],
        "fails to load what is not served" => {
            let version = "../x".to_owned();
            let ahead = FromWorker::LoadAheadFailed { slot, version, reason: reason.clone() };
            vec![ahead, FromWorker::LoadFailed { slot, generation: 1, reason }]
        }
        "flood" => vec![FromWorker::Pong; FLOOD],
        _ => return Ok(None),
    };
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend(encoded(0, &message, &[])?);
    }
    Ok(Some(bytes))
}

/// Returns an answer that does not match the request.
fn mismatched_answer(fault: &str, frame: &Frame, mut answered: BatchResult) -> io::Result<Vec<u8>> {
    let (mut id, mut payload) = (frame.id, frame.payload.clone());
    match fault {
        "answers half of a group and ends" => {
            answered.items.truncate(answered.items.len() / 2);
            payload.truncate(answered.items.iter().map(|item| item.bytes as usize).sum());
        }
        "unknown request" => id += 1_000_000,
        "an item that does not exist" => answered.items[0].item = 31,
        "an item far off" => answered.items[0].item = u32::MAX,
        "fewer bytes than a row" => {
            answered.items[0].bytes -= 4;
            payload.truncate(payload.len() - 4);
        }
        "more bytes than it says" => payload.extend([0; 4]),
        "sizes that overflow" => answered.items[0].bytes = u32::MAX,
        "a generation never issued" => answered.generation += 1000,
        "generation zero" => answered.generation = 0,
        _ => return Err(io::Error::other(format!("unknown fault {fault}"))),
    }
    encoded(id, &FromWorker::Answered(answered), &payload)
}

/// Returns a frame as the real worker wrote it.
fn wire(frame: &Frame) -> Vec<u8> {
    frame_of(frame.id, &frame.control, &frame.payload).unwrap_or_default()
}

fn encoded(id: u64, message: &FromWorker, payload: &[u8]) -> io::Result<Vec<u8>> {
    frame_of(id, &message::encode(message)?, payload)
}

fn frame_of(id: u64, control: &[u8], payload: &[u8]) -> io::Result<Vec<u8>> {
    let header = Header::new(Direction::FromWorker, id, control.len(), payload.len())?;
    Ok([&header.to_bytes()[..], control, payload].concat())
}

/// Overwrites a length in the header.
fn claim(bytes: &mut [u8], field: usize, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    bytes[field..field + 4].copy_from_slice(&length.to_le_bytes());
}
