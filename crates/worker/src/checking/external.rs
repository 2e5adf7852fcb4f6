//! Says where a model wants its weights read from, when that is why it does not load. ONNX Runtime
//! is who refuses; its message does not always name the place.

use std::{
    fs::File,
    io::{self, Read},
    path::{Component, Path},
};

use onnxd_proto::domain::{Refusal, RefusalKind};

use crate::artifacts::model_in;

/// How a place begins in a model's file: field 1 of a `StringStringEntryProto` is "location", and
/// field 2 is what follows, its length first.
const BEFORE: &[u8] = b"\x0a\x08location\x12";
/// Longer places are passed over; their length would be more than one byte.
const PLACE_BYTES_MAX: usize = 127;
/// Bytes that are looked at together.
const WINDOW_BYTES: usize = 1 << 20;

/// The refusal with the place, if the version in `dir` has weights that are not beside its model.
pub(crate) fn explain(dir: &Path, refusal: Refusal) -> Refusal {
    let Ok(Some((file, model))) = model_in(dir) else { return refusal };
    let Ok(Some(place)) = bad_place(&model) else { return refusal };
    let message = format!(
        "{file}: its weights are to be read from {place:?}, which is no file beside it ({refusal})"
    );
    RefusalKind::Contract.because(message)
}

fn bad_place(model: &Path) -> io::Result<Option<String>> {
    let dir = model.parent().unwrap_or(Path::new("."));
    let is_bad = |place: &str| {
        let plain = Path::new(place).components().all(|part| matches!(part, Component::Normal(_)));
        !plain || !dir.join(place).is_file()
    };
    let (mut file, mut window) = (File::open(model)?, Vec::new());
    loop {
        let read = file.by_ref().take(WINDOW_BYTES as u64).read_to_end(&mut window)?;
        let bad = places(&window).find(|place| is_bad(place)).map(str::to_owned);
        if bad.is_some() || read == 0 {
            return Ok(bad);
        }
        // A place may go on in the next window.
        let whole = window.len().saturating_sub(BEFORE.len() + 1 + PLACE_BYTES_MAX);
        window.drain(..whole);
    }
}

fn places(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let starts = bytes.windows(BEFORE.len()).enumerate().filter(|(_, found)| *found == BEFORE);
    starts.filter_map(|(start, _)| {
        let (&length, rest) = bytes[start + BEFORE.len()..].split_first()?;
        let place = rest.get(..usize::from(length))?;
        if place.len() <= PLACE_BYTES_MAX { str::from_utf8(place).ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(place: &str) -> Vec<u8> {
        let length = u8::try_from(place.len()).unwrap();
        [BEFORE, &[length], place.as_bytes()].concat()
    }

    #[test]
    fn a_place_that_is_no_file_beside_the_model_is_found_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model.onnx");
        fs::write(dir.path().join("weights"), "").unwrap();
        let places = [("weights", false), ("../x", true), ("/weights", true), ("missing", true)];
        for (place, bad) in places {
            for before in [0, 7, WINDOW_BYTES - 9, WINDOW_BYTES, 2 * WINDOW_BYTES - 5] {
                let bytes = [vec![0; before], entry("weights"), entry(place), vec![0; 9]].concat();
                fs::write(&model, bytes).unwrap();
                let found = bad_place(&model).unwrap();
                assert_eq!(found, bad.then(|| place.to_owned()), "{place} after {before} bytes");
            }
        }
    }
}
