//! Documents are embedded by a version that does not serve, on separate worker processes.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use e2e::{
    corpus::{TOLERANCE, distance},
    fixtures::{self, model},
    home::Home,
    processes::{Process, Signal, descendants, nice},
    server::Server,
    soon,
};
use onnxd_engine::{
    engine::candidates::{CandidateParts, CandidateWorkers},
    models::{
        indexes::{Candidates, DocumentOptions, Embedder, IndexedVersion},
        sources::Sources,
        store::Store,
    },
    pool::{executable::WorkerExecutable, oom::OomKills},
};
use onnxd_proto::wire::operation::Side;
use serde_json::json;
use tokio::sync::Mutex;

const WORKERS: usize = 2;
/// Tests that count the children of this process run one after the other.
static ONE: Mutex<()> = Mutex::const_new(());

/// The state that a server left, with the workers that can embed by its versions.
struct Kept {
    store: Arc<Store>,
    workers: CandidateWorkers,
}

impl Kept {
    fn open(state: &Path) -> Self {
        let worker = fixtures::onnxd().with_file_name("onnxd-worker");
        let executable = WorkerExecutable::open(&worker, &fixtures::onnxruntime(), true)
            .expect("the worker is built");
        let sources = Sources::new(executable.clone(), None);
        let store =
            Arc::new(Store::open(state, 3, sources, None).expect("a new state directory opens"));
        let workers = CandidateWorkers::new(CandidateParts {
            store: Arc::clone(&store),
            executable,
            oom_kills: OomKills::new(|| None),
            cpus: vec![0; WORKERS],
            restarts_max: 5,
            worker_memory_bytes: None,
        });
        Self { store, workers }
    }

    /// Returns an embedder by the version of a generation.
    fn embedder(&self, generation: u64) -> Arc<dyn Embedder> {
        let model = "m".parse().expect("a valid name");
        let record = self.store.layout().read_record(&model, generation).expect("a record");
        let pin = self.store.pin(&record.version);
        self.workers.embedder(IndexedVersion { model, pin, record: Arc::new(record) })
    }
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text {number}{}", " and more".repeat(number % 7))).collect()
}

fn options() -> DocumentOptions {
    DocumentOptions { truncate: Some(Side::Model), ..DocumentOptions::default() }
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn is_close(one: &[Vec<f32>], other: &[Vec<f32>]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| distance(one, other) <= TOLERANCE)
}

fn workers() -> BTreeSet<Process> {
    descendants(i32::try_from(std::process::id()).expect("a pid fits"))
}

#[tokio::test(flavor = "multi_thread")]
async fn candidate_embeds_as_it_will_serve_and_leaves_nothing() {
    let _one = ONE.lock().await;
    let home = Arc::new(Home::new());
    let server = Server::builder().home(&home).model("m", &model("tiny/prompts")).start().await;
    let texts = texts(300);
    let served = async |server: &Server| {
        let mut vectors = Vec::new();
        for part in texts.chunks(32) {
            let body = json!({"inputs": part, "input_type": "document"});
            let answer = server.client().await.post("/embed", &body).await.unwrap();
            vectors.extend(answer.embeddings());
        }
        vectors
    };
    let first = served(&server).await;
    let forced = ["--force"];
    server.update_with("m", Some(&model("tiny/a")), &forced).await.unwrap();
    let second = served(&server).await;
    assert!(!is_close(&first, &second), "two versions");
    server.stop().await;

    let kept = Kept::open(&home.state());
    for (generation, expected) in [(1, &first), (2, &second)] {
        let embedder = kept.embedder(generation);
        assert!(workers().is_empty(), "nothing runs before the first call");
        let embedded = embedder.embed(texts.clone(), options()).await.unwrap();
        let embedded: Vec<_> = embedded.iter().map(|bytes| numbers(bytes)).collect();
        assert!(is_close(&embedded, expected), "generation {generation}");
        assert_eq!((workers().len(), home.staged().len()), (WORKERS, 1));
        assert!(workers().iter().all(|worker| nice(worker.pid) == 10), "serving comes first");
        drop(embedder);
        assert!(soon(Duration::from_secs(5), || workers().is_empty()));
        assert!(home.staged().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_cost_no_document() {
    let _one = ONE.lock().await;
    let home = Arc::new(Home::new());
    let server = Server::builder().home(&home).model("m", &model("tiny/a")).start().await;
    server.stop().await;
    let kept = Kept::open(&home.state());
    let embedder = kept.embedder(1);
    let texts = texts(2000);
    let expected = embedder.embed(texts.clone(), options()).await.unwrap();
    let kill = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            workers().iter().take(1).for_each(|worker| worker.signal(Signal::SIGKILL));
        }
    };
    let (again, ()) = tokio::join!(embedder.embed(texts, options()), kill);
    let vectors = |embedded: &[bytes::Bytes]| -> Vec<_> {
        embedded.iter().map(|bytes| numbers(bytes)).collect()
    };
    assert!(is_close(&vectors(&again.unwrap()), &vectors(&expected)));
}
