//! The first process of a container. The kernel gives it the orphans of all others, and ends the container when it
//! ends. A supervisor in its place would collect zombies, and a succession would end the container. So the first
//! process starts the supervisor, passes signals on, reaps orphans, and ends with the last supervisor.
//!
//! Supervisors report their successors through a pipe, which each passes to the next. Names and parents of processes
//! would not tell: `onnxd status` in the container is an orphan of the same name.

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{self, Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{Pid, pipe2},
};
use onnxd_telemetry::log;

use super::inherited::{FIRST, FIRST_PROCESS, SUCCESSION};

/// The signals that are passed on.
const PASSED: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGQUIT];
/// How long workers may take to end after their supervisor, and how often that is checked.
const CHILDREN_END_TIMEOUT: Duration = Duration::from_secs(2);
const CHILDREN_END_TICK: Duration = Duration::from_millis(10);
/// Exit code of a process that a signal ended, without the signal's number.
const SIGNAL_EXIT: u8 = 128;

/// Returns whether this process has to act as the first process of a container.
pub(crate) fn is_needed() -> bool {
    // Sockets from systemd are for this process only.
    process::id() == 1 && env::var_os("LISTEN_PID").is_none_or(|pid| pid.is_empty())
}

/// Starts this executable again with the same arguments, and waits until it and its successors have ended.
///
/// # Errors
/// The executable cannot be started.
pub(crate) fn run() -> io::Result<ExitCode> {
    let signals: SigSet = PASSED.into_iter().chain([Signal::SIGCHLD]).collect();
    // Before the supervisor starts, which sets its own mask: nothing that arrives meanwhile is lost.
    signals.thread_block()?;
    let (reports, parent_fd) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut command = Command::new(env::current_exe()?);
    command
        .args(env::args_os().skip(1))
        .env(SUCCESSION, FIRST_PROCESS)
        // A terminal sends SIGINT to its group: the supervisor would get it twice.
        .process_group(0);
    let mapping = FdMapping { parent_fd, child_fd: FIRST };
    command.fd_mappings(vec![mapping]).map_err(io::Error::other)?;
    let child = command.spawn()?;
    let main = Pid::from_raw(child.id().cast_signed());
    let mut container = Container { reports: reports.into(), supervisors: Supervisors::new(main) };
    loop {
        let signal = signals.wait()?;
        // Before a signal is passed on: the supervisor may have ended, and its successor must get it.
        if let Some(code) = container.reap() {
            wait_for_children();
            return Ok(code.into());
        }
        if signal != Signal::SIGCHLD {
            pass_on(signal, container.supervisors.main);
        }
    }
}

/// The supervisors, and the pipe through which they report their successors.
struct Container {
    reports: File,
    supervisors: Supervisors,
}

impl Container {
    /// Reaps all children that have ended. Returns the exit code once the last supervisor is among them.
    fn reap(&mut self) -> Option<u8> {
        self.read_reports();
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
            // It may have reported something just before it ended.
            self.read_reports();
            let code = self.supervisors.ended(pid, code, is_child);
            if code.is_some() {
                return code;
            }
        }
    }

    fn read_reports(&mut self) {
        let mut text = Vec::new();
        // Ends with an error: the pipe is empty for now. What was read before it counts.
        let _ = self.reports.read_to_end(&mut text);
        for line in String::from_utf8_lossy(&text).lines() {
            self.supervisors.reported(line);
        }
    }
}

/// Tells the first process which supervisors run. Each supervisor passes it to its successor.
#[derive(Debug)]
pub(crate) struct Reporter(File);

impl Reporter {
    /// Reports that this process serves, and the successor that replaces it if it ends.
    ///
    /// # Errors
    /// The pipe is full, because the first process does not read it.
    pub(crate) fn report(&self, successor: Option<u32>) -> io::Result<()> {
        // Short enough for the pipe to take it as a whole or not at all.
        let line = format!("{} {}\n", process::id(), successor.unwrap_or_default());
        (&self.0).write_all(line.as_bytes())
    }
}

impl From<OwnedFd> for Reporter {
    fn from(pipe: OwnedFd) -> Self {
        Self(pipe.into())
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The supervisors of a container. Pure, except for what the caller passes.
struct Supervisors {
    /// The one that signals are for.
    main: Pid,
    /// A successor that is not yet ready. It serves if its predecessor dies.
    heir: Option<Pid>,
    /// Those that still drain after a succession.
    draining: Vec<Pid>,
    /// How the newest one ended.
    code: Option<u8>,
}

impl Supervisors {
    fn new(main: Pid) -> Self {
        Self { main, heir: None, draining: Vec::new(), code: None }
    }

    /// Parses a line of [`Reporter::report`].
    fn reported(&mut self, line: &str) {
        let mut pids = line.split(' ').filter_map(|pid| pid.parse().ok().map(Pid::from_raw));
        let (Some(main), Some(heir)) = (pids.next(), pids.next()) else { return };
        let former = std::mem::replace(&mut self.main, main);
        match self.draining.iter().position(|pid| *pid == main) {
            // The successor failed while it took over, and its predecessor has reaped it.
            Some(at) => drop(self.draining.swap_remove(at)),
            None if former != main => self.draining.push(former),
            None => {}
        }
        self.heir = (heir.as_raw() != 0).then_some(heir);
    }

    /// Removes a process that has ended. Returns the exit code of the container if no supervisor is left.
    fn ended(&mut self, pid: Pid, code: u8, is_child: impl Fn(Pid) -> bool) -> Option<u8> {
        if pid != self.main {
            let at = self.draining.iter().position(|other| *other == pid)?;
            self.draining.swap_remove(at);
            // The main one may have crashed, and this one have reaped it.
            let is_over = !is_child(self.main) && !self.draining.iter().any(|pid| is_child(*pid));
            return is_over.then(|| self.code.unwrap_or(code));
        }
        self.code.get_or_insert(code);
        // The kernel has made this process the parent of the successor before it reported the end.
        if let Some(heir) = self.heir.take().filter(|heir| is_child(*heir)) {
            (self.main, self.code) = (heir, None);
            return None;
        }
        self.draining.retain(|pid| is_child(*pid));
        match self.draining.pop() {
            Some(older) => {
                self.main = older;
                None
            }
            None => self.code,
        }
    }
}

/// Returns whether a process is a child of this one and has not been reaped.
fn is_child(pid: Pid) -> bool {
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT).is_ok()
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

    const OLD: Pid = Pid::from_raw(7);
    const NEW: Pid = Pid::from_raw(12);
    const OTHER: Pid = Pid::from_raw(30);

    fn supervisors(reports: &[&str]) -> Supervisors {
        let mut supervisors = Supervisors::new(OLD);
        reports.iter().for_each(|line| supervisors.reported(line));
        supervisors
    }

    #[test]
    fn orphan_that_ends_or_runs_on_is_no_supervisor() {
        let mut alone = supervisors(&[]);
        assert_eq!(alone.ended(OTHER, 3, |_| true), None);
        assert_eq!(alone.ended(OLD, 5, |_| true), Some(5));
    }

    #[test]
    fn successor_replaces_a_predecessor_that_dies_or_drains() {
        let mut died = supervisors(&["7 12"]);
        assert_eq!(died.ended(OLD, 137, |pid| pid == NEW), None);
        assert_eq!((died.main, died.ended(NEW, 0, |_| false)), (NEW, Some(0)));

        let mut drained = supervisors(&["7 12", "12 0"]);
        assert_eq!(drained.main, NEW, "signals are for the successor");
        assert_eq!(drained.ended(OLD, 0, |pid| pid == NEW), None);
        assert_eq!(drained.ended(NEW, 9, |_| false), Some(9));
    }

    #[test]
    fn container_waits_for_a_predecessor_that_drains() {
        let mut both = supervisors(&["7 12", "12 0"]);
        assert_eq!(both.ended(NEW, 139, |pid| pid == OLD), None);
        assert_eq!((both.main, both.ended(OLD, 0, |_| false)), (OLD, Some(139)));
    }

    #[test]
    fn successor_that_failed_is_forgotten() {
        for reports in [&["7 12", "7 0"][..], &["7 12", "12 0", "7 0"]] {
            let mut failed = supervisors(reports);
            assert_eq!((failed.main, failed.heir, failed.draining.len()), (OLD, None, 0));
            assert_eq!(failed.ended(OLD, 4, |_| true), Some(4), "{reports:?}");
        }
        // Its predecessor has reaped it, and died before it could report that.
        assert_eq!(supervisors(&["7 12"]).ended(OLD, 137, |_| false), Some(137));
        assert_eq!(supervisors(&["7 12", "12 0"]).ended(OLD, 2, |_| false), Some(2));
    }

    #[test]
    fn report_is_a_line_and_others_are_ignored() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let reporter = Reporter::from(writer);
        reporter.report(Some(12)).unwrap();
        let mut container =
            Container { reports: reader.into(), supervisors: Supervisors::new(OLD) };
        container.read_reports();
        let own = Pid::from_raw(process::id().cast_signed());
        assert_eq!((container.supervisors.main, container.supervisors.heir), (own, Some(NEW)));
        for line in ["", "7", "x y", "12 x"] {
            container.supervisors.reported(line);
        }
        assert_eq!(container.supervisors.main, own);
    }
}
