//! Where messages begin and end in the body of a request: each has a byte of flags and four of
//! length before it. Pure; what is in a message is none of its business.

/// Bytes before each message.
pub(super) const HEAD_BYTES: usize = 5;

/// How far a body has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of the head that have come.
    head_bytes: usize,
    /// Bytes of the message that are to come.
    left: usize,
    /// Messages whose heads have come.
    messages: u64,
}

impl Frames {
    /// Takes the next bytes; tells of each message that begins its number, its flags and how long it
    /// is going to be.
    ///
    /// # Errors
    /// What `begins` says against it.
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
            let taken = (HEAD_BYTES - self.head_bytes).min(data.len());
            self.head[self.head_bytes..][..taken].copy_from_slice(&data[..taken]);
            self.head_bytes += taken;
            data = &data[taken..];
            if self.head_bytes == HEAD_BYTES {
                let [flags, length @ ..] = self.head;
                self.head_bytes = 0;
                self.left = u32::from_be_bytes(length) as usize;
                begins(self.messages, flags, self.left)?;
                self.messages += 1;
            }
        }
        Ok(())
    }

    /// Whether no message is half there.
    pub(super) fn is_between(&self) -> bool {
        self.head_bytes == 0 && self.left == 0
    }

    /// Messages that have begun.
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
        fn messages_are_found_however_the_body_is_cut(
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
    fn half_a_message_or_head_is_told_from_none() {
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
    fn a_message_that_is_refused_goes_no_further() {
        let refuse = |_, _, length: usize| Err(length);
        assert_eq!(
            Frames::default().take(&[0, 255, 255, 255, 255], refuse),
            Err(u32::MAX as usize)
        );
    }
}
