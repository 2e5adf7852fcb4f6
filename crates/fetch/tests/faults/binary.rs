//! The executable: its command line, its confinement, and proxies from the environment.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    double::{Double, Reply},
    fetch::checksums,
};

/// Runs the executable with these lines.
fn run(input: &str, directory: &TempDir, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd-fetch"));
    command.current_dir(directory).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn resolve(source: &str) -> String {
    let about = json!({"source": source, "known": null, "allows_private": true,
                       "bytes_max": 1 << 20, "files_max": 10});
    format!("{}\n", json!({"resolve": about}))
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn server() -> Double {
    let sums = checksums(&[("onnx/model.onnx", b"content")]);
    Double::start(move |asked| match asked.path.rsplit('/').next() {
        Some("SHA256SUMS") => Reply::ok(sums.clone()),
        _ => Reply::ok("content"),
    })
}

#[test]
fn a_confined_process_downloads_into_its_working_directory() {
    let (server, directory) = (server(), tempfile::tempdir().unwrap());
    // The name is resolved inside the sandbox.
    let source = format!("http://localhost:{}/m/", server.port());
    let input = format!("{}{}\n", resolve(&source), json!({"download": ["onnx/model.onnx"]}));
    let output = run(&input, &directory, &[]);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    assert!(lines[0].starts_with(r#"{"snapshot""#), "{lines:?}");
    assert_eq!(lines.last().unwrap(), r#""downloaded""#);
    assert_eq!(std::fs::read(directory.path().join("onnx/model.onnx")).unwrap(), b"content");
}

#[test]
fn without_requests_the_usage_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let output = run("", &directory, &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("onnxd fetch"));
    for (input, message) in [("{}\n", "invalid request"), ("{\"download\":[]}\n", "first request")]
    {
        let output = run(input, &directory, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(lines(&output)[0].contains(message), "{output:?}");
    }
}

#[test]
fn a_proxy_is_asked_with_its_password_which_is_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let proxy = server();
    let address = format!("http://user:hunter2@{}", proxy.authority());
    let output = run(&resolve("http://source.invalid/m/"), &directory, &[("HTTP_PROXY", &address)]);
    assert!(output.status.success(), "{output:?}");
    let asked = proxy.asked();
    assert_eq!(asked[0].path, "http://source.invalid/m/SHA256SUMS");
    assert_eq!(asked[0].header("proxy-authorization"), "Basic dXNlcjpodW50ZXIy");

    let refusing = Double::start(|_| Reply::status(407));
    let address = format!("http://user:hunter2@{}", refusing.authority());
    let output =
        run(&resolve("https://source.invalid/m/"), &directory, &[("HTTPS_PROXY", &address)]);
    let asked = refusing.asked();
    assert_eq!(
        (asked[0].method.as_str(), asked[0].path.as_str()),
        ("CONNECT", "source.invalid:443")
    );
    assert_eq!(asked[0].header("proxy-authorization"), "Basic dXNlcjpodW50ZXIy");
    let text = format!("{output:?}");
    assert!(text.contains("407 from proxy") && !text.contains("hunter2"), "{text}");

    let direct = server();
    let variables = [("HTTP_PROXY", address.as_str()), ("NO_PROXY", "127.0.0.1")];
    let output = run(&resolve(&direct.url("/m/")), &directory, &variables);
    assert!(output.status.success() && refusing.asked().is_empty(), "{output:?}");
}
