//! The limit on the time of a whole download. `web.rs` has those of one answer.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use onnxd_proto::domain::fetch::FetchErrorKind;

use crate::{
    double::{Fault, Reply},
    fetch::{Fetch, bytes},
    web::{LONG, one_file},
};

#[test]
fn a_download_has_a_time_limit_and_is_resumed_later() {
    let content = bytes(LONG);
    let expected = content.clone();
    let is_slow = Arc::new(Mutex::new(true));
    let slow = Arc::clone(&is_slow);
    let server = one_file(content, move |asked, content| {
        let reply = Reply::of_file(asked, content, "\"v1\"");
        match *slow.lock().unwrap() && asked.method == "GET" {
            true => reply.fault(Fault::Trickle(Duration::from_millis(20))),
            false => reply,
        }
    });
    let mut fetch = Fetch::of(server.url("/m/"));
    (fetch.times.download, fetch.times.download_rate) = (Duration::from_millis(300), 1 << 30);
    let started = Instant::now();
    let error = fetch.fails();
    assert_eq!(error.kind, FetchErrorKind::Unreachable, "{error}");
    assert!(error.message.contains("took longer"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(fetch.parts().len(), 1);
    *is_slow.lock().unwrap() = false;
    server.asked();
    fetch.times.download = Duration::from_secs(60);
    fetch.all().unwrap();
    assert!(fetch.read("model.onnx") == expected);
    assert!(server.asked().iter().any(|asked| asked.start() > 0), "resumed");
}
