//! The frame: a fixed header, a control message and a raw payload. This file owns the header's
//! layout and limits; for control messages see [`crate::wire::message`]. The worker reads frames
//! with [`Frame::read`]; the supervisor reads the same header asynchronously.

use std::io::{self, IoSlice, Read, Write};

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::limits::{FRAME_CONTROL_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 24;
/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"ONXD";
/// A larger payload buffer is shrunk when the next payload needs less than a quarter of it.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Raised with every change to the header or a message.
pub const PROTOCOL_VERSION: u16 = 7;

/// Direction of a frame. A side rejects frames of the direction that it sends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Direction {
    /// From the supervisor to a worker.
    ToWorker = 1,
    /// From a worker to the supervisor.
    FromWorker = 2,
    /// From the supervisor to the index process.
    ToIndex = 3,
    /// From the index process to the supervisor.
    FromIndex = 4,
}

/// The header, little-endian. `id` matches a response to its request; it is 0 in other messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    magic: [u8; 4],
    version: le::U16,
    direction: le::U16,
    id: le::U64,
    control_bytes: le::U32,
    payload_bytes: le::U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// Why bytes are not a valid frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The stream is out of step, or the peer is not onnxd.
    #[error("frame starts with {0:02x?}, not with the magic bytes")]
    Magic([u8; 4]),
    /// The peer is from a different build.
    #[error("frame has protocol version {0}, expected {PROTOCOL_VERSION}")]
    Version(u16),
    /// The peer sent a frame of this side's own direction.
    #[error("frame has unexpected direction {0}")]
    Direction(u16),
    /// A length over the limit, which is never allocated.
    #[error("frame claims {bytes} bytes of {part}; at most {max} are allowed")]
    TooLong {
        /// "control" or "payload".
        part: &'static str,
        /// Length in the header.
        bytes: usize,
        /// Largest allowed length.
        max: usize,
    },
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl Header {
    /// Creates a header for parts of the given lengths.
    ///
    /// # Errors
    /// Returns [`FrameError::TooLong`] for a frame that the receiver would reject.
    pub fn new(
        direction: Direction,
        id: u64,
        control_bytes: usize,
        payload_bytes: usize,
    ) -> Result<Self, FrameError> {
        Ok(Self {
            magic: MAGIC,
            version: PROTOCOL_VERSION.into(),
            direction: (direction as u16).into(),
            id: id.into(),
            control_bytes: within("control", control_bytes, FRAME_CONTROL_BYTES_MAX)?.into(),
            payload_bytes: within("payload", payload_bytes, FRAME_PAYLOAD_BYTES_MAX)?.into(),
        })
    }

    /// Parses a header that must have the given direction. Nothing is allocated before this
    /// succeeds.
    ///
    /// # Errors
    /// Returns the reason if the bytes are not a header of this build within the limits.
    pub fn parse(bytes: &[u8; HEADER_BYTES], direction: Direction) -> Result<Self, FrameError> {
        let header: Self = zerocopy::transmute!(*bytes);
        if header.magic != MAGIC {
            return Err(FrameError::Magic(header.magic));
        }
        if header.version != PROTOCOL_VERSION {
            return Err(FrameError::Version(header.version.get()));
        }
        if header.direction != direction as u16 {
            return Err(FrameError::Direction(header.direction.get()));
        }
        within("control", header.control_len(), FRAME_CONTROL_BYTES_MAX)?;
        within("payload", header.payload_len(), FRAME_PAYLOAD_BYTES_MAX)?;
        Ok(header)
    }

    /// Returns the header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(self)
    }

    /// Returns the id that matches a response to its request.
    pub fn id(&self) -> u64 {
        self.id.get()
    }

    /// Returns the length of the control message.
    pub fn control_len(&self) -> usize {
        self.control_bytes.get() as usize
    }

    /// Returns the length of the payload.
    pub fn payload_len(&self) -> usize {
        self.payload_bytes.get() as usize
    }
}

fn within(part: &'static str, bytes: usize, max: usize) -> Result<u32, FrameError> {
    match u32::try_from(bytes) {
        Ok(value) if bytes <= max => Ok(value),
        _ => Err(FrameError::TooLong { part, bytes, max }),
    }
}

/// A complete frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Matches a response to its request.
    pub id: u64,
    /// The encoded control message.
    pub control: Vec<u8>,
    /// Texts and tensors that the message describes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Reads the next frame into this one, reusing its buffers. Returns `Ok(false)` if the stream
    /// ends between two frames.
    ///
    /// # Errors
    /// Returns an I/O error, a [`FrameError`], or `UnexpectedEof` in the middle of a frame.
    pub fn read(&mut self, stream: &mut impl Read, direction: Direction) -> io::Result<bool> {
        let mut bytes = [0; HEADER_BYTES];
        loop {
            match stream.read(&mut bytes[..1]) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        stream.read_exact(&mut bytes[1..])?;
        let header = Header::parse(&bytes, direction)?;
        self.id = header.id();
        self.control.resize(header.control_len(), 0);
        stream.read_exact(&mut self.control)?;
        self.read_payload(stream, header.payload_len())?;
        Ok(true)
    }

    /// Reads into uninitialized capacity: zeroing large payloads first would be slow.
    fn read_payload(&mut self, stream: &mut impl Read, length: usize) -> io::Result<()> {
        self.payload.clear();
        if self.payload.capacity() > KEPT_BYTES_MAX && length < self.payload.capacity() / 4 {
            self.payload.shrink_to(length);
        }
        self.payload.reserve_exact(length);
        stream.take(length as u64).read_to_end(&mut self.payload)?;
        match self.payload.len() == length {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Writes one frame with as few system calls as the stream allows. The payload may consist of
/// several parts.
///
/// # Errors
/// Returns an I/O error, or [`FrameError::TooLong`] before anything is written.
pub fn write(
    stream: &mut impl Write,
    direction: Direction,
    id: u64,
    control: &[u8],
    payload: &[&[u8]],
) -> io::Result<()> {
    let payload_bytes = payload.iter().map(|part| part.len()).sum();
    let header = Header::new(direction, id, control.len(), payload_bytes)?.to_bytes();
    let parts = [&header, control].into_iter().chain(payload.iter().copied());
    let mut parts: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
    let mut parts = &mut parts[..];
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match stream.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut parts, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header_of(direction: Direction) -> [u8; HEADER_BYTES] {
        Header::new(direction, 0x0102_0304_0506_0708, 3, 5).unwrap().to_bytes()
    }

    #[test]
    fn the_header_encodes_to_fixed_bytes() {
        let expected =
            [b'O', b'N', b'X', b'D', 7, 0, 1, 0, 8, 7, 6, 5, 4, 3, 2, 1, 3, 0, 0, 0, 5, 0, 0, 0];
        assert_eq!(header_of(Direction::ToWorker), expected);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_without_allocating() {
        for (offset, part, max) in
            [(16, "control", FRAME_CONTROL_BYTES_MAX), (20, "payload", FRAME_PAYLOAD_BYTES_MAX)]
        {
            let mut bytes = header_of(Direction::ToWorker);
            bytes[offset..offset + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            let mut frame = Frame::default();
            let error = frame.read(&mut &bytes[..], Direction::ToWorker).unwrap_err();
            let expected = FrameError::TooLong { part, bytes: u32::MAX as usize, max };
            assert_eq!(error.to_string(), expected.to_string());
            assert_eq!(frame.control.capacity() + frame.payload.capacity(), 0);
        }
    }

    #[test]
    fn a_frame_with_wrong_magic_version_or_direction_is_refused() {
        let good = header_of(Direction::FromWorker);
        assert!(Header::parse(&good, Direction::FromWorker).is_ok());
        assert_eq!(Header::parse(&good, Direction::ToWorker), Err(FrameError::Direction(2)));
        let mut bad = good;
        bad[4] = 9;
        assert_eq!(Header::parse(&bad, Direction::FromWorker), Err(FrameError::Version(9)));
        let mut bad = good;
        bad[0] = b'H';
        assert_eq!(Header::parse(&bad, Direction::FromWorker), Err(FrameError::Magic(*b"HNXD")));
    }

    /// Returns at most `step` bytes per call, like a slow socket.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            self.0.read(&mut buffer[..step])
        }
    }

    /// Fails with `Interrupted` on every other call, and with `TimedOut` at the end.
    struct Interrupted<T>(T, bool);

    impl<T> Interrupted<T> {
        fn now(&mut self) -> io::Result<()> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        }
    }

    impl Read for Interrupted<&[u8]> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.now()?;
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::TimedOut.into()),
                some => Ok(some),
            }
        }
    }

    impl Write for Interrupted<&mut [u8]> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.now()?;
            match self.0.write(bytes)? {
                0 => Err(io::ErrorKind::TimedOut.into()),
                some => Ok(some),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_frame_survives_signals_but_no_other_error() {
        let mut wire = [0; HEADER_BYTES + 5];
        let mut stream = Interrupted(&mut wire[..], false);
        write(&mut stream, Direction::ToWorker, 7, b"abc", &[b"de"]).unwrap();
        let full = write(&mut stream, Direction::ToWorker, 7, b"abc", &[b"de"]);
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut stream = Interrupted(&wire[..], false);
        let mut frame = Frame::default();
        assert!(frame.read(&mut stream, Direction::ToWorker).unwrap());
        assert_eq!(
            (frame.id, &frame.control[..], &frame.payload[..]),
            (7, &b"abc"[..], &b"de"[..])
        );
        let empty = frame.read(&mut stream, Direction::ToWorker);
        assert_eq!(empty.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_large_buffer_is_kept_only_if_a_quarter_is_needed() {
        let kept = |first: usize, then: usize| {
            let mut frame = Frame::default();
            for length in [first, then] {
                frame.read_payload(&mut io::repeat(1), length).unwrap();
                assert_eq!(frame.payload.len(), length);
            }
            frame.payload.capacity()
        };
        let large = 8 * 1024 * 1024 + 4;
        assert_eq!(kept(large, large / 4), large);
        assert_eq!(kept(large, large / 4 - 1), large / 4 - 1);
        assert_eq!(kept(large - 4, 1), large - 4, "a buffer at the limit is kept");
    }

    proptest! {
        #[test]
        fn written_frames_are_read_however_the_stream_splits_them(
            id: u64,
            control in prop::collection::vec(any::<u8>(), 0..300),
            payload in prop::collection::vec(any::<u8>(), 0..3000),
            step in 1_usize..400,
        ) {
            let mut wire = Vec::new();
            let (begin, end) = payload.split_at(payload.len() / 3);
            write(&mut wire, Direction::ToWorker, id, &control, &[begin, end]).unwrap();
            write(&mut wire, Direction::ToWorker, id, &payload, &[]).unwrap();
            let mut stream = Trickle(&wire, step);
            let mut frame = Frame::default();
            prop_assert!(frame.read(&mut stream, Direction::ToWorker).unwrap());
            prop_assert_eq!((&frame.control, &frame.payload), (&control, &payload));
            prop_assert!(frame.read(&mut stream, Direction::ToWorker).unwrap());
            prop_assert_eq!((frame.id, &frame.control, frame.payload.len()), (id, &payload, 0));
            prop_assert!(!frame.read(&mut stream, Direction::ToWorker).unwrap());
        }

        #[test]
        fn any_bytes_neither_panic_nor_allocate_past_the_limits(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut frame = Frame::default();
            let _ = frame.read(&mut &bytes[..], Direction::FromWorker);
            prop_assert!(frame.control.capacity() <= FRAME_CONTROL_BYTES_MAX);
            prop_assert!(frame.payload.capacity() <= FRAME_PAYLOAD_BYTES_MAX);
        }

        #[test]
        fn a_truncated_frame_is_an_error_and_never_the_end(
            payload in prop::collection::vec(any::<u8>(), 0..100), cut: prop::sample::Index,
        ) {
            let mut wire = Vec::new();
            write(&mut wire, Direction::ToWorker, 7, b"control", &[&payload]).unwrap();
            let length = 1 + cut.index(wire.len() - 1);
            let error = Frame::default().read(&mut &wire[..length], Direction::ToWorker);
            prop_assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
