//! Messages that clients send packed, unpacked before anything else sees them, and by nobody who keeps
//! others waiting: their lengths and flags are then those of messages that never were.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::task::block_in_place;

use crate::api::grpc::{bounds::AT_ONCE_BYTES_MAX, frames::HEAD_BYTES};
use crate::transport::{
    error::TransportError,
    unpack::{Packing, unpack},
};

/// The flags of a message that is packed.
pub(super) const PACKED: u8 = 1;

/// What has come of messages that may be packed.
#[derive(Debug)]
pub(super) struct Packed {
    packing: Packing,
    /// Bytes of a message that comes out.
    bytes_max: usize,
    held: BytesMut,
    /// Messages that were given.
    messages: u64,
}

impl Packed {
    pub(super) fn new(packing: Packing, bytes_max: usize) -> Self {
        Self { packing, bytes_max, held: BytesMut::new(), messages: 0 }
    }

    /// Takes the next bytes, and gives all messages that are whole now; tells of each that was packed
    /// its number and how much came out.
    ///
    /// # Errors
    /// One cannot be unpacked, or too much comes out.
    pub(super) fn take(
        &mut self,
        data: &[u8],
        mut unpacked: impl FnMut(u64, usize),
    ) -> Result<Bytes, TransportError> {
        self.held.put_slice(data);
        let mut whole = BytesMut::new();
        while let Some((&[packed, ref length @ ..], rest)) =
            self.held.split_first_chunk::<HEAD_BYTES>()
        {
            let length = u32::from_be_bytes(*length) as usize;
            if rest.len() < length {
                break;
            }
            self.held.advance(HEAD_BYTES);
            let message = self.held.split_to(length).freeze();
            let (flag, message) = match packed {
                PACKED => {
                    let message = self.unpack(&message)?;
                    unpacked(self.messages, message.len());
                    (0, message)
                }
                // Whoever takes messages apart knows which flags there are.
                flag => (flag, message),
            };
            self.messages += 1;
            whole.put_u8(flag);
            whole.put_u32(u32::try_from(message.len()).expect("messages have a limit"));
            whole.put_slice(&message);
        }
        Ok(whole.freeze())
    }

    fn unpack(&self, message: &Bytes) -> Result<Bytes, TransportError> {
        let unpack = || unpack(message, self.packing, self.bytes_max);
        // Little can become a thousand times as much.
        if message.len() > AT_ONCE_BYTES_MAX / 1024 { block_in_place(unpack) } else { unpack() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::api::grpc::methods::MESSAGE_BYTES_MAX;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[flag], &length.to_be_bytes()[..], message].concat()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn messages_come_out_as_if_they_had_never_been_packed_however_they_are_cut() {
        let given =
            [framed(1, &gzip(b"first")), framed(0, b"second"), framed(1, &gzip(b""))].concat();
        let expected = [framed(0, b"first"), framed(0, b"second"), framed(0, b"")].concat();
        for cut in [1, 2, 7, given.len()] {
            let mut packed = Packed::new(Packing::Gzip, 6);
            let mut sizes = Vec::new();
            let mut size = |message, bytes| sizes.push((message, bytes));
            let parts = given.chunks(cut).map(|part| packed.take(part, &mut size).unwrap());
            assert_eq!(parts.collect::<Vec<_>>().concat(), expected, "{cut}");
            assert_eq!(sizes, [(0, 5), (2, 0)]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_small_message_that_becomes_too_large_a_one_is_refused_and_so_is_nonsense() {
        let bomb = framed(1, &gzip(&vec![0; MESSAGE_BYTES_MAX + 1]));
        assert!(bomb.len() < MESSAGE_BYTES_MAX / 100);
        let error = |data: &[u8]| {
            Packed::new(Packing::Gzip, MESSAGE_BYTES_MAX).take(data, |_, _| ()).unwrap_err()
        };
        let too_long = error(&bomb);
        assert!(matches!(too_long, TransportError::UnpackedTooLong { .. }), "{too_long:?}");
        let nonsense = error(&framed(1, b"nonsense"));
        assert!(matches!(nonsense, TransportError::NotPacked(_)), "{nonsense:?}");
    }
}
