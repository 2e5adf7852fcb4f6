//! Requests that two servers may interpret differently. Each contains another request where a
//! server may look for the next one.

/// Required behavior of onnxd for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The request is refused, or answered based on its headers only. Then the connection is closed
    /// and nothing after it is read.
    Ends,
    /// The request has the only meaning that RFC 9112 allows, and this many hidden requests are
    /// real ones.
    Hides(u64),
}

pub(crate) struct Case {
    pub what: &'static str,
    pub bytes: Vec<u8>,
    pub expected: Expected,
}

const HIDDEN_REQUEST: &str = "GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n";

fn post(what: &'static str, headers: &str, body: &str, expected: Expected) -> Case {
    let bytes = format!("POST /none HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}").into();
    Case { what, bytes, expected }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = invalid_requests();
    all.extend(valid_requests());
    all
}

/// Returns invalid requests.
fn invalid_requests() -> Vec<Case> {
    use Expected::Ends;
    let chunked = format!("0\r\n\r\n{HIDDEN_REQUEST}");
    let length = HIDDEN_REQUEST.len();
    let mut all = Vec::new();
    let mut add = |what, headers: &str, body: &str, expected| {
        all.push(post(what, headers, body, expected));
    };
    // Spellings of Transfer-Encoding that one of two servers may overlook.
    for (what, header) in [
        ("TE: identity last", "Transfer-Encoding: chunked, identity"),
        ("TE: unknown", "Transfer-Encoding: x-chunked"),
        ("TE: only gzip", "Transfer-Encoding: gzip"),
        ("TE: space before the colon", "Transfer-Encoding : chunked"),
        ("TE: tab before the colon", "Transfer-Encoding\t: chunked"),
        ("TE: obs-fold", "Transfer-Encoding:\r\n chunked"),
        ("TE: folded name", "X: y\r\n Transfer-Encoding: chunked"),
        ("TE: NUL", "Transfer-Encoding: chunked\0"),
        ("TE: quoted", "Transfer-Encoding: \"chunked\""),
        (
            "TE: two headers, the last one unknown",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        ),
    ] {
        add(what, header, &chunked, Ends);
        let both = format!("Content-Length: {}\r\n{header}", chunked.len());
        add(what, &both, &chunked, Ends);
    }
    for (what, value) in [
        ("CL: plus", "+5"),
        ("CL: minus", "-5"),
        ("CL: hexadecimal", "0x5"),
        ("CL: huge", "99999999999999999999"),
        ("CL: empty", ""),
        ("CL: words", "5 5"),
        ("CL: list of different lengths", "5, 6"),
        ("CL: fraction", "5.0"),
    ] {
        add(what, &format!("Content-Length: {value}"), HIDDEN_REQUEST, Ends);
    }
    let two = format!("Content-Length: 0\r\nContent-Length: {length}");
    add("CL: two different headers", &two, HIDDEN_REQUEST, Ends);
    add("CL: obs-fold", "Content-Length:\r\n 0", HIDDEN_REQUEST, Ends);
    add("CL: NUL in another header", "X: a\0b\r\nContent-Length: 0", HIDDEN_REQUEST, Ends);
    for (what, body) in [
        ("chunk: minus", "-1\r\n"),
        ("chunk: 0x", "0x0\r\n\r\n"),
        ("chunk: plus", "+0\r\n\r\n"),
        ("chunk: overflow", "10000000000000000\r\n"),
        ("chunk: no size", "\r\n"),
        ("chunk: longer than its size", "1\r\nab\r\n0\r\n\r\n"),
        ("chunk: NUL", "0\0\r\n\r\n"),
    ] {
        add(what, "Transfer-Encoding: chunked", &format!("{body}{HIDDEN_REQUEST}"), Ends);
    }
    all
}

/// Returns requests that are valid or have only one meaning.
fn valid_requests() -> Vec<Case> {
    use Expected::{Ends, Hides};
    let chunked = format!("0\r\n\r\n{HIDDEN_REQUEST}");
    let length = HIDDEN_REQUEST.len();
    let mut all = Vec::new();
    let mut add = |what, headers: &str, body: &str, expected| {
        all.push(post(what, headers, body, expected));
    };
    add("a body that is a request", &format!("Content-Length: {length}"), HIDDEN_REQUEST, Hides(0));
    add("a request behind a body", "Content-Length: 0", HIDDEN_REQUEST, Hides(1));
    add("a request behind chunks", "Transfer-Encoding: chunked", &chunked, Hides(1));
    add("chunk extensions", "Transfer-Encoding: chunked", "1;a=b\r\nx\r\n0;c\r\n\r\n", Hides(0));
    add(
        "an upgrade",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0",
        HIDDEN_REQUEST,
        Hides(1),
    );
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 0";
    add("an upgrade to HTTP/2", h2c, HIDDEN_REQUEST, Hides(1));
    add(
        "CL: two equal headers",
        "Content-Length: 0\r\nContent-Length: 0",
        HIDDEN_REQUEST,
        Hides(1),
    );
    add("expects 100", "Expect: 100-continue\r\nContent-Length: 0", HIDDEN_REQUEST, Hides(1));
    // If both headers are present, chunks count and nothing after them is trusted.
    for te in ["chunked", "\tchunked", "CHUNKED"] {
        let both = format!("Content-Length: 6\r\nTransfer-Encoding: {te}");
        add("CL and TE", &both, &chunked, Ends);
    }
    let old =
        format!("POST /none HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
    all.push(Case { what: "TE in HTTP/1.0", bytes: old.into(), expected: Ends });
    let bare = format!("POST /none HTTP/1.1\nHost: a\nContent-Length: 0\n\n{HIDDEN_REQUEST}");
    all.push(Case { what: "bare LF", bytes: bare.into(), expected: Hides(1) });
    let absolute = "GET http://b/none HTTP/1.1\r\nHost: a\r\n\r\n";
    all.push(Case { what: "absolute form", bytes: absolute.into(), expected: Hides(0) });
    all
}
