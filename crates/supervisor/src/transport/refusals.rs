//! Finds the calls of an HTTP/2 connection that h2 refuses without showing them to any handler: it reads
//! the frames that are sent. Used by [`crate::transport::http2`].

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
};

use onnxd_telemetry::metrics::MalformedReason;
use tokio::io::AsyncWrite;
use tokio_util::io::InspectWriter;

/// Size of a frame's head, and of a head with the first bytes of the payload.
const HEAD_BYTES: usize = 9;
const BEGIN_BYTES: usize = HEAD_BYTES + 4;
/// Frame types and a flag.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const END_STREAM: u8 = 1;
/// Error codes that mean that the client broke the protocol: PROTOCOL_ERROR, FLOW_CONTROL_ERROR,
/// FRAME_SIZE_ERROR and COMPRESSION_ERROR.
const BROKEN: [u32; 4] = [1, 3, 6, 9];
/// Maximum calls with 431 whose reset may follow. Beyond it, a reset counts as well.
const ANSWERED_MAX: usize = 128;
/// Maximum calls whose response has begun. A client that cancels a call leaves it here until newer calls
/// displace it.
const BEGUN_MAX: usize = 1024;

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its headers are too large.
    Headers,
    /// It breaks the protocol: this error code.
    Reset(u32),
}

impl Refusal {
    pub(super) fn reason(self) -> MalformedReason {
        match self {
            Self::Headers => MalformedReason::TooLarge,
            Self::Reset(_) => MalformedReason::Invalid,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers => f.write_str("HTTP/2 headers are too large"),
            Self::Reset(code) => write!(f, "HTTP/2 stream error {code}"),
        }
    }
}

/// Calls `refused` for each call that is refused in what is written to `stream`.
pub(super) fn watched<S: AsyncWrite>(
    stream: S,
    mut refused: impl FnMut(Refusal),
) -> InspectWriter<S, impl FnMut(&[u8])> {
    let mut frames = Frames::default();
    InspectWriter::new(stream, move |bytes: &[u8]| frames.read(bytes, &mut refused))
}

/// Reads frames from their bytes.
#[derive(Default)]
struct Frames {
    /// The first bytes of the current frame.
    begin: Vec<u8>,
    /// Bytes of its payload that are skipped.
    skipped: usize,
    /// Calls that were answered 431. h2 may reset them afterwards.
    answered: HashSet<u32>,
    /// Calls whose response has begun. Later headers of theirs are trailers; gRPC's may be a single field.
    begun: BTreeSet<u32>,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8], mut refused: impl FnMut(Refusal)) {
        while !bytes.is_empty() {
            let skipped = self.skipped.min(bytes.len());
            self.skipped -= skipped;
            bytes = &bytes[skipped..];
            let missing = self.begin_bytes() - self.begin.len();
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            self.begin.extend_from_slice(part);
            bytes = rest;
            if self.begin.len() == self.begin_bytes() && self.begin.len() >= HEAD_BYTES {
                self.refused().into_iter().for_each(&mut refused);
                self.skipped = payload_bytes(&self.begin) + HEAD_BYTES - self.begin.len();
                self.begin.clear();
            }
        }
    }

    /// Returns how many bytes of the current frame are examined.
    fn begin_bytes(&self) -> usize {
        match self.begin.get(3) {
            Some(&(HEADERS | RESET)) if self.begin.len() >= HEAD_BYTES => {
                BEGIN_BYTES.min(HEAD_BYTES + payload_bytes(&self.begin))
            }
            _ => HEAD_BYTES,
        }
    }

    /// Returns what the current frame refuses, if anything.
    fn refused(&mut self) -> Option<Refusal> {
        let (head, payload) = self.begin.split_first_chunk::<HEAD_BYTES>()?;
        let [.., kind, flags, a, b, c, d] = *head;
        let stream = u32::from_be_bytes([a, b, c, d]);
        let ends = flags & END_STREAM != 0;
        match kind {
            DATA if ends => {
                self.begun.remove(&stream);
                None
            }
            HEADERS if !ends => {
                self.begun.insert(stream);
                if self.begun.len() > BEGUN_MAX {
                    self.begun.pop_first();
                }
                None
            }
            HEADERS => {
                let is_trailers = self.begun.remove(&stream);
                if is_trailers || !is_one_field(payload, payload_bytes(&self.begin)) {
                    return None;
                }
                if self.answered.len() == ANSWERED_MAX {
                    self.answered.clear();
                }
                self.answered.insert(stream);
                Some(Refusal::Headers)
            }
            RESET => {
                self.begun.remove(&stream);
                let code = u32::from_be_bytes(payload.try_into().ok()?);
                let is_new = !self.answered.remove(&stream);
                (is_new && BROKEN.contains(&code)).then_some(Refusal::Reset(code))
            }
            _ => None,
        }
    }
}

fn payload_bytes(begin: &[u8]) -> usize {
    begin[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// Returns whether a block of headers (RFC 7541) has a single field: the status of h2's own 431. All other
/// responses without a body have more.
fn is_one_field(begin: &[u8], length: usize) -> bool {
    match *begin {
        // The index of a field: it needs another byte if all bits are set.
        [0xff, ..] => length == 2,
        [index, ..] if index & 0x80 != 0 => length == 1,
        // A name's index, the length of the value, and the value.
        [_, value, ..] => length == 2 + usize::from(value & 0x7f),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn refusals(pieces: &[&[u8]]) -> Vec<Refusal> {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        pieces.iter().for_each(|piece| frames.read(piece, |refusal| found.push(refusal)));
        found
    }

    #[test]
    fn refusals_are_found_wherever_the_bytes_are_cut() {
        let literal = [0x48, 0x82, 0x68, 0x0b];
        let all = [
            frame(4, 0, 0, &[0; 30]),
            // A response with a body that looks like a refusal.
            frame(HEADERS, 4, 1, &[0x88, 0xc0, 0xbf]),
            frame(0, END_STREAM, 1, &frame(RESET, 0, 1, &[0, 0, 0, 1])),
            // 431, which is reset afterwards, and again from the table.
            frame(HEADERS, 4 | END_STREAM, 3, &literal),
            frame(RESET, 0, 3, &[0, 0, 0, 1]),
            frame(HEADERS, 4 | END_STREAM, 5, &[0xbe]),
            // Three indexed fields are a response without a body.
            frame(HEADERS, 4 | END_STREAM, 7, &[0x89, 0xc0, 0xbf]),
            frame(RESET, 0, 9, &[0, 0, 0, 1]),
            // Refused because there are too many calls, and cancelled.
            frame(RESET, 0, 11, &[0, 0, 0, 7]),
            frame(RESET, 0, 13, &[0, 0, 0, 8]),
            frame(RESET, 0, 15, &[0, 0, 0, 3]),
        ]
        .concat();
        let expected = [Refusal::Headers, Refusal::Headers, Refusal::Reset(1), Refusal::Reset(3)];
        for size in [1, 2, 5, 9, 13, all.len()] {
            let pieces: Vec<&[u8]> = all.chunks(size).collect();
            assert_eq!(refusals(&pieces), expected, "pieces of {size}");
        }
    }
    #[test]
    fn trailers_of_one_field_are_no_refusal() {
        let call = |stream| {
            [
                frame(HEADERS, 4, stream, &[0x88, 0xc0]),
                frame(DATA, 0, stream, &[0; 5]),
                frame(HEADERS, 4 | END_STREAM, stream, &[0xbe]),
            ]
            .concat()
        };
        let calls: Vec<u8> = (0..50).flat_map(|number| call(2 * number + 1)).collect();
        assert_eq!(refusals(&[&calls]), []);
        // An error that has only trailers, and the newest call after many that the client cancelled.
        let error = frame(HEADERS, 4 | END_STREAM, 101, &[0x88, 0xc0, 0xbf]);
        let cancelled = |call: u32| frame(HEADERS, 4, 103 + 2 * call, &[0x88, 0xc0]);
        let many: Vec<u8> = (0..5000).flat_map(cancelled).collect();
        let newest = frame(HEADERS, 4 | END_STREAM, 103 + 2 * 4999, &[0xbe]);
        assert_eq!(refusals(&[&error, &many, &newest]), []);
        // What ends a response also ends what is remembered of it.
        let mut frames = Frames::default();
        frames.read(&calls, |_| {});
        frames.read(&frame(HEADERS, 4, 1, &[0x88]), |_| {});
        frames.read(&frame(DATA, END_STREAM, 1, &[]), |_| {});
        frames.read(&frame(HEADERS, 4, 3, &[0x88]), |_| {});
        frames.read(&frame(RESET, 0, 3, &[0, 0, 0, 8]), |_| {});
        assert!(frames.begun.is_empty());
        frames.read(&many, |_| {});
        assert_eq!(frames.begun.len(), BEGUN_MAX);
    }
}
