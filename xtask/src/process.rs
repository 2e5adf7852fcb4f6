//! Starts programs: cargo, and a server that exits with xtask.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus},
    thread,
};

use clap::Args;
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
    },
    unistd::{Pid, getpid, getppid},
};

use crate::{error::Error, layout::Layout};

/// Returns the cargo that runs xtask, or the one in `PATH`.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs `cargo build` with these arguments.
///
/// # Errors
/// cargo cannot be started, or the build fails.
pub(crate) fn build(layout: &Layout, args: &[&str]) -> Result<(), Error> {
    let status = cargo()
        .arg("build")
        .args(args)
        .current_dir(layout.workspace())
        .status()
        .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
    let what = "cargo build".to_owned();
    if status.success() { Ok(()) } else { Err(Error::Failed { what, status }) }
}

/// Returns the exit code that a shell would report.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Arguments of the hidden command that executes the server.
#[derive(Debug, Args)]
pub(crate) struct Bound {
    /// Pid of the process to exit with
    #[arg(long)]
    parent: i32,
    program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Starts a program that is terminated when xtask exits, even by SIGKILL, and that receives xtask's
/// signals. SIGINT is not forwarded: a terminal sends it to both, and xtask must wait for the
/// program to exit.
pub(crate) fn start_bound(program: &Path, args: &[OsString]) -> Result<Child, Error> {
    let mut forwarded = SigSet::empty();
    forwarded.add(Signal::SIGTERM);
    forwarded.add(Signal::SIGHUP);
    let mut handled = forwarded;
    handled.add(Signal::SIGINT);
    // Block before starting, so that no signal is lost in between. Later threads inherit the mask.
    handled.thread_block().map_err(Error::Signals)?;

    let own = Path::new("/proc/self/exe");
    let child = Command::new(own)
        .arg("bound")
        .args(["--parent", &getpid().to_string(), "--"])
        .arg(program)
        .args(args)
        .spawn()
        .map_err(Error::io("cannot start", program))?;
    let Ok(id) = i32::try_from(child.id()).map(Pid::from_raw) else { return Ok(child) };
    thread::spawn(move || {
        while let Ok(signal) = handled.wait() {
            if forwarded.contains(signal) {
                let _ = kill(id, signal);
            }
        }
    });
    Ok(child)
}

/// Runs in the new process. A closure between fork and exec would need `unsafe`.
pub(crate) fn become_bound(bound: &Bound) -> Error {
    let prepared =
        prctl::set_pdeathsig(Signal::SIGTERM).and_then(|()| SigSet::all().thread_unblock());
    if let Err(error) = prepared {
        return Error::Signals(error);
    }
    // The parent may have exited before the death signal was set.
    if getppid().as_raw() != bound.parent {
        return Error::Signals(nix::Error::ESRCH);
    }
    let source = Command::new(&bound.program).args(&bound.args).exec();
    Error::Io { what: "cannot start", path: bound.program.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(78 << 8)), ExitCode::from(78));
        assert_eq!(exit_code(ExitStatus::from_raw(9)), ExitCode::from(137));
    }
}
