//! Invalid configurations of keys, CORS and TLS.

use e2e::{fixtures::model, home::Home, launch, server::Server};

use crate::{connection::pair, file};

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_setting_exits_with_78_and_names_flag_and_cause() {
    let home = Home::new();
    let write =
        |name: &str, content: &str| file(&home, name, content).to_str().expect("UTF-8").to_owned();
    let (one, other) = (pair(), pair());
    let certificate = write("cert.pem", &one.cert.pem());
    let key = write("key.pem", &one.signing_key.serialize_pem());
    let mismatched = write("other.pem", &other.signing_key.serialize_pem());
    let nothing = home.root().join("nothing").to_str().expect("UTF-8").to_owned();
    let short = write("short", "# keys\nshort77\n");
    let spaced = write("spaced", "a key of words\n");
    let empty = write("empty", "# no keys\n");
    let long = write("long", &"#".repeat(64 * 1024 + 1));
    let many = (0..1001).map(|number| format!("key-number-{number}\n")).collect::<String>();
    let many = write("many", &many);
    for (arguments, parts) in [
        (vec!["--api-key-file", &nothing], ["--api-key-file", "nothing: No such file"]),
        (vec!["--api-key-file", &short], ["--api-key-file", "short: line 2: "]),
        (vec!["--api-key-file", &spaced], ["--api-key-file", "spaced: line 1: "]),
        (vec!["--api-key-file", &empty], ["--api-key-file", "empty: the file contains no key"]),
        (vec!["--api-key-file", &long], ["--api-key-file", "longer than 65536 bytes"]),
        (vec!["--api-key-file", &many], ["--api-key-file", "line 1001: at most 1000"]),
        (vec!["--cors-allow-origin", "example.com"], ["--cors-allow-origin", "\"example.com\""]),
        (vec!["--cors-allow-origin", "https://a.b/"], ["--cors-allow-origin", "without a path"]),
        (vec!["--tls-cert", &certificate], ["--tls-cert", "needs --tls-key"]),
        (vec!["--tls-key", &key], ["--tls-key", "needs --tls-cert"]),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &mismatched],
            ["--tls-key", "does not match"],
        ),
        (vec!["--tls-cert", &certificate, "--tls-key", &nothing], ["--tls-key", "No such file"]),
        (vec!["--tls-cert", &key, "--tls-key", &key], ["--tls-cert", "a PEM file with a cert"]),
    ] {
        // `--check-config` and a start share this code; the start is tested once below.
        let model = format!("m={}", model("tiny/a").display());
        let library = e2e::fixtures::onnxruntime();
        let worker = e2e::fixtures::onnxd_worker();
        let fixed = [
            "serve",
            "--check-config",
            "--model",
            &model,
            "--onnxruntime",
            library.to_str().expect("UTF-8"),
            "--worker-binary",
            worker.to_str().expect("UTF-8"),
            "--state-dir",
            &nothing,
            "--admin-socket",
            &nothing,
        ];
        let output = launch::run(&home, &[&fixed, &arguments[..]].concat()).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part}: {stderr}");
        }
        assert!(!stderr.contains("short77") && !stderr.contains("key of words"), "{stderr}");
    }
    let builder = Server::builder().model("m", &model("tiny/a"));
    let builder = builder.argument("--api-key-file").argument(&short);
    let exited = builder.try_start().await.expect_err("the server must not start");
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    assert!(exited.stderr.contains("line 2"), "{}", exited.stderr);
}
