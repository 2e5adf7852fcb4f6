//! The hub's redirects to the server of large files, and its headers. olah has neither.

use onnxd_proto::domain::fetch::{FetchErrorKind, Pin};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::json;

use crate::{
    double::{Asked, Double, Reply},
    fetch::{Fetch, sha256},
};

const COMMIT: &str = "0123456789012345678901234567890123456789";
const MODEL: &[u8] = b"large";
const CONFIG: &[u8] = b"{}";

fn git_blob(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn described(has_digests: bool) -> String {
    let (config, model) = match has_digests {
        true => (
            json!({"rfilename": "config.json", "size": 2, "blobId": git_blob(CONFIG)}),
            json!({"rfilename": "onnx/model.onnx", "size": 5, "blobId": "pointer",
                   "lfs": {"sha256": sha256(MODEL), "size": 5}}),
        ),
        false => (json!({"rfilename": "config.json"}), json!({"rfilename": "onnx/model.onnx"})),
    };
    json!({"sha": COMMIT, "siblings": [config, model]}).to_string()
}

/// Starts a hub whose large files are on another server.
fn start(has_digests: bool, content: &'static [u8]) -> (Double, Double) {
    let cdn = Double::start(move |asked| match asked.method.as_str() {
        // A signed URL is for GET only.
        "GET" => Reply::ok(content).header("ETag", "\"of the other server\""),
        _ => Reply::status(403),
    });
    let target = cdn.url("/blob?X-Signature=secret");
    let hub = Double::start(move |asked: &Asked| {
        if asked.header("authorization") != "Bearer token" {
            return Reply::status(401);
        }
        let path = asked.path.split('?').next().unwrap();
        match path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")) {
            Some("config.json") => {
                Reply::ok(CONFIG).header("ETag", format!("\"{}\"", git_blob(CONFIG)))
            }
            Some("onnx/model.onnx") => Reply::redirect(target.clone())
                .header("X-Linked-Etag", format!("\"{}\"", sha256(MODEL)))
                .header("X-Linked-Size", "5")
                .header("X-Repo-Commit", COMMIT),
            None if path == "/api/models/org/name/revision/refs%2Fpr%2F1" => {
                match asked.header("if-none-match") {
                    "W/\"api\"" => Reply::status(304),
                    _ => Reply::ok(described(has_digests)).header("ETag", "W/\"api\""),
                }
            }
            _ => Reply::status(404),
        }
    });
    (hub, cdn)
}

fn fetch_of(hub: &Double) -> Fetch {
    let fetch = Fetch::of("hf://org/name@refs/pr/1");
    fetch.with("HF_ENDPOINT", hub.url("")).with("HF_TOKEN", "token")
}

#[test]
fn large_files_come_from_another_server_without_the_token() {
    for has_digests in [true, false] {
        let (hub, cdn) = start(has_digests, MODEL);
        let mut fetch = fetch_of(&hub);
        // The endpoint is configured, but what it redirects to is not.
        let snapshot = fetch.all().unwrap();
        assert_eq!((snapshot.id.as_str(), snapshot.pin), (&*format!("hf:{COMMIT}"), Pin::Commit));
        assert_eq!(
            (fetch.read("config.json"), fetch.read("onnx/model.onnx")),
            (CONFIG.to_vec(), MODEL.to_vec())
        );
        let asked = cdn.asked();
        assert_eq!(asked.len(), 1);
        assert!(!asked[0].headers.contains_key("authorization"));
        hub.asked();
        fetch.about.known = Some(snapshot.id);
        assert_eq!(fetch.resolve().unwrap(), None);
        assert_eq!(hub.asked().len(), 1);
    }
}

#[test]
fn a_large_file_with_another_digest_is_refused() {
    for has_digests in [true, false] {
        let (hub, _cdn) = start(has_digests, b"wrong");
        let error = fetch_of(&hub).fails();
        assert_eq!(error.kind, FetchErrorKind::Checksum, "{error}");
        assert!(!error.message.contains("secret"), "{error}");
    }
}

#[test]
fn a_configured_hub_may_be_private_but_not_its_redirects() {
    let (hub, _cdn) = start(true, MODEL);
    let mut fetch = fetch_of(&hub);
    fetch.about.allows_private = false;
    fetch.resolve().unwrap();
    assert_eq!(fetch.kind(), FetchErrorKind::Forbidden);
}

#[test]
fn a_missing_token_is_named_and_a_wrong_one_not_shown() {
    let (hub, _cdn) = start(true, MODEL);
    let mut fetch = fetch_of(&hub);
    fetch.variables.remove("HF_TOKEN");
    let error = fetch.fails();
    assert_eq!(error.kind, FetchErrorKind::Unauthorized);
    assert!(error.message.contains("revision refs/pr/1; if it is"), "{error}");
    assert!(error.message.contains("set HF_TOKEN"), "{error}");
    let error = fetch.with("HF_TOKEN", "hf_wrong").fails();
    assert_eq!(error.kind, FetchErrorKind::Unauthorized);
    assert!(!error.message.contains("hf_wrong"), "{error}");
}

#[test]
fn an_invalid_endpoint_is_named() {
    let error = Fetch::of("hf://org/name").with("HF_ENDPOINT", "ftp://hub").fails();
    assert_eq!(error.kind, FetchErrorKind::Configuration);
    assert!(error.message.contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn a_file_of_another_commit_is_refused() {
    let hub = Double::start(|asked| match asked.path.starts_with("/api/") {
        true => Reply::ok(described(false)),
        false => Reply::ok("x").header("X-Repo-Commit", "f".repeat(40)),
    });
    assert_eq!(fetch_of(&hub).kind(), FetchErrorKind::Malformed);
    let hub = Double::start(|_| Reply::ok(r#"{"sha": "../../x", "siblings": []}"#));
    assert_eq!(fetch_of(&hub).kind(), FetchErrorKind::Malformed);
}

#[test]
fn a_server_that_repeats_the_token_does_not_bring_it_into_an_error() {
    let hub = Double::start(|asked| {
        let sent = asked.header("authorization").replace("Bearer ", "");
        let body = format!("bad\u{202e} token\u{1b}[31m {}{sent}", "x".repeat(150));
        Reply::status(400).header("Content-Type", "text/plain").body(body)
    });
    let token = format!("hf_{}", "a1b2".repeat(20));
    let error = fetch_of(&hub).with("HF_TOKEN", token).fails();
    assert!(error.message.contains("bad token"), "{error}");
    assert!(!error.message.contains("a1b2"), "{error}");
    // Parsers quote what they do not expect.
    let hub = Double::start(|asked| {
        Reply::ok(json!({"sha": COMMIT, "siblings": asked.header("authorization")}).to_string())
    });
    let error = fetch_of(&hub).with("HF_TOKEN", "hf_a1b2c3d4").fails();
    assert_eq!(error.kind, FetchErrorKind::Malformed);
    assert!(!error.message.contains("a1b2"), "{error}");
}
