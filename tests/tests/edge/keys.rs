//! API keys.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use e2e::{
    client::{Response, exchange},
    fixtures::model,
    launch::Builder,
    notify::Notify,
    processes::Signal,
    server::Server,
};

use crate::{
    connection::{Connection, once},
    file, logged,
};

const FIRST: &str = "the-first-key-5f1c";
const SECOND: &str = "the-second-key-9a77";
const EMBED: (&str, &str) = ("POST", "/embed");
const TEXT: &str = r#"{"inputs": "a text"}"#;

fn guarded(keys: &str) -> Builder {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let path = file(&builder.directories(), "keys", keys);
    builder.argument("--api-key-file").argument(path.to_str().expect("UTF-8"))
}

async fn with_key(server: &Server, key: &str) -> u16 {
    let headers = [("authorization", &*format!("Bearer {key}"))];
    once(server.address(), EMBED, &headers, TEXT).await.status
}

fn assert_refused(response: &Response, path: &str) {
    assert_eq!(response.status, 401, "{path}: {}", response.text());
    assert_eq!(response.header("www-authenticate"), Some("Bearer"), "{path}");
    let body = response.json();
    if path.starts_with("/v1/") {
        assert_eq!(body["error"]["code"], "invalid_api_key", "{path}: {body}");
        assert_eq!(body["error"]["type"], "invalid_request_error", "{path}: {body}");
        assert!(body["error"]["message"].is_string(), "{path}: {body}");
    } else {
        assert!(body["error"].is_string(), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_health_requires_an_api_key() {
    let server = guarded(&format!("# clients\n{FIRST}\n\n{SECOND}\n")).start().await;
    let address = server.address();
    let routes = [
        (EMBED, TEXT, 200),
        (("POST", "/v1/embeddings"), r#"{"input": "a text"}"#, 200),
        (("GET", "/info"), "", 200),
        (("GET", "/v1/nothing"), "", 404),
        (("GET", "/nothing"), "", 404),
        (("PUT", "/embed"), "", 405),
    ];
    for (request, body, status) in routes {
        let path = request.1;
        let long = format!("Bearer {FIRST}{FIRST}");
        for headers in [
            &[][..],
            &[("authorization", "Bearer not-one-of-the-keys")],
            &[("authorization", FIRST)],
            &[("authorization", &long)],
            &[("x-api-key", "")],
        ] {
            let response = once(address, request, headers, body).await;
            assert_refused(&response, path);
        }
        for key in [FIRST, SECOND] {
            for scheme in ["Bearer", "bearer"] {
                let value = format!("{scheme} {key}");
                let response = once(address, request, &[("authorization", &value)], body).await;
                assert_eq!(response.status, status, "{path}: {}", response.text());
            }
            let response = once(address, request, &[("x-api-key", key)], body).await;
            assert_eq!(response.status, status, "{path}: {}", response.text());
        }
    }
    for path in ["/metrics", "/openapi.json"] {
        assert_refused(&once(address, ("GET", path), &[], "").await, path);
    }
    for path in ["/health", "/v2/health/live", "/v2/health/ready"] {
        assert_eq!(once(address, ("GET", path), &[], "").await.status, 200, "{path}");
        assert_refused(&once(address, ("POST", path), &[], "").await, path);
    }
    for path in ["/", "/ping"] {
        assert_ne!(once(address, ("GET", path), &[], "").await.status, 401, "{path}");
    }
    let log = server.stderr();
    assert!(!log.contains(FIRST) && !log.contains(SECOND), "{log}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_precedes_the_body_and_is_never_lost() {
    let server = guarded(FIRST).start().await;
    let address = server.address();
    // Like most clients, write everything before reading anything.
    let blocking = move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let head = "POST /embed HTTP/1.1\r\nhost: x\r\nx-api-key: wrong\r\ncontent-length: 1900000";
        write!(stream, "{head}\r\n\r\n").expect("a head");
        stream.write_all(&vec![b' '; 1_900_000]).expect("a body");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer and the end");
        answer
    };
    for _ in 0..5 {
        let answer = tokio::task::spawn_blocking(blocking).await.expect("no panic");
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    let head =
        |more| format!("POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n{more}\r\n");
    let timeout = Duration::from_secs(2);
    let raw = exchange(address, head("").as_bytes(), timeout).await.expect("a connection");
    assert_eq!(raw.status(), Some(401), "before any byte of the body: {raw:?}");
    let expects = head("expect: 100-continue\r\n");
    let raw = exchange(address, expects.as_bytes(), timeout).await.expect("a connection");
    assert_eq!(raw.status(), Some(401));
    assert!(!String::from_utf8_lossy(&raw.received).contains("100 Continue"), "{raw:?}");

    // A request without a body leaves nothing unread, so the connection stays open.
    let mut connection = Connection::plain(address).await.expect("a connection");
    let get = ("GET", "/info");
    let refused = connection.send(get, &[], "").await.expect("an answer");
    assert_eq!((refused.status, refused.header("connection")), (401, None));
    let answer = connection.send(get, &[("x-api-key", FIRST)], "").await.expect("an answer");
    assert_eq!(answer.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_swaps_the_keys_and_keeps_them_if_the_file_is_bad() {
    let builder = guarded(FIRST);
    let home = builder.directories();
    let notify = Notify::bind(home.root());
    let variable = builder.variable("NOTIFY_SOCKET", notify.path());
    let server = variable.variable("ONNXD_LOG", "trace").start().await;
    assert_eq!(with_key(&server, FIRST).await, 200);

    let path = file(&home, "keys", SECOND);
    server.signal(Signal::SIGHUP);
    logged(&server, "reloaded API keys", 1).await;
    assert_eq!(with_key(&server, FIRST).await, 401);
    assert_eq!(with_key(&server, SECOND).await, 200);

    let bad = [Some(format!("{FIRST}\nsecret of two words")), Some(String::new()), None];
    let (reloading, _) = notify.next("RELOADING=1", 0).await;
    let (mut index, _) = notify.next("READY=1", reloading).await;
    for (round, content) in bad.into_iter().enumerate() {
        match content {
            Some(content) => fs::write(&path, content).expect("a file"),
            None => fs::remove_file(&path).expect("a file"),
        }
        server.signal(Signal::SIGHUP);
        logged(&server, "reload refused", round + 1).await;
        assert_eq!(with_key(&server, FIRST).await, 401);
        assert_eq!(with_key(&server, SECOND).await, 200);
        let ready;
        (index, ready) = notify.next("READY=1", index + 1).await;
        let status = ready.value("STATUS").unwrap_or_default();
        assert!(status.contains("reload refused: --api-key-file"), "{status}");
    }
    // The models are reloaded anyway: once per signal and once at the start.
    assert_eq!(server.generation_above("m", 4).await.generation, 5);

    file(&home, "keys", FIRST);
    server.signal(Signal::SIGHUP);
    logged(&server, "reloaded API keys", 2).await;
    assert_eq!(with_key(&server, FIRST).await, 200);
    let log = server.stderr();
    assert!(log.contains("keys: line 2: expected one key"), "{log}");
    for secret in [FIRST, SECOND, "two words"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    server.stop().await;
}
