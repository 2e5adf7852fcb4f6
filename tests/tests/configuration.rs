//! Command line and configuration errors are reported at startup, with the cause and an exit code.

use std::fs;

use e2e::{
    control::Control,
    fixtures::{self, model},
    home::Home,
    launch,
    server::Server,
};
use serde_json::{Value, json};

const USAGE: Option<i32> = Some(64);
const CONFIGURATION: Option<i32> = Some(78);

#[tokio::test]
async fn a_wrong_command_line_exits_with_64() {
    let home = Home::new();
    for arguments in [
        &["serve", "--no-such-flag"][..],
        &["no-such-command"],
        &[],
        &["update"],
        &["update", "m", "--load", "later"],
        &["rollback", "m", "--to", "first"],
        &["serve", "--workers", "0"],
        &["serve", "--listen", "somewhere"],
    ] {
        let output = launch::run(&home, arguments).await;
        assert_eq!(output.status.code(), USAGE, "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        let output = launch::run(&home, arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

/// Starts a server that must exit with 78, and returns its standard error.
async fn refused(builder: launch::Builder) -> String {
    let exited = builder.try_start().await.expect_err("the server must not start");
    assert_eq!(exited.code, CONFIGURATION, "{}", exited.stderr);
    exited.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_exits_with_78_and_names_the_cause() {
    let home = Home::new();
    let good = model("tiny/a");
    let no_library = home.root().join("libnone.so");
    let no_elf = home.root().join("libtext.so");
    fs::write(&no_elf, "not a library").unwrap();
    // An ELF file without the function that ONNX Runtime exports.
    let other_elf = fixtures::onnxd_worker();
    for (library, part) in
        [(&no_library, "libnone.so"), (&no_elf, "libtext.so"), (&other_elf, "onnxd-worker")]
    {
        let builder = Server::builder().model("m", &good).onnxruntime(library);
        let stderr = refused(builder).await;
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    for (fetcher, part) in [
        (&no_library, "install onnxd-fetch beside onnxd"),
        (&no_elf, "libtext.so is not executable; if it is the right file, run chmod +x on it"),
    ] {
        let builder = Server::builder().argument("--model").argument("hf://org/name");
        let builder = builder.argument("--fetch-binary").argument(fetcher.to_str().unwrap());
        let stderr = refused(builder).await;
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let nowhere = home.root().join("nowhere");
    let stderr = refused(Server::builder().model("m", &nowhere)).await;
    assert!(stderr.contains("nowhere: no such directory; a model of a Hugging Face"), "{stderr}");
    let stderr = refused(Server::builder().model("m", &model("tiny/no_tokenizer"))).await;
    assert!(stderr.contains("tokenizer.json"), "{stderr}");
    let stderr = refused(Server::builder().model("with space", &good)).await;
    assert!(stderr.contains("with space"), "{stderr}");
    let stderr = refused(Server::builder()).await;
    assert!(stderr.contains("--model"), "{stderr}");
    let builder = Server::builder().model("m", &good).argument("--queue-limit").argument("31");
    let stderr = refused(builder).await;
    assert!(stderr.contains("--queue-limit: expected a number of at least 32"), "{stderr}");
}

#[tokio::test]
async fn check_config_reports_errors_and_starts_nothing() {
    let home = Home::new();
    let file = home.root().join("onnxd.toml");
    let library = fixtures::onnxruntime();
    let text = |extra: &str| {
        format!(
            "model = [\"m={}\"]\nonnxruntime = \"{}\"\nstate-dir = \"{}\"\nadmin-socket = \"{}\"\n{extra}\n",
            model("tiny/a").display(),
            library.display(),
            home.state().display(),
            home.admin_socket().display(),
        )
    };
    for (extra, code, word) in [
        ("workers = 1", Some(0), ""),
        ("listen = \"localhost:8080\"", Some(0), ""),
        (
            "wrokers = 1",
            CONFIGURATION,
            "onnxd.toml:5: unknown key \"wrokers\", did you mean \"workers\"?",
        ),
        ("workers = \"one\"", CONFIGURATION, "onnxd.toml:5: workers: expected a whole number"),
        ("queue-limit = 31", CONFIGURATION, "onnxd.toml:5): expected a number of at least 32"),
        ("listen = ", CONFIGURATION, "onnxd.toml:5: "),
    ] {
        fs::write(&file, text(extra)).unwrap();
        let arguments = ["serve", "--check-config", "--config", file.to_str().unwrap()];
        let output = launch::run(&home, &arguments).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), code, "{extra}: {stderr}");
        assert!(stderr.contains(word), "{extra}: {stderr}");
        assert!(!home.state().exists() && !home.admin_socket().exists(), "{extra}");
    }
    let arguments = ["serve", "--check-config", "--config", "/no/such/file.toml"];
    let output = launch::run(&home, &arguments).await;
    assert_eq!(output.status.code(), CONFIGURATION);
    assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such/file.toml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_variables_configure_like_flags() {
    let builder = Server::builder();
    let file = builder.directories().root().join("onnxd.toml");
    fs::write(&file, format!("model = [\"m={}\"]\n", model("tiny/a").display())).unwrap();
    let server = builder.argument("--config").argument(file.to_str().unwrap()).start().await;
    assert_eq!(server.status().await.models[0].name, "m");
    server.stop().await;

    let models = format!("a={},b={}", model("tiny/a").display(), model("tiny/b").display());
    let server = Server::builder().variable("ONNXD_MODEL", &models).start().await;
    let names: Vec<String> = server.status().await.models.into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["a", "b"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_name_is_named_after_its_directory() {
    let server = Server::builder()
        .argument("--model")
        .argument(model("tiny/a").to_str().unwrap())
        .start()
        .await;
    assert_eq!(server.status().await.models[0].name, "a");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_exits_with_78_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut server = Server::builder().model("m", &model("tiny/a")).spawn_at(address);
    let exited = server.ready().await.expect_err("the server must not start");
    assert_eq!(exited.code, CONFIGURATION, "{}", exited.stderr);
    assert!(exited.stderr.contains(&address.to_string()), "{}", exited.stderr);
}

/// Returns whether the workers of this server are sandboxed.
async fn is_confined(builder: launch::Builder) -> bool {
    let server = builder.start().await;
    let answer = Control::new(&server).client().status().await.expect("an answer");
    server.stop().await;
    answer.result.expect("a status").sandbox.on
}

#[tokio::test(flavor = "multi_thread")]
async fn boolean_flags_override_variables_which_override_the_file() {
    // The file disables the sandbox.
    for (variable, flag, confined) in [
        (None, None, false),
        (Some("false"), None, true),
        (Some("true"), None, false),
        (None, Some("--no-sandbox=false"), true),
        (Some("true"), Some("--no-sandbox=false"), true),
        (Some("false"), Some("--no-sandbox"), false),
    ] {
        let mut builder = Server::builder().model("m", &model("tiny/a"));
        let file = builder.directories().root().join("onnxd.toml");
        fs::write(&file, "no-sandbox = true\n").unwrap();
        builder = builder.argument("--config").argument(file.to_str().unwrap());
        if let Some(value) = variable {
            builder = builder.variable("ONNXD_NO_SANDBOX", value);
        }
        if let Some(flag) = flag {
            builder = builder.argument(flag);
        }
        assert_eq!(is_confined(builder).await, confined, "{variable:?} {flag:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_json_log_is_json_even_from_workers() {
    let server = Server::builder()
        .model("m", &model("tiny/a"))
        .argument("--log-format")
        .argument("json")
        .variable("ONNXD_LOG", "debug")
        .start()
        .await;
    server.update("m", Some(&model("tiny/b"))).await.unwrap();
    let mut client = server.client().await;
    let answer = client.post("/embed", &json!({"inputs": "hello"})).await.unwrap();
    assert_eq!(answer.status, 200);
    let log = server.stderr();
    server.stop().await;
    let mut targets = Vec::new();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for field in ["timestamp", "level", "target"] {
            assert!(event[field].is_string(), "{field}: {line}");
        }
        assert!(event["fields"].is_object(), "{line}");
        targets.push(event["target"].as_str().unwrap().to_owned());
    }
    for process in ["onnxd::", "onnxd_worker"] {
        assert!(targets.iter().any(|target| target.starts_with(process)), "{process}: {targets:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_log_setting_exits_with_78_and_the_remedy() {
    let builder = || Server::builder().model("m", &model("tiny/a"));
    for (builder, words) in [
        (builder().variable("ONNXD_LOG", "debgu"), ["ONNXD_LOG", "\"debgu\"", "TARGET=LEVEL"]),
        (
            builder().variable("ONNXD_LOG", "onnxd=verbose"),
            ["ONNXD_LOG", "\"onnxd=verbose\"", "TARGET=LEVEL"],
        ),
        (
            builder().variable("ONNXD_LOG_FORMAT", "xml"),
            ["ONNXD_LOG_FORMAT", "\"xml\"", "text or json"],
        ),
        (
            builder().argument("--log-format").argument("yaml"),
            ["--log-format", "\"yaml\"", "text or json"],
        ),
    ] {
        let stderr = refused(builder).await;
        for word in words {
            assert!(stderr.contains(word), "{word}: {stderr}");
        }
    }
    // With a JSON log, a fatal error is an event as well.
    let builder = builder().argument("--log-format=json").argument("--queue-limit=31");
    let stderr = refused(builder).await;
    let last: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert!(
        last["fields"]["message"]
            .as_str()
            .unwrap()
            .contains("--queue-limit: expected a number of at least 32"),
        "{stderr}"
    );
}
