//! Which files a process may open from now on, by Landlock: what it loads, and nothing else. The
//! kernel keeps this by thread, and threads inherit it: who has it applied before it starts others
//! has confined them, too. What an older kernel does not know is left out; the supervisor says so.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use onnxd_proto::layout::Layout;

use super::{SandboxError, scarcity::is_scarce};

/// The newest kernel interface whose restrictions were tried. One that is newer adds some that
/// may concern us.
const KNOWN: ABI = ABI::V6;
/// What every process may read: which CPUs there are, and how languages sort and fold letters,
/// which operators for texts ask for.
const MACHINE: [&str; 3] = ["/sys/devices/system/cpu", "/usr/lib/locale", "/usr/share/locale"];

/// What a process may open.
#[derive(Debug)]
pub(crate) struct Files(RulesetCreated);

impl Files {
    /// Of a worker: versions and what was compiled of them, and the name of the supervisor's
    /// socket, to remove it. The directories must exist.
    pub(crate) fn of_worker(layout: &Layout, admin_socket: &Path) -> Result<Self, SandboxError> {
        let read = [layout.versions(), layout.compiled_root(), layout.generations_root()];
        let unlink = admin_socket.parent().map(Path::to_owned);
        Self::new(&read, &[(AccessFs::RemoveFile.into(), unlink.as_deref())])
    }

    /// Of a checker: a version, what was compiled of the serving one, and a directory of its own
    /// to compile into. The directories must exist.
    pub(crate) fn of_checker(
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

    /// Of a process that lists a source: the source, and the blobs of its hub cache.
    pub(crate) fn of_lister(source: &Path, blobs: Option<&Path>) -> Result<Self, SandboxError> {
        let read: Vec<PathBuf> = std::iter::once(source).chain(blobs).map(Into::into).collect();
        Self::new(&read, &[])
    }

    fn new(
        read: &[PathBuf],
        more: &[(BitFlags<AccessFs>, Option<&Path>)],
    ) -> Result<Self, SandboxError> {
        let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut rules = ruleset()?.create()?.add_rules(path_beneath_rules(MACHINE, reading))?;
        let read = read.iter().map(|path| (reading, Some(&**path)));
        for (access, path) in read.chain(more.iter().copied()) {
            let Some(path) = path else { continue };
            can_be_opened(path)?;
            rules = rules.add_rules(path_beneath_rules([path], access))?;
        }
        Ok(Self(rules))
    }

    /// The same for another thread.
    pub(crate) fn try_clone(&self) -> Result<Self, SandboxError> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Confines the calling thread and those that it starts.
    pub(crate) fn enter(self) -> Result<(), SandboxError> {
        self.0.restrict_self()?;
        Ok(())
    }
}

/// What cannot be opened for a rule gets none. Where that is for want of descriptors or memory, what is
/// there would be out of reach as long as this process lives.
fn can_be_opened(path: &Path) -> Result<(), SandboxError> {
    match PathFd::new(path) {
        Err(PathFdError::OpenCall { source, .. }) if is_scarce(&source) => Err(source.into()),
        _ => Ok(()),
    }
}

/// Everything is denied that no rule allows: files, ports, and signals and abstract sockets of
/// processes outside.
fn ruleset() -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))
}
