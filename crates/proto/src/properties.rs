//! What holds for any bytes that reach the parsers of this crate; each function panics where it
//! does not. Called by the tests below, which also replay the seeds of `fuzz/`, and by the fuzz
//! targets there.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    limits::{FRAME_CONTROL_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX},
    wire::{
        frame::{self, Direction, Frame},
        message::{self, FromWorker, ToWorker},
    },
};

/// Frames that can be read are, written again, the bytes they were; no header makes the reader
/// take more memory than a frame may have.
///
/// # Panics
/// They are not, or it does.
pub fn frames(bytes: &[u8]) {
    for direction in [Direction::ToWorker, Direction::FromWorker] {
        let mut frame = Frame::default();
        let mut rest = bytes;
        loop {
            let before = rest;
            let read = frame.read(&mut rest, direction);
            assert!(frame.control.capacity() <= FRAME_CONTROL_BYTES_MAX);
            assert!(frame.payload.capacity() <= FRAME_PAYLOAD_BYTES_MAX);
            if !matches!(read, Ok(true)) {
                break;
            }
            let mut written = Vec::new();
            let payload = [&frame.payload[..]];
            frame::write(&mut written, direction, frame.id, &frame.control, &payload)
                .expect("what was read is within the limits");
            assert_eq!(written, before[..before.len() - rest.len()]);
        }
    }
}

/// A control message that can be decoded can be encoded, and comes out as the same message.
///
/// # Panics
/// It does not.
pub fn messages(bytes: &[u8]) {
    message_of::<ToWorker>(bytes);
    message_of::<FromWorker>(bytes);
}

fn message_of<M: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let Ok(message) = message::decode::<M>(bytes) else { return };
    let encoded = message::encode(&message).expect("it came from fewer bytes");
    // Numbers may have been written in more bytes than they need, and NaN is not equal to itself.
    let decoded: M = message::decode(&encoded).expect("we wrote it");
    let again = message::encode(&decoded).expect("we wrote it before");
    assert_eq!(encoded, again, "{message:?}");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let seeds = fs::read_dir(&folder).unwrap().map(|seed| fs::read(seed.unwrap().path()));
        seeds.collect::<Result<_, _>>().unwrap()
    }

    /// Writes the seeds anew after a change of the protocol: run with `ONNXD_UPDATE_SEEDS=1`.
    #[test]
    fn the_seeds_of_frames_and_messages_are_of_this_protocol() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        let run = message::encode(&ToWorker::Ping).unwrap();
        let pong = message::encode(&FromWorker::Pong).unwrap();
        let mut frames = Vec::new();
        frame::write(&mut frames, Direction::ToWorker, 7, &run, &[b"text"]).unwrap();
        frame::write(&mut frames, Direction::ToWorker, 8, &run, &[]).unwrap();
        if std::env::var_os("ONNXD_UPDATE_SEEDS").is_some() {
            fs::write(folder.join("frames/two"), &frames).unwrap();
            fs::write(folder.join("messages/ping"), &run).unwrap();
            fs::write(folder.join("messages/pong"), &pong).unwrap();
        }
        assert!(seeds("frames").contains(&frames), "run with ONNXD_UPDATE_SEEDS=1");
        assert!(seeds("messages").contains(&pong), "run with ONNXD_UPDATE_SEEDS=1");
    }

    #[test]
    fn every_seed_keeps_the_promises() {
        seeds("frames").iter().for_each(|seed| frames(seed));
        seeds("messages").iter().for_each(|seed| messages(seed));
    }

    proptest! {
        #[test]
        fn any_bytes_keep_them(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            frames(&bytes);
            messages(&bytes);
        }

        /// Nearly right bytes get further than random ones.
        #[test]
        fn damaged_seeds_keep_them(place: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            for (target, promise) in [("frames", frames as fn(&[u8])), ("messages", messages)] {
                for mut seed in seeds(target) {
                    let at = place.index(seed.len());
                    seed[at] = byte;
                    promise(&seed);
                    promise(&seed[..cut.index(seed.len())]);
                }
            }
        }
    }
}
