//! Where models, ONNX Runtime and the executables are. All of them are made by `cargo xtask`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

/// The repository's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// ONNX Runtime's shared library.
///
/// # Panics
/// It has not been set up.
pub fn onnxruntime() -> PathBuf {
    if let Some(path) = env::var_os("ONNXD_TEST_ONNXRUNTIME") {
        return PathBuf::from(path);
    }
    let directory = workspace().join("target/onnxd/onnxruntime");
    let library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libonnxruntime.so") && path.is_file()
    };
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    match entries.map(|entry| entry.path()).find(library) {
        Some(path) => path,
        None => panic!("{} holds no library: run `cargo xtask setup` first", directory.display()),
    }
}

/// A model directory by its path below the directory of test models, such as `tiny/a`.
///
/// # Panics
/// It has not been set up.
pub fn model(name: &str) -> PathBuf {
    let path = models().join(name);
    assert!(path.is_dir(), "{} is missing: run `cargo xtask setup` first", path.display());
    path
}

fn models() -> PathBuf {
    env::var_os("ONNXD_TEST_MODELS")
        .map_or_else(|| workspace().join("target/onnxd/models"), PathBuf::from)
}

/// The supervisor's executable.
///
/// # Panics
/// It has not been built.
pub fn onnxd() -> PathBuf {
    executable("onnxd")
}

/// The worker's executable.
///
/// # Panics
/// It has not been built.
pub fn onnxd_worker() -> PathBuf {
    executable("onnxd-worker")
}

/// ONNX Runtime without a server, for the benchmark.
///
/// # Panics
/// It has not been built.
pub fn bench_runtime() -> PathBuf {
    executable("onnxd-bench-runtime")
}

/// Test executables stand in `target/<profile>/deps`, the others in `target/<profile>`, unless
/// `ONNXD_TEST_EXECUTABLES` names another directory.
fn executable(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap();
    let directory = env::var_os("ONNXD_TEST_EXECUTABLES").map(PathBuf::from);
    let directory = directory.or_else(|| Some(own.parent()?.parent()?.to_path_buf()));
    let path = directory.unwrap().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask test`", path.display());
    path
}

/// Copies every file of a model directory over what `to` holds, and removes what `from` has not.
///
/// # Panics
/// The disk refuses.
pub fn replace_model(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            replace_model(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Copies a model directory to `to` with one more key in its `config.json`: another version, of
/// the same embeddings.
///
/// # Panics
/// The disk refuses.
pub fn variant(from: &Path, to: &Path, name: &str) {
    replace_model(from, to);
    let path = to.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["variant"] = name.into();
    fs::write(path, config.to_string()).unwrap();
}

/// Embeddings of the tiny models that numpy computed.
#[derive(Clone, Debug, Deserialize)]
pub struct Reference {
    /// The texts.
    pub texts: Vec<String>,
    /// How many tokens each text has.
    pub tokens: Vec<u64>,
    /// For each model the embeddings, in the order of the texts.
    pub models: std::collections::BTreeMap<String, Vec<Vec<f32>>>,
}

/// The tiny models' reference embeddings.
///
/// # Panics
/// They have not been made.
pub fn reference() -> Reference {
    let path = model("tiny").join("reference.json");
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// A text and its embedding by sentence-transformers.
#[derive(Clone, Debug, Deserialize)]
pub struct Golden {
    /// The text.
    pub text: String,
    /// Its embedding.
    pub embedding: Vec<f32>,
}

/// What sentence-transformers computes with all-MiniLM-L6-v2.
///
/// # Panics
/// The file in the repository is damaged.
pub fn golden() -> Vec<Golden> {
    #[derive(Deserialize)]
    struct File {
        items: Vec<Golden>,
    }
    let text = include_str!("../golden/minilm.json");
    serde_json::from_str::<File>(text).unwrap().items
}
