//! Resource limits of a checker, which hold whatever the version does and even unsupervised.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use onnxd_proto::domain::RefusalKind;

use crate::checker::Check;

const GIGABYTE: u64 = 1 << 30;

#[test]
fn version_that_needs_too_much_memory_is_refused() {
    let check = Check::for_model("tiny/expensive");
    let outcome = check.with("--memory-limit-bytes", GIGABYTE.to_string()).run();
    assert_eq!(outcome.passed, ["load"]);
    let refusal = outcome.refused();
    assert_eq!(refusal.kind, RefusalKind::Memory, "{refusal}");
    assert!(refusal.message.contains("not enough memory"), "{refusal}");
}

#[test]
fn version_over_the_cpu_limit_is_killed_by_the_kernel() {
    let started = Instant::now();
    let outcome = Check::for_model("tiny/slow").with("--cpu-limit-seconds", "1").run();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(outcome.passed, ["load"], "passed parts are printed as they pass");
    assert!(outcome.verdict.is_none());
    assert_eq!(outcome.output.status.signal(), Some(Signal::SIGXCPU as i32));
}

/// Returns the `Name: value` lines of `/proc/<pid>/status`.
fn status(child: &Child) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn checker_is_niced_confined_and_limited() {
    let check = Check::for_model("tiny/slow").with("--cpu-limit-seconds", "9");
    let mut child = check.with("--memory-limit-bytes", GIGABYTE.to_string()).spawn();
    let started = Instant::now();
    while status(&child)["Seccomp"] != "2" {
        assert!(started.elapsed() < Duration::from_secs(10), "it is never confined");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status(&child)["NoNewPrivs"], "1");
    let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
    let limits = proc("limits");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max cpu time"), "9");
    assert_eq!(limit("Max data size"), (GIGABYTE + (256 << 20)).to_string());
    assert!(limit("Max file size").parse::<u64>().unwrap() < 2 * GIGABYTE);
    // Nice is field 19, and the name is field 2, which may contain spaces.
    let stat = proc("stat");
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned();
    assert_eq!(nice, "10");
    child.kill().unwrap();
    child.wait().unwrap();
}
