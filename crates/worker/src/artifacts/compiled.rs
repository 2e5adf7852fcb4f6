//! The compiled form of a version: the graph optimized by ONNX Runtime, with the weights packed for
//! this CPU's kernels in a file that all workers map. Workers load faster and share one copy of the
//! weights.
//!
//! The compiled form is derived data, valid for one build of ONNX Runtime and one kind of CPU, as
//! identified by its key. Workers that find none, or a bad one, load the plain model.
//!
//! ```text
//! compiled/<version>/probes              the version's outputs for fixed texts
//! compiled/<version>/<key>/MANIFEST      sizes and digests of the other two
//! compiled/<version>/<key>/model.onnx
//! compiled/<version>/<key>/weights.bin
//! compiled/<version>/<key>/costs         the cost of its runs on this machine
//! compiled/<version>/making-<random>     incomplete: being written, or left by a killed process
//! ```

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nix::fcntl::{Flock, FlockArg};
use onnxd_proto::regular;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    graph::{Tensor, WalkError, walk},
    model_in,
};
use crate::session::{Arrangement, COMPILED_WEIGHTS, Runtime};

/// Incremented when the files of a compiled form or the session options change.
const FORMAT: u32 = 6;
/// Bytes of the widest vector load of any kernel.
const PACKED_ALIGNMENT: u64 = 64;
const MANIFEST: &str = "MANIFEST";
const MODEL: &str = "model.onnx";
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Buffer size for computing digests.
const READ_BYTES: usize = 256 << 10;
/// The name prefix of incomplete files and directories.
pub(crate) const INCOMPLETE_PREFIX: &str = "making-";
/// The fields of `/proc/cpuinfo` that identify a CPU's features, on x86-64 and 64-bit ARM.
const CPU_FIELDS: [&str; 7] =
    ["vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features"];

/// The contents of `/proc/cpuinfo`.
static CPU: LazyLock<String> =
    LazyLock::new(|| fs::read_to_string("/proc/cpuinfo").unwrap_or_default());

/// Reads `/proc/cpuinfo` for keys, before the sandbox forbids it.
pub(crate) fn detect_cpu() {
    LazyLock::force(&CPU);
}

/// The files of a compiled form.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    files: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    sha256: String,
}

/// A short name for everything that a compiled form depends on, apart from the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// Returns the key of this build of ONNX Runtime on this machine.
    pub(crate) fn new(runtime: &Runtime) -> Self {
        Self::from_parts(&runtime.identity(), &CPU)
    }

    fn from_parts(runtime: &str, cpuinfo: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(FORMAT.to_le_bytes());
        digest.update(runtime);
        // Identical CPUs count once, and their order does not matter.
        let mut facts: Vec<&str> = cpuinfo.lines().filter(|line| is_of_cpu(line)).collect();
        facts.sort_unstable();
        facts.dedup();
        for fact in facts {
            digest.update([0]);
            digest.update(fact);
        }
        Self(hex(&digest.finalize()[..8]))
    }

    /// Returns the key as a directory name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_of_cpu(line: &str) -> bool {
    line.split_once(':').is_some_and(|(field, _)| CPU_FIELDS.contains(&field.trim()))
}

/// Returns the compiled model below `root`, if it is complete. Does not check the digests.
pub(crate) fn find(root: &Path, key: &Key) -> Option<PathBuf> {
    let dir = root.join(key.as_str());
    let complete = Manifest::read(&dir).ok()?.entries_are(|entry| {
        let found = fs::symlink_metadata(dir.join(&entry.name));
        found.is_ok_and(|found| found.is_file() && found.len() == entry.bytes)
    });
    complete.then(|| dir.join(MODEL))
}

/// Returns whether the compiled model below `root` is complete and matches its digests.
fn is_valid(root: &Path, key: &Key) -> bool {
    let dir = root.join(key.as_str());
    find(root, key).is_some()
        && Manifest::read(&dir).is_ok_and(|manifest| {
            manifest.entries_are(|entry| {
                digest(&dir.join(&entry.name)).is_ok_and(|found| found == entry.sha256)
            })
        })
}

/// Returns an upper bound for a file of a compiled form of the version in `dir`. Weights may be stored
/// twice and padded.
pub(crate) fn bytes_max(dir: &Path) -> u64 {
    let model = model_in(dir).ok().flatten().map_or_else(|| dir.to_owned(), |(_, model)| model);
    let siblings = fs::read_dir(model.parent().unwrap_or(dir)).into_iter().flatten();
    let bytes = siblings.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum::<u64>();
    bytes.saturating_mul(4).saturating_add(1 << 30)
}

/// An exclusive compilation of one version; other processes wait.
#[derive(Debug)]
pub(crate) struct Compilation<'a> {
    root: &'a Path,
    key: &'a Key,
    _lock: Flock<File>,
}

impl<'a> Compilation<'a> {
    /// Locks `root`, which is created if missing. Blocks while another process compiles the same
    /// version, which two models may share.
    pub(crate) fn begin(root: &'a Path, key: &'a Key) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let lock = Flock::lock(File::open(root)?, FlockArg::LockExclusive);
        let lock = lock.map_err(|(_, error)| io::Error::from(error))?;
        Ok(Self { root, key, _lock: lock })
    }

    /// Returns whether a valid compiled form exists already.
    pub(crate) fn is_done(&self) -> bool {
        is_valid(self.root, self.key)
    }

    /// Compiles `model`. The result becomes visible once `accept` has approved it.
    ///
    /// # Errors
    /// What failed, as a message for users. Leaves nothing behind.
    pub(crate) fn run(
        &self,
        runtime: &Runtime,
        model: &Path,
        accept: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let message = |error: io::Error| format!("{}: {error}", self.root.display());
        self.remove_all().map_err(message)?;
        let temporary = tempfile::Builder::new()
            .prefix(INCOMPLETE_PREFIX)
            .tempdir_in(self.root)
            .map_err(message)?;
        let compiled = temporary.path().join(MODEL);
        for arrangement in Arrangement::ALL {
            runtime.compile(model, &compiled, arrangement).map_err(|error| error.to_string())?;
            if is_aligned(&compiled)? {
                break;
            }
            // The next arrangement may write no such file, so remove this one.
            let _ = fs::remove_file(temporary.path().join(COMPILED_WEIGHTS));
        }
        Manifest::from_files(temporary.path())
            .and_then(|all| all.write(temporary.path()))
            .map_err(message)?;
        accept(&compiled)?;
        fs::rename(temporary.path(), self.root.join(self.key.as_str())).map_err(message)
    }

    /// Removes the leftovers of killed processes, and compiled forms that are damaged or have another
    /// key. Existing mappings stay valid.
    fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name().as_encoded_bytes().starts_with(INCOMPLETE_PREFIX.as_bytes())
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Returns whether all packed weights are aligned. Kernels crash on unaligned weights, and ONNX
/// Runtime writes them directly after the previous tensor.
fn is_aligned(compiled: &Path) -> Result<bool, String> {
    let message = |error: io::Error| format!("{}: {error}", compiled.display());
    let file = File::open(compiled).map_err(message)?;
    let mut is_aligned = true;
    let mut visit = |tensor: Tensor| {
        let packed = tensor.external.map_or_else(Vec::new, |external| external.packed);
        is_aligned = packed.iter().all(|offset| offset.is_multiple_of(PACKED_ALIGNMENT));
        is_aligned
    };
    match walk(&file, &mut visit) {
        Ok(()) | Err(WalkError::Stopped) => Ok(is_aligned),
        Err(error) => Err(format!("failed to read the compiled form: {error:?}")),
    }
}

impl Manifest {
    fn from_files(dir: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        // Small models have no separate weights file.
        for name in [MODEL, COMPILED_WEIGHTS] {
            let path = dir.join(name);
            if name == MODEL || path.exists() {
                let bytes = fs::metadata(&path)?.len();
                files.push(Entry { name: name.to_owned(), bytes, sha256: digest(&path)? });
            }
        }
        Ok(Self { files })
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(MANIFEST), serde_json::to_vec(self)?)
    }

    fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&regular::read(&dir.join(MANIFEST), MANIFEST_BYTES_MAX)?)?)
    }

    /// Returns whether the manifest lists the model and only known files, all of them `good`.
    fn entries_are(&self, good: impl Fn(&Entry) -> bool) -> bool {
        let known = |entry: &Entry| [MODEL, COMPILED_WEIGHTS].contains(&entry.name.as_str());
        self.files.iter().any(|entry| entry.name == MODEL)
            && self.files.iter().all(|entry| known(entry) && good(entry))
    }
}

/// Returns the SHA-256 of a file in hex.
pub(crate) fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut digest) = (regular::open(path)?, Sha256::new());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            bytes => digest.update(&buffer[..bytes]),
        }
    }
}

/// Returns the SHA-256 of bytes in hex.
pub(crate) fn digest_of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str =
        "processor\t: 0\nmodel\t\t: 17\ncpu MHz\t\t: 2596.096\nflags\t\t: fpu avx2\n";

    fn key(runtime: &str, cpuinfo: &str) -> Key {
        Key::from_parts(runtime, cpuinfo)
    }

    #[test]
    fn key_depends_only_on_the_library_and_cpu_features() {
        let one = key("1.31.1", INFO);
        assert_eq!(one.as_str().len(), 16);
        assert_eq!(one, key("1.31.1", &INFO.replace("2596.096", "3100.5")));
        assert_eq!(one, key("1.31.1", &format!("{INFO}\n{}", INFO.replace(": 0", ": 1"))));
        assert_ne!(one, key("1.32.0", INFO));
        assert_ne!(one, key("1.31.1", &INFO.replace("avx2", "avx2 avx512f")));
        assert_ne!(one, key("1.31.1", &INFO.replace("17", "18")));
    }
}
