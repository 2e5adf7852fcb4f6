//! What lies on disk of a version beside its settings: the model's file, and what a check derives
//! from it: compiled forms, the outputs of fixed inputs ([`probes`]) and what runs cost ([`costs`]).
//! Reads, writes and compares; runs nothing. Checking writes these files, serving reads them.

pub(crate) mod compiled;
pub(crate) mod costs;
pub(crate) mod probes;

use std::path::{Path, PathBuf};

use onnxd_proto::domain::Refusal;

/// Where the model may stand in a version's directory.
const MODEL_FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// The version's own graph: its name in messages, and where it is. `None`: it has none.
pub(crate) fn model_in(dir: &Path) -> Result<Option<(String, PathBuf)>, Refusal> {
    let mut files = MODEL_FILES.into_iter().map(|file| (file.to_owned(), dir.join(file)));
    Ok(files.find(|(_, path)| path.is_file()))
}
