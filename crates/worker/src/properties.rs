//! What holds for any bytes in the files of a version that are parsed here; panics where it does
//! not. Called by the tests below, which also replay the seeds of `fuzz/`, and by the fuzz target
//! there.

use std::{fs, io::Cursor, path::Path};

use crate::{
    artifacts::graph,
    families::{
        own::Own,
        text::files::{Files, config},
    },
};

/// The files, in the order of their parts in the input.
const FILES: [&str; 7] = [
    "onnxd.toml",
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
];
/// Ends a part; no file has it.
const END: u8 = 0xff;

/// What the files of a version say is refused, or is within bounds. An empty part is no file.
///
/// # Panics
/// It is beyond them.
pub fn model_files(dir: &Path, bytes: &[u8]) {
    let parts = bytes.split(|&byte| byte == END).chain(std::iter::repeat(&[][..]));
    for (file, part) in FILES.iter().zip(parts) {
        let path = dir.join(file);
        if part.is_empty() {
            let _ = fs::remove_file(path);
        } else {
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
            fs::write(path, part).expect("a file");
        }
    }
    let settings = Own::read(dir).and_then(|own| config::read(&Files::read(dir, &own)?));
    let Ok(settings) = settings else { return };
    assert!((1..=131_072).contains(&settings.max_tokens), "{settings:?}");
    let named = &settings.prompts.named;
    assert!(settings.prompts.default.iter().all(|name| named.contains_key(name)), "{settings:?}");
}

/// A model file is walked through to an end, and what it names is bounded.
///
/// # Panics
/// It is not.
pub fn graphs(bytes: &[u8]) {
    let mut tensors = 0;
    let end = bytes.len() as u64;
    let walked = graph::walk_bytes(Cursor::new(bytes), end, &mut |tensor| {
        tensors += 1;
        let location = tensor.external.map_or(0, |external| external.location.len());
        assert!(location <= 4096 && location < bytes.len(), "{location} bytes of a name");
        true
    });
    // Every tensor has a head of its own.
    assert!(tensors <= bytes.len(), "{tensors} tensors: {walked:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let seeds = fs::read_dir(&folder).unwrap().map(|seed| fs::read(seed.unwrap().path()));
        seeds.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn every_seed_keeps_the_promise() {
        let dir = tempfile::tempdir().unwrap();
        let seeds = seeds("model_files");
        assert!(!seeds.is_empty());
        seeds.iter().for_each(|seed| model_files(dir.path(), seed));
    }

    #[test]
    fn every_graph_keeps_its_promise() {
        let seeds = seeds("graphs");
        assert!(!seeds.is_empty());
        seeds.iter().for_each(|seed| graphs(seed));
    }

    proptest! {
        #[test]
        fn damaged_graphs_keep_it(
            place: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            for mut seed in seeds("graphs") {
                let at = place.index(seed.len());
                let end = (at + bytes.len()).min(seed.len());
                seed.splice(at..end, bytes.iter().copied());
                graphs(&seed);
            }
        }

        #[test]
        fn damaged_files_keep_it(
            place: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            for mut seed in seeds("model_files") {
                let at = place.index(seed.len());
                let end = (at + bytes.len()).min(seed.len());
                seed.splice(at..end, bytes.iter().copied());
                model_files(dir.path(), &seed);
            }
        }
    }
}
