//! Paths of the sources in the workspace and of everything generated below the target directory.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::error::Error;

/// ONNX Runtime version to download; part of the library's name.
pub(crate) const RUNTIME_VERSION: &str = "1.31.1";

#[derive(Debug)]
pub(crate) struct Layout {
    workspace: PathBuf,
    target: PathBuf,
}

impl Layout {
    /// Returns the layout of the workspace that this program was built from.
    pub(crate) fn for_workspace() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = package.parent().unwrap_or(package).to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            // Cargo resolves a relative path against the current directory, like `absolute`.
            Some(dir) if !dir.is_empty() => std::path::absolute(&dir).unwrap_or(dir.into()),
            _ => workspace.join("target"),
        };
        Self { workspace, target }
    }

    #[cfg(test)]
    pub(crate) fn under(target: &Path) -> Self {
        Self { workspace: target.to_owned(), target: target.to_owned() }
    }

    pub(crate) fn workspace(&self) -> &Path {
        &self.workspace
    }

    pub(crate) fn tools(&self) -> PathBuf {
        self.workspace.join("tools")
    }

    /// Returns the directory of the tests with third-party clients.
    pub(crate) fn clients(&self) -> PathBuf {
        self.workspace.join("tests/clients")
    }

    /// Returns the directory of the fuzz targets, seeds and findings.
    pub(crate) fn fuzz(&self) -> PathBuf {
        self.workspace.join("fuzz")
    }

    /// Returns the directory of the dev profile's executables.
    pub(crate) fn debug(&self) -> PathBuf {
        self.target.join("debug")
    }

    /// Returns an executable of the `quick` profile, which builds faster than a release.
    pub(crate) fn quick(&self, name: &str) -> PathBuf {
        self.target.join("quick").join(name)
    }

    /// Returns an executable of the release profile.
    pub(crate) fn release(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// Returns the path of the OpenAPI document.
    pub(crate) fn openapi(&self) -> PathBuf {
        self.target.join("openapi.json")
    }

    /// Returns the directory of the book's sources.
    pub(crate) fn documents(&self) -> PathBuf {
        self.workspace.join("docs")
    }

    /// Returns the directory of the built book.
    pub(crate) fn book(&self) -> PathBuf {
        self.target.join("book")
    }

    /// Returns the directory for tools installed with `cargo install`, the same as in `.ci/run`.
    pub(crate) fn installed(&self) -> PathBuf {
        self.target.join("tools")
    }

    fn generated(&self) -> PathBuf {
        self.target.join("onnxd")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.generated().join(format!("onnxruntime/libonnxruntime.so.{RUNTIME_VERSION}"))
    }

    pub(crate) fn wheels(&self) -> PathBuf {
        self.generated().join("wheels")
    }

    pub(crate) fn venv(&self) -> PathBuf {
        self.generated().join("venv")
    }

    pub(crate) fn clients_venv(&self) -> PathBuf {
        self.generated().join("clients-venv")
    }

    /// Returns the directory of the service that the benchmark compares with.
    pub(crate) fn service(&self) -> PathBuf {
        self.workspace.join("bench/service")
    }

    pub(crate) fn service_venv(&self) -> PathBuf {
        self.generated().join("service-venv")
    }

    pub(crate) fn search_venv(&self) -> PathBuf {
        self.generated().join("search-venv")
    }

    pub(crate) fn sources_venv(&self) -> PathBuf {
        self.generated().join("sources-venv")
    }

    pub(crate) fn postgres_venv(&self) -> PathBuf {
        self.generated().join("postgres-venv")
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.generated().join("models")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.generated().join("state")
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.generated().join("admin.sock")
    }

    /// Waits for other xtask processes to finish fetching or building. Dropping the file releases
    /// the lock.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let folder = self.generated();
        fs::create_dir_all(&folder).map_err(Error::io("cannot create", &folder))?;
        let path = folder.join("lock");
        let file = File::create(&path).map_err(Error::io("cannot create", &path))?;
        file.lock().map_err(Error::io("cannot lock", &path))?;
        Ok(file)
    }
}

/// Returns the path relative to the current directory, if it lies below it. This also keeps the
/// admin socket's path within the 107 bytes of a socket address.
pub(crate) fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
