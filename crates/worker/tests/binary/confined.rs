//! The sandbox of a worker, seen from outside. `sandbox/src/tests.rs` tests it from inside.

use std::{fs, os::unix::fs::symlink, process::Command, thread};

use nix::libc;
use onnxd_proto::{exit::ExitStatus, wire::message::FromWorker};
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};

use crate::{
    checker::Check,
    fixtures::{WORKER, model, onnxruntime},
    supervisor::Supervisor,
};

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

fn statuses(supervisor: &Supervisor) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", supervisor.child.id())).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

#[test]
fn every_worker_thread_is_filtered_without_new_privileges() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.embed(&["a"]);
    let threads = statuses(&supervisor);
    assert_eq!(threads.len(), 4);
    for status in threads {
        assert_eq!(field(&status, "Seccomp"), "2", "{status}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
    }
    let proc =
        |file: &str| fs::read_to_string(format!("/proc/{}/{file}", supervisor.child.id())).unwrap();
    let limits = proc("limits");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert!(limit("Max open files").parse::<u64>().unwrap() <= 1024);
    assert_ne!(limit("Max data size"), "unlimited");
    let score = |text: String| text.trim().parse::<i32>().unwrap();
    let own = score(fs::read_to_string("/proc/self/oom_score_adj").unwrap());
    assert_eq!(score(proc("oom_score_adj")), (own + 500).min(1000));
}

/// Has the worker load ahead a link to a version outside the state directory.
fn load_from_outside(supervisor: &mut Supervisor) -> FromWorker {
    symlink(model("tiny/b"), supervisor.version_dir("outside")).unwrap();
    supervisor.load_version_ahead("outside");
    supervisor.receive().1
}

#[test]
fn only_unconfined_workers_read_outside_the_state_directory() {
    let mut confined = Supervisor::serving("tiny/a");
    let answer = load_from_outside(&mut confined);
    assert!(matches!(answer, FromWorker::LoadAheadFailed { .. }), "{answer:?}");

    let mut free = Supervisor::start_with(Command::new(WORKER).arg("--no-sandbox"));
    free.commit(1, "tiny/a");
    free.wait_until_ready();
    let answer = load_from_outside(&mut free);
    assert!(matches!(answer, FromWorker::LoadedAhead { .. }), "{answer:?}");
    for status in statuses(&free) {
        assert_eq!(field(&status, "Seccomp"), field(&statuses_of_self(), "Seccomp"));
    }
}

fn statuses_of_self() -> String {
    fs::read_to_string("/proc/self/status").unwrap()
}

/// Runs a closure on a thread for which the kernel lacks these calls, including its children.
fn without<T: Send + 'static>(calls: &[i64], run: impl FnOnce() -> T + Send + 'static) -> T {
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let lacking = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, lacking, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    let thread = thread::spawn(move || {
        apply_filter(&program).unwrap();
        run()
    });
    thread.join().unwrap()
}

#[test]
fn without_seccomp_nothing_starts_and_the_flag_is_named() {
    let status = without(&[libc::SYS_seccomp], || Supervisor::start().wait_for_exit());
    assert_eq!(status.code(), Some(ExitStatus::Configuration as i32));
    let outcome = without(&[libc::SYS_seccomp], || Check::for_model("tiny/a").run());
    let refusal = outcome.verdict.unwrap().unwrap_err();
    assert!(refusal.message.contains("--no-sandbox"), "{refusal}");
}

#[test]
fn without_landlock_the_rest_of_the_sandbox_applies() {
    without(&[libc::SYS_landlock_create_ruleset], || {
        let mut supervisor = Supervisor::start();
        supervisor.commit(1, "tiny/a");
        supervisor.greet(&onnxruntime(), None);
        supervisor.expect_loaded(1);
        assert_eq!(supervisor.receive().1, FromWorker::Ready);
        let status = &statuses(&supervisor)[0];
        assert_eq!(field(status, "NoNewPrivs"), "1");
        assert!(field(status, "Seccomp_filters").parse::<u32>().unwrap() >= 3, "{status}");
    });
}
