//! The files of a version apart from its settings: the model, its weights files ([`graph`],
//! [`external`]), their comparison with the manifest ([`intact`]), and data derived by a check,
//! namely compiled forms, outputs for fixed inputs ([`probes`]) and costs of runs ([`costs`]).
//! Checking writes the derived files and serving reads them. Runs no model.

pub(crate) mod compiled;
pub(crate) mod costs;
pub(crate) mod external;
pub(crate) mod graph;
pub(crate) mod intact;
pub(crate) mod probes;

use std::{
    fs,
    path::{Path, PathBuf},
};

use onnxd_proto::domain::{MODEL_SUFFIX, Refusal, RefusalKind};

/// The usual paths of the model.
pub(crate) const MODEL_FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// Maximum folder depth of a model file in a version.
const DEPTH_MAX: usize = 16;

/// Finds the version's model file and returns its name for messages and its path. Returns `None` for
/// static embeddings, which have no model file. A version has at most one, of any name.
///
/// # Errors
/// The version has several model files, or its directory cannot be read.
pub(crate) fn model_in(dir: &Path) -> Result<Option<(String, PathBuf)>, Refusal> {
    let mut files = MODEL_FILES.into_iter().map(|file| (file.to_owned(), dir.join(file)));
    if let Some(found) = files.find(|(_, path)| path.is_file()) {
        return Ok(Some(found));
    }
    let mut found = Vec::new();
    find_models(dir, "", DEPTH_MAX, &mut found).map_err(|error| {
        RefusalKind::Internal.because(format!("reading the version failed: {error}"))
    })?;
    match &*found {
        [] => Ok(None),
        [file] => Ok(Some((file.clone(), dir.join(file)))),
        _ => {
            found.sort();
            let files = found.join(", ");
            let message = format!("several model files, but a version may have only one: {files}");
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

    fn model_file_of(files: &[&str]) -> Result<Option<String>, Refusal> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        Ok(model_in(dir.path())?.map(|(file, _)| file))
    }

    #[test]
    fn version_has_one_model_file_of_any_name() {
        assert_eq!(model_file_of(&["config.json", "model.safetensors"]), Ok(None));
        for file in ["model.onnx", "onnx/model.onnx", "onnx/model_O2.onnx", "0_Transformer/m.onnx"]
        {
            assert_eq!(
                model_file_of(&[file, "onnx/model.onnx_data", "config.json"]),
                Ok(Some(file.into()))
            );
        }
        // A version of an earlier release.
        assert_eq!(
            model_file_of(&["model.onnx", "model.onnx.data"]),
            Ok(Some("model.onnx".into()))
        );
        let refusal = model_file_of(&["a.onnx", "onnx/b.onnx"]).unwrap_err();
        assert!(refusal.message.contains("a.onnx, onnx/b.onnx"), "{refusal}");
    }
}
