//! Restricts the files a process may open, by Landlock, to those it loads. The kernel enforces this
//! per thread, and threads inherit it: apply it before starting others. Omits what an older kernel
//! does not support; the supervisor reports that.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use onnxd_proto::layout::Layout;

use super::{SandboxError, scarcity::is_scarce};

/// The newest kernel interface whose restrictions were tested. Newer ones add restrictions that
/// might affect us.
const KNOWN: ABI = ABI::V6;
/// Paths that every process may read: CPU topology, and locale data for the text operators of
/// models.
const MACHINE: [&str; 3] = ["/sys/devices/system/cpu", "/usr/lib/locale", "/usr/share/locale"];

/// Paths that name resolution reads: its configuration, and the libraries that implement it.
const RESOLVER: [&str; 14] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/var/run/resolvconf",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];

/// A set of files to open.
#[derive(Debug)]
pub struct Files(RulesetCreated);

impl Files {
    /// Returns the rules of a worker: read versions and compiled forms, and remove the admin
    /// socket. The directories must exist.
    pub fn for_worker(layout: &Layout, admin_socket: &Path) -> Result<Self, SandboxError> {
        let read = [layout.versions(), layout.compiled_root(), layout.generations_root()];
        let unlink = admin_socket.parent().map(Path::to_owned);
        Self::new(&read, &[(AccessFs::RemoveFile.into(), unlink.as_deref())])
    }

    /// Returns the rules of a checker: read a version and the compiled forms of the serving one,
    /// and write its own compiled form. The directories must exist.
    pub fn for_checker(
        version: &Path,
        serving: Option<&Path>,
        compiled: Option<&Path>,
    ) -> Result<Self, SandboxError> {
        let read: Vec<PathBuf> = std::iter::once(version).chain(serving).map(Into::into).collect();
        let write = AccessFs::ReadDir
            | AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir;
        Self::new(&read, &[(write, compiled)])
    }

    /// Returns the rules of a lister: read the source, and the blobs of its hub cache.
    pub fn for_lister(source: &Path, blobs: Option<&Path>) -> Result<Self, SandboxError> {
        let read: Vec<PathBuf> = std::iter::once(source).chain(blobs).map(Into::into).collect();
        Self::new(&read, &[])
    }

    /// Returns the rules of an index: read and write below its directory.
    pub fn for_index(directory: &Path) -> Result<Self, SandboxError> {
        let write = AccessFs::ReadDir
            | AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::RemoveFile;
        Self::new(&[], &[(write, Some(directory))])
    }

    /// Returns the rules of a fetcher: write below the download directory, read what name resolution
    /// needs and `credentials`, and connect to any port.
    pub fn of_fetcher(downloads: &Path, credentials: &[PathBuf]) -> Result<Self, SandboxError> {
        Self::with_network(Some(downloads), credentials)
    }

    /// Returns the rules of an exporter: read what name resolution needs, and connect to any port.
    pub fn of_exporter() -> Result<Self, SandboxError> {
        Self::with_network(None, &[])
    }

    fn with_network(
        downloads: Option<&Path>,
        credentials: &[PathBuf],
    ) -> Result<Self, SandboxError> {
        let read: Vec<PathBuf> =
            RESOLVER.into_iter().map(PathBuf::from).chain(credentials.iter().cloned()).collect();
        let write = AccessFs::ReadDir
            | AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let ports = AccessNet::BindTcp;
        Self::within(ruleset(ports.into())?, &read, &[(write, downloads)])
    }

    fn new(
        read: &[PathBuf],
        more: &[(BitFlags<AccessFs>, Option<&Path>)],
    ) -> Result<Self, SandboxError> {
        Self::within(ruleset(AccessNet::from_all(KNOWN))?, read, more)
    }

    fn within(
        ruleset: Ruleset,
        read: &[PathBuf],
        more: &[(BitFlags<AccessFs>, Option<&Path>)],
    ) -> Result<Self, SandboxError> {
        let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut rules = ruleset.create()?.add_rules(path_beneath_rules(MACHINE, reading))?;
        let read = read.iter().map(|path| (reading, Some(&**path)));
        for (access, path) in read.chain(more.iter().copied()) {
            let Some(path) = path else { continue };
            check_shortage(path)?;
            rules = rules.add_rules(path_beneath_rules([path], access))?;
        }
        Ok(Self(rules))
    }

    /// Clones the rules for another thread.
    pub fn try_clone(&self) -> Result<Self, SandboxError> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Confines the calling thread and threads it starts later.
    pub fn enter(self) -> Result<(), SandboxError> {
        self.0.restrict_self()?;
        Ok(())
    }
}

/// Fails if a path cannot be opened for lack of descriptors or memory. Other failures just produce
/// no rule; a shortage would make existing files inaccessible for the life of the process.
fn check_shortage(path: &Path) -> Result<(), SandboxError> {
    match PathFd::new(path) {
        Err(PathFdError::OpenCall { source, .. }) if is_scarce(&source) => Err(source.into()),
        _ => Ok(()),
    }
}

/// Denies everything without a rule: files, these uses of ports, and signals and abstract sockets of
/// outside processes.
fn ruleset(ports: BitFlags<AccessNet>) -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(ports)?
        .scope(Scope::from_all(KNOWN))
}
