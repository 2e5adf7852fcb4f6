//! Starting programs: cargo, and a server that ends with us.

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

/// The cargo that runs us, or the one in the path.
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

/// The exit code that a shell would give.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Arguments of the hidden command that becomes the server.
#[derive(Debug, Args)]
pub(crate) struct Bound {
    /// The process to end with.
    #[arg(long)]
    parent: i32,
    program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Starts a program that ends when we do, also when we are killed, and that gets our signals. SIGINT is not
/// passed on: a terminal sends it to both, and we have to stay for the program's end.
pub(crate) fn start_bound(program: &Path, args: &[OsString]) -> Result<Child, Error> {
    let mut forwarded = SigSet::empty();
    forwarded.add(Signal::SIGTERM);
    forwarded.add(Signal::SIGHUP);
    let mut taken = forwarded;
    taken.add(Signal::SIGINT);
    // Blocked before the start, so that none gets lost in between; all later threads inherit this.
    taken.thread_block().map_err(Error::Signals)?;

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
        while let Ok(signal) = taken.wait() {
            if forwarded.contains(signal) {
                let _ = kill(id, signal);
            }
        }
    });
    Ok(child)
}

/// The other half, in the new process. Here and not in a closure between fork and exec, because that
/// would need `unsafe`.
pub(crate) fn become_bound(bound: &Bound) -> Error {
    let prepared =
        prctl::set_pdeathsig(Signal::SIGTERM).and_then(|()| SigSet::all().thread_unblock());
    if let Err(error) = prepared {
        return Error::Signals(error);
    }
    // The parent may have gone before it was asked for.
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
