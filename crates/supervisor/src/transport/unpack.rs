//! Request bodies that are packed: gzip and deflate (RFC 9110, section 8.4.1). The limit is on what
//! comes out, so that no small body becomes a large one.

use std::io::{self, Read};

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};

use crate::transport::error::TransportError;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    /// What HTTP calls deflate is in the format of zlib.
    Zlib,
}

/// How the body of a request with these headers is packed, if it is.
///
/// # Errors
/// It is packed in an unknown way.
pub(super) fn packing(headers: &HeaderMap) -> Result<Option<Packing>, TransportError> {
    named(headers.get(header::CONTENT_ENCODING))
}

/// The way of packing that a header names, if it names any.
///
/// # Errors
/// As above.
pub(crate) fn named(encoding: Option<&HeaderValue>) -> Result<Option<Packing>, TransportError> {
    let Some(encoding) = encoding else { return Ok(None) };
    match encoding.to_str().map(str::trim).map(str::to_ascii_lowercase).as_deref() {
        Ok("" | "identity") => Ok(None),
        Ok("gzip" | "x-gzip") => Ok(Some(Packing::Gzip)),
        Ok("deflate") => Ok(Some(Packing::Zlib)),
        _ => Err(TransportError::UnknownEncoding),
    }
}

/// Unpacks a body.
///
/// # Errors
/// It is not packed in that way, or more than `bytes_max` come out.
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

/// One byte more than the limit tells that there are more.
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
    fn both_ways_of_packing_are_unpacked() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"hello").unwrap();
        let zlib = zlib.finish().unwrap().into();
        assert_eq!(unpack(&gzip(b"hello"), Packing::Gzip, 5).unwrap(), "hello");
        assert_eq!(unpack(&zlib, Packing::Zlib, 5).unwrap(), "hello");
    }

    #[test]
    fn a_small_body_that_becomes_a_large_one_is_refused_and_so_is_nonsense() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 8192);
        let status = |body: &Bytes| unpack(body, Packing::Gzip, 100_000).unwrap_err().status();
        assert_eq!(status(&bomb), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(status(&Bytes::from_static(b"hello")), StatusCode::BAD_REQUEST);
        assert_eq!(status(&bomb.slice(..bomb.len() / 2)), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(status(&gzip(b"hello").slice(..12)), StatusCode::BAD_REQUEST);
    }
}
