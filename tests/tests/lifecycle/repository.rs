//! Triton's repository API over the admin socket and TCP, and its access control.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use e2e::{
    client::{Raw, exchange},
    control::Control,
    home::Home,
    launch::{Builder, free_address},
    server::Server,
};
use serde_json::{Value, json};

use crate::{embed, served, tiny};

pub(crate) const TOKEN: &str = "a-token-for-tests";

/// Creates a file with the token and this mode.
pub(crate) fn token_file(home: &Home, mode: u32) -> PathBuf {
    let path = home.root().join(format!("token-{mode:o}"));
    fs::write(&path, format!("{TOKEN}\n")).expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
    path
}

/// Sends a request with these headers in addition to `host`.
async fn send(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> Raw {
    let mut request = format!("{line} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        request += &format!("host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n{body}", body.len());
    exchange(address, request.as_bytes(), Duration::from_secs(30)).await.expect("a connection")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_lists_loads_and_unloads_models() {
    let builder = Server::builder().argument("--preload=one");
    let server = builder.model("one", &tiny("a")).model("two", &tiny("b")).start().await;
    let control = Control::new(&server);
    let index = async |body: &str| {
        let (status, models) = control.post("/v2/repository/index", body).await;
        assert_eq!(status, 200, "{models}");
        let entries = models.as_array().expect("a list").iter();
        let short = entries.map(|entry| {
            let texts = ["name", "version", "state", "reason"].map(|key| entry[key].as_str());
            texts.map(|text| text.expect("a text").to_owned()).join("|")
        });
        short.collect::<Vec<_>>()
    };
    let unused = "two||UNAVAILABLE|not used yet: the first request loads it";
    assert_eq!(index("").await, ["one|1|READY|", unused]);
    assert_eq!(index(r#"{"ready": true}"#).await, ["one|1|READY|"]);
    let (status, loaded) = control.post("/v2/repository/models/two/load", "").await;
    assert_eq!((status, &loaded["generation"]), (200, &json!(1)), "{loaded}");
    let version = served(&server, "two").await.1;
    assert_eq!(loaded["version"], json!(version));
    let parameters = json!({"source": tiny("b"), "load": "lazy"});
    let body = json!({ "parameters": parameters }).to_string();
    let (status, loaded) = control.post("/v2/repository/any/models/one/load", &body).await;
    assert_eq!((status, &loaded["generation"], &loaded["load"]), (200, &json!(2), &json!("lazy")));
    assert_eq!(loaded["previous_generation"], json!(1));
    assert!(loaded["seconds"].as_f64().unwrap() > 0.0, "{loaded}");
    let before = embed(&server, "a").await;
    let body = json!({"parameters": {"unload_dependents": true}}).to_string();
    let (status, unloaded) = control.post("/v2/repository/models/one/unload", &body).await;
    assert_eq!((status, &unloaded["generation"]), (200, &json!(2)), "{unloaded}");
    assert_eq!(index("{}").await, ["one||UNAVAILABLE|unloaded", "two|1|READY|"]);
    let (status, loaded) = control.post("/v2/repository/models/one/load", "{}").await;
    assert_eq!((status, &loaded["generation"]), (200, &json!(3)), "{loaded}");
    assert_ne!(embed(&server, "a").await, before, "the configured source is a");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_repository_calls_are_400_with_the_reason() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let control = Control::new(&server);
    for (path, body, words) in [
        ("models/nobody/load", json!({}), "nobody"),
        ("models/nobody/unload", json!({}), "nobody"),
        ("models/m/load", json!({"parameters": {"config": "{}"}}), "`source`"),
        ("models/m/load", json!({"parameters": {"file:1/model.onnx": "AA=="}}), "`source`"),
        ("models/m/load", json!({"parameters": {"extra": 1}}), "`extra`"),
        ("models/m/load", json!({"parameters": {"source": "here"}}), "absolute"),
        ("models/m/load", json!({"parameters": {"source": tiny("nan")}}), "finite"),
        ("models/m/load", json!({"parameters": {"source": "/nowhere"}}), "/nowhere"),
        ("models/m/load", json!([]), "body"),
        ("models/m/unload", json!({"parameters": {"extra": 1}}), "`extra`"),
    ] {
        let path = format!("/v2/repository/{path}");
        let (status, answer) = control.post(&path, &body.to_string()).await;
        assert_eq!(status, 400, "{path} {body}: {answer}");
        let reason = answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(reason.contains(words), "{path} {body}: {reason}");
    }
    assert_eq!(served(&server, "m").await.0, 1, "nothing has changed");
    // The public port refuses these calls and names the flag.
    for path in ["index", "models/m/load", "models/m/unload"] {
        let path = format!("/v2/repository/{path}");
        let response = server.client().await.post(&path, &json!({})).await.unwrap();
        assert_eq!(response.status, 403, "{}", response.text());
        assert!(response.text().contains("--admin-listen"), "{}", response.text());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_requires_the_token_a_loopback_host_and_no_origin() {
    let home = Arc::new(Home::new());
    let address = free_address();
    let server = listening(&home, &address.to_string(), &token_file(&home, 0o600));
    let server = server.model("m", &tiny("a")).start().await;
    let token = ("authorization", "Bearer a-token-for-tests");
    let index = "POST /v2/repository/index";
    let load = "POST /v2/repository/models/m/load";
    let port = address.port();
    let (local, outside) = (format!("localhost:{port}"), format!("attacker.example:{port}"));
    for (line, headers, status) in [
        (index, &[token][..], 200),
        (index, &[token, ("host", &local)], 200),
        (load, &[token], 200),
        ("GET /admin/status", &[token], 200),
        ("GET /v2/health/live", &[], 200),
        ("GET /v2/health/ready", &[], 200),
        (index, &[], 401),
        (load, &[], 401),
        (load, &[("authorization", "Bearer a-token-for-testz")], 401),
        (load, &[("authorization", "Bearer ")], 401),
        ("GET /admin/status", &[], 401),
        (load, &[token, ("origin", "http://localhost")], 403),
        (load, &[token, ("host", &outside)], 403),
        ("GET /v2/health/live", &[("host", &outside)], 403),
        ("POST /embed", &[token], 404),
    ] {
        let raw = send(address, line, headers, "").await;
        assert_eq!(raw.status(), Some(status), "{line} {headers:?}: {}", raw.body());
        if [401, 403].contains(&status) {
            let body: Value = serde_json::from_str(&raw.body()).unwrap();
            assert!(body["error"].is_string(), "{body}");
        }
    }
    assert_eq!(served(&server, "m").await.0, 2, "only one load was allowed");
    let long = "x".repeat(70_000);
    assert_eq!(send(address, load, &[token], &long).await.status(), Some(413));
    assert!(!server.stderr().contains(TOKEN), "the token is in the log");
    server.stop().await;
}

pub(crate) fn listening(home: &Arc<Home>, address: &str, file: &std::path::Path) -> Builder {
    let builder = Server::builder().home(home).argument("--admin-listen").argument(address);
    builder.argument("--admin-token-file").argument(file.to_str().expect("UTF-8"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_admin_listener_does_not_start() {
    let home = Arc::new(Home::new());
    let (good, open) = (token_file(&home, 0o600), token_file(&home, 0o644));
    let short = home.root().join("short");
    fs::write(&short, "short\n").unwrap();
    fs::set_permissions(&short, Permissions::from_mode(0o600)).unwrap();
    let here = "127.0.0.1:1";
    let without_token = Server::builder().home(&home).argument("--admin-listen").argument(here);
    for (builder, words) in [
        (listening(&home, "0.0.0.0:1", &good), "loopback"),
        (listening(&home, here, &open), "0644"),
        (listening(&home, here, &short), "16 characters"),
        (listening(&home, here, &home.root().join("missing")), "missing"),
        (without_token, "--admin-token-file"),
    ] {
        let exited = builder
            .model("m", &tiny("a"))
            .try_start()
            .await
            .expect_err("the server must not start");
        assert_eq!(exited.code, Some(78), "{}", exited.stderr);
        assert!(exited.stderr.contains(words), "{words}: {}", exited.stderr);
    }
}
