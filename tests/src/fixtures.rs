//! Locates models, ONNX Runtime and executables. `cargo xtask` creates all of them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::Value;

/// Returns the repository's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Returns the files with this extension in a directory and its subdirectories.
///
/// # Panics
/// Panics if a directory cannot be read.
pub fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files
}

/// Returns the path of ONNX Runtime's shared library.
///
/// # Panics
/// Panics if it is not set up.
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
        None => {
            panic!("{} contains no library: run `cargo xtask setup` first", directory.display())
        }
    }
}

/// Returns a model directory by its path below the test models, such as `tiny/a`.
///
/// # Panics
/// Panics if it is not set up.
pub fn model(name: &str) -> PathBuf {
    let path = models().join(name);
    assert!(path.is_dir(), "{} is missing: run `cargo xtask setup` first", path.display());
    path
}

fn models() -> PathBuf {
    env::var_os("ONNXD_TEST_MODELS")
        .map_or_else(|| workspace().join("target/onnxd/models"), PathBuf::from)
}

/// Returns the supervisor's executable.
///
/// # Panics
/// Panics if it is not built.
pub fn onnxd() -> PathBuf {
    executable("onnxd")
}

/// Returns the worker's executable.
///
/// # Panics
/// Panics if it is not built.
pub fn onnxd_worker() -> PathBuf {
    executable("onnxd-worker")
}

/// Returns the fetcher's executable.
///
/// # Panics
/// Panics if it is not built.
pub fn onnxd_fetch() -> PathBuf {
    executable("onnxd-fetch")
}

/// Returns the executable of the index process.
///
/// # Panics
/// Panics if it is not built.
pub fn onnxd_index() -> PathBuf {
    executable("onnxd-index")
}

/// Returns the executable that keeps collections in PostgreSQL.
///
/// # Panics
/// Panics if it is not built.
pub fn onnxd_postgres() -> PathBuf {
    executable("onnxd-postgres")
}

/// Returns the benchmark that runs ONNX Runtime without a server.
///
/// # Panics
/// Panics if it is not built.
pub fn bench_runtime() -> PathBuf {
    executable("onnxd-bench-runtime")
}

/// Finds an executable. Test executables are in `target/<profile>/deps`, the others in
/// `target/<profile>`, unless `ONNXD_TEST_EXECUTABLES` names another directory.
fn executable(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap();
    let directory = env::var_os("ONNXD_TEST_EXECUTABLES").map(PathBuf::from);
    let directory = directory.or_else(|| Some(own.parent()?.parent()?.to_path_buf()));
    let path = directory.unwrap().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask test`", path.display());
    path
}

/// Replaces `to` with a copy of the model directory `from`.
///
/// # Panics
/// Panics on an I/O error.
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

/// Writes the `SHA256SUMS` of a directory, complete at once.
///
/// # Panics
/// Panics if the files cannot be read.
pub fn write_checksums(directory: &Path) {
    let command = "find . -type f ! -name 'SHA256SUMS*' -exec sha256sum {} + > SHA256SUMS.new && \
                   mv SHA256SUMS.new SHA256SUMS";
    let mut shell = Command::new("sh");
    let status = shell.args(["-c", command]).current_dir(directory).status();
    assert!(status.unwrap().success());
}

/// Copies a model directory and adds a key to its `config.json`: a new version with the same
/// embeddings.
///
/// # Panics
/// Panics on an I/O error.
pub fn variant(from: &Path, to: &Path, name: &str) {
    replace_model(from, to);
    let path = to.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["variant"] = name.into();
    fs::write(path, config.to_string()).unwrap();
}

/// Embeddings of the tiny models, computed with numpy.
#[derive(Clone, Debug, Deserialize)]
pub struct Reference {
    /// The texts.
    pub texts: Vec<String>,
    /// Token count of each text.
    pub tokens: Vec<u64>,
    /// By model, the embeddings in the order of the texts.
    pub models: std::collections::BTreeMap<String, Vec<Vec<f32>>>,
}

/// Returns the tiny models' reference embeddings.
///
/// # Panics
/// Panics if they are not set up.
pub fn reference() -> Reference {
    let path = model("tiny").join("reference.json");
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// A text and its embedding from sentence-transformers.
#[derive(Clone, Debug, Deserialize)]
pub struct Golden {
    /// The text.
    pub text: String,
    /// Its embedding.
    pub embedding: Vec<f32>,
}

/// Returns embeddings that sentence-transformers computes with all-MiniLM-L6-v2.
///
/// # Panics
/// Panics if the file in the repository is damaged.
pub fn golden() -> Vec<Golden> {
    #[derive(Deserialize)]
    struct File {
        items: Vec<Golden>,
    }
    let text = include_str!("../golden/minilm.json");
    serde_json::from_str::<File>(text).unwrap().items
}
