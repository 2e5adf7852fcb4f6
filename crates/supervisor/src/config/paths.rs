//! Default locations: from variables of systemd and the XDG Base Directory Specification, and the directory of this
//! executable.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use onnxd_proto::exit::Failure;

/// Makes a path absolute.
///
/// # Errors
/// The path is empty, or the current directory is unknown.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::configuration(format!("{:?}: {error}", path.display())))
}

/// Returns the program that a flag names, or the program `beside` in the directory of this executable.
///
/// # Errors
/// It is not an executable file.
pub(crate) fn executable_file(
    flag: &str,
    given: Option<PathBuf>,
    beside: &str,
) -> Result<PathBuf, Failure> {
    let path = installed_file(flag, given, beside)?;
    let is_executable =
        fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
    if is_executable {
        return Ok(path);
    }
    Err(Failure::configuration(format!(
        "{flag}: {} is not executable; if it is the right file, run chmod +x on it",
        path.display()
    )))
}

/// Returns the file that a flag names, or the file `beside` in the directory of this executable.
///
/// # Errors
/// It is not a regular file.
pub(crate) fn installed_file(
    flag: &str,
    given: Option<PathBuf>,
    beside: &str,
) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => absolute(&path)?,
        None => env::current_exe()
            .map_err(|error| {
                Failure::internal(format!("cannot find the directory of onnxd: {error}"))
            })?
            .with_file_name(beside),
    };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => {
            Err(Failure::configuration(format!("{flag}: {} is not a regular file", path.display())))
        }
        Err(error) => Err(Failure::configuration(format!(
            "{flag}: cannot find {}: {error}; install {beside} beside onnxd, or pass the file with {flag} PATH",
            path.display()
        ))),
    }
}

const ADMIN_SOCKET: &str = "onnxd-admin.sock";

/// Returns the default of `--admin-socket` for `onnxd serve`.
///
/// # Errors
/// Neither variable is set.
pub(super) fn default_admin_socket() -> Result<PathBuf, Failure> {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().find_map(directory_variable).map_or_else(
        || {
            Err(Failure::configuration(
                "--admin-socket: no default, since neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set; pass --admin-socket PATH, for example ./onnxd-admin.sock",
            ))
        },
        |directory| Ok(directory.join(ADMIN_SOCKET)),
    )
}

/// Returns where commands look for the admin socket by default, in this order.
pub(crate) fn admin_socket_candidates() -> Vec<PathBuf> {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .into_iter()
        .filter_map(directory_variable)
        // The last one is where deploy/systemd/onnxd-admin.socket listens.
        .chain([PathBuf::from("/run/onnxd"), PathBuf::from("/run")])
        .map(|directory| directory.join(ADMIN_SOCKET))
        .collect()
}

/// Returns the state directory: the given one or the default.
///
/// # Errors
/// There is no default.
pub(crate) fn state_dir(given: Option<&Path>) -> Result<PathBuf, Failure> {
    given.map_or_else(default_state_dir, absolute)
}

/// Returns the default of `--state-dir`.
///
/// # Errors
/// None of the variables is set.
fn default_state_dir() -> Result<PathBuf, Failure> {
    directory_variable("STATE_DIRECTORY")
        .or_else(|| directory_variable("XDG_STATE_HOME").map(|home| home.join("onnxd")))
        .or_else(|| directory_variable("HOME").map(|home| home.join(".local/state/onnxd")))
        .ok_or_else(|| {
            Failure::configuration(
                "--state-dir: no default, since none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set; pass --state-dir DIR, for example /var/lib/onnxd",
            )
        })
}

fn directory_variable(name: &str) -> Option<PathBuf> {
    let value = PathBuf::from(env::var_os(name)?);
    value.is_absolute().then_some(value)
}
