//! Chooses the family that opens a version, based on the version's files. To add a family, add a
//! folder beside this file and one line here.

use std::path::Path;

use onnxd_proto::domain::{Refusal, RefusalKind};

use super::{
    family::{Family, Opening},
    own::Own,
    tensor, text,
};

/// One family.
struct Entry {
    /// Whether the files in this directory belong to this family.
    claims: fn(&Path, &Own) -> bool,
    open: fn(&Opening<'_>) -> Result<Box<dyn Family>, Refusal>,
}

/// The first family that claims a version opens it.
const TABLE: [Entry; 2] = [
    Entry { claims: tensor::claims, open: tensor::open },
    Entry { claims: text::claims, open: text::open },
];

/// Opens a model with the family that claims its files.
///
/// # Errors
/// No family claims the files, or the one that does cannot load them.
pub(super) fn open(opening: &Opening<'_>) -> Result<Box<dyn Family>, Refusal> {
    let entry = TABLE.iter().find(|entry| (entry.claims)(opening.dir, opening.own));
    let Some(entry) = entry else {
        return Err(RefusalKind::Contract
            .because("no model family matches these files; set task in onnxd.toml"));
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
