//! Tells HTTP/2 from HTTP/1.1 by the first bytes of a connection: a client with prior knowledge (RFC 9113)
//! begins with a preface that is no HTTP/1.1 request. Used by [`crate::transport::listener`].

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The first bytes of every HTTP/2 connection.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose first bytes have been examined, and are read again.
#[derive(Debug)]
pub(super) struct Begun<S> {
    examined: [u8; PREFACE.len()],
    /// The part of `examined` that has not been read again.
    unread: std::ops::Range<usize>,
    stream: S,
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Reads until it is clear whether the client speaks HTTP/2. `arrived` is called with the first byte.
    /// Returns the stream, and whether it does.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn examine(
        mut stream: S,
        arrived: impl FnOnce() + Send,
    ) -> io::Result<(Self, bool)> {
        let (mut examined, mut length) = ([0; PREFACE.len()], 0);
        let mut arrived = Some(arrived);
        while length < PREFACE.len() && examined[..length] == PREFACE[..length] {
            let read = stream.read(&mut examined[length..]).await?;
            if read == 0 {
                break;
            }
            if let Some(arrived) = arrived.take() {
                arrived();
            }
            length += read;
        }
        let is_http2 = examined == *PREFACE;
        Ok((Self { examined, unread: 0..length, stream }, is_http2))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let again = &self.examined[self.unread.clone()];
        let again = &again[..again.len().min(buffer.remaining())];
        buffer.put_slice(again);
        self.unread.start += again.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Sends `parts` one after the other. Returns whether they begin HTTP/2, and the bytes that are read.
    async fn examined(parts: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1024);
        let all = parts.concat();
        let sent = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let read = async {
            let (mut stream, is_http2) = Begun::examine(server, || ()).await.unwrap();
            let mut read = Vec::new();
            stream.read_to_end(&mut read).await.unwrap();
            (is_http2, read)
        };
        let ((), (is_http2, read)) = tokio::join!(sent, read);
        assert_eq!(read, all, "nothing is lost");
        (is_http2, read)
    }

    #[tokio::test]
    async fn only_the_whole_preface_begins_http2_and_no_byte_is_lost() {
        let frames = [PREFACE.as_slice(), b"frames"].concat();
        assert!(examined(&[&frames]).await.0);
        let bytes: Vec<&[u8]> = frames.chunks(1).collect();
        assert!(examined(&bytes).await.0, "byte by byte");
        for request in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PRI * HTTP/1.1\r\n\r\n",
            b"PROPFIND / HTTP/1.1\r\n\r\n",
            b"P",
            b"",
            &PREFACE[..23],
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ] {
            assert!(!examined(&[request]).await.0, "{request:?}");
        }
    }

    #[tokio::test]
    async fn the_arrival_of_the_first_byte_is_reported_once() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut arrivals = 0;
        client.write_all(b"PRI").await.unwrap();
        drop(client);
        Begun::examine(server, || arrivals += 1).await.unwrap();
        assert_eq!(arrivals, 1);
    }
}
