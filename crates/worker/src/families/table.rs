//! The table of families: which one opens a version, by what the version's files say. A new family
//! is a folder beside this file and one line here.

use std::path::Path;

use onnxd_proto::domain::{Refusal, RefusalKind};

use super::{
    family::{Family, Opening},
    own::Own,
    tensor, text,
};

/// A family as the table knows it.
struct Entry {
    /// Whether the files in this directory are those of such a model.
    claims: fn(&Path, &Own) -> bool,
    open: fn(&Opening<'_>) -> Result<Box<dyn Family>, Refusal>,
}

/// The first that claims a version opens it.
const TABLE: [Entry; 2] = [
    Entry { claims: tensor::claims, open: tensor::open },
    Entry { claims: text::claims, open: text::open },
];

/// Opens a model with the family that its files belong to.
///
/// # Errors
/// No family claims it, or the one that does cannot load it.
pub(super) fn open(opening: &Opening<'_>) -> Result<Box<dyn Family>, Refusal> {
    let entry = TABLE.iter().find(|entry| (entry.claims)(opening.dir, opening.own));
    let Some(entry) = entry else {
        return Err(RefusalKind::Contract.because("its files belong to no known kind of model"));
    };
    (entry.open)(opening)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_version_belongs_to_exactly_one_family() {
        const TENSOR: usize = 0;
        const TEXT: usize = 1;
        let cases: [(&[(&str, &str)], usize); 8] = [
            (&[], TENSOR),
            (&[("model.onnx", "")], TENSOR),
            (&[("tokenizer.json", "{}")], TEXT),
            (&[("config.json", "{}")], TEXT),
            (&[("modules.json", "[]")], TEXT),
            (&[("tokenizer.json", "{}"), ("onnxd.toml", "task = \"tensor\"")], TENSOR),
            (&[("model.onnx", ""), ("onnxd.toml", "task = \"embed\"")], TEXT),
            (&[("onnxd.toml", "batch = false")], TENSOR),
        ];
        for (files, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(dir.path().join(name), text).unwrap();
            }
            let own = Own::read(dir.path()).unwrap();
            let claims: Vec<usize> =
                (0..TABLE.len()).filter(|&entry| (TABLE[entry].claims)(dir.path(), &own)).collect();
            assert_eq!(claims, [expected], "{files:?}");
        }
    }
}
