//! Limits how many arenas the allocator uses. With glibc's default of eight for each CPU, freed memory
//! is scattered over all of them and stays with the process. Called by [`crate::main`] before
//! [`crate::serve`].

use std::{env, os::unix::process::CommandExt, process::Command, thread};

/// Read by glibc when a process starts, and only then.
const VARIABLE: &str = "MALLOC_ARENA_MAX";
/// Fewer would make the threads of the runtime wait for each other.
const ARENAS_MIN: usize = 2;

/// Executes this process again with one arena for each CPU, unless the variable says how many. Keeps
/// the process id, the descriptors and the blocked signals.
pub(crate) fn limit_arenas() {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(executable) = env::current_exe() else { return };
    let arenas = thread::available_parallelism().map_or(1, usize::from).max(ARENAS_MIN);
    let mut arguments = env::args_os();
    let mut command = Command::new(executable);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Returns only if it fails, for example because the file was removed. Then the default applies: the
    // process works, but uses more memory.
    let _ = command.args(arguments).env(VARIABLE, arenas.to_string()).exec();
}
