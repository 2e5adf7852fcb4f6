//! Folders of web servers, and what all sources share: redirects, resuming and limits.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use onnxd_proto::domain::fetch::{FetchErrorKind, Pin};

use crate::{
    double::{Asked, Double, Fault, Reply, closed},
    fetch::{Fetch, bytes, checksums, sha256},
};

/// Long enough to be resumed.
pub(crate) const LONG: usize = 3 << 20;

/// Serves `SHA256SUMS` of one file, and the file by `answer`.
pub(crate) fn one_file(
    content: Vec<u8>,
    answer: impl Fn(&Asked, &[u8]) -> Reply + Send + Sync + 'static,
) -> Double {
    let sums = checksums(&[("model.onnx", &content)]);
    Double::start(move |asked| match asked.path.as_str() {
        "/m/SHA256SUMS" => Reply::ok(sums.clone()),
        "/m/model.onnx" => answer(asked, &content),
        _ => Reply::status(404),
    })
}

#[test]
fn an_unchanged_source_costs_one_conditional_request() {
    let content: Arc<Mutex<(&str, &str)>> = Arc::new(Mutex::new(("old", "same")));
    let served = Arc::clone(&content);
    let server = Double::start(move |asked| {
        let (model, config) = *served.lock().unwrap();
        let sums =
            checksums(&[("onnx/model.onnx", model.as_bytes()), ("config.json", config.as_bytes())]);
        let etag = format!("\"{}\"", sha256(sums.as_bytes()));
        match asked.path.as_str() {
            "/m/SHA256SUMS" if asked.header("if-none-match") == etag => Reply::status(304),
            "/m/SHA256SUMS" => Reply::ok(sums).header("ETag", etag),
            "/m/onnx/model.onnx" => Reply::ok(model),
            "/m/config.json" => Reply::ok(config),
            _ => Reply::status(404),
        }
    });
    let mut fetch = Fetch::of(server.url("/m/"));
    let snapshot = fetch.all().unwrap();
    assert_eq!(snapshot.pin, Pin::Checksums);
    assert_eq!(fetch.files(), ["config.json", "onnx/model.onnx"]);
    server.asked();

    fetch.about.known = Some(snapshot.id.clone());
    assert_eq!(fetch.resolve().unwrap(), None);
    assert_eq!(server.lines(), ["GET /m/SHA256SUMS"]);

    // Only what changed is downloaded again, and what is no longer listed is removed.
    *content.lock().unwrap() = ("new", "same");
    let newer = fetch.all().unwrap();
    assert_ne!(newer.id, snapshot.id);
    assert_eq!(fetch.read("onnx/model.onnx"), b"new");
    let downloads: Vec<String> =
        server.lines().into_iter().filter(|line| line.contains("config")).collect();
    assert!(downloads.is_empty(), "{downloads:?}");
}

#[test]
fn files_that_are_no_longer_listed_are_removed() {
    let listed = Arc::new(Mutex::new(vec!["a/b/old.onnx", "keep"]));
    let served = Arc::clone(&listed);
    let server = Double::start(move |asked| match asked.path.as_str() {
        "/m/SHA256SUMS" => {
            let files: Vec<(&str, &[u8])> =
                served.lock().unwrap().iter().map(|path| (*path, &b"x"[..])).collect();
            Reply::ok(checksums(&files))
        }
        _ => Reply::ok("x"),
    });
    let fetch = Fetch::of(server.url("/m"));
    fs::write(fetch.directory.path().join("foreign"), "not ours").unwrap();
    fetch.all().unwrap();
    assert_eq!(fetch.files(), ["a/b/old.onnx", "foreign", "keep"]);
    *listed.lock().unwrap() = vec!["keep", "new.onnx"];
    fetch.all().unwrap();
    assert_eq!(fetch.files(), ["foreign", "keep", "new.onnx"]);
    assert!(!fetch.directory.path().join("a").exists());
}

#[test]
fn a_signature_is_downloaded_with_what_it_signs() {
    for (status, expected) in
        [(200, &["SHA256SUMS", "SHA256SUMS.minisig", "a"][..]), (404, &["a"]), (403, &["a"])]
    {
        let server = Double::start(move |asked| match asked.path.as_str() {
            "/m/SHA256SUMS" => Reply::ok(checksums(&[("a", b"x")])),
            "/m/SHA256SUMS.minisig" => Reply::status(status).body("signature"),
            _ => Reply::ok("x"),
        });
        let mut fetch = Fetch::of(server.url("/m"));
        fetch.about.wants_signature = true;
        fetch.all().unwrap();
        assert_eq!(fetch.files(), expected, "{status}");
    }
    let server = Double::start(move |asked| match asked.path.as_str() {
        "/m/SHA256SUMS" => Reply::ok(checksums(&[("a", b"x")])),
        _ => Reply::status(503),
    });
    let mut fetch = Fetch::of(server.url("/m"));
    fetch.about.wants_signature = true;
    let error = fetch.fails();
    assert_eq!(error.kind, FetchErrorKind::Unreachable, "a signature may exist: {error}");
}

#[test]
fn a_redirect_to_another_server_carries_no_credentials() {
    let content = b"content".to_vec();
    let other = Double::start(|_| Reply::ok("content"));
    let target = other.url("/elsewhere");
    let server = one_file(content, move |_, _| Reply::redirect(target.clone()));
    let directory = tempfile::tempdir().unwrap();
    let netrc = directory.path().join("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login user password secret").unwrap();
    let fetch = Fetch::of(server.url("/m/")).with("NETRC", netrc.to_string_lossy());
    fetch.all().unwrap();
    assert_eq!(fetch.read("model.onnx"), b"content");
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.header("authorization") == "Basic dXNlcjpzZWNyZXQ=")
    );
    let asked = other.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("authorization")), "{asked:?}");
}

#[test]
fn wrong_credentials_are_told_from_missing_ones() {
    let server = Double::start(|_| Reply::status(401));
    let missing = Fetch::of(server.url("/m/")).all().unwrap_err();
    assert!(missing.message.contains("add the host with login and password"), "{missing}");
    let directory = tempfile::tempdir().unwrap();
    let netrc = directory.path().join("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login user password secret").unwrap();
    let fetch = Fetch::of(server.url("/m/")).with("NETRC", netrc.to_string_lossy());
    let wrong = fetch.all().unwrap_err();
    assert!(wrong.message.contains("in netrc do not give access"), "{wrong}");
    assert!(!wrong.message.contains("secret"), "{wrong}");
}

#[test]
fn redirect_loops_end() {
    let server = Double::start(|asked| Reply::redirect(format!("{}x", asked.path)));
    assert_eq!(Fetch::of(server.url("/m/")).kind(), FetchErrorKind::Forbidden);
    assert_eq!(server.asked().len(), 11);
    let server = Double::start(|_| Reply::redirect("file:///etc/passwd"));
    assert_eq!(Fetch::of(server.url("/m/")).kind(), FetchErrorKind::Forbidden);
}

#[test]
fn a_busy_server_states_the_pause() {
    let date = |date: &str| {
        Reply::status(503)
            .header("Retry-After", date)
            .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
    };
    for (reply, seconds) in [
        (Reply::status(429).header("Retry-After", "7"), Some(7)),
        (date("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60)),
        // The supervisor limits it.
        (Reply::status(503).header("Retry-After", "99999999"), Some(99_999_999)),
        (Reply::status(500), None),
    ] {
        let server = Double::start(move |_| reply.clone());
        let error = Fetch::of(server.url("/m/")).fails();
        assert_eq!((error.kind, error.retry_after_seconds), (FetchErrorKind::Unreachable, seconds));
    }
}

#[test]
fn a_broken_download_is_resumed() {
    let count = AtomicUsize::new(0);
    let content = bytes(LONG);
    let expected = content.clone();
    let server = one_file(content, move |asked, content| {
        let reply = Reply::of_file(asked, content, "\"v1\"");
        match asked.method == "GET" && count.fetch_add(1, Ordering::Relaxed) < 2 {
            true => reply.fault(Fault::Truncate(1 << 20)),
            false => reply,
        }
    });
    let fetch = Fetch::of(server.url("/m/"));
    fetch.all().unwrap();
    assert!(fetch.read("model.onnx") == expected);
    let asked = server.asked();
    let ranges: Vec<(usize, &str)> = asked
        .iter()
        .filter(|asked| asked.method == "GET" && asked.path == "/m/model.onnx")
        .map(|asked| (asked.start(), asked.header("if-range")))
        .collect();
    assert_eq!(ranges, [(0, ""), (1 << 20, "\"v1\""), (2 << 20, "\"v1\"")]);
}

#[test]
fn a_download_is_resumed_by_the_next_process() {
    let is_broken = Arc::new(Mutex::new(true));
    let broken = Arc::clone(&is_broken);
    let content = bytes(LONG);
    let expected = content.clone();
    let server = one_file(content, move |asked, content| {
        let reply = Reply::of_file(asked, content, "\"v1\"");
        // A refused download ends the process at once.
        match *broken.lock().unwrap() {
            true if asked.start() > 0 => Reply::status(401),
            true if asked.method == "GET" => reply.fault(Fault::Truncate(2 << 20)),
            _ => reply,
        }
    });
    let fetch = Fetch::of(server.url("/m/"));
    assert_eq!(fetch.kind(), FetchErrorKind::Unauthorized);
    assert_eq!(fetch.parts().len(), 1);
    *is_broken.lock().unwrap() = false;
    server.asked();
    fetch.all().unwrap();
    assert!(fetch.read("model.onnx") == expected);
    assert!(server.asked().iter().any(|asked| asked.start() == 2 << 20));
    assert!(fetch.parts().is_empty());
}

#[test]
fn a_server_that_ignores_ranges_is_coped_with() {
    let count = AtomicUsize::new(0);
    let content = bytes(LONG);
    let expected = content.clone();
    let server = one_file(content, move |asked, content| {
        match asked.method == "GET" && count.fetch_add(1, Ordering::Relaxed) == 0 {
            true => Reply::ok(content).fault(Fault::Truncate(2 << 20)),
            false => Reply::ok(content),
        }
    });
    let fetch = Fetch::of(server.url("/m/"));
    fetch.all().unwrap();
    assert!(fetch.read("model.onnx") == expected);
}

#[test]
fn a_file_that_differs_from_its_digest_is_not_kept() {
    for content in ["other", "content and more"] {
        let server = one_file(b"content".to_vec(), move |_, _| Reply::ok(content));
        let fetch = Fetch::of(server.url("/m/"));
        let error = fetch.fails();
        assert_eq!(error.kind, FetchErrorKind::Incomplete, "{error}");
        assert!(fetch.files().is_empty() && fetch.parts().is_empty());
    }
}

#[test]
fn a_stale_part_is_downloaded_anew() {
    let state = Arc::new(Mutex::new(("\"v1\"", true)));
    let served = Arc::clone(&state);
    let content = bytes(LONG);
    let (expected, torn) = (content.clone(), vec![0; LONG]);
    let server = one_file(content, move |asked, content| match *served.lock().unwrap() {
        (_, true) if asked.start() > 0 => Reply::status(401),
        // What a first upload had here.
        (etag, true) if asked.method == "GET" => {
            Reply::of_file(asked, &torn, etag).fault(Fault::Truncate(2 << 20))
        }
        (etag, _) => Reply::of_file(asked, content, etag),
    });
    let fetch = Fetch::of(server.url("/m/"));
    assert_eq!(fetch.kind(), FetchErrorKind::Unauthorized);
    *state.lock().unwrap() = ("\"v1\"", false);
    // The server lies: the file changed and the ETag did not.
    fetch.all().unwrap();
    assert!(fetch.read("model.onnx") == expected);
}

#[test]
fn stalls_and_trickles_are_given_up() {
    let content = vec![1; 1 << 20];
    let interval = Duration::from_millis(20);
    for fault in [Fault::Stall(10), Fault::Trickle(interval), Fault::TrickleHead(interval)] {
        let server = one_file(content.clone(), move |_, content| Reply::ok(content).fault(fault));
        let mut fetch = Fetch::of(server.url("/m/"));
        fetch.times.connect = Duration::from_millis(200);
        fetch.times.stall = Duration::from_millis(200);
        fetch.times.window = Duration::from_millis(300);
        fetch.times.window_bytes = 1000;
        let started = Instant::now();
        let error = fetch.fails();
        assert_eq!(error.kind, FetchErrorKind::Unreachable, "{error}");
        let expected = if fault == Fault::TrickleHead(interval) { "no answer" } else { "byte" };
        assert!(error.message.contains(expected), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10), "{fault:?}");
    }
}

#[test]
fn an_announced_excess_is_refused_before_a_byte() {
    let server = one_file(b"content".to_vec(), |_, content| {
        Reply::ok(content).header("Content-Length", "20000000000")
    });
    let error = Fetch::of(server.url("/m/")).fails();
    assert_eq!(error.kind, FetchErrorKind::TooLarge, "{error}");
    assert_eq!(server.lines(), ["GET /m/SHA256SUMS", "HEAD /m/model.onnx"]);
}

#[test]
fn an_unannounced_excess_ends_at_the_limit() {
    let server = one_file(b"content".to_vec(), |asked, _| match asked.method.as_str() {
        "HEAD" => Reply::status(405),
        _ => Reply::ok(vec![0; 1 << 20]).fault(Fault::Endless),
    });
    let mut fetch = Fetch::of(server.url("/m/"));
    fetch.about.bytes_max = 2 << 20;
    assert_eq!(fetch.kind(), FetchErrorKind::TooLarge);
}

#[test]
fn malformed_and_incomplete_checksums_are_distinguished() {
    let digest = "a".repeat(64);
    for (sums, kind) in [
        (String::new(), FetchErrorKind::Malformed),
        ("<html>".to_owned(), FetchErrorKind::Malformed),
        (format!("{digest}  ../x\n"), FetchErrorKind::Malformed),
        (format!("{digest}  .onnxd-fetch/state.json\n"), FetchErrorKind::Malformed),
        (format!("{digest}  missing.onnx\n"), FetchErrorKind::Incomplete),
        ("x".repeat(2 << 20), FetchErrorKind::TooLarge),
    ] {
        let server = Double::start(move |asked| match asked.path.as_str() {
            "/m/SHA256SUMS" => Reply::ok(sums.clone()),
            _ => Reply::status(404),
        });
        assert_eq!(Fetch::of(server.url("/m/")).kind(), kind);
    }
    let server = Double::start(|_| Reply::status(404));
    let error = Fetch::of(server.url("/m/")).fails();
    assert_eq!(error.kind, FetchErrorKind::Incomplete, "the first upload may be running");
    assert!(error.message.contains("sha256sum"), "{error}");
    let files: Vec<String> = (0..101).map(|number| format!("{digest}  {number}\n")).collect();
    let server = Double::start(move |_| Reply::ok(files.concat()));
    assert_eq!(Fetch::of(server.url("/m/")).kind(), FetchErrorKind::TooLarge);
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    let server = one_file(b"content".to_vec(), |_, content| Reply::ok(content));
    let port = server.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"] {
        let mut fetch = Fetch::of(format!("http://{host}:{port}/m/"));
        fetch.about.allows_private = false;
        let error = fetch.fails();
        assert_eq!(error.kind, FetchErrorKind::Forbidden, "{error}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn a_server_that_is_away_is_unreachable() {
    let error = Fetch::of(format!("http://{}/m/", closed())).fails();
    assert_eq!(error.kind, FetchErrorKind::Unreachable, "{error}");
    let error = Fetch::of("http://host.invalid/m/").fails();
    assert_eq!(error.kind, FetchErrorKind::Unreachable, "{error}");
    assert!(error.message.contains("host.invalid"), "{error}");
}

#[test]
fn links_in_the_download_directory_are_not_followed() {
    let content = b"content".to_vec();
    let sums = checksums(&[("onnx/model.onnx", &content)]);
    let server = Double::start(move |asked| match asked.path.as_str() {
        "/m/SHA256SUMS" => Reply::ok(sums.clone()),
        _ => Reply::ok(content.clone()),
    });
    let fetch = Fetch::of(server.url("/m/"));
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), fetch.directory.path().join("onnx")).unwrap();
    assert_eq!(fetch.kind(), FetchErrorKind::Internal);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_server_that_repeats_the_password_does_not_bring_it_into_an_error() {
    let server = Double::start(|_| {
        Reply::status(400).header("Content-Type", "text/plain").body("user:hunter2 or hunter2?")
    });
    let directory = tempfile::tempdir().unwrap();
    let netrc = directory.path().join("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login user password hunter2").unwrap();
    let error = Fetch::of(server.url("/m/")).with("NETRC", netrc.to_string_lossy()).fails();
    assert!(error.message.contains("the server says"), "{error}");
    assert!(!error.message.contains("hunter2"), "{error}");
}
