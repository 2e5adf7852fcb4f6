//! What operators type and pass: variables, addresses, names, paths and interrupted commands.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod interrupted;
mod names;
mod silent;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use e2e::{
    fixtures::{self, model},
    home::Home,
    server::Server,
};

const CONFIGURATION: Option<i32> = Some(78);

/// Runs `onnxd serve --check-config` for one model. Arguments that are not given get defaults of this home.
fn check(home: &Home, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let model = format!("m={}", model("tiny/a").display());
    let (socket, library) = (home.admin_socket(), fixtures::onnxruntime());
    let mut command = Command::new(fixtures::onnxd());
    command.env_clear().env("HOME", home.user()).args(["serve", "--check-config"]);
    for (flag, variable, value) in [
        ("--model", "ONNXD_MODEL", Path::new(&model)),
        ("--admin-socket", "ONNXD_ADMIN_SOCKET", &socket),
        ("--onnxruntime", "ONNXD_ONNXRUNTIME", &library),
    ] {
        let is_set = variables.iter().any(|(name, value)| *name == variable && !value.is_empty());
        if !is_set && !arguments.contains(&flag) {
            command.arg(flag).arg(value);
        }
    }
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn has_warning(output: &Output) -> bool {
    stderr(output).lines().any(|line| line.contains(" WARN ") || line.contains(" ERROR "))
}

fn valid(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn invalid(output: &Output, parts: &[&str]) {
    assert_eq!(output.status.code(), CONFIGURATION, "{output:?}");
    for part in parts {
        assert!(stderr(output).contains(part), "{part}: {output:?}");
    }
}

#[test]
fn every_empty_variable_counts_as_not_set() {
    let home = Home::new();
    let help = Command::new(fixtures::onnxd()).args(["serve", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let variables = help.lines().filter_map(|line| line.trim().strip_prefix("Variable: "));
    let variables: Vec<(&str, &str)> = variables
        .chain(["ONNXD_LOG", "ONNXD_SOURCE_CA_FILE", "ONNXD_WORKER"])
        .map(|name| (name, ""))
        .collect();
    assert!(variables.len() > 40, "{variables:?}");
    let output = check(&home, &variables, &[]);
    valid(&output);
    assert!(!has_warning(&output), "{output:?}");
}

#[test]
fn misspelt_variable_is_reported_and_service_links_are_not() {
    let home = Home::new();
    let output = check(&home, &[("ONNXD_WORKER", "4")], &[]);
    valid(&output);
    let warning = "unknown variable ONNXD_WORKER is ignored, did you mean ONNXD_WORKERS?";
    assert!(stderr(&output).contains(warning), "{output:?}");
    let links = [
        ("ONNXD_PORT", "tcp://10.0.0.1:8080"),
        ("ONNXD_SERVICE_HOST", "10.0.0.1"),
        ("ONNXD_SERVICE_PORT", "8080"),
        ("ONNXD_SERVICE_PORT_HTTP", "8080"),
        ("ONNXD_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("ONNXD_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("ONNXD_TEST_MODELS", "/x"),
    ];
    let output = check(&home, &links, &[]);
    valid(&output);
    assert!(!has_warning(&output), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn misspelt_variable_is_reported_at_start() {
    let server = Server::builder().model("m", &model("tiny/a")).variable("ONNXD_WORKER", "4");
    let server = server.start().await;
    assert!(server.stderr().contains("did you mean ONNXD_WORKERS?"), "{}", server.stderr());
    server.stop().await;
}

#[test]
fn errors_name_where_the_value_came_from() {
    let home = Home::new();
    let file = home.root().join("onnxd.toml");
    fs::write(&file, "workers = 2\nstate-dir = '/dev/null/x'\n").unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let origin = format!("--state-dir (set in {}:2)", file.display());
    invalid(&check(&home, &[], &config), &[&origin, "/dev/null/x: not a directory"]);
    for (variable, value, part) in [
        ("ONNXD_STATE_DIR", "/dev/null/x", "--state-dir (set by ONNXD_STATE_DIR)"),
        ("ONNXD_LISTEN", "192.0.2.1:1", "--listen (set by ONNXD_LISTEN)"),
        ("ONNXD_MODEL", "/nowhere", "--model (set by ONNXD_MODEL)"),
        ("ONNXD_WORKER_BINARY", "/bin/true", "--worker-binary (set by ONNXD_WORKER_BINARY)"),
        ("XDG_STATE_HOME", "/dev/null", "--state-dir (default from $XDG_STATE_HOME)"),
    ] {
        invalid(&check(&home, &[(variable, value)], &[]), &[part]);
    }
}

#[test]
fn check_finds_what_a_start_would() {
    let home = Home::new();
    let long = home.root().join("x".repeat(120));
    let file = home.root().join("file");
    fs::write(&file, "not a library").unwrap();
    let (long, path) = (long.to_str().unwrap(), file.to_str().unwrap());
    let below = format!("{path}/below");
    for (arguments, parts) in [
        (&["--admin-socket", long][..], &["--admin-socket", "107"][..]),
        (&["--admin-socket", path], &["--admin-socket", "not a socket"]),
        (&["--admin-socket", &below], &["--admin-socket", "not a directory"]),
        (&["--state-dir", &below], &["--state-dir", "not a directory"]),
        (&["--state-dir", "/proc/onnxd"], &["--state-dir: /proc/onnxd"]),
        (&["--listen", "192.0.2.1:80"], &["--listen", "requested address"]),
        (&["--grpc-listen", "[2001:db8::1]:80"], &["--grpc-listen", "requested address"]),
        (&["--listen", "127.0.0.1:9", "--grpc-listen", "127.0.0.1:9"], &["use another port"]),
        (&["--onnxruntime", path], &["--onnxruntime", "file"]),
        (&["--worker-binary", "/bin/true"], &["--worker-binary", "not a worker of this build"]),
        (&["--model", "r=hf://org/r", "--fetch-binary", "/none"], &["--fetch-binary", "/none"]),
        (&["--model", "g=/nowhere"], &["--model g: /nowhere: no such directory"]),
        (&["--log-format", "xml"], &["--log-format"]),
        (&["--idle-timeout", "0"], &["--idle-timeout: expected at least 1 second"]),
    ] {
        invalid(&check(&home, &[], arguments), parts);
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn check_beside_a_running_server_disturbs_nothing() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let home = server.home();
    let (state, address) = (home.state().display().to_string(), server.address().to_string());
    let before = [home.root(), &home.state()].map(entries);
    let socket = home.admin_socket().display().to_string();
    let arguments = ["--listen", &address, "--state-dir", &state, "--admin-socket", &socket];
    let output = check(home, &[], &arguments);
    valid(&output);
    let text = stderr(&output);
    let pid = server.pid().to_string();
    for part in [&*address, "is in use", "a server uses --state-dir", &pid, "a server listens on"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!([home.root(), &home.state()].map(entries), before);
    assert!(server.answers_ready().await);
    server.stop().await;
}

#[test]
fn check_leaves_nothing_behind() {
    let home = Home::new();
    let before = entries(home.root());
    let state = home.root().join("new/state");
    let socket = home.root().join("run/new/admin.sock");
    let (state, socket) = (state.to_str().unwrap(), socket.to_str().unwrap());
    valid(&check(&home, &[], &["--state-dir", state, "--admin-socket", socket]));
    assert_eq!(entries(home.root()), before);
    assert!(!Path::new(socket).parent().unwrap().exists());
}

#[test]
fn listen_addresses_resolve_or_are_refused_with_an_example() {
    let home = Home::new();
    for flag in ["--listen", "--grpc-listen"] {
        for address in ["localhost:0", "0.0.0.0:0", "127.0.0.1:0"] {
            valid(&check(&home, &[], &[flag, address]));
        }
        for address in [":8080", "0.0.0.0", "::1", "8080", "[::1]", "localhost"] {
            let output = check(&home, &[], &[flag, address]);
            assert_eq!(output.status.code(), Some(64), "{output:?}");
            let example = "for example localhost:8080, or [::]:8080 for all addresses";
            assert!(stderr(&output).contains(example), "{output:?}");
        }
    }
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    invalid(&check(&home, &[], &["--listen", &taken]), &["--listen", "in use"]);
}
