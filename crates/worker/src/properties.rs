//! Properties that hold for any bytes in the version files parsed here; panics where they fail.
//! Called by the tests below, which replay the seeds of `fuzz/`, and by the fuzz targets there.

use std::{fs, io::Cursor, path::Path};

use crate::{
    artifacts::graph,
    families::{
        config::ModelConfig,
        text::{
            files::{Files, config},
            matrices::{
                dense::Dense, layer_norm::LayerNorm, sparse_static::SparseStatic,
                static_table::StaticTable,
            },
            tokenize::conversion,
        },
    },
};

/// File names, in the order of their parts in the input.
const FILES: [&str; 7] = [
    "onnxd.toml",
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
];
/// Files of a module and of a tokenizer, in the order of their parts in the input.
const MODULE_FILES: [&str; 9] = [
    "config.json",
    "model.safetensors",
    "idf.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
];
/// Separates the parts of [`model_files`]. Valid files never contain it.
const END: u8 = 0xff;
/// Maximum width of a row that a module is applied to. A wider module is only parsed.
const FEATURES_MAX: usize = 4096;

/// Checks that a version's files are rejected or yield settings within bounds. An empty part means
/// no file.
///
/// # Panics
/// A setting is out of bounds.
pub fn model_files(dir: &Path, bytes: &[u8]) {
    let parts = bytes.split(|&byte| byte == END).chain(std::iter::repeat(&[][..]));
    write(dir, &FILES, parts);
    let settings = ModelConfig::read(dir)
        .and_then(|model_config| config::read(&Files::read(dir, &model_config)?));
    let Ok(settings) = settings else { return };
    assert!((1..=131_072).contains(&settings.max_tokens), "{settings:?}");
    let named = &settings.prompts.named;
    assert!(settings.prompts.default.iter().all(|name| named.contains_key(name)), "{settings:?}");
}

/// Checks that a module's files are rejected or can be applied, and likewise a vocabulary. Each
/// part starts with its length in two bytes, little-endian. An empty part means no file.
///
/// # Panics
/// A module returns rows of another length than it declares.
pub fn module_files(dir: &Path, bytes: &[u8]) {
    let mut rest = bytes;
    let parts = std::iter::from_fn(|| {
        let (length, after) = rest.split_first_chunk().unwrap_or((&[0; 2], &[]));
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (part, after) = after.split_at(length);
        rest = after;
        Some(part)
    });
    write(dir, &MODULE_FILES, parts);
    let mut out = Vec::new();
    if let Ok(dense) = Dense::open(dir, "")
        && dense.inputs().max(dense.outputs()) <= FEATURES_MAX
    {
        dense.apply(&vec![1.0; 2 * dense.inputs()], &mut out);
        assert_eq!(out.len(), 2 * dense.outputs());
    }
    if let Ok(norm) = LayerNorm::open(dir, "") {
        norm.apply(&mut vec![1.0; norm.dimension()]);
    }
    if let Ok(table) = StaticTable::open(dir, "") {
        out.clear();
        table.mean(&[0, table.tokens() - 1], &mut out).expect("the table has these tokens");
        assert_eq!(out.len(), table.dimension());
    }
    if let Ok(weights) =
        SparseStatic::open(dir, "", &|token| Some(u32::from(*token.as_bytes().first()?)))
    {
        assert!(weights.weigh(&[0, 0]).expect("there is a first token").len() < 2);
    }
    if let Ok(tokenizer) = conversion::tokenizer(dir) {
        // Some vocabularies lack an unknown token.
        let _ = tokenizer.encode("hello [MASK] <mask>", true);
    }
}

fn write<'a>(dir: &Path, files: &[&str], parts: impl Iterator<Item = &'a [u8]>) {
    for (file, part) in files.iter().zip(parts) {
        let path = dir.join(file);
        if part.is_empty() {
            let _ = fs::remove_file(path);
        } else {
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
            fs::write(path, part).expect("a file");
        }
    }
}

/// Checks that walking a model file ends, and that the names in it are bounded.
///
/// # Panics
/// The walk yields too many tensors or too long a name.
pub fn graphs(bytes: &[u8]) {
    let mut tensors = 0;
    let end = bytes.len() as u64;
    let walked = graph::walk_bytes(Cursor::new(bytes), end, &mut |tensor| {
        tensors += 1;
        let location = tensor.external.map_or(0, |external| external.location.len());
        assert!(location <= 4096 && location < bytes.len(), "{location} bytes of a name");
        true
    });
    // Every tensor takes at least one byte for its header.
    assert!(tensors <= bytes.len(), "{tensors} tensors: {walked:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let seeds = fs::read_dir(&folder).unwrap().map(|seed| fs::read(seed.unwrap().path()));
        let seeds: Vec<_> = seeds.collect::<Result<_, _>>().unwrap();
        assert!(!seeds.is_empty());
        seeds
    }

    #[test]
    fn every_seed_holds() {
        let dir = tempfile::tempdir().unwrap();
        seeds("model_files").iter().for_each(|seed| model_files(dir.path(), seed));
        seeds("module_files").iter().for_each(|seed| module_files(dir.path(), seed));
    }

    #[test]
    fn every_graph_seed_holds() {
        let seeds = seeds("graphs");
        assert!(!seeds.is_empty());
        seeds.iter().for_each(|seed| graphs(seed));
    }

    proptest! {
        #[test]
        fn damaged_graphs_hold(
            index: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            for mut seed in seeds("graphs") {
                let at = index.index(seed.len());
                let end = (at + bytes.len()).min(seed.len());
                seed.splice(at..end, bytes.iter().copied());
                graphs(&seed);
            }
        }

        #[test]
        fn damaged_files_hold(
            index: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            for (target, check) in
                [("model_files", model_files as fn(&Path, &[u8])), ("module_files", module_files)]
            {
                for mut seed in seeds(target) {
                    let at = index.index(seed.len());
                    let end = (at + bytes.len()).min(seed.len());
                    seed.splice(at..end, bytes.iter().copied());
                    check(dir.path(), &seed);
                }
            }
        }
    }
}
