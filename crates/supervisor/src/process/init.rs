//! The first process of a container. The kernel gives it the orphans of all others, and ends the container when it
//! ends. A supervisor in its place would collect zombies, and a succession would end the container. So the first
//! process starts the supervisor, passes signals on, reaps orphans, and ends with the last supervisor.

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    process::{self, Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use onnxd_telemetry::log;

/// The signals that are passed on.
const PASSED: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGQUIT];
/// The name of supervisors in proc(5), cut as the kernel cuts it.
const NAME: &str = "onnxd";
/// How long workers may take to end after their supervisor, and how often that is checked.
const CHILDREN_END_TIMEOUT: Duration = Duration::from_secs(2);
const CHILDREN_END_TICK: Duration = Duration::from_millis(10);
/// Exit code of a process that a signal ended, without the signal's number.
const SIGNAL_EXIT: u8 = 128;

/// Returns whether this process has to act as the first process of a container.
pub(crate) fn is_needed() -> bool {
    // Sockets from systemd are for this process only.
    process::id() == 1 && env::var_os("LISTEN_PID").is_none()
}

/// Starts this executable again with the same arguments, and waits until it and its successors have ended.
///
/// # Errors
/// The executable cannot be started.
pub(crate) fn run() -> io::Result<ExitCode> {
    let signals: SigSet = PASSED.into_iter().chain([Signal::SIGCHLD]).collect();
    // Before the supervisor starts, which sets its own mask: nothing that arrives meanwhile is lost.
    signals.thread_block()?;
    let child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        // A terminal sends SIGINT to its group: the supervisor would get it twice.
        .process_group(0)
        .spawn()?;
    let mut supervisor = Pid::from_raw(child.id().cast_signed());
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(&mut supervisor) {
                    wait_for_children();
                    return Ok(code);
                }
            }
            signal => pass_on(signal, supervisor),
        }
    }
}

/// Reaps all children that have ended. Returns the exit code if the supervisor is among them and has no successor.
fn reap(supervisor: &mut Pid) -> Option<ExitCode> {
    loop {
        let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, u8::try_from(code).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                let number = u8::try_from(signal as i32).unwrap_or_default();
                (pid, SIGNAL_EXIT.saturating_add(number))
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => continue,
        };
        if pid == *supervisor {
            // The kernel has made this process the parent of the successor before it reported the end.
            match successor() {
                Some(successor) => *supervisor = successor,
                None => return Some(code.into()),
            }
        }
    }
}

/// Waits a moment for the workers of a supervisor that was killed. They remove its admin socket.
fn wait_for_children() {
    let end = Instant::now() + CHILDREN_END_TIMEOUT;
    while Instant::now() < end {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => thread::sleep(CHILDREN_END_TICK),
            Ok(_) => {}
            // None are left.
            Err(_) => return,
        }
    }
}

/// Returns the running supervisor among the children of this process.
fn successor() -> Option<Pid> {
    let own = process::id().to_string();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        is_supervisor(&stat, &own)
    })
    .map(Pid::from_raw)
}

/// Parses a line of proc_pid_stat(5): `7 (onnxd) S 1 …`.
fn is_supervisor(stat: &str, parent: &str) -> bool {
    let Some((head, rest)) = stat.rsplit_once(')') else { return false };
    let name = head.split_once('(').map(|(_, name)| name);
    let mut words = rest.split_whitespace();
    let (state, of) = (words.next(), words.next());
    name == Some(NAME) && state != Some("Z") && of == Some(parent)
}

/// Sends a signal to the supervisor.
fn pass_on(signal: Signal, supervisor: Pid) {
    match kill(supervisor, signal) {
        // It may have ended meanwhile.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => {
            log::print_error(&format!("cannot pass {signal} on to the supervisor: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervisors_are_found_by_name_parent_and_state() {
        assert!(is_supervisor("7 (onnxd) S 1 7 7", "1"));
        assert!(!is_supervisor("7 (onnxd) Z 1 7 7", "1"));
        assert!(!is_supervisor("7 (onnxd) S 6 7 7", "1"));
        assert!(!is_supervisor("7 (onnxd-worker) S 1 7 7", "1"));
        assert!(!is_supervisor("7 (a) (onnxd) S 1", "1"), "a name may contain anything");
        assert!(!is_supervisor("", "1"));
    }
}
