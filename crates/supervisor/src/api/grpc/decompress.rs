//! Decompresses messages before the decoder sees them, off the async thread if large. Rewrites
//! flags and lengths as if the messages had never been compressed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::task::block_in_place;

use crate::api::grpc::{bounds::INLINE_BYTES_MAX, frames::HEADER_BYTES};
use crate::transport::{
    error::TransportError,
    unpack::{Packing, unpack},
};

/// The flags of a compressed message.
pub(super) const COMPRESSED: u8 = 1;

/// Buffers messages that may be compressed until they are complete.
#[derive(Debug)]
pub(super) struct Decompressor {
    packing: Packing,
    /// Size limit of a decompressed message.
    bytes_max: usize,
    held: BytesMut,
    /// Messages returned so far.
    messages: u64,
}

impl Decompressor {
    pub(super) fn new(packing: Packing, bytes_max: usize) -> Self {
        Self { packing, bytes_max, held: BytesMut::new(), messages: 0 }
    }

    /// Consumes the next bytes and returns all complete messages. Calls `unpacked` with the
    /// index and decompressed size of each compressed one.
    ///
    /// # Errors
    /// A message cannot be decompressed, or becomes too large.
    pub(super) fn take(
        &mut self,
        data: &[u8],
        mut unpacked: impl FnMut(u64, usize),
    ) -> Result<Bytes, TransportError> {
        self.held.put_slice(data);
        let mut whole = BytesMut::new();
        while let Some((&[flag, ref length @ ..], rest)) =
            self.held.split_first_chunk::<HEADER_BYTES>()
        {
            let length = u32::from_be_bytes(*length) as usize;
            if rest.len() < length {
                break;
            }
            self.held.advance(HEADER_BYTES);
            let message = self.held.split_to(length).freeze();
            let (flag, message) = match flag {
                COMPRESSED => {
                    let message = self.unpack(&message)?;
                    unpacked(self.messages, message.len());
                    (0, message)
                }
                // The decoder rejects unknown flags.
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
        // A small message can become a thousand times larger.
        if message.len() > INLINE_BYTES_MAX / 1024 { block_in_place(unpack) } else { unpack() }
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
    fn messages_decompress_in_chunks_of_any_size() {
        let given =
            [framed(1, &gzip(b"first")), framed(0, b"second"), framed(1, &gzip(b""))].concat();
        let expected = [framed(0, b"first"), framed(0, b"second"), framed(0, b"")].concat();
        for cut in [1, 2, 7, given.len()] {
            let mut decompressor = Decompressor::new(Packing::Gzip, 6);
            let mut sizes = Vec::new();
            let mut size = |message, bytes| sizes.push((message, bytes));
            let parts = given.chunks(cut).map(|part| decompressor.take(part, &mut size).unwrap());
            assert_eq!(parts.collect::<Vec<_>>().concat(), expected, "{cut}");
            assert_eq!(sizes, [(0, 5), (2, 0)]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bombs_and_invalid_compression_are_rejected() {
        let bomb = framed(1, &gzip(&vec![0; MESSAGE_BYTES_MAX + 1]));
        assert!(bomb.len() < MESSAGE_BYTES_MAX / 100);
        let error = |data: &[u8]| {
            Decompressor::new(Packing::Gzip, MESSAGE_BYTES_MAX).take(data, |_, _| ()).unwrap_err()
        };
        let too_long = error(&bomb);
        assert!(matches!(too_long, TransportError::UnpackedTooLong { .. }), "{too_long:?}");
        let nonsense = error(&framed(1, b"nonsense"));
        assert!(matches!(nonsense, TransportError::NotPacked(_)), "{nonsense:?}");
    }
}
