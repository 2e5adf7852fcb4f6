//! Where the models and ONNX Runtime are that `cargo xtask setup` makes.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// The executable under test.
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_onnxd-worker");

/// ONNX Runtime's shared library.
pub(crate) fn onnxruntime() -> PathBuf {
    given("ONNXD_TEST_ONNXRUNTIME", "onnxruntime/libonnxruntime.so.1.31.1")
}

/// A model's directory, such as `tiny/a`.
pub(crate) fn model(name: &str) -> PathBuf {
    given("ONNXD_TEST_MODELS", "models").join(name)
}

/// Reads a file of expectations.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

fn given(variable: &str, default: &str) -> PathBuf {
    let fallback = || workspace().join("target/onnxd").join(default);
    let path = env::var_os(variable).map_or_else(fallback, PathBuf::from);
    assert!(path.exists(), "{} is missing: run `cargo xtask setup` first", path.display());
    path
}
