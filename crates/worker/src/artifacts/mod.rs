//! What lies on disk of a version beside its settings: the model's file, the files of its weights
//! ([`graph`], [`external`]), and what a check derives from it: compiled forms, the outputs of fixed
//! inputs ([`probes`]) and what runs cost ([`costs`]). Reads, writes and compares; runs nothing.
//! Checking writes these files, serving reads them.

pub(crate) mod compiled;
pub(crate) mod costs;
pub(crate) mod external;
pub(crate) mod graph;
pub(crate) mod probes;

use std::{
    fs,
    path::{Path, PathBuf},
};

use onnxd_proto::domain::{MODEL_SUFFIX, Refusal, RefusalKind};

/// Where the model stands if it has the usual name.
pub(crate) const MODEL_FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// Folders within folders of a version. A model file is at most so deep.
const DEPTH_MAX: usize = 16;

/// The version's own graph: its name in messages, and where it is; `None` where the version needs
/// no graph, as static embeddings. A version has one model file, whatever it is called.
///
/// # Errors
/// There are several, or the directory cannot be read.
pub(crate) fn model_in(dir: &Path) -> Result<Option<(String, PathBuf)>, Refusal> {
    let mut files = MODEL_FILES.into_iter().map(|file| (file.to_owned(), dir.join(file)));
    if let Some(found) = files.find(|(_, path)| path.is_file()) {
        return Ok(Some(found));
    }
    let mut found = Vec::new();
    find_models(dir, "", DEPTH_MAX, &mut found)
        .map_err(|error| RefusalKind::Internal.because(format!("the version: {error}")))?;
    match &*found {
        [] => Ok(None),
        [file] => Ok(Some((file.clone(), dir.join(file)))),
        _ => {
            found.sort();
            let files = found.join(", ");
            let message = format!("several model files, and a version has one: {files}");
            Err(RefusalKind::Contract.because(message))
        }
    }
}

/// Adds the model files below the folder `at` of `dir`.
fn find_models(dir: &Path, at: &str, depth: usize, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir.join(at))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            find_models(dir, &path, depth - 1, found)?;
        } else if kind.is_file() && path.ends_with(MODEL_SUFFIX) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[&str]) -> Result<Option<String>, Refusal> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        Ok(model_in(dir.path())?.map(|(file, _)| file))
    }

    #[test]
    fn a_version_has_one_model_file_whatever_it_is_called() {
        assert_eq!(of(&["config.json", "model.safetensors"]), Ok(None));
        for file in ["model.onnx", "onnx/model.onnx", "onnx/model_O2.onnx", "0_Transformer/m.onnx"]
        {
            assert_eq!(of(&[file, "onnx/model.onnx_data", "config.json"]), Ok(Some(file.into())));
        }
        // A version of an earlier release.
        assert_eq!(of(&["model.onnx", "model.onnx.data"]), Ok(Some("model.onnx".into())));
        let refusal = of(&["a.onnx", "onnx/b.onnx"]).unwrap_err();
        assert!(refusal.message.contains("a.onnx, onnx/b.onnx"), "{refusal}");
    }
}
