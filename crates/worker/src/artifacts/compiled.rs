//! The compiled form of a version: its model as ONNX Runtime has optimized it, with the weights
//! arranged as this CPU's kernels want them, in a file that all workers map. So a worker loads
//! faster, and the weights of all workers are in memory once.
//!
//! It is derived, and good only for one build of ONNX Runtime on one kind of CPU, which its key
//! says. Whoever finds none, or a bad one, loads the plain model.
//!
//! ```text
//! compiled/<version>/probes              what the version makes of fixed texts
//! compiled/<version>/<key>/MANIFEST      sizes and digests of the other two
//! compiled/<version>/<key>/model.onnx
//! compiled/<version>/<key>/weights.bin
//! compiled/<version>/<key>/costs         what its runs cost on this machine
//! compiled/<version>/making-<random>     being written, or left by a process that was killed
//! ```

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    graph::{Tensor, WalkError, walk},
    model_in,
};
use crate::session::{Arrangement, COMPILED_WEIGHTS, Runtime};

/// Raised when the files of a compiled form, or how sessions are set up, change.
const FORMAT: u32 = 6;
/// Bytes of the widest vector that kernels load at once.
const PACKED_ALIGNMENT: u64 = 64;
const MANIFEST: &str = "MANIFEST";
const MODEL: &str = "model.onnx";
/// Bytes that are read at once when a digest is computed.
const READ_BYTES: usize = 256 << 10;
/// Begins the name of what is being written.
pub(crate) const MAKING: &str = "making-";
/// What `/proc/cpuinfo` says about what a CPU can do, on x86-64 and on 64-bit ARM.
const CPU_FIELDS: [&str; 7] =
    ["vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features"];

/// What the kernel says about this machine's CPUs.
static CPU: LazyLock<String> =
    LazyLock::new(|| fs::read_to_string("/proc/cpuinfo").unwrap_or_default());

/// Reads what a key needs, before this process may read no more than a version.
pub(crate) fn learn_cpu() {
    LazyLock::force(&CPU);
}

/// What is in a compiled form.
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

/// What a compiled form depends on besides the version, as a short name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// The key of this build of ONNX Runtime on this machine.
    pub(crate) fn of(runtime: &Runtime) -> Self {
        Self::from_parts(&runtime.identity(), &CPU)
    }

    fn from_parts(runtime: &str, cpuinfo: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(FORMAT.to_le_bytes());
        digest.update(runtime);
        // One CPU like the other counts once, and in whatever order they are listed.
        let mut facts: Vec<&str> = cpuinfo.lines().filter(|line| is_of_cpu(line)).collect();
        facts.sort_unstable();
        facts.dedup();
        for fact in facts {
            digest.update([0]);
            digest.update(fact);
        }
        Self(hex(&digest.finalize()[..8]))
    }

    /// As the name of a directory.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_of_cpu(line: &str) -> bool {
    line.split_once(':').is_some_and(|(field, _)| CPU_FIELDS.contains(&field.trim()))
}

/// The compiled model below `root`, if it is there and complete. The digests are not looked at.
pub(crate) fn find(root: &Path, key: &Key) -> Option<PathBuf> {
    let dir = root.join(key.as_str());
    let complete = Manifest::read(&dir).ok()?.entries_are(|entry| {
        fs::metadata(dir.join(&entry.name)).is_ok_and(|found| found.len() == entry.bytes)
    });
    complete.then(|| dir.join(MODEL))
}

/// Whether the compiled model below `root` is there, and every byte is what was written.
fn is_sound(root: &Path, key: &Key) -> bool {
    let dir = root.join(key.as_str());
    find(root, key).is_some()
        && Manifest::read(&dir).is_ok_and(|manifest| {
            manifest.entries_are(|entry| {
                digest(&dir.join(&entry.name)).is_ok_and(|found| found == entry.sha256)
            })
        })
}

/// No file of a compiled form of the version in `dir` is larger: weights may be stored twice, and
/// padded.
pub(crate) fn bytes_max(dir: &Path) -> u64 {
    let model = model_in(dir).ok().flatten().map_or_else(|| dir.to_owned(), |(_, model)| model);
    let beside = fs::read_dir(model.parent().unwrap_or(dir)).into_iter().flatten();
    let bytes = beside.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum::<u64>();
    bytes.saturating_mul(4).saturating_add(1 << 30)
}

/// Holds off other processes that would make the same.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    root: &'a Path,
    key: &'a Key,
    _lock: Flock<File>,
}

impl<'a> Making<'a> {
    /// Begins to make the compiled form below `root`, which is created if it is missing. Two
    /// models may have the same version; who comes second waits here.
    pub(crate) fn begin(root: &'a Path, key: &'a Key) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let lock = Flock::lock(File::open(root)?, FlockArg::LockExclusive);
        let lock = lock.map_err(|(_, error)| io::Error::from(error))?;
        Ok(Self { root, key, _lock: lock })
    }

    /// Whether there is nothing to make: every byte is what was written once.
    pub(crate) fn is_done(&self) -> bool {
        is_sound(self.root, self.key)
    }

    /// Compiles `model`. Nothing is visible before `accept` has tried what was written.
    ///
    /// # Errors
    /// What failed, for people. Nothing is left behind.
    pub(crate) fn make(
        &self,
        runtime: &Runtime,
        model: &Path,
        accept: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let said = |error: io::Error| format!("{}: {error}", self.root.display());
        self.remove_all().map_err(said)?;
        let making = tempfile::Builder::new().prefix(MAKING).tempdir_in(self.root).map_err(said)?;
        let compiled = making.path().join(MODEL);
        for arrangement in Arrangement::ALL {
            runtime.compile(model, &compiled, arrangement).map_err(|error| error.to_string())?;
            if is_aligned(&compiled)? {
                break;
            }
            // The next arrangement may need no such file.
            let _ = fs::remove_file(making.path().join(COMPILED_WEIGHTS));
        }
        Manifest::of(making.path()).and_then(|all| all.write(making.path())).map_err(said)?;
        accept(&compiled)?;
        fs::rename(making.path(), self.root.join(self.key.as_str())).map_err(said)
    }

    /// Removes what a killed process left, and compiled forms that are damaged or of another key.
    /// Who has mapped one keeps what it has mapped.
    fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name().as_encoded_bytes().starts_with(MAKING.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether kernels can read what was arranged for them: they crash on what does not begin at a
/// multiple of their vectors' width, and ONNX Runtime writes it wherever the tensor before it ends.
fn is_aligned(compiled: &Path) -> Result<bool, String> {
    let said = |error: io::Error| format!("{}: {error}", compiled.display());
    let file = File::open(compiled).map_err(said)?;
    let mut is_aligned = true;
    let mut visit = |tensor: Tensor| {
        let packed = tensor.external.map_or_else(Vec::new, |external| external.packed);
        is_aligned = packed.iter().all(|place| place.is_multiple_of(PACKED_ALIGNMENT));
        is_aligned
    };
    match walk(&file, &mut visit) {
        Ok(()) | Err(WalkError::Stopped) => Ok(is_aligned),
        Err(error) => Err(format!("the compiled form cannot be read: {error:?}")),
    }
}

impl Manifest {
    fn of(dir: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        // A small model has no weights that are worth a file.
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
        Ok(serde_json::from_slice(&fs::read(dir.join(MANIFEST))?)?)
    }

    /// Whether it names the model, nothing outside of the directory, and only what is `good`.
    fn entries_are(&self, good: impl Fn(&Entry) -> bool) -> bool {
        let known = |entry: &Entry| [MODEL, COMPILED_WEIGHTS].contains(&entry.name.as_str());
        self.files.iter().any(|entry| entry.name == MODEL)
            && self.files.iter().all(|entry| known(entry) && good(entry))
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut digest) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            bytes => digest.update(&buffer[..bytes]),
        }
    }
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
    fn a_key_changes_with_the_library_and_with_what_the_cpu_can_do_and_with_nothing_else() {
        let one = key("1.31.1", INFO);
        assert_eq!(one.as_str().len(), 16);
        assert_eq!(one, key("1.31.1", &INFO.replace("2596.096", "3100.5")));
        assert_eq!(one, key("1.31.1", &format!("{INFO}\n{}", INFO.replace(": 0", ": 1"))));
        assert_ne!(one, key("1.32.0", INFO));
        assert_ne!(one, key("1.31.1", &INFO.replace("avx2", "avx2 avx512f")));
        assert_ne!(one, key("1.31.1", &INFO.replace("17", "18")));
    }
}
