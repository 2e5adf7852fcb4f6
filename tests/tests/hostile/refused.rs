//! Every attack is refused within its limits, while another model serves without a failed request.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{corpus::Corpus, fixtures::model, load::Load, processes, server::Server};

use crate::attacks::{Attack, LOGIN, Servers};

/// More than an attack takes that needs no timeout. A broken download is tried three times.
const QUICK_MAX: Duration = Duration::from_secs(30);
/// More than the longest timeout of the fetcher.
const SLOW_MAX: Duration = Duration::from_secs(80);
/// Bound of a refusal's message.
const MESSAGE_BYTES_MAX: usize = 3000;
/// Bounds of memory and disk space. No attack sends more than a few megabytes of usable content.
const FETCHER_BYTES_MAX: u64 = 200 << 20;
const SUPERVISOR_GROWTH_MAX: u64 = 100 << 20;
const STATE_GROWTH_MAX: u64 = 32 << 20;
/// Models that are attacked at the same time.
const VICTIMS: [&str; 4] = ["victim0", "victim1", "victim2", "victim3"];

/// The largest sizes that were seen.
#[derive(Clone, Copy, Debug, Default)]
struct Peaks {
    fetcher: u64,
    state: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_sources_are_refused_and_disturb_nothing() {
    let servers = Servers::start();
    let server = start(&servers).await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    let (memory, space) =
        (processes::peak_memory_bytes(server.pid()), bytes_below(&state(&server)));
    let before = files_outside(&server);
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(server.pid(), state(&server), Arc::clone(&stop)));

    let quick = async {
        let mut wrong = Vec::new();
        for attack in servers.quick() {
            wrong.extend(fault(&server, VICTIMS[0], &attack, QUICK_MAX).await);
        }
        wrong
    };
    let slow = servers.slow();
    let slow = |at: usize| fault(&server, VICTIMS[at + 1], &slow[at], SLOW_MAX);
    let (mut wrong, first, second, third) = tokio::join!(quick, slow(0), slow(1), slow(2));
    wrong.extend([first, second, third].into_iter().flatten());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    stop.store(true, Ordering::Relaxed);
    let peaks: Peaks = watching.await.expect("no panic");
    assert!((1..FETCHER_BYTES_MAX).contains(&peaks.fetcher), "{peaks:?}");
    assert!(peaks.state < space + STATE_GROWTH_MAX, "{peaks:?}, {space} before");
    let grown = processes::peak_memory_bytes(server.pid()) - memory;
    assert!(grown < SUPERVISOR_GROWTH_MAX, "the supervisor has grown by {grown} bytes");
    let downloads = files_below(&state(&server).join("downloads")).into_iter();
    let parts: Vec<String> = downloads.filter(|path| path.ends_with(".part")).collect();
    assert!(parts.len() <= 1, "only the download of `truncated` can be resumed: {parts:?}");
    assert_eq!(files_outside(&server), before, "nothing is written outside the state directory");
    let escaped = files_below(server.home().root()).into_iter().find(|path| path.contains("escap"));
    assert_eq!((escaped, Path::new("/tmp/escaped").exists()), (None, false));
    let secret = "Basic aHVnbzpodW50ZXIyLWluLW5ldHJj";
    let logged_in =
        servers.main.asked().iter().any(|asked| asked.header("authorization") == secret);
    assert!(logged_in, "netrc was read");
    let redirected = servers.other.asked();
    assert!(!redirected.is_empty());
    assert!(redirected.iter().all(|asked| !asked.headers.contains_key("authorization")));
    let log = server.stderr();
    assert!(!log.contains(LOGIN.1) && !log.contains(secret), "no credentials in the log");
    assert!(!log.contains(['\x1b', '\x07']), "no control characters in the log");
    let longest = log.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 2 * MESSAGE_BYTES_MAX, "a line of {longest} bytes");
    let summary = load.finish().await;
    assert!(summary.answered > 100 && summary.generations == 1, "{summary:?}");
    server.stop().await;
}

/// Starts a server with model `m`, and models for the attacks that nothing else uses.
async fn start(servers: &Servers) -> Server {
    let builder = Server::builder();
    let root = builder.directories().root().to_owned();
    let (netrc, ca) = (root.join("netrc"), root.join("ca.pem"));
    let (login, password) = LOGIN;
    fs::write(&netrc, format!("machine 127.0.0.1 login {login} password {password}"))
        .expect("netrc");
    fs::write(&ca, &servers.pem).expect("a certificate");
    let builder = builder
        .model("m", &model("tiny/a"))
        .argument("--preload=m")
        .variable("NETRC", &netrc.to_string_lossy())
        .variable("ONNXD_SOURCE_CA_FILE", &ca.to_string_lossy())
        .variable("HF_ENDPOINT", &servers.main.url(""));
    let victim = |builder: e2e::launch::Builder, name: &&str| builder.model(name, &model("tiny/b"));
    VICTIMS.iter().fold(builder, victim).start().await
}

/// Updates a model from an attack. Returns how the result differs from what it must be.
async fn fault(
    server: &Server,
    victim: &str,
    (source, kind, part): &Attack,
    longest: Duration,
) -> Option<String> {
    let start = Instant::now();
    let result = server.update(victim, Some(Path::new(source))).await;
    let elapsed = start.elapsed();
    let is_right = result.as_ref().is_err_and(|refusal| {
        let message = &refusal.message;
        refusal.kind == *kind
            && message.contains(part)
            && message.len() < MESSAGE_BYTES_MAX
            && !message.contains(char::is_control)
            && elapsed < longest
    });
    (!is_right)
        .then(|| format!("{source}: expected {kind}, {part:?}: {elapsed:.1?} {result:.500?}"))
}

/// Records the largest memory of a fetcher and the largest state directory until told to stop.
async fn watch(pid: i32, state: PathBuf, stop: Arc<AtomicBool>) -> Peaks {
    let mut peaks = Peaks::default();
    while !stop.load(Ordering::Relaxed) {
        let fetchers = processes::descendants(pid)
            .into_iter()
            .filter(|process| processes::command_line(process.pid).starts_with("onnxd-fetch"));
        for fetcher in fetchers {
            peaks.fetcher = peaks.fetcher.max(processes::resident_bytes(fetcher.pid));
        }
        peaks.state = peaks.state.max(bytes_below(&state));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    peaks
}

fn state(server: &Server) -> PathBuf {
    server.home().state()
}

/// Returns all files of the home except those of the state directory.
fn files_outside(server: &Server) -> BTreeSet<String> {
    let state = state(server).display().to_string();
    let all = files_below(server.home().root());
    all.into_iter().filter(|path| !path.starts_with(&state)).collect()
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            _ => found.push(entry.path().display().to_string()),
        }
    }
    found
}

/// Returns the disk space of all files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = files_below(folder).into_iter();
    files.filter_map(|path| fs::symlink_metadata(path).ok()).map(|file| file.blocks() * 512).sum()
}
