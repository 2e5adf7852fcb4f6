//! The lifecycle of a worker: start, CPU, isolation and exit.

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixListener, process::ExitStatusExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use onnxd_proto::{
    exit::ExitStatus,
    wire::message::{FromWorker, NamedSocket, ToWorker},
};

use crate::{
    checker::compile,
    embed::assert_is_minilm,
    fixtures::{WORKER, model, onnxruntime},
    supervisor::{Supervisor, all_cpus, cpu, embed_item},
};

fn signal(supervisor: &Supervisor, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(supervisor.child.id()).unwrap()), signal).unwrap();
}

/// Returns the entries of a directory in `/proc/<pid>`.
fn entries(supervisor: &Supervisor, directory: &str) -> Vec<std::path::PathBuf> {
    let path = format!("/proc/{}/{directory}", supervisor.child.id());
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_thread_runs_on_the_requested_cpu() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.embed(&["a"]);
    let threads = entries(&supervisor, "task");
    let names = threads.iter().map(|thread| fs::read_to_string(thread.join("comm")).unwrap());
    let names: Vec<String> = names.collect();
    let all = "main, ahead, guard and hangs; none of ONNX Runtime's";
    assert_eq!(threads.len(), 4, "{all}: {names:?}");
    for thread in threads {
        assert_eq!(allowed_cpus(&thread), cpu().to_string());
        // Nice is field 19, and the name is field 2. The loading thread yields to serving.
        let stat = fs::read_to_string(thread.join("stat")).unwrap();
        let (name, fields) = stat.rsplit_once(") ").unwrap();
        let nice = if name.ends_with("(ahead") { "5" } else { "0" };
        assert_eq!(fields.split_whitespace().nth(16), Some(nice), "{stat}");
    }
}

#[test]
fn wide_runs_use_the_helper_cpus_and_compute_the_same() {
    let Some(helper) = all_cpus().into_iter().find(|&other| other != cpu()) else {
        eprintln!("skipped: there is one CPU");
        return;
    };
    let compiled = tempfile::tempdir().unwrap();
    compile(&model("minilm"), compiled.path());
    let mut supervisor = Supervisor::start();
    supervisor.link_compiled("minilm", compiled.path());
    supervisor.set_helper_cpus(vec![helper]);
    supervisor.commit(1, "minilm");
    assert!(supervisor.wait_until_ready().0);
    let started = Instant::now();
    let helps = |supervisor: &Supervisor| {
        entries(supervisor, "task").iter().any(|thread| allowed_cpus(thread) == helper.to_string())
    };
    while !helps(&supervisor) {
        assert!(started.elapsed() < Duration::from_secs(20), "no thread on CPU {helper}");
        // Groups are answered even before the wide session exists.
        supervisor.embed(&["a"]);
    }
    assert_is_minilm(&mut supervisor);
    for thread in entries(&supervisor, "task") {
        assert!([cpu(), helper].map(|cpu| cpu.to_string()).contains(&allowed_cpus(&thread)));
    }
}

/// Returns the CPUs on which a thread may run, as `/proc` lists them.
fn allowed_cpus(thread: &Path) -> String {
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.unwrap().trim().to_owned()
}

#[test]
fn worker_has_no_network_socket_or_telemetry_file() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.embed(&["a"]);
    let sockets: String = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"]
        .iter()
        .map(|kind| fs::read_to_string(format!("/proc/net/{kind}")).unwrap_or_default())
        .collect();
    for descriptor in entries(&supervisor, "fd") {
        let target = fs::read_link(descriptor).unwrap();
        let target = target.to_str().unwrap();
        assert!(!target.contains(".onnxruntime"), "{target} is open");
        if let Some(inode) = target.strip_prefix("socket:[") {
            let inode = format!(" {} ", inode.trim_end_matches(']'));
            assert!(!sockets.contains(&inode), "{target} is a network socket");
        }
    }
}

#[test]
fn library_is_not_loaded_with_telemetry_enabled() {
    let mut supervisor =
        Supervisor::start_with(Command::new("env").args(["ORT_DISABLE_TELEMETRY=0", WORKER]));
    supervisor.greet(&onnxruntime(), None);
    let status = supervisor.wait_for_exit();
    assert_eq!(status.code(), Some(ExitStatus::Configuration as i32));
}

#[test]
fn missing_library_ends_the_worker_with_78() {
    let mut supervisor = Supervisor::start();
    supervisor.greet(Path::new("/nowhere/libonnxruntime.so"), None);
    let status = supervisor.wait_for_exit();
    assert_eq!(status.code(), Some(ExitStatus::Configuration as i32));
}

#[test]
fn worker_started_by_hand_explains_itself() {
    let output = Command::new(WORKER)
        .args(["serve", "--worker", "0", "--cpu", "0"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(ExitStatus::Usage as i32));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("started by onnxd"), "{stderr}");
}

#[test]
fn inconsistent_group_ends_the_worker_as_a_fault() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let items = vec![embed_item(2, None, true)];
    supervisor.send(&ToWorker::Run { slot: 5, items, wide: false }, b"a");
    assert_eq!(supervisor.wait_for_exit().code(), Some(ExitStatus::Internal as i32));
}

#[test]
fn sigint_and_sighup_do_not_end_a_worker() {
    let mut supervisor = Supervisor::serving("tiny/a");
    for sent in [Signal::SIGINT, Signal::SIGHUP] {
        signal(&supervisor, sent);
        supervisor.embed(&["a"]);
    }
}

#[test]
fn sigterm_ends_a_worker_within_a_second() {
    let mut supervisor = Supervisor::serving("tiny/a");
    signal(&supervisor, Signal::SIGTERM);
    assert_eq!(supervisor.wait_for_exit().code(), Some(0));
}

#[test]
fn closed_socket_ends_an_idle_worker_within_a_second() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.close_socket();
    let status = supervisor.wait_for_exit();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

#[test]
fn closed_socket_ends_a_worker_in_a_long_inference() {
    let mut supervisor = Supervisor::start();
    supervisor.commit(1, "tiny/slow");
    supervisor.greet(&onnxruntime(), None);
    wait_until_it_computes(&supervisor);
    supervisor.close_socket();
    let status = supervisor.wait_for_exit();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

/// Waits until the first inference runs. The model of the test above never finishes it.
fn wait_until_it_computes(supervisor: &Supervisor) {
    let started = Instant::now();
    let mapped = || fs::read_to_string(format!("/proc/{}/maps", supervisor.child.id())).unwrap();
    while !mapped().contains("libonnxruntime") {
        assert!(started.elapsed() < Duration::from_secs(10), "the library is never loaded");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(300));
}

/// Creates an admin socket like a supervisor.
fn admin_socket(directory: &Path) -> (UnixListener, NamedSocket) {
    let path = directory.join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let found = fs::symlink_metadata(&path).unwrap();
    (listener, NamedSocket { path, device: found.dev(), inode: found.ino() })
}

/// Starts a worker under a shell that stands in for the supervisor.
fn under_a_shell(socket: &NamedSocket) -> Supervisor {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#""$0" "$@" & wait"#, WORKER]);
    let mut supervisor = Supervisor::start_with(&mut shell);
    supervisor.commit(1, "tiny/a");
    supervisor.greet(&onnxruntime(), Some(socket.clone()));
    supervisor.expect_loaded(1);
    assert_eq!(supervisor.receive().1, FromWorker::Ready);
    supervisor
}

#[test]
fn killed_supervisor_leaves_no_admin_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (_listener, socket) = admin_socket(directory.path());
    let mut supervisor = under_a_shell(&socket);
    let started = Instant::now();
    supervisor.child.kill().unwrap();
    supervisor.wait_for_socket_end();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!socket.path.exists());
}

#[test]
fn successors_admin_socket_survives_a_killed_supervisor() {
    let directory = tempfile::tempdir().unwrap();
    let (_old, socket) = admin_socket(directory.path());
    let mut supervisor = under_a_shell(&socket);
    fs::remove_file(&socket.path).unwrap();
    let (_new, successors) = admin_socket(directory.path());
    supervisor.child.kill().unwrap();
    supervisor.wait_for_socket_end();
    assert!(successors.path.exists());
}

#[test]
fn stopping_one_worker_keeps_the_admin_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (_listener, socket) = admin_socket(directory.path());
    let mut supervisor = Supervisor::start();
    supervisor.greet(&onnxruntime(), Some(socket.clone()));
    assert_eq!(supervisor.receive().1, FromWorker::Ready);
    supervisor.close_socket();
    assert_eq!(supervisor.wait_for_exit().code(), Some(0));
    assert!(socket.path.exists());
}
