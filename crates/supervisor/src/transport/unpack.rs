//! Decompresses request bodies: gzip and deflate (RFC 9110, section 8.4.1). The size limit applies to the
//! output, against decompression bombs.

use std::io::{self, Read};

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};

use crate::transport::error::TransportError;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    /// HTTP's `deflate`, which is the zlib format.
    Zlib,
}

/// Returns how the body is compressed, from `content-encoding`.
///
/// # Errors
/// The encoding is unsupported.
pub(super) fn packing(headers: &HeaderMap) -> Result<Option<Packing>, TransportError> {
    named(headers.get(header::CONTENT_ENCODING))
}

/// Parses the name of an encoding. `None` means uncompressed.
///
/// # Errors
/// The encoding is unsupported.
pub(crate) fn named(encoding: Option<&HeaderValue>) -> Result<Option<Packing>, TransportError> {
    let Some(encoding) = encoding else { return Ok(None) };
    match encoding.to_str().map(str::trim).map(str::to_ascii_lowercase).as_deref() {
        Ok("" | "identity") => Ok(None),
        Ok("gzip" | "x-gzip") => Ok(Some(Packing::Gzip)),
        Ok("deflate") => Ok(Some(Packing::Zlib)),
        _ => Err(TransportError::UnknownEncoding),
    }
}

/// Decompresses a body.
///
/// # Errors
/// The data is corrupt, or the output exceeds `bytes_max`.
pub(crate) fn unpack(
    packed: &Bytes,
    packing: Packing,
    bytes_max: usize,
) -> Result<Bytes, TransportError> {
    let unpacked = match packing {
        Packing::Gzip => read(MultiGzDecoder::new(&packed[..]), bytes_max),
        Packing::Zlib => read(ZlibDecoder::new(&packed[..]), bytes_max),
    };
    match unpacked {
        Ok(bytes) if bytes.len() <= bytes_max => Ok(bytes.into()),
        Ok(_) => Err(TransportError::UnpackedTooLong { max: bytes_max }),
        Err(error) => Err(TransportError::NotPacked(error)),
    }
}

/// Reads up to one byte more than the limit, which shows that the limit is exceeded.
fn read(packed: impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    packed.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::StatusCode;
    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn gzip_and_deflate_are_decompressed() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"hello").unwrap();
        let zlib = zlib.finish().unwrap().into();
        assert_eq!(unpack(&gzip(b"hello"), Packing::Gzip, 5).unwrap(), "hello");
        assert_eq!(unpack(&zlib, Packing::Zlib, 5).unwrap(), "hello");
    }

    #[test]
    fn bombs_and_corrupt_bodies_are_refused() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 8192);
        let status = |body: &Bytes| unpack(body, Packing::Gzip, 100_000).unwrap_err().status();
        assert_eq!(status(&bomb), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(status(&Bytes::from_static(b"hello")), StatusCode::BAD_REQUEST);
        assert_eq!(status(&bomb.slice(..bomb.len() / 2)), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(status(&gzip(b"hello").slice(..12)), StatusCode::BAD_REQUEST);
    }
}
