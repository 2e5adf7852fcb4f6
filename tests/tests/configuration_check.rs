//! `--check-config` and a start agree: they report the same cause with the same exit code, and both
//! accept the same configurations.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

use std::{fs, net::TcpListener, path::PathBuf, process::Stdio};

use e2e::{
    fixtures::{self, model},
    home::Home,
    server::Server,
};

const CONFIGURATION: i32 = 78;
const USAGE: i32 = 64;

/// The result of a command.
struct Outcome {
    code: Option<i32>,
    stderr: String,
}

impl Outcome {
    /// Returns the lines that say why the command failed.
    fn causes(&self) -> Vec<String> {
        let is_first = |line: &str| line.starts_with("onnxd: ") || line.starts_with("error: ");
        let first = self.stderr.lines().position(is_first).unwrap_or(usize::MAX);
        // Temporary directories have other names.
        let word = |word: &str| if word.contains("/staging/") { "…" } else { word }.to_owned();
        let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
        let lines = self.stderr.lines().skip(first);
        lines.map(|text| line(text.trim_start_matches("onnxd: "))).collect()
    }
}

/// What a case sets. Flags replace those of [`base`].
#[derive(Default)]
struct Case {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// Text of the configuration file.
    file: Option<String>,
}

fn flags(flags: &[&str]) -> Case {
    Case { arguments: flags.iter().map(ToString::to_string).collect(), ..Case::default() }
}

impl Case {
    fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }
}

/// Flags that work, with their values.
fn base(home: &Home) -> Vec<(&'static str, String)> {
    let text = |path: PathBuf| path.display().to_string();
    vec![
        ("--listen", "127.0.0.1:0".to_owned()),
        ("--model", format!("m={}", model("tiny/a").display())),
        ("--onnxruntime", text(fixtures::onnxruntime())),
        ("--worker-binary", text(fixtures::onnxd_worker())),
        ("--state-dir", text(home.state())),
        ("--admin-socket", text(home.admin_socket())),
        ("--workers", "1".to_owned()),
    ]
}

async fn run(home: &Home, case: &Case, check: bool) -> Outcome {
    let mut command = tokio::process::Command::new(fixtures::onnxd());
    command.arg("serve").env_clear().env("HOME", home.user()).env("TMPDIR", home.tmp());
    if check {
        command.arg("--check-config");
    }
    for (flag, value) in base(home) {
        let is_flag = |argument: &String| argument.split('=').next() == Some(flag);
        let key = flag.trim_start_matches("--");
        let in_file = case.file.as_deref().unwrap_or_default().contains(&format!("{key} = "));
        let variable = format!("ONNXD_{}", key.to_uppercase().replace('-', "_"));
        let is_variable = case.variables.iter().any(|(name, _)| *name == variable);
        if !case.arguments.iter().any(is_flag) && !in_file && !is_variable {
            command.arg(format!("{flag}={value}"));
        }
    }
    if let Some(text) = &case.file {
        let path = home.root().join("onnxd.toml");
        fs::write(&path, text).unwrap();
        command.arg("--config").arg(path);
    }
    command.args(&case.arguments).envs(case.variables.iter().cloned());
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), command.output());
    let output = output.await.unwrap_or_else(|_| panic!("still runs: {:?}", case.arguments));
    let output = output.unwrap();
    Outcome {
        code: output.status.code(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Checks that both report `part` with the same exit code and the same words.
async fn agree(home: &Home, case: Case, code: i32, part: &str) {
    let checked = run(home, &case, true).await;
    let started = run(home, &case, false).await;
    let (arguments, stderr) = (&case.arguments, &checked.stderr);
    assert!(started.stderr.contains(part), "{part}: a start says {}", started.stderr);
    assert!(stderr.contains(part), "{part}: --check-config says {stderr}");
    assert_eq!(started.code, Some(code), "{arguments:?}: {}", started.stderr);
    assert_eq!(checked.code, Some(code), "{arguments:?}: {stderr}");
    let causes = started.causes();
    assert!(!causes.is_empty(), "{arguments:?}: {}", started.stderr);
    for cause in causes {
        assert!(checked.causes().contains(&cause), "{arguments:?}: {cause:?} is not in {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_refuses_is_found_with_the_same_words() {
    let home = Home::new();
    let root = home.root().display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let [empty, file] = ["empty", "file"].map(|name| format!("{root}/{name}"));
    fs::write(&empty, "").unwrap();
    fs::write(&file, "x").unwrap();
    fs::create_dir_all(home.root().join("run")).unwrap();
    let [a, b] = ["tiny/a", "tiny/b"].map(|name| model(name).display().to_string());
    let [broken, truncated] =
        ["tiny/no_tokenizer", "tiny/truncated"].map(|name| model(name).display().to_string());
    let long = format!("--admin-socket={root}/{}", "x".repeat(120));
    for (case, part) in [
        (flags(&["--model=n=/none"]), "--model n: /none: no such directory"),
        (
            flags(&["--model=n=/none", &format!("--model=m={a}"), "--require=n"]),
            "--model n: /none: no such directory",
        ),
        (flags(&[&format!("--model=m={broken}")]), "tokenizer.json"),
        (
            flags(&[&format!("--model=t={truncated}"), &format!("--model=m={a}"), "--require=all"]),
            "--model t: ",
        ),
        (flags(&[&format!("--model=m={a}"), &format!("--model=m={b}")]), "already named \"m\""),
        (flags(&["--require=x"]), "--require: no model is named \"x\""),
        (flags(&["--preload=x"]), "--preload: no model is named \"x\""),
        (flags(&["--poll=x=1"]), "--poll x=1: no model is named"),
        (flags(&["--model-alias=x=y"]), "--model-alias x=y: no model is named"),
        (flags(&[&format!("--source-key=m={empty}")]), "--source-key"),
        (flags(&[&format!("--grpc-listen={taken}")]), "--grpc-listen: cannot listen on"),
        (flags(&["--listen=192.0.2.1:80"]), "--listen: cannot listen on 192.0.2.1:80"),
        (flags(&["--tls-cert=/none", "--tls-key=/none"]), "/none"),
        (flags(&["--tls-cert=/none"]), "--tls-key"),
        (flags(&[&format!("--api-key-file={empty}")]), "--api-key-file: "),
        (flags(&["--api-key-file=/none"]), "--api-key-file: /none"),
        (flags(&["--admin-listen=127.0.0.1:0"]), "--admin-token-file"),
        (flags(&[&long]), "--admin-socket: cannot listen on"),
        (flags(&[&format!("--admin-socket={file}/x/s")]), "--admin-socket: cannot listen on"),
        (flags(&[&format!("--state-dir={file}/x")]), "--state-dir: "),
        (flags(&[&format!("--state-dir={file}")]), "--state-dir: "),
        (flags(&["--onnxruntime=/none"]), "--onnxruntime: "),
        (flags(&[&format!("--worker-binary={file}")]), "--worker-binary: "),
        (flags(&["--queue-limit=31"]), "--queue-limit: expected a number of at least 32"),
        (flags(&["--cors-allow-origin=x"]), "--cors-allow-origin: "),
        (flags(&["--trusted-proxy=x"]), "--trusted-proxy: "),
        (flags(&["--access-log=x"]), "--access-log: "),
        (flags(&["--log-format=xml"]), "--log-format: "),
        (flags(&["--otlp-endpoint=collector:4318"]), "--otlp-endpoint: "),
        (
            flags(&["--otlp-endpoint=http://localhost:1"])
                .variable("OTEL_EXPORTER_OTLP_CERTIFICATE", "/none"),
            "OTEL_EXPORTER_OTLP_CERTIFICATE: /none: ",
        ),
        (
            flags(&["--otlp-endpoint=http://localhost:1"])
                .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            "OTEL_EXPORTER_OTLP_PROTOCOL: ",
        ),
    ] {
        agree(&home, case, CONFIGURATION, part).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_the_place_of_directories_are_found_with_the_same_words() {
    let home = Home::new();
    let root = home.root().display().to_string();
    fs::create_dir_all(home.root().join("run")).unwrap();
    let a = model("tiny/a").display().to_string();
    let [no_staging, no_versions, no_records] =
        ["staging", "versions", "generations/m"].map(|blocked| {
            let state = format!("{root}/without-{}", blocked.replace('/', "-"));
            let path = PathBuf::from(&state).join(blocked);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
            format!("--state-dir={state}")
        });
    for (case, part) in [
        (flags(&[&no_staging]), "/staging: not a directory"),
        (flags(&[&no_versions]), "/versions: not a directory"),
        (flags(&[&no_records]), "--model m: the state directory is damaged: "),
        (
            flags(&[
                &no_records,
                &format!("--model=n={a}"),
                &format!("--model=m={a}"),
                "--require=m",
            ]),
            "--model m: the state directory is damaged: ",
        ),
    ] {
        agree(&home, case, CONFIGURATION, part).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_is_reported_with_where_it_came_from() {
    let home = Home::new();
    fs::create_dir_all(home.root().join("run")).unwrap();
    for (key, value) in [
        ("workers", "0"),
        ("request-timeout", "1s"),
        ("body-memory", "0"),
        ("check-memory", "1GiB"),
        ("min-cosine", "2"),
        ("trace-ratio", "-1"),
        ("strict", "maybe"),
        ("listen", "here"),
    ] {
        let flag = format!("--{key}={value}");
        agree(&home, flags(&[&flag]), USAGE, &format!("--{key}")).await;
        let variable = format!("ONNXD_{}", key.to_uppercase().replace('-', "_"));
        let name: &'static str = variable.leak();
        agree(&home, Case::default().variable(name, value), USAGE, name).await;
        let file = Some(format!("\n{key} = '{value}'\n"));
        let case = Case { file, ..Case::default() };
        agree(&home, case, CONFIGURATION, &format!("onnxd.toml:2: {key}: ")).await;
    }
    for (key, value) in [
        ("queue-limit", "31"),
        ("access-log", "'x'"),
        ("state-dir", "'/dev/null/x'"),
        ("tls-cert", "'/none'"),
        ("require", "['x']"),
        ("model", "['m=/dev/null']"),
        ("otlp-endpoint", "'x'"),
    ] {
        let plain = value.trim_matches(['[', ']', '\'']);
        let variable = format!("ONNXD_{}", key.to_uppercase().replace('-', "_"));
        let name: &'static str = variable.leak();
        let origin = format!("--{key} (set by {name})");
        let case = Case::default().variable(name, plain);
        agree(&home, case, CONFIGURATION, &origin).await;
        let file = Some(format!("\n{key} = {value}\n"));
        let origin = "onnxd.toml:2)";
        agree(&home, Case { file, ..Case::default() }, CONFIGURATION, origin).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_problems_are_reported_at_once() {
    let home = Home::new();
    let case = flags(&[
        "--model=a b=/x",
        "--model=c=ftp://x",
        "--queue-limit=31",
        "--api-key-file=/none",
        "--access-log=x",
        "--onnxruntime=/none",
    ]);
    let checked = run(&home, &case, true).await;
    for part in
        ["--model a b", "--model c", "--queue-limit", "--api-key-file", "--access-log", "--onnx"]
    {
        let of_part = checked.causes().into_iter().filter(|cause| cause.starts_with(part));
        assert_eq!(of_part.count(), 1, "{part}: {}", checked.stderr);
    }
    let [short, library] = ["short", "library"].map(|name| home.root().join(name));
    fs::write(&short, "x").unwrap();
    fs::write(&library, "x").unwrap();
    let machine = ["--listen=192.0.2.1:80", "--state-dir=/dev/null/x", "--model=m=/none"];
    let names = ["--preload=x", "--preload=y", "--require=z", "--poll=x=1", "--poll=y=1"];
    let edge =
        ["--tls-cert=/none", "--tls-key=/none", &format!("--api-key-file={}", short.display())];
    for (arguments, parts) in [
        (&machine[..], &["--listen: ", "--state-dir: ", "--model m: "][..]),
        (
            &[&machine[..], &edge].concat(),
            &["--api-key-file: ", "--tls-cert: ", "--listen: ", "--state-dir: ", "--model m: "],
        ),
        (
            &[&machine[..], &["--onnxruntime=/none"]].concat(),
            &["--onnxruntime: ", "--listen: ", "--state-dir: ", "--model m: "],
        ),
        (
            &[&machine[..], &[&format!("--onnxruntime={}", library.display())]].concat(),
            &["--onnxruntime: ", "--listen: ", "--state-dir: ", "--model m: "],
        ),
        (
            &[&names[..], &["--source-key=m=/none"]].concat(),
            &[
                "--preload: no model is named \"x\"",
                "--preload: no model is named \"y\"",
                "--require: ",
                "--poll x=1: ",
                "--poll y=1: ",
                "--source-key ",
            ],
        ),
    ] {
        let checked = run(&home, &flags(arguments), true).await;
        assert_eq!(checked.code, Some(CONFIGURATION), "{}", checked.stderr);
        for part in parts {
            let of_part = checked.causes().into_iter().filter(|cause| cause.starts_with(part));
            assert_eq!(of_part.count(), 1, "{part}: {}", checked.stderr);
        }
        assert_eq!(checked.causes().len(), parts.len(), "{}", checked.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_accepts_is_accepted_with_the_same_warnings() {
    let broken = model("tiny/no_tokenizer").display().to_string();
    for (arguments, variables, warning) in [
        (vec![], vec![], None),
        (vec!["--model=n=/none".to_owned()], vec![], Some("no such directory")),
        (vec![format!("--model=broken={broken}")], vec![], Some("tokenizer.json")),
        (
            vec![format!("--model=broken={broken}"), "--require=m".to_owned()],
            vec![],
            Some("tokenizer.json"),
        ),
        (vec!["--body-memory=1".to_owned()], vec![], Some("raise --body-memory")),
        (
            vec!["--otlp-endpoint=http://127.0.0.1:1".to_owned()],
            vec![("OTEL_EXPORTER_OTLP_HEADERS", "nonsense"), ("ONNXD_WORKERS", "")],
            Some("OTEL_EXPORTER_OTLP_HEADERS: ignoring an invalid header"),
        ),
        (
            vec![],
            vec![
                ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", ""),
                ("OTEL_TRACES_SAMPLER", ""),
                ("ONNXD_LOG", ""),
                ("ONNXD_LOG_FORMAT", ""),
                ("ONNXD_MODEL_ALIAS", ""),
                ("ONNXD_STRICT", ""),
                ("ONNXD_SUCCESSION_FDS", ""),
                ("ONNXD_CONFIG", ""),
                ("ONNXD_MIN_COSINE", ""),
            ],
            None,
        ),
    ] {
        let mut builder = Server::builder().model("m", &model("tiny/a"));
        for argument in &arguments {
            builder = builder.argument(argument);
        }
        for (name, value) in &variables {
            builder = builder.variable(name, value);
        }
        let check = builder.clone().argument("--check-config");
        let checked = check.try_start().await.expect_err("it only checks");
        assert_eq!(checked.code, Some(0), "{arguments:?} {variables:?}: {}", checked.stderr);
        let server = builder.start().await;
        if let Some(warning) = warning {
            assert!(checked.stderr.contains(warning), "{arguments:?}: {}", checked.stderr);
            assert!(server.stderr().contains(warning), "{arguments:?}: {}", server.stderr());
        }
        // The server that runs now does not count.
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_beside_the_running_server_is_content() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let home = server.home();
    let listen = format!("--listen={}", server.address());
    let checked = run(home, &flags(&[&listen]), true).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(checked.stderr.contains("probably by the server that runs"), "{}", checked.stderr);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_filter_is_refused() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    for filter in ["", " ", ",", "onnxd="] {
        let output = server.cli(&["log", filter]).await;
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{filter:?}: {message}");
        assert!(message.contains("use a level (off, error,"), "{filter:?}: {message}");
    }
    let output = server.cli(&["log"]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "info");
    server.stop().await;
}
