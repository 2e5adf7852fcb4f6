//! Answers the requests of the supervisor: one thread reads frames, others answer them.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
};

use onnxd_proto::{
    exit::ExitStatus,
    limits::FRAME_CONTROL_BYTES_MAX,
    search::{FromIndex, IndexError, IndexErrorKind, Query, ToIndex},
    wire::{
        frame::{self, Direction, Frame},
        message,
    },
};
use onnxd_telemetry::log_limit::LogLimit;

use crate::{
    collections::Collections,
    fault, limits,
    vector::{self, Vector},
};

/// Requests of each kind that wait for a thread. The supervisor limits how many it sends.
const QUEUE_MAX: usize = 64;

/// The collections, once they could be opened.
struct Index {
    folder: PathBuf,
    collections: Mutex<Option<Arc<Collections>>>,
}

impl Index {
    /// Returns the collections. Opens them if that failed before: a full disk may have been the cause.
    fn collections(&self) -> Result<Arc<Collections>, IndexError> {
        let mut collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(collections) = &*collections {
            return Ok(Arc::clone(collections));
        }
        let opened = Arc::new(Collections::open(&self.folder)?);
        *collections = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// A request that waits for a thread.
struct Request {
    id: u64,
    message: ToIndex,
    payload: Vec<u8>,
}

/// Threads that take requests from one queue.
struct Pool {
    requests: SyncSender<Request>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(
        name: &str,
        threads: usize,
        index: &Arc<Index>,
        writer: &Arc<Mutex<UnixStream>>,
    ) -> io::Result<Self> {
        let (requests, queue) = mpsc::sync_channel::<Request>(QUEUE_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self { requests, threads: Vec::new() };
        for number in 0..threads {
            let (queue, index, writer) =
                (Arc::clone(&queue), Arc::clone(index), Arc::clone(writer));
            let thread = thread::Builder::new().name(format!("{name}-{number}"));
            pool.threads.push(thread.spawn(move || {
                let _guard = Panicking;
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(request) = next else { return };
                    let answer = answer(&index, request.message, &request.payload);
                    if let Err(error) = send(&writer, request.id, &answer) {
                        tracing::warn!(%error, "failed to answer the supervisor");
                    }
                }
            })?);
        }
        Ok(pool)
    }

    /// Waits until all requests are answered.
    fn end(self) {
        drop(self.requests);
        for thread in self.threads {
            // A panic has ended the process.
            let _ = thread.join();
        }
    }
}

/// Answers requests about the collections in a directory until the socket closes. Changes have
/// threads of their own, so that searches do not wait for the disk.
///
/// # Errors
/// The socket failed, or the supervisor is of another build.
pub(crate) fn serve(socket: &UnixStream, folder: &Path, threads: usize) -> io::Result<()> {
    let writer = Arc::new(Mutex::new(socket.try_clone()?));
    let index = Arc::new(Index { folder: folder.to_owned(), collections: Mutex::default() });
    let searches = Pool::start("search", threads, &index, &writer)?;
    let changes = Pool::start("change", threads, &index, &writer)?;
    let mut reader = socket;
    loop {
        let mut frame = Frame::default();
        if !frame.read(&mut reader, Direction::ToIndex)? {
            // Closing the databases writes all changes to their files, and removes the logs.
            searches.end();
            changes.end();
            drop(index);
            return Ok(());
        }
        let Frame { id, control, payload } = frame;
        match message::decode::<ToIndex>(&control) {
            Ok(message) => {
                let pool = if message.is_change() { &changes } else { &searches };
                let sent = pool.requests.send(Request { id, message, payload });
                sent.map_err(|_| io::Error::other("all threads have ended"))?;
            }
            Err(error) => {
                let error = IndexErrorKind::Invalid.because(format!("not a request: {error}"));
                send(&writer, id, &FromIndex::Failed(error))?;
            }
        }
    }
}

/// Ends the process if a thread panics: what it was changing may be half done in memory. The
/// supervisor starts another.
struct Panicking;

impl Drop for Panicking {
    fn drop(&mut self) {
        if thread::panicking() {
            process::exit(ExitStatus::Internal as i32);
        }
    }
}

fn send(writer: &Mutex<UnixStream>, id: u64, answer: &FromIndex) -> io::Result<()> {
    let mut control = message::encode(answer)?;
    if control.len() > FRAME_CONTROL_BYTES_MAX {
        let message =
            "the answer is too large; ask for fewer documents, or without payloads and vectors";
        control = message::encode(&FromIndex::Failed(IndexErrorKind::Full.because(message)))?;
    }
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    frame::write(&mut *writer, Direction::FromIndex, id, &control, &[])
}

fn answer(index: &Index, message: ToIndex, payload: &[u8]) -> FromIndex {
    static FAILURES: LogLimit = LogLimit::new();
    fault::crash_on_request(&index.folder, &message);
    let opened = index.collections();
    let answered = opened.and_then(|collections| handle(&collections, message, payload));
    answered.unwrap_or_else(|error| {
        if matches!(error.kind, IndexErrorKind::Storage | IndexErrorKind::Damaged)
            && let Some(suppressed) = FAILURES.admit()
        {
            let reason = &error.message;
            tracing::error!(reason, suppressed, "the index cannot use its files");
        }
        FromIndex::Failed(error)
    })
}

fn handle(
    collections: &Collections,
    message: ToIndex,
    payload: &[u8],
) -> Result<FromIndex, IndexError> {
    let (changed, done) = (FromIndex::Changed, |()| FromIndex::Done);
    let described = |info| FromIndex::Collections(vec![info]);
    limits::check(&message)?;
    let read = match message {
        ToIndex::UpsertSparse { .. } | ToIndex::EmbeddedSparse { .. } => vector::sparse,
        _ => vector::dense,
    };
    match message {
        ToIndex::List => collections.list().map(FromIndex::Collections),
        ToIndex::Names => collections.names().map(FromIndex::Names),
        ToIndex::Describe(name) => collections.describe(&name).map(described),
        ToIndex::Create(name, settings) => collections.create(&name, &settings).map(done),
        ToIndex::Configure(name, settings) => collections.configure(&name, &settings).map(done),
        ToIndex::Drop(name) => collections.remove(&name).map(done),
        ToIndex::SetAliases(removed, added) => collections.set_aliases(&removed, &added).map(done),
        ToIndex::Upsert { collection, embedded_as, version, documents }
        | ToIndex::UpsertSparse { collection, embedded_as, version, documents } => {
            let vectors = read(payload, documents.len())?;
            let made_by = (&embedded_as, version.as_str());
            collections.get(&collection)?.upsert(made_by, documents, vectors).map(changed)
        }
        ToIndex::Delete { collection, which } => {
            collections.get(&collection)?.delete(&which).map(changed)
        }
        ToIndex::ChangePayload { collection, which, change } => {
            collections.change_payload(&collection, &which, &change).map(changed)
        }
        ToIndex::Search { collection, query } => {
            let vectors = vector::dense(payload, 1)?;
            search(collections, &collection, &query, vectors)
        }
        ToIndex::Scroll { collection, filter, from, limit, shown } => {
            collections.get(&collection)?.scroll(&filter, from.as_ref(), limit, &shown)
        }
        ToIndex::Retrieve { collection, ids, shown } => {
            collections.get(&collection)?.retrieve(&ids, &shown)
        }
        ToIndex::Count { collection, filter } => {
            collections.get(&collection)?.count(&filter).map(changed)
        }
        ToIndex::Unembedded { collection, version, limit } => {
            let (texts, all) = collections.get(&collection)?.unembedded(&version, limit)?;
            Ok(FromIndex::Unembedded(texts, all))
        }
        ToIndex::Embedded { collection, embedded_as, version, documents }
        | ToIndex::EmbeddedSparse { collection, embedded_as, version, documents } => {
            let vectors = read(payload, documents.len())?;
            let made_by = (&embedded_as, version.as_str());
            collections.get(&collection)?.embedded(made_by, &documents, vectors).map(changed)
        }
        ToIndex::Keep { collection, versions } => {
            collections.named(&collection)?.keep(&versions).map(|()| FromIndex::Done)
        }
        ToIndex::Discard { collection, version } => {
            collections.named(&collection)?.discard(&version).map(|()| FromIndex::Done)
        }
        ToIndex::Reuse { collection, from, to } => {
            collections.named(&collection)?.reuse(&from, &to).map(changed)
        }
        ToIndex::SearchSparse { collection, query } => {
            let vectors = vector::sparse(payload, 1)?;
            search(collections, &collection, &query, vectors)
        }
        ToIndex::Committed { collection, .. } => {
            collections.get(&collection).map(|_| FromIndex::Done)
        }
    }
}

fn search(
    collections: &Collections,
    collection: &str,
    query: &Query,
    vectors: Vec<Vector>,
) -> Result<FromIndex, IndexError> {
    let collection = collections.get(collection)?;
    match vectors.into_iter().next() {
        Some(vector) => collection.search(query, vector),
        None => Err(IndexErrorKind::Invalid.because("the query has no vector")),
    }
}
