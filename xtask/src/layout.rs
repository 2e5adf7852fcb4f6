//! Where everything lies: the sources in the workspace, all that is made under its target directory.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::error::Error;

/// The version that is fetched, part of the library's name.
pub(crate) const RUNTIME_VERSION: &str = "1.31.1";

#[derive(Debug)]
pub(crate) struct Layout {
    workspace: PathBuf,
    target: PathBuf,
}

impl Layout {
    /// The layout of the workspace that this program was built from.
    pub(crate) fn of_workspace() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = package.parent().unwrap_or(package).to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            // Cargo takes a relative one from where it was started, as `absolute` does.
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

    /// The tests with other people's clients.
    pub(crate) fn clients(&self) -> PathBuf {
        self.workspace.join("tests/clients")
    }

    /// The fuzz targets, their seeds, and what runs of them find out.
    pub(crate) fn fuzz(&self) -> PathBuf {
        self.workspace.join("fuzz")
    }

    /// Where executables of the dev profile are.
    pub(crate) fn debug(&self) -> PathBuf {
        self.target.join("debug")
    }

    /// An executable of the profile `quick`, which builds sooner than a release.
    pub(crate) fn quick(&self, name: &str) -> PathBuf {
        self.target.join("quick").join(name)
    }

    /// An executable of the release profile.
    pub(crate) fn release(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The OpenAPI document.
    pub(crate) fn openapi(&self) -> PathBuf {
        self.target.join("openapi.json")
    }

    /// The sources of the book.
    pub(crate) fn documents(&self) -> PathBuf {
        self.workspace.join("docs")
    }

    /// The book.
    pub(crate) fn book(&self) -> PathBuf {
        self.target.join("book")
    }

    /// Where `cargo install` puts tools, as `.ci/run` does.
    pub(crate) fn installed(&self) -> PathBuf {
        self.target.join("tools")
    }

    fn made(&self) -> PathBuf {
        self.target.join("onnxd")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.made().join(format!("onnxruntime/libonnxruntime.so.{RUNTIME_VERSION}"))
    }

    pub(crate) fn wheels(&self) -> PathBuf {
        self.made().join("wheels")
    }

    pub(crate) fn venv(&self) -> PathBuf {
        self.made().join("venv")
    }

    pub(crate) fn clients_venv(&self) -> PathBuf {
        self.made().join("clients-venv")
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.made().join("models")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.made().join("state")
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.made().join("admin.sock")
    }

    /// Waits until no other xtask fetches or makes anything; held until it is dropped.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        fs::create_dir_all(self.made()).map_err(Error::io("cannot make", &self.made()))?;
        let path = self.made().join("lock");
        let file = File::create(&path).map_err(Error::io("cannot make", &path))?;
        file.lock().map_err(Error::io("cannot lock", &path))?;
        Ok(file)
    }
}

/// The path as one would type it here: relative where it lies below the current directory. That also keeps
/// the admin socket's path under the 107 bytes that a socket address can hold.
pub(crate) fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
