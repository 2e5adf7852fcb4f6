//! Starts an index process and exchanges frames with it, like the supervisor.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use onnxd_proto::{
    search::{
        Distance, Document, DocumentId, EmbeddedAs, Filter, FromIndex, Hit, Query, Settings, Shown,
        ToIndex,
    },
    wire::{
        frame::{self, Direction, Frame},
        message,
    },
};

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A process of the executable, killed when dropped.
pub(crate) struct Index {
    pub(crate) child: Child,
    socket: UnixStream,
    last_id: u64,
}

impl Index {
    /// Starts the executable on a directory of collections, in its sandbox.
    pub(crate) fn start(executable: &str, directory: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(TIMEOUT)).unwrap();
        let child = Command::new(executable)
            .arg("--directory")
            .arg(directory)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, socket: ours, last_id: 0 }
    }

    /// Sends a request and waits for its answer. Fails if the process ends.
    pub(crate) fn try_ask(&mut self, message: &ToIndex, payload: &[u8]) -> io::Result<FromIndex> {
        self.last_id += 1;
        let control = message::encode(message)?;
        frame::write(&mut self.socket, Direction::ToIndex, self.last_id, &control, &[payload])?;
        let mut answer = Frame::default();
        if !answer.read(&mut self.socket, Direction::FromIndex)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        assert_eq!(answer.id, self.last_id);
        message::decode(&answer.control)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask_with(&mut self, message: &ToIndex, payload: &[u8]) -> FromIndex {
        self.try_ask(message, payload).unwrap()
    }

    /// Sends a request without vectors and waits for its answer.
    pub(crate) fn ask(&mut self, message: &ToIndex) -> FromIndex {
        self.ask_with(message, &[])
    }

    /// Adds documents, each with its vector.
    pub(crate) fn upsert(
        &mut self,
        collection: &str,
        version: &str,
        documents: Vec<(Document, Vec<f32>)>,
    ) -> FromIndex {
        let (documents, vectors): (Vec<_>, Vec<_>) = documents.into_iter().unzip();
        let (collection, version) = (collection.to_owned(), version.to_owned());
        let embedded_as = embedded_as();
        self.ask_with(
            &ToIndex::Upsert { collection, embedded_as, version, documents },
            &bytes(&vectors.concat()),
        )
    }

    /// Searches with a dense vector.
    pub(crate) fn search(&mut self, collection: &str, query: Query, vector: &[f32]) -> FromIndex {
        self.ask_with(&ToIndex::Search { collection: collection.to_owned(), query }, &bytes(vector))
    }

    /// Closes the socket and waits until the process has exited.
    pub(crate) fn close(mut self) -> ExitStatus {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the bytes of numbers, as payloads have them.
pub(crate) fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Returns settings without a model.
pub(crate) fn settings(distance: Distance) -> Settings {
    Settings {
        model: None,
        distance,
        dimensions: None,
        declared_dimension: None,
        document_prompt: None,
        query_prompt: None,
        text_field: None,
        metadata: "{}".to_owned(),
    }
}

/// Returns how documents of a collection with [`settings`] are embedded.
pub(crate) fn embedded_as() -> EmbeddedAs {
    settings(Distance::Cosine).embedded_as()
}

/// Returns a document whose id is a number.
pub(crate) fn document(id: u64, text: &str, payload: &str) -> Document {
    Document { id: DocumentId::Number(id), text: text.to_owned(), payload: payload.to_owned() }
}

/// Returns a query for documents without their parts.
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

/// Returns the documents of an answer.
pub(crate) fn hits(answer: FromIndex) -> Vec<Hit> {
    match answer {
        FromIndex::Hits { hits, .. } | FromIndex::Page(hits, _) => hits,
        other => panic!("unexpected {other:?}"),
    }
}

/// Returns the numbers that are the ids of documents.
pub(crate) fn ids(hits: &[Hit]) -> Vec<u64> {
    let number = |hit: &Hit| match hit.id {
        DocumentId::Number(number) => number,
        DocumentId::Text(_) => panic!("the id is a text"),
    };
    hits.iter().map(number).collect()
}
