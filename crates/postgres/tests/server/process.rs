//! A process that owns collections: the real `onnxd-postgres`, or `onnxd-index` to compare with.

use std::{
    cell::Cell,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use onnxd_proto::{
    search::{
        Distance, Document, DocumentId, Filter, FromIndex, Hit, IndexError, IndexErrorKind, Query,
        Settings, Shown, Source, ToIndex, Unembedded,
    },
    wire::{
        frame::{self, Direction, Frame},
        message,
    },
};
use tempfile::TempDir;

/// A process and the supervisor's end of its socket.
pub(crate) struct Process {
    child: Child,
    socket: UnixStream,
    next: Cell<u64>,
    _folder: Option<TempDir>,
}

impl Process {
    /// Starts `onnxd-postgres`, confined as in production.
    pub(crate) fn postgres(url: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd-postgres"));
        command.env("ONNXD_SEARCH_URL", url);
        Self::start(command, None)
    }

    /// Starts the embedded index of the same build.
    pub(crate) fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = Path::new(env!("CARGO_BIN_EXE_onnxd-postgres"));
        let program: PathBuf = own.with_file_name("onnxd-index");
        let hint = "build it first: cargo build -p onnxd-index";
        assert!(program.exists(), "{} is missing; {hint}", program.display());
        let mut command = Command::new(program);
        command.arg("--directory").arg(folder.path());
        Self::start(command, Some(folder))
    }

    fn start(mut command: Command, folder: Option<TempDir>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        command.env("ONNXD_LOG", "info").stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().unwrap();
        Self { child, socket: ours, next: Cell::new(0), _folder: folder }
    }

    /// Asks for the error of a request.
    pub(crate) fn error(&self, message: &ToIndex) -> IndexError {
        match self.ask(message, &[]) {
            FromIndex::Failed(error) => error,
            other => panic!("{message:?} was answered by {other:?}"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request without waiting for its answer, and returns its id.
    pub(crate) fn send(&self, message: &ToIndex, vectors: &[Vec<f32>]) -> u64 {
        let id = self.next.get() + 1;
        self.next.set(id);
        let control = message::encode(message).unwrap();
        let payload: Vec<u8> =
            vectors.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        frame::write(&mut &self.socket, Direction::ToIndex, id, &control, &[&payload]).unwrap();
        id
    }

    pub(crate) fn receive(&self) -> (u64, FromIndex) {
        let mut frame = Frame::default();
        assert!(frame.read(&mut &self.socket, Direction::FromIndex).unwrap(), "the process ended");
        (frame.id, message::decode(&frame.control).unwrap())
    }

    pub(crate) fn ask(&self, message: &ToIndex, vectors: &[Vec<f32>]) -> FromIndex {
        let id = self.send(message, vectors);
        let (answered, answer) = self.receive();
        assert_eq!(answered, id);
        answer
    }

    /// Asks, and expects `Done`.
    pub(crate) fn done(&self, message: &ToIndex) {
        assert_eq!(self.ask(message, &[]), FromIndex::Done, "{message:?}");
    }

    pub(crate) fn refused(&self, message: &ToIndex, vectors: &[Vec<f32>]) -> IndexErrorKind {
        match self.ask(message, vectors) {
            FromIndex::Failed(error) => error.kind,
            other => panic!("{message:?} was answered by {other:?}"),
        }
    }

    pub(crate) fn create(&self, name: &str, metadata: &str) {
        self.done(&ToIndex::Create(name.to_owned(), settings(metadata)));
    }

    pub(crate) fn upsert(&self, collection: &str, version: &str, documents: Vec<Document>) {
        let vectors: Vec<Vec<f32>> =
            documents.iter().map(|document| embed(version, &document.text)).collect();
        let count = documents.len() as u64;
        let upsert = upsert(collection, version, documents);
        assert_eq!(self.ask(&upsert, &vectors), FromIndex::Changed(count));
    }

    pub(crate) fn unembedded(&self, collection: &str, version: &str) -> (Vec<Unembedded>, u64) {
        let (collection, version) = (collection.to_owned(), version.to_owned());
        match self.ask(&ToIndex::Unembedded { collection, version, limit: 3 }, &[]) {
            FromIndex::Unembedded(texts, all) => (texts, all),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Embeds what lacks a vector of a version, as the supervisor does. Returns how many.
    pub(crate) fn reembed(&self, collection: &str, version: &str) -> usize {
        let mut count = 0;
        loop {
            let (texts, _) = self.unembedded(collection, version);
            if texts.is_empty() {
                return count;
            }
            let documents = texts.iter().map(|text| (text.key, text.edition)).collect();
            let vectors: Vec<_> = texts.iter().map(|text| embed(version, &text.text)).collect();
            let (collection, version) = (collection.to_owned(), version.to_owned());
            let embedded = ToIndex::Embedded {
                collection,
                embedded_as: settings("{}").embedded_as(),
                version,
                documents,
            };
            assert_eq!(self.ask(&embedded, &vectors), FromIndex::Changed(texts.len() as u64));
            count += texts.len();
        }
    }

    pub(crate) fn search(&self, collection: &str, query: Query, vector: Vec<f32>) -> Vec<Hit> {
        let search = ToIndex::Search { collection: collection.to_owned(), query };
        hits(self.ask(&search, &[vector]))
    }

    /// Searches until a search follows the graph.
    pub(crate) fn wait_for_graph(&self, collection: &str, version: &str) {
        self.wait_for_graph_of(collection, version, &embed(version, "text"));
    }

    /// Searches for a vector until the search follows the graph.
    pub(crate) fn wait_for_graph_of(&self, collection: &str, version: &str, vector: &[f32]) {
        let start = Instant::now();
        let query = query(version, 1);
        let search = ToIndex::Search { collection: collection.to_owned(), query };
        loop {
            match self.ask(&search, &[vector.to_vec()]) {
                FromIndex::Hits { source: Source::Graph, .. } => return,
                FromIndex::Hits { .. } => thread::sleep(Duration::from_millis(50)),
                other => panic!("unexpected {other:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no graph of {version}");
        }
    }

    /// Returns the ids of the documents nearest to a text.
    pub(crate) fn nearest(&self, collection: &str, version: &str, text: &str) -> Vec<DocumentId> {
        let hits = self.search(collection, query(version, 10), embed(version, text));
        hits.into_iter().map(|hit| hit.id).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn hits(answer: FromIndex) -> Vec<Hit> {
    match answer {
        FromIndex::Hits { hits, .. } | FromIndex::Page(hits, _) => hits,
        other => panic!("unexpected {other:?}"),
    }
}

pub(crate) fn settings(metadata: &str) -> Settings {
    Settings {
        model: Some("m".to_owned()),
        distance: Distance::Cosine,
        dimensions: None,
        declared_dimension: None,
        document_prompt: None,
        query_prompt: None,
        text_field: None,
        metadata: metadata.to_owned(),
    }
}

pub(crate) fn document(id: u64, text: &str, payload: &str) -> Document {
    Document { id: DocumentId::Number(id), text: text.to_owned(), payload: payload.to_owned() }
}

pub(crate) fn upsert(collection: &str, version: &str, documents: Vec<Document>) -> ToIndex {
    ToIndex::Upsert {
        collection: collection.to_owned(),
        embedded_as: settings("{}").embedded_as(),
        version: version.to_owned(),
        documents,
    }
}

pub(crate) fn query(version: &str, limit: usize) -> Query {
    Query {
        version: version.to_owned(),
        filter: Filter::default(),
        limit,
        offset: 0,
        score_threshold: None,
        text: None,
        shown: Shown::default(),
    }
}

/// "Embeds" a text. Each version has its own space.
pub(crate) fn embed(version: &str, text: &str) -> Vec<f32> {
    let turn = if version == "v1" { 1.0 } else { -1.0 };
    let mut vector = vec![0.1, turn, 0.0, 0.0];
    for (place, byte) in text.bytes().enumerate() {
        vector[place % 4] += turn * f32::from(byte) / 64.0;
    }
    vector
}
