//! Tests of loading, replacing and freeing, with versions whose loading the test controls.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the thread takes to do something wrong.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// A loaded version that reports the thread on which it is freed.
#[derive(Debug)]
struct Loaded {
    version: String,
    freed: Sender<(String, Option<String>)>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let thread = thread::current().name().map(str::to_owned);
        let _ = self.freed.send((self.version.clone(), thread));
    }
}

struct Bench {
    loader: Loader<Loaded>,
    /// The versions whose loading began.
    started: Receiver<String>,
    /// Lets the current load finish.
    gate: Sender<()>,
    reports: Receiver<FromWorker>,
    free: Sender<(String, Option<String>)>,
    freed: Receiver<(String, Option<String>)>,
}

impl Bench {
    fn new() -> Self {
        let (begin, started) = mpsc::channel();
        let (gate, opened) = mpsc::channel();
        let (sender, reports) = mpsc::channel();
        let (free, freed) = mpsc::channel();
        let (opened, freeing) = (Mutex::new(opened), free.clone());
        let load = move |version: &str| {
            begin.send(version.to_owned()).unwrap();
            opened.lock().unwrap().recv_timeout(TIMEOUT).unwrap();
            Ok(Loaded { version: version.to_owned(), freed: freeing.clone() })
        };
        let report = move |message: &FromWorker| sender.send(message.clone()).unwrap();
        let loader = Loader::start(Box::new(load), Box::new(report)).unwrap();
        Self { loader, started, gate, reports, free, freed }
    }

    /// Returns the next version whose loading begins.
    fn next_started(&self) -> String {
        self.started.recv_timeout(TIMEOUT).unwrap()
    }

    fn let_it_load(&self) {
        self.gate.send(()).unwrap();
    }

    /// Returns slot and version of the next answer.
    fn reports(&self) -> (Slot, String) {
        match self.reports.recv_timeout(TIMEOUT).unwrap() {
            FromWorker::LoadedAhead { slot, version, .. } => (slot, version),
            other => panic!("{other:?}"),
        }
    }

    fn is_quiet(&self) -> bool {
        self.reports.recv_timeout(SETTLE_TIME).is_err() && self.started.try_recv().is_err()
    }

    /// Returns the next version that is freed, and the thread that frees it.
    fn freed(&self) -> (String, Option<String>) {
        self.freed.recv_timeout(TIMEOUT).unwrap()
    }
}

fn in_background(version: &str) -> (String, Option<String>) {
    (version.to_owned(), Some("ahead".to_owned()))
}

#[test]
fn versions_load_one_at_a_time_and_the_latest_wins() {
    let bench = Bench::new();
    bench.loader.request(0, "a");
    assert_eq!(bench.next_started(), "a");
    for (slot, version) in [(0, "b"), (1, "x"), (0, "c"), (0, "d")] {
        assert!(!bench.loader.request(slot, version));
    }
    bench.let_it_load();
    assert_eq!(bench.freed(), in_background("a"), "replaced while loading");
    assert_eq!(bench.next_started(), "x");
    bench.let_it_load();
    assert_eq!(bench.reports(), (1, "x".into()));
    assert_eq!(bench.next_started(), "d");
    bench.let_it_load();
    assert_eq!(bench.reports(), (0, "d".into()));
    assert!(bench.is_quiet());
    assert_eq!(bench.loader.take(0, "d").unwrap().version, "d");
    assert_eq!(bench.loader.take(1, "x").unwrap().version, "x");
}

#[test]
fn version_requested_again_while_loading_loads_once() {
    let bench = Bench::new();
    bench.loader.request(0, "a");
    assert_eq!(bench.next_started(), "a");
    bench.loader.request(0, "b");
    bench.loader.request(0, "a");
    bench.let_it_load();
    assert_eq!(bench.reports(), (0, "a".into()));
    assert!(bench.loader.request(0, "a"), "it is ready");
    assert!(bench.is_quiet());
}

#[test]
fn forgotten_version_is_freed_even_while_loading() {
    let bench = Bench::new();
    bench.loader.request(0, "a");
    assert_eq!(bench.next_started(), "a");
    bench.loader.forget(0);
    bench.let_it_load();
    assert_eq!(bench.freed(), in_background("a"));
    bench.loader.request(0, "b");
    assert_eq!(bench.next_started(), "b");
    bench.let_it_load();
    assert_eq!(bench.reports(), (0, "b".into()));
    bench.loader.forget(1);
    bench.loader.forget(0);
    assert_eq!(bench.freed(), in_background("b"));
    assert!(bench.loader.take(0, "b").is_none());
}

#[test]
fn taking_another_version_frees_the_ready_one() {
    let bench = Bench::new();
    bench.loader.request(0, "a");
    bench.let_it_load();
    assert_eq!(bench.reports(), (0, "a".into()));
    assert!(bench.loader.take(1, "a").is_none());
    assert!(bench.loader.take(0, "b").is_none());
    assert_eq!(bench.freed(), in_background("a"));
}

#[test]
fn versions_waiting_to_be_freed_are_bounded() {
    let bench = Bench::new();
    bench.loader.request(0, "a");
    assert_eq!(bench.next_started(), "a");
    // The thread is busy loading, so all of these wait.
    for version in ["w", "x", "y", "z"] {
        let here = Loaded { version: version.into(), freed: bench.free.clone() };
        bench.loader.discard(here);
    }
    let here = thread::current().name().map(str::to_owned);
    assert_eq!(bench.freed(), ("y".into(), here.clone()));
    assert_eq!(bench.freed(), ("z".into(), here));
    bench.let_it_load();
    assert_eq!(bench.reports(), (0, "a".into()));
    let mut later = [bench.freed(), bench.freed()];
    later.sort();
    assert_eq!(later, [in_background("w"), in_background("x")]);
}

#[test]
fn deferred_work_runs_in_the_background_after_loading() {
    let bench = Bench::new();
    bench.loader.request(0, "a");
    assert_eq!(bench.next_started(), "a");
    let free = bench.free.clone();
    let name = || thread::current().name().map(str::to_owned);
    bench.loader.defer(Box::new(move || drop(free.send(("later".into(), name())))));
    assert!(bench.freed.recv_timeout(SETTLE_TIME).is_err());
    bench.let_it_load();
    assert_eq!(bench.reports(), (0, "a".into()));
    assert_eq!(bench.freed(), in_background("later"));
}
