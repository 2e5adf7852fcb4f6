//! Default locations: from variables of systemd and the XDG Base Directory Specification, and the directory of this
//! executable.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use onnxd_proto::{
    domain::{SourceUri, SourceUriError},
    exit::Failure,
};

/// Makes the path of a flag absolute.
///
/// # Errors
/// The path is empty, or it is relative and the current directory does not exist.
pub(crate) fn absolute(flag: &str, path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        let reason = match path.as_os_str().is_empty() {
            true => "the path is empty".to_owned(),
            false => no_current_directory(&format!("{:?}", path.display()), &error),
        };
        Failure::configuration(format!("{flag}: {reason}"))
    })
}

/// Parses a source, whose path may be relative to the current directory.
///
/// # Errors
/// It is not a source, or it is relative and the current directory does not exist.
pub(crate) fn source_uri(text: &str) -> Result<SourceUri, String> {
    match env::current_dir() {
        Ok(current) => SourceUri::parse_in(&current, text).map_err(|error| error.to_string()),
        Err(error) => text.parse().map_err(|reason| match reason {
            SourceUriError::Relative(path) => no_current_directory(&format!("{path:?}"), &error),
            other => other.to_string(),
        }),
    }
}

fn no_current_directory(path: &str, error: &io::Error) -> String {
    format!(
        "{path} is relative, and the current directory cannot be read or was deleted ({error}); pass an absolute path, or run the command in another directory"
    )
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
        Some(path) => absolute(flag, &path)?,
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

/// Returns the default of `--admin-socket` for `onnxd serve`, and its variable.
///
/// # Errors
/// Neither variable is set.
pub(super) fn default_admin_socket() -> Result<(&'static str, PathBuf), Failure> {
    let found = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().find_map(directory_variable);
    let (variable, directory) = found.ok_or_else(|| {
        Failure::configuration(
            "--admin-socket: no default, since neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set; pass --admin-socket PATH, for example ./onnxd-admin.sock",
        )
    })?;
    Ok((variable, directory.join(ADMIN_SOCKET)))
}

/// Returns where commands look for the admin socket by default, in this order.
pub(crate) fn admin_socket_candidates() -> Vec<PathBuf> {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .into_iter()
        .filter_map(directory_variable)
        .map(|(_, directory)| directory)
        // The last one is where deploy/systemd/onnxd-admin.socket listens.
        .chain([PathBuf::from("/run/onnxd"), PathBuf::from("/run")])
        .map(|directory| directory.join(ADMIN_SOCKET))
        .collect()
}

/// Returns the state directory: the given one or the default.
///
/// # Errors
/// There is no default, or the given path is relative and the working directory is gone.
pub(crate) fn state_dir(given: Option<&Path>) -> Result<PathBuf, Failure> {
    match given {
        Some(path) => absolute("--state-dir", path),
        None => Ok(default_state_dir()?.1),
    }
}

/// Returns the default of `--state-dir`, and its variable.
///
/// # Errors
/// None of the variables is set.
pub(super) fn default_state_dir() -> Result<(&'static str, PathBuf), Failure> {
    let below =
        [("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "onnxd"), ("HOME", ".local/state/onnxd")];
    let mut found = below.into_iter().filter_map(|(variable, path)| {
        let (variable, directory) = directory_variable(variable)?;
        let directory = if path.is_empty() { directory } else { directory.join(path) };
        Some((variable, directory))
    });
    found.next().ok_or_else(|| {
        Failure::configuration(
            "--state-dir: no default, since none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set; pass --state-dir DIR, for example /var/lib/onnxd",
        )
    })
}

fn directory_variable(name: &'static str) -> Option<(&'static str, PathBuf)> {
    let value = PathBuf::from(env::var_os(name)?);
    value.is_absolute().then_some((name, value))
}
