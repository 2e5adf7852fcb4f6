//! Notifications to systemd.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use e2e::{
    fixtures::{self, model, replace_model},
    home::Home,
    notify::Notify,
    processes::{self, Signal},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn ready_and_stopping_match_the_ability_to_answer() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let notify = Notify::bind(builder.directories().root());
    let mut server = builder.variable("NOTIFY_SOCKET", notify.path()).spawn();
    notify.next("READY=1", 0).await;
    assert!(server.answers_ready().await, "READY=1 was sent before requests were answered");
    server.ready().await.unwrap();
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    notify.next("STOPPING=1", 1).await;
    let readies = notify.all().iter().filter(|datagram| datagram.has_line("READY=1")).count();
    assert_eq!(readies, 1, "{:?}", notify.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_announced_and_completed_even_if_it_fails() {
    let builder = Server::builder();
    let home = builder.directories();
    let source = home.models().join("source");
    replace_model(&model("tiny/a"), &source);
    let notify = Notify::bind(home.root());
    let mut server = builder.model("m", &source).variable("NOTIFY_SOCKET", notify.path()).spawn();
    let (mut index, _) = notify.next("READY=1", 0).await;
    server.ready().await.unwrap();
    for content in ["tiny/b", "tiny/truncated"] {
        replace_model(&model(content), &source);
        let before = monotonic_micros();
        server.signal(Signal::SIGHUP);
        let (reloading, datagram) = notify.next("RELOADING=1", index + 1).await;
        let since: u128 = datagram.value("MONOTONIC_USEC").unwrap().parse().unwrap();
        assert!((before..=monotonic_micros()).contains(&since), "{before} {datagram:?}");
        (index, _) = notify.next("READY=1", reloading + 1).await;
    }
    assert_eq!(server.status().await.model("m").generation, 2);
    server.stop().await;
}

fn monotonic_micros() -> u128 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    Duration::from(now).as_micros()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_only_while_workers_answer() {
    let builder = Server::builder().model("m", &model("tiny/a")).tolerates_stopped_workers();
    let notify = Notify::bind(builder.directories().root());
    let mut server = builder
        .variable("NOTIFY_SOCKET", notify.path())
        .variable("WATCHDOG_USEC", "1000000")
        .spawn();
    server.ready().await.unwrap();
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pings = feedings(&notify, start);
    let longest = pings.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    // Allows twice the configured interval for busy machines; systemd does as well.
    assert!(pings.len() >= 5 && longest <= Duration::from_secs(1), "{longest:?}: {pings:?}");

    let pids = server.worker_pids().await;
    let stopped = Instant::now();
    for process in processes::descendants(server.pid()) {
        process.signal(Signal::SIGSTOP);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let late = feedings(&notify, stopped + Duration::from_millis(1500));
    assert!(late.is_empty(), "fed while no worker answers: {late:?}");
    for process in processes::descendants(server.pid()) {
        process.signal(Signal::SIGCONT);
    }
    let again = Instant::now();
    e2e::eventually("the watchdog is fed again", Duration::from_secs(30), async || {
        (!feedings(&notify, again).is_empty()).then_some(())
    })
    .await;
    assert!(!pids.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_becomes_the_main_process_before_it_is_ready() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let home = builder.directories();
    let notify = Notify::bind(home.root());
    let mut server = builder
        .variable("NOTIFY_SOCKET", notify.path())
        .variable("WATCHDOG_USEC", "2000000")
        .spawn();
    server.ready().await.unwrap();
    server.signal(Signal::SIGUSR2);
    e2e::eventually("the exit of the predecessor", Duration::from_secs(60), async || {
        (!server.runs()).then_some(())
    })
    .await;
    let lock = fs::read_to_string(home.state().join("lock")).unwrap();
    let successor = processes::Process::find(lock.trim().parse().unwrap()).unwrap();
    let (main, _) = notify.next(&format!("MAINPID={}", successor.pid), 0).await;
    notify.next("READY=1", main + 1).await;
    assert!(!notify.all().iter().any(|datagram| datagram.has_line("STOPPING=1")));
    let now = Instant::now();
    e2e::eventually("the watchdog is fed", Duration::from_secs(30), async || {
        (!feedings(&notify, now).is_empty()).then_some(())
    })
    .await;
    successor.signal(Signal::SIGTERM);
    notify.next("STOPPING=1", main + 1).await;
    assert!(e2e::soon(Duration::from_secs(30), || !successor.runs()));
}

/// Returns when the watchdog was fed, since `from`.
fn feedings(notify: &Notify, from: Instant) -> Vec<Instant> {
    let fed = notify.all().into_iter().filter(|datagram| datagram.has_line("WATCHDOG=1"));
    fed.map(|datagram| datagram.at).filter(|at| *at >= from).collect()
}

#[test]
fn the_unit_file_is_accepted_by_systemd() {
    let unit = fixtures::workspace().join("deploy/systemd/onnxd.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.lines().any(|line| line.starts_with("Type=notify")), "{text}");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let home = Home::new();
    let copy = home.root().join("onnxd.service");
    let program = fixtures::onnxd();
    let rewrite = |line: &str| match line.strip_prefix("ExecStart=") {
        Some(command) => {
            let arguments = command.split_once(' ').map(|(_, rest)| rest).unwrap_or_default();
            format!("ExecStart={} {arguments}\n", program.display())
        }
        None => format!("{line}\n"),
    };
    fs::write(&copy, text.lines().map(rewrite).collect::<String>()).unwrap();
    let output = verify(&copy);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let own: Vec<&str> = complaints.lines().filter(|line| line.contains("onnxd.service")).collect();
    assert!(own.is_empty(), "{own:?}");
}

/// Out of 10; lower is better. A service that listens on the network cannot reach 0.
const EXPOSURE_MAX: f64 = 2.0;

#[test]
fn the_unit_file_has_a_low_exposure_score() {
    let unit = fixtures::workspace().join("deploy/systemd/onnxd.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&unit)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: systemd-analyze: {error}");
            return;
        }
        Err(error) => panic!("systemd-analyze: {error}"),
    };
    let table = String::from_utf8_lossy(&output.stdout);
    let verdict =
        table.lines().find_map(|line| line.split_once("exposure level for onnxd.service:"));
    let score = verdict.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok());
    assert!(score.is_some_and(|score| score <= EXPOSURE_MAX), "{table}");
}

fn verify(unit: &Path) -> std::process::Output {
    Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(unit)
        .output()
        .expect("systemd-analyze")
}
