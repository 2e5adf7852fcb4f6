//! Buckets whose listing changes, and those of Google, for which no server runs in tests.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use onnxd_proto::domain::fetch::{FetchErrorKind, Pin};

use crate::{
    double::{Asked, Double, Fault, Reply, closed},
    fetch::{Fetch, bytes, checksums, sha256},
};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Serves objects of the bucket `bucket` below `/bucket/`, as S3 and Google do.
fn answer(asked: &Asked, objects: &[(&str, &str)]) -> Reply {
    // Google's client encodes slashes and dots.
    let path = asked.path.split('?').next().unwrap().replace("%2F", "/").replace("%2E", ".");
    let path = path.trim_end_matches('/');
    if path == "/bucket" {
        let entries: String = objects
            .iter()
            .map(|(key, text)| {
                let etag = sha256(text.as_bytes());
                format!(
                    "<Contents><Key>{key}</Key><Size>{}</Size><ETag>&quot;{etag}&quot;</ETag>\
                     <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>",
                    text.len()
                )
            })
            .collect();
        return Reply::ok(format!("<ListBucketResult>{entries}</ListBucketResult>"));
    }
    let key = path.trim_start_matches("/bucket/");
    let Some((_, text)) = objects.iter().find(|(name, _)| *name == key) else {
        return Reply::status(404);
    };
    let etag = format!("\"{}\"", sha256(text.as_bytes()));
    if asked.header("if-none-match") == etag {
        return Reply::status(304).header("ETag", etag).header("Last-Modified", DATE);
    }
    if !asked.header("if-match").is_empty() && asked.header("if-match") != etag {
        return Reply::status(412);
    }
    Reply::of_file(asked, text.as_bytes(), &etag).header("Last-Modified", DATE)
}

fn s3(server: &Double) -> Fetch {
    let fetch = Fetch::of("s3://bucket/m").with("AWS_ENDPOINT_URL", server.url(""));
    fetch.with("AWS_ACCESS_KEY_ID", "key").with("AWS_SECRET_ACCESS_KEY", "very-secret")
}

#[test]
fn a_listing_is_a_snapshot_only_if_it_stays_equal() {
    let count = AtomicUsize::new(0);
    let server = Double::start(move |asked| {
        let is_listing = asked.path.contains("list-type=2");
        match count.fetch_add(usize::from(is_listing), Ordering::Relaxed) {
            0 => answer(asked, &[("m/config.json", "{}")]),
            _ => answer(asked, &[("m/config.json", "{}"), ("m/model.onnx", "x")]),
        }
    });
    let mut fetch = s3(&server);
    assert_eq!(fetch.kind(), FetchErrorKind::Incomplete);
    let snapshot = fetch.all().unwrap();
    assert_eq!(snapshot.pin, Pin::Listing);
    assert_eq!(fetch.files(), ["config.json", "model.onnx"]);
    server.asked();
    // Files are known by their ETags.
    fetch.all().unwrap();
    assert!(server.lines().iter().all(|line| !line.contains("/bucket/m/model.onnx")));
    fetch.about.known = Some(snapshot.id);
    assert_eq!(fetch.resolve().unwrap(), None);
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn an_object_that_changes_after_the_listing_is_not_mixed_in() {
    let server = Double::start(|asked| {
        let text = if asked.path.contains("list-type=2") { "old" } else { "new" };
        answer(asked, &[("m/model.onnx", text)])
    });
    let fetch = s3(&server);
    assert_eq!(fetch.kind(), FetchErrorKind::Incomplete);
    assert!(fetch.files().is_empty());
}

#[test]
fn a_refusal_quotes_neither_key_nor_signature() {
    let server = Double::start(|_| {
        let body =
            "<Error><Code>SignatureDoesNotMatch</Code><StringToSign>signed</StringToSign></Error>";
        Reply::status(403).body(body)
    });
    let error = s3(&server).fails();
    assert_eq!(error.kind, FetchErrorKind::Unauthorized);
    assert!(error.message.contains("SignatureDoesNotMatch"), "{error}");
    assert!(error.message.contains("set AWS_ACCESS_KEY_ID"), "{error}");
    assert!(!error.message.contains("very-secret") && !error.message.contains("signed"), "{error}");
}

#[test]
fn an_invalid_setting_is_no_fault_of_the_server() {
    for (source, variable, value) in [
        ("s3://bucket/m", "AWS_ENDPOINT_URL", "no url"),
        ("gs://bucket/m", "GOOGLE_SERVICE_ACCOUNT", "/nowhere"),
    ] {
        let error = Fetch::of(source).with(variable, value).fails();
        assert_eq!(error.kind, FetchErrorKind::Configuration, "{variable}: {error}");
    }
}

#[test]
fn google_buckets_have_the_same_snapshots() {
    let server = Double::start(|asked| {
        let sums = checksums(&[("model.onnx", b"x")]);
        answer(asked, &[("m/SHA256SUMS", &sums), ("m/model.onnx", "x")])
    });
    let mut fetch = Fetch::of("gs://bucket/m").with("GOOGLE_BASE_URL", server.url(""));
    fetch = fetch.with("GOOGLE_SKIP_SIGNATURE", "true");
    let snapshot = fetch.all().unwrap();
    assert_eq!(snapshot.pin, Pin::Checksums);
    assert_eq!(fetch.read("model.onnx"), b"x");
    fetch.about.known = Some(snapshot.id);
    server.asked();
    assert_eq!(fetch.resolve().unwrap(), None);
    assert_eq!(server.lines(), ["GET /bucket/m%2FSHA256SUMS"]);
}

#[test]
fn a_snapshot_with_checksums_is_not_replaced_by_a_listing() {
    let server = Double::start(|asked| answer(asked, &[("m/model.onnx", "x")]));
    let mut fetch = s3(&server);
    fetch.about.known = Some(format!("sha256:{}", "a".repeat(64)));
    let error = fetch.fails();
    assert_eq!(error.kind, FetchErrorKind::Incomplete, "{error}");
    assert!(error.message.contains("SHA256SUMS"), "{error}");
}

#[test]
fn a_listing_is_a_snapshot_only_if_no_object_is_new() {
    let date = Arc::new(Mutex::new("Thu, 01 Jan 2026 00:00:40 GMT"));
    let now = Arc::clone(&date);
    let server = Double::start(move |asked| {
        answer(asked, &[("m/model.onnx", "x")]).header("Date", *now.lock().unwrap())
    });
    let fetch = s3(&server);
    let error = fetch.fails();
    assert_eq!(error.kind, FetchErrorKind::Incomplete, "{error}");
    assert_eq!(error.retry_after_seconds, Some(20), "{error}");
    *date.lock().unwrap() = "Thu, 01 Jan 2026 00:01:00 GMT";
    fetch.all().unwrap();
}

#[test]
fn objects_that_mark_folders_are_no_files() {
    let server = Double::start(|asked| {
        let objects =
            [("m/", ""), ("m/onnx.json", "{}"), ("m/onnx/", ""), ("m/onnx/model.onnx", "x")];
        answer(asked, &objects)
    });
    let fetch = s3(&server);
    fetch.all().unwrap();
    assert_eq!(fetch.files(), ["onnx.json", "onnx/model.onnx"]);
}

#[test]
fn a_bucket_that_ignores_ranges_is_coped_with() {
    let count = AtomicUsize::new(0);
    let content = bytes(3 << 20);
    let expected = content.clone();
    let sums = checksums(&[("model.onnx", &content)]);
    let server = Double::start(move |asked| {
        let whole = |body: &[u8]| {
            let etag = format!("\"{}\"", sha256(body));
            Reply::ok(body).header("ETag", etag).header("Last-Modified", DATE)
        };
        match asked.path.contains("model.onnx") {
            true if asked.method == "GET" && count.fetch_add(1, Ordering::Relaxed) == 0 => {
                whole(&content).fault(Fault::Truncate(2 << 20))
            }
            true => whole(&content),
            false => whole(sums.as_bytes()),
        }
    });
    let fetch = s3(&server);
    fetch.all().unwrap();
    assert!(fetch.read("model.onnx") == expected);
    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.start() == 2 << 20));
    assert_eq!(asked.last().unwrap().start(), 0);
}

#[test]
fn a_google_bucket_is_no_credential_service() {
    for allowed in ["true", "false"] {
        let fetch = Fetch::of("gs://bucket/m").with("GOOGLE_SKIP_SIGNATURE", "true");
        let fetch = fetch.with("GOOGLE_BASE_URL", format!("http://{}", closed()));
        let error = fetch.with("GOOGLE_ALLOW_HTTP", allowed).fails();
        assert_eq!(error.kind, FetchErrorKind::Unreachable, "{error}");
    }
    let proxy = Double::start(|asked| answer(asked, &[("m/model.onnx", "x")]));
    let fetch = Fetch::of("gs://bucket/m").with("GOOGLE_SKIP_SIGNATURE", "true");
    let fetch = fetch.with("GOOGLE_BASE_URL", "http://google.invalid");
    let error = fetch.with("HTTP_PROXY", proxy.url("")).fails();
    assert!(proxy.lines()[0].contains("http://google.invalid/bucket"), "{error}");
}
