//! Far more updates than can be loaded: the newest wins, every caller gets an answer, and no
//! request fails.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    admin::{Committed, Refusal},
    control::{Call, Control},
    corpus::{Corpus, TOLERANCE, distance},
    eventually,
    load::Load,
    processes::Signal,
    server::Server,
};
use tokio::task::JoinSet;

use crate::{checker, embed, served, tiny};

const CLIENTS: usize = 8;
/// The maximum per request, so that requests span groups and commits.
const TEXTS_MAX: usize = 32;
/// 100 per second for 3 seconds.
const CALLS: usize = 300;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Starts clients with one text and with many, after checking both contents.
async fn load(server: &Server) -> Load {
    let mut load = Load::start(server, "m", Corpus::tiny(), "a", CLIENTS - 1).await;
    load.join_with_lists(server, TEXTS_MAX).await;
    for content in ["b", "a"] {
        load.update(server, &tiny(content), content).await.expect("a good model");
    }
    load
}

/// A call of the storm: its content, times and outcome.
type CallOutcome = (&'static str, (Duration, Duration), Result<Committed, Refusal>);

/// Concurrent update calls.
struct Storm {
    control: Control,
    started: Instant,
    accepted: Arc<AtomicUsize>,
    calls: JoinSet<CallOutcome>,
}

impl Storm {
    fn new(server: &Server, started: Instant) -> Self {
        let accepted = Arc::new(AtomicUsize::new(0));
        Self { control: Control::new(server), started, accepted, calls: JoinSet::new() }
    }

    fn call(&mut self, content: &'static str, load: &'static str) {
        let (control, started) = (self.control.clone(), self.started);
        let accepted = Arc::clone(&self.accepted);
        self.calls.spawn(async move {
            let start = started.elapsed();
            let call = control.update("m", &tiny(content), load).await;
            accepted.fetch_add(1, Ordering::Relaxed);
            let (_, outcome) = call.end().await;
            (content, (start, started.elapsed()), outcome)
        });
    }

    /// Waits until the server has accepted `count` calls.
    async fn accepted(&self, count: usize) {
        eventually("all calls are accepted", TIMEOUT, async || {
            (self.accepted.load(Ordering::Relaxed) == count).then_some(())
        })
        .await;
    }

    async fn end(self) -> Vec<CallOutcome> {
        self.calls.join_all().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_a_hundred_updates_a_second_is_served() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let mut load = load(&server).await;
    let mut storm = Storm::new(&server, load.started());
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let contents = ["b", "a", "b", "b", "a"].into_iter().cycle();
    for (content, how) in contents.zip(["ahead", "lazy"].into_iter().cycle()).take(CALLS) {
        ticks.tick().await;
        storm.call(content, how);
    }
    storm.accepted(CALLS).await;
    storm.call("cls", "ahead");

    let (mut superseded, mut committed, mut last) = (Vec::new(), Vec::new(), None);
    for (content, times, outcome) in storm.end().await {
        match outcome {
            Ok(one) => {
                load.committed(times, &one, content);
                committed.push(one.generation);
                last = last.or((content == "cls").then_some((one.generation, one.version)));
            }
            Err(refusal) => superseded.push(refusal),
        }
    }
    load.more(50).await;
    assert_eq!(Some(served(&server, "m").await), last, "no commit after the last call");

    // Every committed number belongs to one caller, and superseded callers are told which number
    // replaced theirs.
    committed.sort_unstable();
    let newest = *committed.last().unwrap();
    assert_eq!(committed, (4..=newest).collect::<Vec<_>>());
    for refusal in &superseded {
        assert_eq!(refusal.kind, "superseded", "{refusal:?}");
        let instead = refusal.message.rsplit(' ').next().unwrap();
        assert!(committed.contains(&instead.parse().unwrap()), "{refusal:?}");
    }
    let summary = load.finish().await;
    eprintln!("{} commits, {} superseded, {summary:?}", committed.len(), superseded.len());
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

/// Repoints a link atomically.
fn repoint(link: &Path, to: &Path) {
    let new = link.with_extension("new");
    symlink(to, &new).expect("a link");
    std::fs::rename(new, link).expect("a link");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_hangups_fail_nothing_and_the_last_one_wins() {
    let builder = Server::builder();
    let current: PathBuf = builder.directories().models().join("current");
    repoint(&current, &tiny("a"));
    let server = builder.model("m", &current).start().await;
    let mut load = load(&server).await;
    let (before, start) = (served(&server, "m").await.0, load.now());
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for hangup in 0..2000 {
        ticks.tick().await;
        if hangup % 50 == 0 {
            repoint(&current, &tiny(if hangup % 100 == 0 { "b" } else { "a" }));
        }
        server.signal(Signal::SIGHUP);
    }
    repoint(&current, &tiny("cls"));
    server.signal(Signal::SIGHUP);
    wait_until_settled(&server).await;
    load.follow(&server, start, before, "cls").await;
    load.more(50).await;
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

/// Waits until the last signal has taken effect.
async fn wait_until_settled(server: &Server) {
    let corpus = Corpus::tiny();
    let mut last = (0, Instant::now());
    eventually("the last content is served and stays", TIMEOUT, async || {
        let serves = distance(&corpus.contents["cls"][1], &embed(server, &corpus.texts[1]).await);
        let generation = served(server, "m").await.0;
        if generation != last.0 || serves > TOLERANCE {
            last = (generation, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_hangup_and_call_make_two_generations() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    for content in ["a", "b"].into_iter().cycle().take(8) {
        // If updates were throttled, the call would replace the signal's update.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let before = served(&server, "m").await.0;
        server.signal(Signal::SIGHUP);
        let committed = server.update("m", Some(&tiny(content))).await.unwrap();
        assert!((before + 1..=before + 2).contains(&committed.generation), "{committed:?}");
        let both = server.generation_above("m", before + 1).await;
        assert_eq!(both.generation, before + 2, "one for the call, one for the signal");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_superseded_by_a_refused_update_is_not_blamed() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let control = Control::new(&server);
    let running = control.update("m", &tiny("slow"), "ahead").await;
    let waiting = control.update("m", &tiny("b"), "ahead").await;
    // An accepted call has a task, but the update queue may not have received it yet.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let newest = control.update("m", &tiny("truncated"), "ahead").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    checker(server.home()).await.signal(Signal::SIGKILL);
    let kind = async |call: Call| call.end().await.1.expect_err("refused").kind;
    assert_eq!(kind(running).await, "crash");
    assert_eq!(kind(newest).await, "load");
    assert_eq!(kind(waiting).await, "superseded");
    assert_eq!(served(&server, "m").await.0, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_answered_however_many_updates_are_queued() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let control = Control::new(&server);
    let mut running = control.update("m", &tiny("slow"), "ahead").await;
    running.step("passed").await;
    let mut storm = Storm::new(&server, Instant::now());
    (0..200).for_each(|_| storm.call("b", "ahead"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = tokio::time::timeout(Duration::from_secs(10), server.status()).await;
    let accepted = storm.accepted.load(Ordering::Relaxed);
    assert!(status.is_ok(), "no status after {accepted} calls were accepted");
    checker(server.home()).await.signal(Signal::SIGKILL);
    drop(running);
    let committed = storm.end().await.into_iter().filter(|(_, _, outcome)| outcome.is_ok()).count();
    assert!(committed > 0);
    server.stop().await;
}
