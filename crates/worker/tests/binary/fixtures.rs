//! Paths of the models and ONNX Runtime built by `cargo xtask setup`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// The executable under test.
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_onnxd-worker");

/// Returns the path of ONNX Runtime's shared library.
pub(crate) fn onnxruntime() -> PathBuf {
    given("ONNXD_TEST_ONNXRUNTIME", "onnxruntime/libonnxruntime.so.1.31.1")
}

/// Returns a model's directory, such as `tiny/a`.
pub(crate) fn model(name: &str) -> PathBuf {
    given("ONNXD_TEST_MODELS", "models").join(name)
}

/// Copies a model's directory, so that a test can change it.
pub(crate) fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_into(&model(name), dir.path());
    dir
}

fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_into(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Reads a file of expected results.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Returns the root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

fn given(variable: &str, default: &str) -> PathBuf {
    let fallback = || workspace().join("target/onnxd").join(default);
    let path = env::var_os(variable).map_or_else(fallback, PathBuf::from);
    assert!(path.exists(), "{} is missing: run `cargo xtask setup` first", path.display());
    path
}
