//! Notifications to systemd.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use e2e::{
    fixtures::{self, model, replace_model},
    home::Home,
    notify::{Datagram, Notify},
    processes::{self, Signal},
    server::Server,
    web::{Web, upload},
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

/// Returns whether a server says that it waits for a source.
fn waits(datagram: &Datagram) -> bool {
    datagram.value("STATUS").is_some_and(|status| status.starts_with("waiting for the source"))
}

/// A server that waits for the source of its only model, and systemd's view of it.
async fn waiting_server(arguments: &[&str]) -> (Web, PathBuf, Notify, Server) {
    let builder = Server::builder();
    let home = builder.directories();
    let folder = home.root().join("web");
    fs::create_dir_all(folder.join("m")).expect("the directory can be created");
    let web = Web::start(&folder);
    web.take_away(true);
    let notify = Notify::bind(home.root());
    let spec = format!("m={}", web.uri("m"));
    let builder = builder.argument("--model").argument(&spec);
    let builder = arguments.iter().fold(builder, |builder, flag| builder.argument(flag));
    let server = builder.variable("NOTIFY_SOCKET", notify.path()).spawn();
    e2e::eventually("a server that waits", Duration::from_secs(60), async || {
        notify.all().iter().any(waits).then_some(())
    })
    .await;
    (web, folder.join("m"), notify, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_is_requested_during_a_start_follows_it() {
    let (web, folder, notify, mut server) = waiting_server(&[]).await;
    server.signal(Signal::SIGHUP);
    upload(&model("tiny/a"), &folder);
    web.take_away(false);
    server.ready().await.unwrap();
    let (ready, _) = notify.next("READY=1", 0).await;
    let (reloading, _) = notify.next("RELOADING=1", 0).await;
    assert!(ready < reloading, "{:?}", notify.all());
    notify.next("READY=1", reloading + 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_announced_with_its_longest_time_even_during_a_start() {
    let flags = ["--drain-timeout=100", "--shutdown-delay=50"];
    let (_web, _folder, notify, mut server) = waiting_server(&flags).await;
    assert_eq!(server.terminate().await.code(), Some(0), "{}", server.stderr());
    let (_, stopping) = notify.next("STOPPING=1", 0).await;
    let micros = stopping.value("EXTEND_TIMEOUT_USEC").map(str::to_owned);
    // Nothing serves, so there is no delay.
    assert_eq!(micros.as_deref(), Some("115000000"), "{stopping:?}");
    assert!(!notify.all().iter().any(|datagram| datagram.has_line("READY=1")));
    drop(server);

    let builder = Server::builder().model("m", &model("tiny/a")).argument("--shutdown-delay=1");
    let notify = Notify::bind(builder.directories().root());
    let mut server = builder.variable("NOTIFY_SOCKET", notify.path()).spawn();
    server.ready().await.unwrap();
    assert_eq!(server.terminate().await.code(), Some(0), "{}", server.stderr());
    let (_, stopping) = notify.next("STOPPING=1", 0).await;
    assert_eq!(stopping.value("EXTEND_TIMEOUT_USEC"), Some("46000000"), "{stopping:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_with_the_commit_or_says_what_was_refused() {
    let builder = Server::builder();
    let home = builder.directories();
    let source = home.models().join("source");
    replace_model(&model("tiny/a"), &source);
    let notify = Notify::bind(home.root());
    let mut server = builder.model("m", &source).variable("NOTIFY_SOCKET", notify.path()).spawn();
    let (index, _) = notify.next("READY=1", 0).await;
    server.ready().await.unwrap();
    replace_model(&model("tiny/b"), &source);
    server.signal(Signal::SIGHUP);
    let (index, ready) = notify.next("READY=1", index + 1).await;
    assert_eq!(server.status().await.model("m").generation, 2);
    assert_eq!(ready.value("STATUS"), Some("serving"));
    replace_model(&model("tiny/no_tokenizer"), &source);
    server.signal(Signal::SIGHUP);
    let (_, ready) = notify.next("READY=1", index + 1).await;
    let status = ready.value("STATUS").unwrap();
    assert!(status.starts_with("serving; reload refused: m: "), "{status}");
    server.stop().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_asks_for_more_time_and_says_why() {
    let (web, folder, notify, mut server) = waiting_server(&[]).await;
    // More than one: the first may come with a change of the status.
    e2e::eventually("more time", Duration::from_secs(60), async || {
        let all = notify.all();
        let longer =
            all.iter().filter(|one| waits(one) && one.value("EXTEND_TIMEOUT_USEC").is_some());
        (longer.count() >= 3).then_some(())
    })
    .await;
    let all = notify.all();
    let micros = |datagram: &Datagram| datagram.value("EXTEND_TIMEOUT_USEC")?.parse::<u64>().ok();
    assert!(all.iter().filter_map(micros).all(|micros| micros >= 10_000_000), "{all:?}");
    assert!(!all.iter().any(|datagram| datagram.has_line("READY=1")), "{all:?}");
    upload(&model("tiny/a"), &folder);
    web.take_away(false);
    let (index, ready) = notify.next("READY=1", 0).await;
    assert!(ready.has_line("STATUS=serving"), "{ready:?}");
    server.ready().await.unwrap();
    server.stop().await;
    let after = notify.all().into_iter().skip(index);
    let late = after.filter(|one| !one.has_line("STOPPING=1")).filter_map(|one| micros(&one));
    assert_eq!(late.count(), 0, "a server that is ready needs no more time");
}

/// The user that a service runs as.
const USER: u32 = 1000;

/// Writes a credential as systemd does: it belongs to root with mode 0400, and an ACL lets the
/// service's user read it. Without ACLs it belongs to that user.
fn credential(directory: &Path, name: &str, content: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("a mode");
    // See acl(5): owner, user, group, mask and others.
    let none = u32::MAX;
    let entries = [(1, 4, none), (2, 4, USER), (4, 0, none), (16, 4, none), (32, 0, none)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        let (tag, permissions): (u16, u16) = (tag, permissions);
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&path, "system.posix_acl_access", &acl, flags).is_err() {
        chown(&path, Some(USER), Some(USER)).expect("an owner");
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_the_service_are_accepted() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can act as systemd");
        return;
    }
    let builder = Server::builder().model("m", &model("tiny/a")).user(USER);
    let home = builder.directories();
    let directory = home.root().join("credentials");
    fs::create_dir(&directory).unwrap();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = [
        ("ONNXD_API_KEY_FILE", "api_keys", "a-secret-key".to_owned()),
        ("ONNXD_ADMIN_TOKEN_FILE", "admin_token", "0123456789abcdef".to_owned()),
        ("ONNXD_WEBHOOK_SECRET_FILE", "webhook_secret", "0123456789abcdef".to_owned()),
        ("ONNXD_TLS_CERT", "tls_cert", signed.cert.pem()),
        ("ONNXD_TLS_KEY", "tls_key", signed.signing_key.serialize_pem()),
    ];
    // As in the unit: Environment=ONNXD_API_KEY_FILE=%d/api_keys.
    let mut builder = builder.argument("--admin-listen=127.0.0.1:0");
    for (variable, name, content) in &files {
        let path = credential(&directory, name, content);
        builder = builder.variable(variable, path.to_str().unwrap());
    }
    let notify = Notify::bind(home.root());
    chown(notify.path(), Some(USER), Some(USER)).unwrap();
    let mut server = builder.variable("NOTIFY_SOCKET", notify.path()).spawn();
    e2e::eventually("a ready server", Duration::from_secs(60), async || {
        let is_ready = notify.all().iter().any(|datagram| datagram.has_line("READY=1"));
        assert!(is_ready || server.runs(), "{}", server.stderr());
        is_ready.then_some(())
    })
    .await;
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
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
    let types: Vec<&str> = text.lines().filter(|line| line.starts_with("Type=")).collect();
    assert_eq!(
        types,
        ["Type=notify", "Type=notify-reload"],
        "the last one that systemd knows counts"
    );
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let home = Home::new();
    let folder = unit.parent().unwrap();
    for name in ["onnxd", "onnxd-grpc", "onnxd-admin", "onnxd-admin-tcp"] {
        let copy = home.root().join(format!("{name}.socket"));
        fs::copy(folder.join(format!("{name}.socket")), copy).unwrap();
    }
    let copy = home.root().join("onnxd.service");
    let program = fixtures::onnxd();
    let knows_reload = systemd_version().is_some_and(|version| version >= 253);
    let rewrite = |line: &str| match line.strip_prefix("ExecStart=") {
        None if line == "Type=notify-reload" && !knows_reload => String::new(),
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

/// Returns the installed release of systemd.
fn systemd_version() -> Option<u32> {
    let output = Command::new("systemd-analyze").arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn socket_units_name_sockets_that_onnxd_knows() {
    let folder = fixtures::workspace().join("deploy/systemd");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "socket") {
            let text = fs::read_to_string(&path).unwrap();
            let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
            names.push(value("FileDescriptorName=").unwrap().to_owned());
            assert_eq!(value("Service="), Some("onnxd.service"), "{}", path.display());
        }
    }
    names.sort();
    assert_eq!(names, ["admin", "admin-tcp", "grpc", "http"]);
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
