//! Finds message boundaries in a request body. Each message has a five-byte header: one byte of
//! flags, four of length. Pure; ignores the contents.

/// Bytes of the header before each message.
pub(super) const HEADER_BYTES: usize = 5;

/// Progress through a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    head: [u8; HEADER_BYTES],
    /// Bytes of the header received so far.
    head_bytes: usize,
    /// Bytes of the current message still to come.
    left: usize,
    /// Messages whose header was received.
    messages: u64,
}

impl Frames {
    /// Consumes the next bytes. Calls `begins` with the index, flags and length of each message
    /// that starts in them.
    ///
    /// # Errors
    /// `begins` rejected a message.
    pub(super) fn take<E>(
        &mut self,
        mut data: &[u8],
        mut begins: impl FnMut(u64, u8, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        while !data.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(data.len());
                self.left -= taken;
                data = &data[taken..];
                continue;
            }
            let taken = (HEADER_BYTES - self.head_bytes).min(data.len());
            self.head[self.head_bytes..][..taken].copy_from_slice(&data[..taken]);
            self.head_bytes += taken;
            data = &data[taken..];
            if self.head_bytes == HEADER_BYTES {
                let [flags, length @ ..] = self.head;
                self.head_bytes = 0;
                self.left = u32::from_be_bytes(length) as usize;
                begins(self.messages, flags, self.left)?;
                self.messages += 1;
            }
        }
        Ok(())
    }

    /// Returns whether the body is at a message boundary.
    pub(super) fn is_between(&self) -> bool {
        self.head_bytes == 0 && self.left == 0
    }

    /// Returns the number of messages that have begun.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_are_found_in_chunks_of_any_size(
            lengths in prop::collection::vec(0_usize..40, 0..8),
            cut in 1_usize..17,
        ) {
            let mut body = Vec::new();
            for &length in &lengths {
                body.push(0);
                body.extend(u32::try_from(length).unwrap().to_be_bytes());
                body.resize(body.len() + length, 1);
            }
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for data in body.chunks(cut) {
                let begins = |message, flags, length| {
                    assert_eq!((message, flags), (found.len() as u64, 0));
                    found.push(length);
                    Ok::<_, Infallible>(())
                };
                frames.take(data, begins).unwrap();
            }
            prop_assert!(frames.is_between());
            prop_assert_eq!(frames.messages(), lengths.len() as u64);
            prop_assert_eq!(found, lengths);
        }
    }

    #[test]
    fn partial_headers_and_messages_are_not_boundaries() {
        let mut frames = Frames::default();
        assert!(frames.is_between());
        for (data, between) in
            [(&[0, 0][..], false), (&[0, 0, 2], false), (&[7], false), (&[7], true)]
        {
            frames.take(data, |_, _, _| Ok::<_, Infallible>(())).unwrap();
            assert_eq!(frames.is_between(), between, "{data:?}");
        }
    }

    #[test]
    fn rejecting_a_message_stops_the_body() {
        let refuse = |_, _, length: usize| Err(length);
        assert_eq!(
            Frames::default().take(&[0, 255, 255, 255, 255], refuse),
            Err(u32::MAX as usize)
        );
    }
}
