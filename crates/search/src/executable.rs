//! Starts `onnxd-index` or `onnxd-postgres`. Called by [`crate::process`].

use std::{
    fmt,
    fs::{self, DirBuilder, DirEntry, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::DirBuilderExt, net, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use onnxd_proto::search::DatabaseProbe;
use tokio::{net::UnixStream, process::Child, time};

/// The file in which the process keeps the names of collections.
const CATALOG: &str = "catalog.db";
/// The variable in which `onnxd-postgres` finds the URL of its database.
const DATABASE_VARIABLE: &str = "ONNXD_SEARCH_URL";

/// How long a start waits for a database. The process answers earlier, unless it is held up.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// How the process is started.
#[derive(Clone)]
pub struct IndexExecutable {
    file: Arc<File>,
    store: Store,
    /// Whether the process sandboxes itself.
    confined: bool,
}

/// Where the process keeps the collections.
#[derive(Clone)]
enum Store {
    /// In this directory.
    Directory(PathBuf),
    /// In the database with this URL, which may have a password.
    Database(String),
}

impl fmt::Debug for IndexExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexExecutable").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl IndexExecutable {
    /// Opens `onnxd-index`, which keeps the collections in a directory.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn embedded(path: &Path, directory: &Path, confined: bool) -> io::Result<Self> {
        let store = Store::Directory(directory.to_owned());
        Ok(Self { file: Arc::new(File::open(path)?), store, confined })
    }

    /// Opens `onnxd-postgres`, which keeps the collections in a database.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn postgres(path: &Path, url: &str, confined: bool) -> io::Result<Self> {
        let store = Store::Database(url.to_owned());
        Ok(Self { file: Arc::new(File::open(path)?), store, confined })
    }

    fn name(&self) -> &'static str {
        match self.store {
            Store::Directory(_) => "onnxd-index",
            Store::Database(_) => "onnxd-postgres",
        }
    }

    /// Starts the process, with a socket as standard input. Returns the other end.
    pub(crate) fn start(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = self.command();
        if let Store::Directory(directory) = &self.store {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn()?;
        Ok((child, UnixStream::from_std(ours)?))
    }

    /// Finds out in a separate process whether the database can be used. Changes nothing. A directory can
    /// always be used.
    ///
    /// # Errors
    /// The process cannot be started, or is not `onnxd-postgres` of this release.
    pub async fn probe(&self) -> io::Result<DatabaseProbe> {
        if matches!(self.store, Store::Directory(_)) {
            return Ok(DatabaseProbe::Usable);
        }
        let mut command = self.command();
        command.arg("--probe").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut command = tokio::process::Command::from(command);
        let probing = command.kill_on_drop(true).spawn()?.wait_with_output();
        let Ok(output) = time::timeout(PROBE_MAX, probing).await else {
            let message = format!("no answer within {} s", PROBE_MAX.as_secs());
            return Ok(DatabaseProbe::Unavailable(message));
        };
        let output = output?;
        if output.status.code().is_none() {
            let message = format!("the process that asks it ended: {}", output.status);
            return Ok(DatabaseProbe::Unavailable(message));
        }
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let (name, status) = (self.name(), output.status);
            io::Error::other(format!(
                "not {name} of this release: {status}; install this release's"
            ))
        })
    }

    /// Returns the command without its standard input and output.
    fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(self.name()).env_clear().envs(onnxd_telemetry::log::variables());
        match &self.store {
            Store::Directory(directory) => command.arg("--directory").arg(directory),
            // Arguments are visible to other users.
            Store::Database(url) => command.env(DATABASE_VARIABLE, url),
        };
        if !self.confined {
            command.arg("--no-sandbox");
        }
        command
    }

    /// Returns the directory in which the process keeps the collections; `None` for a database.
    pub(crate) fn directory(&self) -> Option<Arc<Path>> {
        match &self.store {
            Store::Directory(directory) => Some(directory.as_path().into()),
            Store::Database(_) => None,
        }
    }
}

/// Returns whether a directory may have collections: their catalog, or databases of collections whose
/// catalog is lost.
pub(crate) fn may_have_collections(directory: &Path) -> bool {
    let is_database = |file: io::Result<DirEntry>| {
        file.is_ok_and(|file| Path::new(&file.file_name()).extension() == Some("db".as_ref()))
    };
    directory.join(CATALOG).exists()
        || fs::read_dir(directory).is_ok_and(|mut files| files.any(is_database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_program_is_not_taken_for_a_database() {
        let url = "postgres://me:secret@127.0.0.1/a";
        let executable = IndexExecutable::postgres("/bin/true".as_ref(), url, true).unwrap();
        let error = executable.probe().await.unwrap_err().to_string();
        assert!(error.contains("not onnxd-postgres of this release"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn collections_without_their_catalog_are_not_overlooked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collections");
        assert!(!may_have_collections(&path));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        assert!(!may_have_collections(&path), "the process has started once");
        fs::write(path.join("1.db"), "").unwrap();
        assert!(may_have_collections(&path));
        fs::rename(path.join("1.db"), path.join(CATALOG)).unwrap();
        assert!(may_have_collections(&path));
    }
}
