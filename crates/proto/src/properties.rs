//! Properties that hold for any bytes that reach this crate's parsers. Each function panics when
//! its property is violated. Called by the tests below, which also replay the seeds in `fuzz/`, and
//! by the fuzz targets.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    limits::{FRAME_CONTROL_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX},
    wire::{
        frame::{self, Direction, Frame},
        message::{self, FromWorker, ToWorker},
    },
};

/// A frame that was read encodes to the same bytes, and no header makes the reader allocate more
/// than a frame may hold.
///
/// # Panics
/// Panics if either property is violated.
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
                .expect("a frame that was read is within the limits");
            assert_eq!(written, before[..before.len() - rest.len()]);
        }
    }
}

/// A decoded control message encodes, and decodes again to the same message.
///
/// # Panics
/// Panics if the property is violated.
pub fn messages(bytes: &[u8]) {
    message_of::<ToWorker>(bytes);
    message_of::<FromWorker>(bytes);
}

fn message_of<M: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let Ok(message) = message::decode::<M>(bytes) else { return };
    let encoded = message::encode(&message).expect("re-encoding is no longer than the input");
    // Compare encodings: varints may be longer than necessary, and NaN does not equal itself.
    let decoded: M = message::decode(&encoded).expect("own encoding decodes");
    let again = message::encode(&decoded).expect("a decoded message encodes");
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

    /// Rewrites the seeds after a protocol change when run with `ONNXD_UPDATE_SEEDS=1`.
    #[test]
    fn frame_and_message_seeds_match_this_protocol() {
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
    fn properties_hold_for_every_seed() {
        seeds("frames").iter().for_each(|seed| frames(seed));
        seeds("messages").iter().for_each(|seed| messages(seed));
    }

    proptest! {
        #[test]
        fn properties_hold_for_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            frames(&bytes);
            messages(&bytes);
        }

        /// Almost valid bytes get further than random ones.
        #[test]
        fn properties_hold_for_damaged_seeds(
            place: prop::sample::Index, byte: u8, cut: prop::sample::Index,
        ) {
            for (target, property) in [("frames", frames as fn(&[u8])), ("messages", messages)] {
                for mut seed in seeds(target) {
                    let at = place.index(seed.len());
                    seed[at] = byte;
                    property(&seed);
                    property(&seed[..cut.index(seed.len())]);
                }
            }
        }
    }
}
