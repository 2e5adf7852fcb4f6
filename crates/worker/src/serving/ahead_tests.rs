//! What is loaded, what is not, and where it is freed; with versions that load when they are let.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than the thread takes to do what it must not do.
const A_WHILE: Duration = Duration::from_millis(50);

/// A loaded version that says on which thread it is freed.
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
    /// The versions whose loading begins.
    begun: Receiver<String>,
    /// Lets the loading that has begun end.
    gate: Sender<()>,
    told: Receiver<FromWorker>,
    free: Sender<(String, Option<String>)>,
    freed: Receiver<(String, Option<String>)>,
}

impl Bench {
    fn new() -> Self {
        let (begin, begun) = mpsc::channel();
        let (gate, opened) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let (free, freed) = mpsc::channel();
        let (opened, freeing) = (Mutex::new(opened), free.clone());
        let load = move |version: &str| {
            begin.send(version.to_owned()).unwrap();
            opened.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            Ok(Loaded { version: version.to_owned(), freed: freeing.clone() })
        };
        let report = move |message: &FromWorker| tell.send(message.clone()).unwrap();
        let loader = Loader::start(Box::new(load), Box::new(report)).unwrap();
        Self { loader, begun, gate, told, free, freed }
    }

    /// The next version whose loading begins.
    fn begun(&self) -> String {
        self.begun.recv_timeout(PATIENCE).unwrap()
    }

    fn let_it_load(&self) {
        self.gate.send(()).unwrap();
    }

    /// Slot and version of the next answer.
    fn told(&self) -> (Slot, String) {
        match self.told.recv_timeout(PATIENCE).unwrap() {
            FromWorker::LoadedAhead { slot, version, .. } => (slot, version),
            other => panic!("{other:?}"),
        }
    }

    fn is_quiet(&self) -> bool {
        self.told.recv_timeout(A_WHILE).is_err() && self.begun.try_recv().is_err()
    }

    /// The next version that is freed, and the thread that frees it.
    fn freed(&self) -> (String, Option<String>) {
        self.freed.recv_timeout(PATIENCE).unwrap()
    }
}

fn in_background(version: &str) -> (String, Option<String>) {
    (version.to_owned(), Some("ahead".to_owned()))
}

#[test]
fn one_version_loads_at_a_time_and_the_latest_of_each_model_counts() {
    let bench = Bench::new();
    bench.loader.want(0, "a");
    assert_eq!(bench.begun(), "a");
    for (slot, version) in [(0, "b"), (1, "x"), (0, "c"), (0, "d")] {
        assert!(!bench.loader.want(slot, version));
    }
    bench.let_it_load();
    assert_eq!(bench.freed(), in_background("a"), "it was replaced while it loaded");
    assert_eq!(bench.begun(), "x");
    bench.let_it_load();
    assert_eq!(bench.told(), (1, "x".into()));
    assert_eq!(bench.begun(), "d");
    bench.let_it_load();
    assert_eq!(bench.told(), (0, "d".into()));
    assert!(bench.is_quiet());
    assert_eq!(bench.loader.take(0, "d").unwrap().version, "d");
    assert_eq!(bench.loader.take(1, "x").unwrap().version, "x");
}

#[test]
fn what_is_wanted_again_while_it_loads_is_loaded_once_and_kept() {
    let bench = Bench::new();
    bench.loader.want(0, "a");
    assert_eq!(bench.begun(), "a");
    bench.loader.want(0, "b");
    bench.loader.want(0, "a");
    bench.let_it_load();
    assert_eq!(bench.told(), (0, "a".into()));
    assert!(bench.loader.want(0, "a"), "it stands ready");
    assert!(bench.is_quiet());
}

#[test]
fn what_is_forgotten_is_freed_also_if_it_still_loads() {
    let bench = Bench::new();
    bench.loader.want(0, "a");
    assert_eq!(bench.begun(), "a");
    bench.loader.forget(0);
    bench.let_it_load();
    assert_eq!(bench.freed(), in_background("a"));
    bench.loader.want(0, "b");
    assert_eq!(bench.begun(), "b");
    bench.let_it_load();
    assert_eq!(bench.told(), (0, "b".into()));
    bench.loader.forget(1);
    bench.loader.forget(0);
    assert_eq!(bench.freed(), in_background("b"));
    assert!(bench.loader.take(0, "b").is_none());
}

#[test]
fn taking_one_version_frees_another_that_stood_ready_in_vain() {
    let bench = Bench::new();
    bench.loader.want(0, "a");
    bench.let_it_load();
    assert_eq!(bench.told(), (0, "a".into()));
    assert!(bench.loader.take(1, "a").is_none());
    assert!(bench.loader.take(0, "b").is_none());
    assert_eq!(bench.freed(), in_background("a"));
}

#[test]
fn what_waits_to_be_freed_is_bounded() {
    let bench = Bench::new();
    bench.loader.want(0, "a");
    assert_eq!(bench.begun(), "a");
    // The thread is busy with loading, so that all of this waits.
    for version in ["w", "x", "y", "z"] {
        let here = Loaded { version: version.into(), freed: bench.free.clone() };
        bench.loader.discard(here);
    }
    let here = thread::current().name().map(str::to_owned);
    assert_eq!(bench.freed(), ("y".into(), here.clone()));
    assert_eq!(bench.freed(), ("z".into(), here));
    bench.let_it_load();
    assert_eq!(bench.told(), (0, "a".into()));
    let mut later = [bench.freed(), bench.freed()];
    later.sort();
    assert_eq!(later, [in_background("w"), in_background("x")]);
}

#[test]
fn what_is_not_urgent_is_done_in_the_background_and_not_while_something_loads() {
    let bench = Bench::new();
    bench.loader.want(0, "a");
    assert_eq!(bench.begun(), "a");
    let free = bench.free.clone();
    let name = || thread::current().name().map(str::to_owned);
    bench.loader.later(Box::new(move || drop(free.send(("later".into(), name())))));
    assert!(bench.freed.recv_timeout(A_WHILE).is_err());
    bench.let_it_load();
    assert_eq!(bench.told(), (0, "a".into()));
    assert_eq!(bench.freed(), in_background("later"));
}
