//! Where files and sockets are that nobody named: what systemd and the XDG Base Directory
//! Specification set as variables, and the directory of this executable.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use onnxd_proto::exit::Failure;

/// A path that does not depend on where a process stands.
///
/// # Errors
/// There is no such path.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::configuration(format!("{:?}: {error}", path.display())))
}

/// A file that is given by a flag or stands beside this executable.
///
/// # Errors
/// It is not there.
pub(crate) fn executable_file(
    flag: &str,
    given: Option<PathBuf>,
    beside: &str,
) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => absolute(&path)?,
        None => env::current_exe()
            .map_err(|error| Failure::internal(format!("own executable: {error}")))?
            .with_file_name(beside),
    };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err(Failure::configuration(format!("{flag}: {} is no file", path.display()))),
        Err(error) => Err(Failure::configuration(format!(
            "{flag}: {}: {error}; give the file by {flag} PATH",
            path.display()
        ))),
    }
}

const ADMIN_SOCKET: &str = "onnxd-admin.sock";

/// Where a supervisor that was told nothing puts its admin socket.
///
/// # Errors
/// No variable names a directory for it.
pub(super) fn default_admin_socket() -> Result<PathBuf, Failure> {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().find_map(directory_variable).map_or_else(
        || {
            Err(Failure::configuration(
                "neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set: say where the admin socket goes by --admin-socket PATH",
            ))
        },
        |directory| Ok(directory.join(ADMIN_SOCKET)),
    )
}

/// Where a client that was told nothing looks for the admin socket, in this order.
pub(crate) fn admin_socket_candidates() -> Vec<PathBuf> {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .into_iter()
        .filter_map(directory_variable)
        .chain([PathBuf::from("/run/onnxd")])
        .map(|directory| directory.join(ADMIN_SOCKET))
        .collect()
}

/// Where a supervisor that was told nothing keeps versions.
///
/// # Errors
/// No variable names a directory for them.
pub(super) fn default_state_dir() -> Result<PathBuf, Failure> {
    directory_variable("STATE_DIRECTORY")
        .or_else(|| directory_variable("XDG_STATE_HOME").map(|home| home.join("onnxd")))
        .or_else(|| directory_variable("HOME").map(|home| home.join(".local/state/onnxd")))
        .ok_or_else(|| {
            Failure::configuration(
                "none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set: say where versions are kept by --state-dir DIR",
            )
        })
}

fn directory_variable(name: &str) -> Option<PathBuf> {
    let value = PathBuf::from(env::var_os(name)?);
    value.is_absolute().then_some(value)
}
