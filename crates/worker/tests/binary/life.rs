//! How a worker starts, where it runs, what it leaves alone, and how it ends.

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

/// What the entries of a directory in `/proc/<pid>` point to or are named.
fn entries(supervisor: &Supervisor, directory: &str) -> Vec<std::path::PathBuf> {
    let path = format!("/proc/{}/{directory}", supervisor.child.id());
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_thread_runs_on_the_one_cpu_that_was_asked_for() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.embed(&["a"]);
    let threads = entries(&supervisor, "task");
    let names = threads.iter().map(|thread| fs::read_to_string(thread.join("comm")).unwrap());
    let names: Vec<String> = names.collect();
    let all = "computes, loads ahead, guards, hears what to terminate; none of ONNX Runtime's";
    assert_eq!(threads.len(), 4, "{all}: {names:?}");
    for thread in threads {
        assert_eq!(allowed_cpus(&thread), cpu().to_string());
        // Field 19, and the second is the name: what loads ahead yields to what computes.
        let stat = fs::read_to_string(thread.join("stat")).unwrap();
        let (name, fields) = stat.rsplit_once(") ").unwrap();
        let nice = if name.ends_with("(ahead") { "5" } else { "0" };
        assert_eq!(fields.split_whitespace().nth(16), Some(nice), "{stat}");
    }
}

#[test]
fn a_wide_run_uses_the_cpus_that_it_was_told_of_and_computes_the_same() {
    let Some(helper) = all_cpus().into_iter().find(|&other| other != cpu()) else {
        eprintln!("skipped: there is one CPU");
        return;
    };
    let compiled = tempfile::tempdir().unwrap();
    compile(&model("minilm"), compiled.path());
    let mut supervisor = Supervisor::start();
    supervisor.link_compiled("minilm", compiled.path());
    supervisor.help_with(vec![helper]);
    supervisor.commit(1, "minilm");
    assert!(supervisor.get_ready().0);
    let started = Instant::now();
    let helps = |supervisor: &Supervisor| {
        entries(supervisor, "task").iter().any(|thread| allowed_cpus(thread) == helper.to_string())
    };
    while !helps(&supervisor) {
        assert!(started.elapsed() < Duration::from_secs(20), "no thread on CPU {helper}");
        // Also before there is a wide session groups are answered.
        supervisor.embed(&["a"]);
    }
    assert_is_minilm(&mut supervisor);
    for thread in entries(&supervisor, "task") {
        assert!([cpu(), helper].map(|cpu| cpu.to_string()).contains(&allowed_cpus(&thread)));
    }
}

/// The CPUs on which a thread may run, as `/proc` lists them.
fn allowed_cpus(thread: &Path) -> String {
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.unwrap().trim().to_owned()
}

#[test]
fn nothing_is_set_up_that_could_send_data_anywhere() {
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
fn a_library_that_would_send_data_is_not_even_loaded() {
    let mut supervisor =
        Supervisor::start_with(Command::new("env").args(["ORT_DISABLE_TELEMETRY=0", WORKER]));
    supervisor.greet(&onnxruntime(), None);
    let status = supervisor.ended_within_a_second();
    assert_eq!(status.code(), Some(ExitStatus::Configuration as i32));
}

#[test]
fn a_library_that_is_missing_ends_the_worker_for_good() {
    let mut supervisor = Supervisor::start();
    supervisor.greet(Path::new("/nowhere/libonnxruntime.so"), None);
    let status = supervisor.ended_within_a_second();
    assert_eq!(status.code(), Some(ExitStatus::Configuration as i32));
}

#[test]
fn a_worker_that_is_started_by_hand_says_that_it_should_not_be() {
    let output = Command::new(WORKER)
        .args(["serve", "--worker", "0", "--cpu", "0"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(ExitStatus::Usage as i32));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("started by onnxd"), "{said}");
}

#[test]
fn a_group_that_does_not_add_up_ends_the_worker_as_a_fault() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let items = vec![embed_item(2, None, true)];
    supervisor.send(&ToWorker::Run { slot: 5, items, wide: false }, b"a");
    assert_eq!(supervisor.ended_within_a_second().code(), Some(ExitStatus::Internal as i32));
}

#[test]
fn a_terminals_interrupt_and_a_reload_do_not_end_a_worker() {
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
    assert_eq!(supervisor.ended_within_a_second().code(), Some(0));
}

#[test]
fn the_end_of_the_socket_ends_an_idle_worker_within_a_second() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.hang_up();
    let status = supervisor.ended_within_a_second();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

#[test]
fn the_end_of_the_socket_ends_a_worker_in_the_middle_of_a_long_inference() {
    let mut supervisor = Supervisor::start();
    supervisor.commit(1, "tiny/slow");
    supervisor.greet(&onnxruntime(), None);
    wait_until_it_computes(&supervisor);
    supervisor.hang_up();
    let status = supervisor.ended_within_a_second();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

/// The model of the test above never ends its first inference; this waits until that runs.
fn wait_until_it_computes(supervisor: &Supervisor) {
    let started = Instant::now();
    let mapped = || fs::read_to_string(format!("/proc/{}/maps", supervisor.child.id())).unwrap();
    while !mapped().contains("libonnxruntime") {
        assert!(started.elapsed() < Duration::from_secs(10), "the library is never loaded");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(300));
}

/// A socket as a supervisor makes it for its administrators.
fn admin_socket(directory: &Path) -> (UnixListener, NamedSocket) {
    let path = directory.join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let found = fs::symlink_metadata(&path).unwrap();
    (listener, NamedSocket { path, device: found.dev(), inode: found.ino() })
}

/// A worker whose parent is a shell, which stands for the supervisor.
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
fn a_killed_supervisor_leaves_no_admin_socket_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (_listener, socket) = admin_socket(directory.path());
    let mut supervisor = under_a_shell(&socket);
    let started = Instant::now();
    supervisor.child.kill().unwrap();
    supervisor.wait_for_the_end_of_the_socket();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!socket.path.exists());
}

#[test]
fn the_admin_socket_of_a_killed_supervisors_successor_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (_old, socket) = admin_socket(directory.path());
    let mut supervisor = under_a_shell(&socket);
    fs::remove_file(&socket.path).unwrap();
    let (_new, successors) = admin_socket(directory.path());
    supervisor.child.kill().unwrap();
    supervisor.wait_for_the_end_of_the_socket();
    assert!(successors.path.exists());
}

#[test]
fn a_supervisor_that_only_stops_this_worker_keeps_its_admin_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (_listener, socket) = admin_socket(directory.path());
    let mut supervisor = Supervisor::start();
    supervisor.greet(&onnxruntime(), Some(socket.clone()));
    assert_eq!(supervisor.receive().1, FromWorker::Ready);
    supervisor.hang_up();
    assert_eq!(supervisor.ended_within_a_second().code(), Some(0));
    assert!(socket.path.exists());
}
