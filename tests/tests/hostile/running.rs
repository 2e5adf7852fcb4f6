//! A source that turns hostile while it is watched. A download that never ends blocks no rollback,
//! no stop and no upgrade, and a fetcher that dies or hangs leaves nothing behind.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    corpus::Corpus,
    eventually,
    fixtures::{self, model},
    load::Load,
    processes::{self, Process, Signal},
    server::Server,
};

use crate::{
    checksums,
    double::{Double, Fault, Reply},
};

const SOON: Duration = Duration::from_secs(30);
/// Commands end within this time, whatever a source does.
const PROMPT: Duration = Duration::from_secs(15);
/// Slightly faster than a server must be.
const SLOW: Fault = Fault::Trickle(Duration::from_micros(400));

/// What the watched source serves.
const GOOD: usize = 0;
/// The download of the model never ends.
const ENDLESS: usize = 1;
/// Its identity changes with every request, and its content is no model.
const CHANGING: usize = 2;
/// It asks for a pause.
const BUSY: usize = 3;
/// Tiny model B.
const OTHER: usize = 4;

/// A server whose model `m` comes from a source that is checked every second.
struct Watched {
    server: Server,
    source: Double,
    mode: Arc<AtomicUsize>,
}

impl Watched {
    async fn start() -> Self {
        let mode = Arc::new(AtomicUsize::new(GOOD));
        let source = source(Arc::clone(&mode));
        let builder = Server::builder().argument("--poll=1");
        let spec = format!("--model=m={}", source.url("/m/"));
        Self { server: builder.argument(&spec).start().await, source, mode }
    }

    /// Changes what the source serves.
    fn turn(&self, mode: usize) {
        self.mode.store(mode, Ordering::Relaxed);
    }

    /// Waits until a check has failed, and returns why.
    async fn error(&self) -> String {
        eventually("an error", SOON, async || {
            self.server.status().await.model("m").source_state.clone()?.error
        })
        .await
    }

    /// Waits until the endless download runs, and returns the fetcher.
    async fn downloading(&self) -> Process {
        self.source.asked();
        self.turn(ENDLESS);
        eventually("a download", SOON, async || {
            let asked = self.source.lines();
            asked.iter().any(|line| line == "GET /m/model.onnx").then_some(())
        })
        .await;
        eventually("a fetcher", SOON, async || fetchers(self.server.pid()).pop()).await
    }
}

/// Returns the files of a model by path.
fn files_of(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = ["onnx", "json"].into_iter().flat_map(|kind| fixtures::files_below(root, kind));
    let name = |path: &Path| path.strip_prefix(root).expect("below").display().to_string();
    paths.map(|path| (name(&path), fs::read(&path).expect("a file of the model"))).collect()
}

/// Serves tiny model A, and then what the mode says.
fn source(mode: Arc<AtomicUsize>) -> Double {
    let (files, other) = (files_of(&model("tiny/a")), files_of(&model("tiny/b")));
    let count = AtomicUsize::new(0);
    Double::start(move |asked| {
        let mode = mode.load(Ordering::Relaxed);
        let name = asked.path.trim_start_matches("/m/");
        let mut files = files.clone();
        let changed = count.load(Ordering::Relaxed).to_string();
        match mode {
            ENDLESS => drop(files.insert("model.onnx".to_owned(), vec![1; 4 << 20])),
            CHANGING => drop(files.insert("model.onnx".to_owned(), changed.clone().into_bytes())),
            OTHER => files.clone_from(&other),
            _ => {}
        }
        if mode == BUSY {
            return Reply::status(429).header("Retry-After", "3600");
        }
        if name == "SHA256SUMS" {
            let files: Vec<(&str, &[u8])> =
                files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            return Reply::ok(checksums(&files)).header("ETag", format!("\"{mode}-{changed}\""));
        }
        let Some(bytes) = files.remove(name) else { return Reply::status(404) };
        let reply = Reply::ok(bytes);
        match (mode, name) {
            (ENDLESS, "model.onnx") => reply.fault(SLOW),
            (CHANGING, "model.onnx") if asked.method == "GET" => {
                count.fetch_add(1, Ordering::Relaxed);
                reply
            }
            _ => reply,
        }
    })
}

fn fetchers(pid: i32) -> Vec<Process> {
    let is_fetcher =
        |process: &Process| processes::command_line(process.pid).starts_with("onnxd-fetch");
    processes::descendants(pid).into_iter().filter(is_fetcher).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_download_blocks_no_update_by_an_operator() {
    let watched = Watched::start().await;
    let server = &watched.server;
    let mut load = Load::start(server, "m", Corpus::tiny(), "a", 4).await;
    watched.downloading().await;
    let start = Instant::now();
    load.update(server, &model("tiny/b"), "b").await.expect("an update");
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    load.finish().await;
    watched.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_download_delays_no_stop() {
    let mut watched = Watched::start().await;
    let fetcher = watched.downloading().await;
    let start = Instant::now();
    watched.server.terminate().await;
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    assert!(!fetcher.runs());
    let log = watched.server.stderr();
    assert!(!log.contains(" ERROR "), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_download_delays_no_upgrade() {
    let watched = Watched::start().await;
    let load = Load::start(&watched.server, "m", Corpus::tiny(), "a", 2).await;
    let fetcher = watched.downloading().await;
    watched.server.signal(Signal::SIGUSR2);
    eventually("a successor", SOON, async || {
        watched.server.stderr().contains("predecessor exited").then_some(())
    })
    .await;
    assert!(!fetcher.runs());
    load.more(20).await;
    load.finish().await;
    let successor = fs::read_to_string(watched.server.home().state().join("lock"));
    let successor = successor.expect("a lock").trim().parse().expect("a pid");
    processes::signal(successor, Signal::SIGTERM);
    let gone = || Process::find(successor).is_none_or(|process| !process.runs());
    eventually("the exit", SOON, async || gone().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetcher_that_dies_or_hangs_is_replaced_and_leaves_nothing() {
    let mut watched = Watched::start().await;
    watched.downloading().await.signal(Signal::SIGKILL);
    let error = watched.error().await;
    assert!(error.contains("onnxd-fetch failed"), "{error}");
    watched.downloading().await.signal(Signal::SIGSTOP);
    let committed = watched.server.update("m", Some(&model("tiny/cls"))).await;
    assert_eq!(committed.expect("a fetcher that hangs is no obstacle").generation, 2);

    // What a killed supervisor leaves behind is used or removed by the next one.
    let fetcher = watched.downloading().await;
    watched.server.signal(Signal::SIGKILL);
    watched.server.wait_ignoring_staging().await;
    eventually("the end of the fetcher", PROMPT, async || (!fetcher.runs()).then_some(())).await;
    watched.turn(OTHER);
    let builder = Server::builder().home(watched.server.home()).argument("--poll=1");
    let spec = format!("--model=m={}", watched.source.url("/m/"));
    let server = builder.argument(&spec).start().await;
    server.generation_above("m", 2).await;
    let downloads = server.home().state().join("downloads");
    eventually("no leftovers", SOON, async || {
        let files: Vec<_> = fixtures::files_below(&downloads, "part");
        files.is_empty().then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_always_changes_or_is_busy_is_asked_at_intervals() {
    let watched = Watched::start().await;
    let load = Load::start(&watched.server, "m", Corpus::tiny(), "a", 2).await;
    watched.turn(CHANGING);
    let error = watched.error().await;
    assert!(error.contains("not a complete ONNX model"), "{error}");
    watched.source.asked();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let downloads = watched.source.lines().iter().filter(|line| line.contains(".onnx")).count();
    assert!(downloads <= 14, "{downloads} requests for at most 6 versions");
    eventually("another version", SOON, async || {
        watched.source.lines().iter().any(|line| line.contains(".onnx")).then_some(())
    })
    .await;

    watched.turn(BUSY);
    eventually("429", SOON, async || {
        let watch = watched.server.status().await.model("m").source_state.clone()?;
        watch.error.filter(|error| error.contains("429"))
    })
    .await;
    watched.source.asked();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(watched.source.lines(), [""; 0], "the server asked for a pause of an hour");
    load.finish().await;
    watched.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_with_the_same_source_do_not_disturb_each_other() {
    let mode = Arc::new(AtomicUsize::new(GOOD));
    let source = source(Arc::clone(&mode));
    let names = ["m", "n", "o", "p"];
    let of = |name: &&str| format!("--model={name}={}", source.url("/m/"));
    let builder =
        names.iter().map(of).fold(Server::builder(), |builder, spec| builder.argument(&spec));
    let server = builder.argument("--poll=1").start().await;
    mode.store(OTHER, Ordering::Relaxed);
    for name in names {
        server.generation_above(name, 1).await;
    }
    let log = server.stderr();
    assert!(!log.contains("refused") && !log.contains("not usable"), "{log}");
    server.stop().await;
}
