//! Limits how many arenas the allocator uses. With glibc's default of eight for each CPU, freed memory
//! is scattered over all of them and stays with the process. Called by [`crate::main`] before
//! [`crate::serve`].

use std::{
    env,
    ffi::{CString, OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
    thread,
};

use nix::unistd::execve;

/// Read by glibc when a process starts, and only then.
const VARIABLE: &str = "MALLOC_ARENA_MAX";
/// Fewer would make the threads of the runtime wait for each other.
const ARENAS_MIN: usize = 2;

/// Executes this process again with one arena for each CPU, unless the variable says how many. Keeps
/// the arguments, the process id, the descriptors and the signal mask.
pub(crate) fn limit_arenas() {
    if env::var_os(VARIABLE).is_some_and(|value| !value.is_empty()) {
        return;
    }
    let Ok(executable) = env::current_exe() else { return };
    if is_loader(&executable) {
        return;
    }
    let arenas = thread::available_parallelism().map_or(1, usize::from).max(ARENAS_MIN);
    // None holds a NUL byte, since they came from C strings.
    let Ok(path) = CString::new(executable.into_os_string().into_vec()) else { return };
    let arguments: Vec<CString> = env::args_os().filter_map(c_string).collect();
    let others = env::vars_os().filter(|(name, _)| name != VARIABLE);
    let set = [(OsString::from(VARIABLE), OsString::from(arenas.to_string()))];
    let variables: Vec<CString> = others.chain(set).filter_map(variable).collect();
    // Returns only if it fails, for example because the file was removed. Then the default applies: the
    // process works, but uses more memory. Unlike `Command::exec`, this leaves SIGPIPE ignored then.
    let _ = execve(&path, &arguments, &variables);
}

/// Returns whether this is the dynamic loader, such as `ld-linux-x86-64.so.2`, which was started with the
/// path of onnxd as an argument. Without that path, it cannot be executed again.
fn is_loader(executable: &Path) -> bool {
    let name = executable.file_name().map(OsStr::as_bytes).unwrap_or_default();
    name.starts_with(b"ld") && name.windows(3).any(|part| part == b".so")
}

fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

fn variable((name, value): (OsString, OsString)) -> Option<CString> {
    let mut pair = name;
    pair.push("=");
    pair.push(value);
    c_string(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_told_from_onnxd() {
        for loader in ["ld-linux-x86-64.so.2", "ld-2.31.so", "ld64.so.2", "ld-musl-aarch64.so.1"] {
            assert!(is_loader(&Path::new("/lib64").join(loader)), "{loader}");
        }
        for other in ["/usr/bin/onnxd", "/opt/ld.so/onnxd", "/usr/bin/onnxd (deleted)"] {
            assert!(!is_loader(Path::new(other)), "{other}");
        }
    }
}
