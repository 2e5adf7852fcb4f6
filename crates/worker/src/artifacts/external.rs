//! Finds and verifies the files beside a model that hold its weights. Called by listings, and by the
//! check when a version fails to load.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Component, Path},
};

use onnxd_proto::domain::{MODEL_SUFFIX, Refusal, RefusalKind, is_inside};

use super::graph::{External, WalkError, walk};

/// Maximum weights files of one model. Exporters that write one file per weight make hundreds.
const FILES_MAX: usize = 900;

/// The weights files of a model.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ExternalFiles {
    /// Sorted paths, relative to the version's directory.
    pub(crate) files: Vec<String>,
    /// The offset at which the model is damaged, if it is. Then `files` may be incomplete, and loading
    /// the model reports the error.
    pub(crate) damaged_at: Option<u64>,
}

/// Returns the weights files of the model `file` below `dir`. `model` is the opened model file.
///
/// # Errors
/// A weights file is outside the model's folder, missing, or shorter than the model requires.
pub(crate) fn external_files(
    dir: &Path,
    file: &str,
    model: &File,
) -> Result<ExternalFiles, Refusal> {
    let (mut ends, mut fault) = (BTreeMap::new(), None);
    let walked = walk(model, &mut |tensor| {
        let Some(External { location, end, .. }) = tensor.external else { return true };
        if let Some(known) = ends.get_mut(&location) {
            *known = end.max(*known);
        } else if ends.len() < FILES_MAX {
            ends.insert(location, end);
        } else {
            fault = Some(format!("{file} has weights in more than {FILES_MAX} files"));
        }
        fault.is_none()
    });
    let refuse = |message: String| Err(RefusalKind::Contract.because(message));
    if let Some(fault) = fault {
        return refuse(format!("{fault}; export it with all weights in one file"));
    }
    let damaged_at = match walked {
        Ok(()) | Err(WalkError::Stopped) => None,
        Err(WalkError::Damaged(at)) => Some(at),
        Err(WalkError::Limit) => {
            return refuse(format!("{file} exceeds the limits on fields or nesting of a model"));
        }
    };
    let files = ends.iter().map(|(location, end)| external_file(dir, file, location, *end));
    let mut files = files.collect::<Result<Vec<_>, _>>()?;
    files.sort();
    files.dedup();
    Ok(ExternalFiles { files, damaged_at })
}

/// Returns the path of the file that `model` calls `location`. Requires it to have at least `end`
/// bytes.
fn external_file(dir: &Path, model: &str, location: &str, end: u64) -> Result<String, Refusal> {
    let refuse = |message: String| Err(RefusalKind::Contract.because(message));
    let Some(inside) = inner(location) else {
        return refuse(format!(
            "{model} has weights in {location:?}, which is not below the model's own folder; save \
             the model again with its weights beside it"
        ));
    };
    let folder = model.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let path = format!("{folder}{inside}");
    if !is_inside(&path) {
        return refuse(format!("{model} has weights in {location:?}, which is not a file name"));
    }
    // Such a file would count as a second model.
    if path.ends_with(MODEL_SUFFIX) {
        return refuse(format!(
            "{model} has weights in {path}, which is named like a model; save the model again \
             with another name for its weights"
        ));
    }
    match fs::metadata(dir.join(&path)) {
        Ok(found) if !found.is_file() => {
            refuse(format!("{model} needs {path}, which is not a regular file"))
        }
        Ok(found) if found.len() < end => refuse(format!(
            "{model} needs {end} bytes of {path}, which has {}; download or export it again",
            found.len()
        )),
        Ok(_) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            refuse(format!("{model} needs {path}, which is missing; download it beside the model"))
        }
        Err(error) => refuse(format!("{model} needs {path}, which cannot be read: {error}")),
    }
}

/// Normalizes a location, or returns `None` if it leaves the model's folder.
fn inner(location: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(location).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!parts.is_empty() && !location.ends_with('/')).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::graph::tests::{external, model, node};

    /// Returns the weights files of a model `file` with this graph, beside a file `w` of ten bytes.
    fn external_files_in(file: &str, graph: &[Vec<u8>]) -> Result<ExternalFiles, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file);
        let folder = path.parent().unwrap().to_owned();
        fs::create_dir_all(folder.join("folder")).unwrap();
        fs::write(folder.join("w"), [0; 10]).unwrap();
        fs::write(&path, model(graph)).unwrap();
        external_files(dir.path(), file, &File::open(path).unwrap())
            .map_err(|refusal| refusal.message)
    }

    #[test]
    fn weights_files_are_relative_to_the_source_and_unique() {
        let graph = [external(5, "w", 0, 4), node(external(5, "./w", 4, 6))];
        assert_eq!(external_files_in("model.onnx", &graph).unwrap().files, ["w"]);
        assert_eq!(external_files_in("onnx/model_x.onnx", &graph).unwrap().files, ["onnx/w"]);
        assert_eq!(external_files_in("model.onnx", &[]).unwrap(), ExternalFiles::default());
    }

    #[test]
    fn missing_short_or_outside_weights_are_refused_by_name() {
        for (location, end, reason) in [
            ("x.data", 4, "onnx/m.onnx needs onnx/x.data, which is missing; download it"),
            ("w", 11, "onnx/m.onnx needs 11 bytes of onnx/w, which has 10"),
            ("folder", 4, "onnx/folder, which is not a regular file"),
            ("../w", 4, "\"../w\", which is not below the model's own folder"),
            ("/etc/passwd", 4, "\"/etc/passwd\", which is not below"),
            ("folder/../w", 4, "which is not below"),
            ("", 4, "which is not below"),
            ("./", 4, "which is not below"),
            ("a\nb", 4, "which is not a file name"),
            ("m.onnx", 4, "named like a model"),
        ] {
            let message =
                external_files_in("onnx/m.onnx", &[external(5, location, 0, end)]).unwrap_err();
            assert!(message.contains(reason), "{location}: {message}");
        }
    }

    #[test]
    fn too_many_weights_files_are_refused() {
        let graph: Vec<_> = (0..=FILES_MAX).map(|i| external(5, &format!("w{i}"), 0, 4)).collect();
        assert!(external_files_in("m.onnx", &graph).unwrap_err().contains("more than 900 files"));
    }

    #[test]
    fn damaged_model_is_left_to_the_check() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        fs::write(&path, b"this is no model").unwrap();
        let found = external_files(dir.path(), "m.onnx", &File::open(path).unwrap()).unwrap();
        assert!(found.damaged_at.is_some() && found.files.is_empty());
    }
}
