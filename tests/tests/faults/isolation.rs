//! Isolation of workers: one CPU, no network, no telemetry, no privileges.

use std::{collections::BTreeSet, path::PathBuf};

use e2e::{
    admin::WorkerStatus,
    fixtures::model,
    processes::{self, environment, internet_sockets, open_files, thread_cpus},
    server::Server,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde_json::json;

async fn warm_server() -> Server {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    for _ in 0..20 {
        let response = server.client().await.post("/embed", &json!({"inputs": vec!["a"; 8]})).await;
        assert_eq!(response.map(|response| response.status), Ok(200));
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_sends_nothing_anywhere() {
    let server = warm_server().await;
    for pid in server.worker_pids().await {
        assert_eq!(internet_sockets(pid), [""; 0]);
        let telemetry = |path: &std::path::PathBuf| path.to_string_lossy().contains(".onnxruntime");
        assert!(!open_files(pid).iter().any(telemetry), "{:?}", open_files(pid));
        let variables = environment(pid);
        assert!(variables.iter().any(|v| v == "ORT_DISABLE_TELEMETRY=1"), "{variables:?}");
    }
    assert_eq!(internet_sockets(server.pid()).len(), 1, "the supervisor has only its listener");
    // Panics if anything was written to the user's home, where telemetry keeps its files.
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_worker_runs_on_the_cpu_shown_in_status() {
    let server = Server::builder()
        .model("m", &model("tiny/a"))
        .argument("--idle-cpus")
        .argument("1")
        .start()
        .await;
    for (cpu, threads) in cpus(&server).await {
        assert!(!threads.is_empty() && threads.iter().all(|other| *other == cpu), "{threads:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_first_worker_has_a_thread_on_each_other_cpu() {
    let server = warm_server().await;
    let all = cpus(&server).await;
    for (worker, (cpu, threads)) in all.iter().enumerate() {
        let helpers: Vec<&String> = threads.iter().filter(|other| *other != cpu).collect();
        let distinct: BTreeSet<&&String> = helpers.iter().collect();
        assert_eq!(helpers.len(), distinct.len(), "{threads:?}");
        assert!(worker == 0 || helpers.is_empty(), "{threads:?}");
        assert!(helpers.iter().all(|helper| all.iter().any(|(cpu, _)| cpu == *helper)));
    }
    server.stop().await;
}

#[tokio::test]
async fn workers_share_cpus_if_fewer_cpus_are_allowed() {
    // The server inherits the single CPU of this thread.
    let (own, all) = (Pid::from_raw(0), sched_getaffinity(Pid::from_raw(0)).unwrap());
    let last = (0..CpuSet::count()).rfind(|&cpu| all.is_set(cpu) == Ok(true)).unwrap();
    let mut one = CpuSet::new();
    one.set(last).unwrap();
    sched_setaffinity(own, &one).unwrap();
    let server = warm_server().await;
    sched_setaffinity(own, &all).unwrap();
    for (cpu, threads) in cpus(&server).await {
        assert_eq!(cpu, last.to_string());
        assert!(threads.iter().all(|other| *other == cpu), "{threads:?}");
    }
    server.stop().await;
}

/// Returns the CPU in the status and those of all threads, by worker.
async fn cpus(server: &Server) -> Vec<(String, Vec<String>)> {
    let workers = server.status().await.workers.into_iter();
    let cpus = |worker: WorkerStatus| {
        (worker.cpu.expect("pinned").to_string(), thread_cpus(worker.pid.expect("running")))
    };
    workers.map(cpus).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_inherits_no_other_descriptors() {
    let server = warm_server().await;
    for pid in server.worker_pids().await {
        let files: BTreeSet<PathBuf> = open_files(pid).into_iter().collect();
        let is = |path: &&PathBuf, what| path.to_string_lossy().starts_with(what);
        let sockets = files.iter().filter(|path| is(path, "socket:"));
        assert_eq!(sockets.count(), 1, "only the socket to the supervisor: {files:?}");
        let state = server.home().state();
        let own = files.iter().filter(|path| path.starts_with(&state));
        assert!(own.clone().all(|path| path.starts_with(state.join("versions"))), "{files:?}");
    }
    server.stop().await;
}

/// A user without any files.
const NOBODY: u32 = 65534;

/// Returns the seccomp modes of all threads of all workers.
async fn filters(server: &Server) -> Vec<String> {
    let mut found = Vec::new();
    for pid in server.worker_pids().await {
        let threads = processes::thread_status(pid, "Seccomp");
        assert!(!threads.is_empty(), "the kernel supports seccomp");
        found.extend(threads);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unprivileged_server_serves_and_updates_in_its_sandbox() {
    if !nix::unistd::geteuid().is_root() {
        return; // All other tests run as an ordinary user then.
    }
    let server = Server::builder().user(NOBODY).model("m", &model("tiny/a")).start().await;
    server.update("m", Some(&model("tiny/b"))).await.unwrap();
    let status = server.settled().await;
    assert!(status.workers.iter().all(|worker| worker.memory_bytes > Some(1 << 20)), "{status:?}");
    assert!(status.workers.iter().all(|worker| worker.loads["m"].compiled), "{status:?}");
    assert!(filters(&server).await.iter().all(|filter| filter == "2"));
    let own = processes::status(&server.pid().to_string(), "NoNewPrivs").unwrap();
    assert!(own == "1" && !server.stderr().contains("as root"), "{own}: {}", server.stderr());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_sandbox_is_reported_in_log_status_and_metrics() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let server = builder.variable("ONNXD_NO_SANDBOX", "1").start().await;
    assert!(server.stderr().contains("NOT CONFINED"), "{}", server.stderr());
    let status = server.cli(&["status"]).await;
    assert!(String::from_utf8_lossy(&status.stdout).contains("NOT CONFINED"), "{status:?}");
    let metrics = server.client().await.get("/metrics").await.unwrap();
    assert!(metrics.text().contains("onnxd_sandbox 0"), "{}", metrics.text());
    let outer = processes::status("self", "Seccomp").unwrap();
    assert!(filters(&server).await.iter().all(|filter| *filter == outer));
    server.stop().await;
}
