//! Answers the requests of the supervisor: reads frames, and runs a task for each.

use std::{cell::Cell, io, os::unix::net, rc::Rc, sync::Arc, time::Duration};

use onnxd_proto::{
    search::{FromIndex, IndexError, IndexErrorKind, ToIndex},
    wire::{
        frame::{Direction, Frame, HEADER_BYTES, Header},
        message,
    },
};
use onnxd_telemetry::log_limit::LogLimit;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::{Mutex, Notify, Semaphore},
    task::LocalSet,
    time::{Instant, timeout},
};

use crate::{
    address::Address,
    catalog,
    collection::{changes, graphs, queries, search, view},
    listener::{self, Changes, Ownership},
    pool::Pool,
    tls::Connector,
};

/// Requests that are answered at a time. The supervisor limits how many it sends.
const REQUESTS_MAX: usize = 64;
/// Time for a request, so that a database that hangs is reported.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);

/// Time for copying vectors to another version. The others are embedded.
const REUSE_TIME_MAX: Duration = Duration::from_secs(100);

/// What requests are answered with. Cheap to clone.
#[derive(Clone)]
struct Server {
    pool: Pool,
    changes: Changes,
    ownership: Ownership,
    /// Told of each change of vectors.
    vectors_changed: Rc<Notify>,
    failures: Rc<LogLimit>,
}

/// Answers requests until the socket closes.
///
/// # Errors
/// The socket failed, or the supervisor is of another build.
pub(crate) fn serve(socket: net::UnixStream, address: Address, tls: Connector) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        socket.set_nonblocking(true)?;
        let (mut reader, writer) = UnixStream::from_std(socket)?.into_split();
        let writer = Rc::new(Mutex::new(writer));
        let server = Server {
            pool: Pool::new(address, tls),
            changes: Changes::default(),
            ownership: Ownership::default(),
            vectors_changed: Rc::default(),
            failures: Rc::default(),
        };
        let Server { pool, changes, ownership, vectors_changed, .. } = server.clone();
        tokio::task::spawn_local(graphs::make(pool.clone(), vectors_changed));
        tokio::task::spawn_local(listener::listen(pool, changes, ownership));
        let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
        while let Some(request) = read(&mut reader).await? {
            // Never closed.
            let permit = Arc::clone(&permits).acquire_owned().await;
            let (server, writer) = (server.clone(), Rc::clone(&writer));
            tokio::task::spawn_local(async move {
                let answer = server.answer(&request).await;
                if let Err(error) = send(&writer, request.id, &answer).await {
                    tracing::warn!(%error, "failed to answer the supervisor");
                }
                drop(permit);
            });
        }
        Ok(())
    })
}

/// Reads the next frame; `None` if the socket closed.
async fn read(reader: &mut OwnedReadHalf) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER_BYTES];
    match reader.read(&mut header[..1]).await? {
        0 => return Ok(None),
        _ => reader.read_exact(&mut header[1..]).await?,
    };
    let header = Header::parse(&header, Direction::ToIndex)?;
    let (mut control, mut payload) = (vec![0; header.control_len()], vec![0; header.payload_len()]);
    reader.read_exact(&mut control).await?;
    reader.read_exact(&mut payload).await?;
    Ok(Some(Frame { id: header.id(), control, payload }))
}

async fn send(writer: &Mutex<OwnedWriteHalf>, id: u64, answer: &FromIndex) -> io::Result<()> {
    let control = message::encode(answer).or_else(|_| {
        let message =
            "the answer is too large; ask for fewer documents, or without payloads and vectors";
        message::encode(&FromIndex::Failed(IndexErrorKind::Full.because(message)))
    })?;
    let header = Header::new(Direction::FromIndex, id, control.len(), 0)?;
    let bytes = [header.to_bytes().as_slice(), &control].concat();
    writer.lock().await.write_all(&bytes).await
}

impl Server {
    async fn answer(&self, request: &Frame) -> FromIndex {
        let answered = match message::decode(&request.control) {
            Ok(message) => self.within_time(message, &request.payload).await,
            Err(error) => Err(IndexErrorKind::Invalid.because(format!("not a request: {error}"))),
        };
        answered.unwrap_or_else(|error| {
            if error.kind == IndexErrorKind::Storage
                && let Some(suppressed) = self.failures.admit()
            {
                tracing::error!(reason = error.message, suppressed, "the database cannot be used");
            }
            FromIndex::Failed(error)
        })
    }

    async fn within_time(&self, message: ToIndex, payload: &[u8]) -> Result<FromIndex, IndexError> {
        self.ownership.wait().await?;
        // They may have to read or copy a large table.
        if matches!(message, ToIndex::Create(..) | ToIndex::Reuse { .. }) {
            return self.handle(message, payload).await;
        }
        timeout(REQUEST_TIME_MAX, self.handle(message, payload)).await.unwrap_or_else(|_| {
            let seconds = REQUEST_TIME_MAX.as_secs();
            let message = format!(
                "the database did not answer within {seconds} seconds; the request may be repeated"
            );
            Err(IndexErrorKind::Unavailable.because(message))
        })
    }

    async fn handle(&self, message: ToIndex, payload: &[u8]) -> Result<FromIndex, IndexError> {
        let pool = &self.pool;
        let changed = FromIndex::Changed;
        match &message {
            ToIndex::Search { collection, query } => {
                let vector = vectors(payload, 1)?.pop().unwrap_or_default();
                pool.read(async |on| search::search(collection, query, &vector, on).await).await
            }
            ToIndex::Scroll { collection, filter, from, limit, shown } => {
                let page = (from.as_ref(), *limit);
                let scroll =
                    async |on: &mut _| queries::scroll(collection, filter, page, shown, on).await;
                pool.read(scroll).await
            }
            ToIndex::Retrieve { collection, ids, shown } => {
                pool.read(async |on| queries::retrieve(collection, ids, shown, on).await).await
            }
            ToIndex::Count { collection, filter } => {
                let count = async |on: &mut _| queries::count(collection, filter, on).await;
                pool.read(count).await.map(changed)
            }
            ToIndex::Unembedded { collection, version, limit } => {
                self.unembedded(collection, version, *limit).await
            }
            ToIndex::Upsert { collection, embedded_as, version, documents } => {
                let vectors = vectors(payload, documents.len())?;
                let upsert = async |on: &mut _| {
                    changes::upsert(collection, (embedded_as, version), documents, &vectors, on)
                        .await
                };
                let count = pool.write(upsert).await?;
                self.vectors_changed.notify_one();
                Ok(changed(count))
            }
            ToIndex::Delete { collection, which } => {
                let delete = async |on: &mut _| changes::delete(collection, which, on).await;
                pool.write(delete).await.map(changed)
            }
            ToIndex::ChangePayload { collection, which, change } => {
                let change =
                    async |on: &mut _| changes::change_payload(collection, which, change, on).await;
                pool.write(change).await.map(changed)
            }
            ToIndex::Embedded { collection, embedded_as, version, documents } => {
                let vectors = vectors(payload, documents.len())?;
                let embedded = async |on: &mut _| {
                    changes::embedded(collection, (embedded_as, version), documents, &vectors, on)
                        .await
                };
                let count = pool.write(embedded).await?;
                self.vectors_changed.notify_one();
                Ok(changed(count))
            }
            _ => self.manage(&message).await,
        }
    }

    /// Answers requests about whole collections.
    async fn manage(&self, message: &ToIndex) -> Result<FromIndex, IndexError> {
        let pool = &self.pool;
        let schema = &*pool.address().schema;
        match message {
            ToIndex::List => {
                let list = async |on: &mut _| catalog::list(on).await;
                return pool.read(list).await.map(FromIndex::Collections);
            }
            ToIndex::Names => {
                let names = async |on: &mut _| catalog::names(on).await;
                return pool.read(names).await.map(FromIndex::Names);
            }
            ToIndex::Describe(name) => {
                let describe = async |on: &mut _| catalog::describe(name, on).await;
                let info = pool.read(describe).await?;
                return Ok(FromIndex::Collections(vec![info]));
            }
            ToIndex::Create(name, settings) => {
                let may_exist = Cell::new(false);
                let create = async |on: &mut _| {
                    catalog::create((name, settings), pool.address(), may_exist.get(), on).await?;
                    // From here on, a lost connection may hide a commit.
                    may_exist.set(true);
                    Ok(())
                };
                pool.write(create).await?;
            }
            ToIndex::Configure(name, settings) => {
                let configure =
                    async |on: &mut _| catalog::configure(name, settings, schema, on).await;
                pool.write(configure).await?;
            }
            ToIndex::Drop(name) => {
                pool.write(async |on| catalog::remove(name, schema, on).await).await?;
            }
            ToIndex::SetAliases(removed, added) => {
                let set = async |on: &mut _| catalog::set_aliases(removed, added, schema, on).await;
                pool.write(set).await?;
            }
            ToIndex::Keep { collection, versions } => {
                self.changes.forget();
                pool.write(async |on| changes::keep(collection, versions, on).await).await?;
            }
            ToIndex::Discard { collection, version } => {
                self.changes.forget();
                pool.write(async |on| changes::discard(collection, version, on).await).await?;
            }
            ToIndex::Reuse { collection, from, to } => {
                self.changes.forget();
                let count = self.reuse(collection, (from, to)).await?;
                self.vectors_changed.notify_one();
                return Ok(FromIndex::Changed(count));
            }
            ToIndex::UpsertSparse { .. }
            | ToIndex::EmbeddedSparse { .. }
            | ToIndex::SearchSparse { .. } => {
                let message = "collections in PostgreSQL have no sparse vectors; bind the collection to a model with dense ones, or keep it embedded (--search embedded)";
                return Err(IndexErrorKind::Invalid.because(message));
            }
            ToIndex::Committed { collection, version } => {
                pool.write(async |on| view::commit(collection, version, on).await).await?;
                // One that an earlier process has not finished.
                self.vectors_changed.notify_one();
            }
            // The caller answers the others.
            _ => return Err(IndexErrorKind::Invalid.because("not a request about a collection")),
        }
        Ok(FromIndex::Done)
    }

    /// Copies vectors of a version to another, in portions, so that writes get on.
    async fn reuse(&self, collection: &str, versions: (&str, &str)) -> Result<u64, IndexError> {
        let (start, mut last, mut count) = (Instant::now(), 0, 0);
        while start.elapsed() < REUSE_TIME_MAX {
            let reuse = async |on: &mut _| changes::reuse(collection, versions, last, on).await;
            let (next, copied) = self.pool.write(reuse).await?;
            count += copied;
            match next {
                Some(next) => last = next,
                None => break,
            }
        }
        Ok(count)
    }

    async fn unembedded(
        &self,
        collection: &str,
        version: &str,
        limit: usize,
    ) -> Result<FromIndex, IndexError> {
        if self.changes.is_complete(collection, version) {
            return Ok(FromIndex::Unembedded(Vec::new(), 0));
        }
        let mark = self.changes.mark();
        let ask = async |on: &mut _| queries::unembedded(collection, version, limit, on).await;
        let (texts, all, is_shared) = self.pool.read(ask).await?;
        if all == 0 && is_shared {
            self.changes.note_complete(mark, collection, version);
        }
        Ok(FromIndex::Unembedded(texts, all))
    }
}

/// Splits a payload into this number of vectors.
fn vectors(payload: &[u8], count: usize) -> Result<Vec<Vec<f32>>, IndexError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let bytes = payload.len() / count;
    if bytes == 0 || bytes * count != payload.len() || !bytes.is_multiple_of(size_of::<f32>()) {
        let message = format!("{} bytes are not {count} vectors", payload.len());
        return Err(IndexErrorKind::Invalid.because(message));
    }
    let vector = |bytes: &[u8]| {
        let (values, _) = bytes.as_chunks::<4>();
        values.iter().map(|value| f32::from_le_bytes(*value)).collect()
    };
    Ok(payload.chunks(bytes).map(vector).collect())
}
