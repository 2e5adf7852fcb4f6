//! Runs `onnxd-index` or `onnxd-postgres` and exchanges frames with it. The process is started again
//! if it exits, and requests that it has not answered are sent again: all of them may be repeated.
//! Called by [`crate::catalog`].

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use onnxd_engine::tasks::Guard;
use onnxd_proto::{
    search::{FromIndex, IndexErrorKind, ToIndex},
    wire::{
        frame::{Direction, HEADER_BYTES, Header},
        message,
    },
};
use onnxd_telemetry::metrics::Metrics;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time,
};

use crate::executable::{IndexExecutable, may_have_collections};

#[cfg(test)]
pub(crate) mod fake;

/// Changes that may be in flight, and other requests that may be. More wait.
const IN_FLIGHT_MAX: usize = 64;
/// Attempts at a request: a document that kills the process must not do so for ever.
const ATTEMPTS_MAX: u32 = 3;
/// How long a process with requests may answer none. Opening a collection of a million documents takes
/// some seconds, and more on a busy machine.
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// Pause before a process that exited is started again; doubled after each further exit.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A process that ran for this long is started again after the shortest pause.
const STABLE: Duration = Duration::from_secs(30);

/// A handle to the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Index {
    /// Where the process keeps the collections; `None` for a database.
    directory: Option<Arc<Path>>,
    requests: mpsc::Sender<Request>,
    /// Limits the changes in flight, and their memory.
    changes: Arc<Semaphore>,
    /// Limits the other requests in flight, which do not wait for slow changes.
    reads: Arc<Semaphore>,
    /// Becomes true when the process must leave the collections to another.
    release: Arc<watch::Sender<bool>>,
    /// How long a request may take.
    timeout: Duration,
}

/// What a request keeps until the process has answered it, even if the caller does not wait for that.
pub(crate) type Held = Box<dyn Any + Send>;

/// A request and where its answer goes.
#[derive(Debug)]
struct Request {
    message: ToIndex,
    payload: Bytes,
    attempts: u32,
    reply: oneshot::Sender<FromIndex>,
    held: Option<Held>,
    /// `None` in tests.
    permit: Option<OwnedSemaphorePermit>,
}

impl Index {
    /// Starts the thread that runs the process for as long as a handle exists. The kernel kills the
    /// process when the thread that started it ends, and the runtime's threads come and go. The
    /// process itself starts with the first request. `metrics` count its restarts.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(
        executable: IndexExecutable,
        timeout: Duration,
        metrics: Arc<Metrics>,
        guard: Guard,
    ) -> io::Result<Self> {
        let directory = executable.directory();
        let (requests, queue) = mpsc::channel(2 * IN_FLIGHT_MAX);
        let permits = || Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let (changes, reads) = (permits(), permits());
        let (release, released) = watch::channel(false);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("index".into()).spawn(move || {
            let _guard = guard;
            runtime.block_on(run(executable, queue, released, &metrics));
        })?;
        Ok(Self { directory, requests, changes, reads, release: Arc::new(release), timeout })
    }

    /// Returns whether there may be collections. Does not start the process.
    pub fn exists(&self) -> bool {
        self.directory.as_ref().is_none_or(|directory| may_have_collections(directory))
    }

    /// Returns whether other programs may use the collections as well.
    pub fn is_shared(&self) -> bool {
        self.directory.is_none()
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&self, message: ToIndex, payload: Bytes) -> FromIndex {
        self.ask_holding(message, payload, None).await
    }

    /// Sends a request and waits for its answer. What is held is dropped before the answer is
    /// returned.
    pub(crate) async fn ask_holding(
        &self,
        message: ToIndex,
        payload: Bytes,
        held: Option<Held>,
    ) -> FromIndex {
        let failed = |message: String| FromIndex::Failed(IndexErrorKind::Storage.because(message));
        let (reply, answer) = oneshot::channel();
        let permits = if message.is_change() { &self.changes } else { &self.reads };
        let answered = time::timeout(self.timeout, async {
            // Never closed.
            let permit = Arc::clone(permits).acquire_owned().await.ok();
            let request = Request { message, payload, attempts: 0, reply, held, permit };
            let sent = self.requests.send(request).await;
            sent.is_ok().then_some(answer.await.ok()).flatten()
        });
        match answered.await {
            Ok(Some(answer)) => answer,
            Ok(None) => failed("onnxd is stopping; send the request to its successor".to_owned()),
            Err(_) => failed(format!(
                "the index process did not answer within {} s; try again later",
                self.timeout.as_secs()
            )),
        }
    }

    /// Ends the process once it has answered all requests, so that a successor's can have the
    /// collections. Later requests fail. Returns once it has ended.
    pub async fn release(&self) {
        self.release.send_replace(true);
        self.requests.closed().await;
    }
}

/// Runs the process while there are requests for it, and starts it again whenever it exits.
async fn run(
    executable: IndexExecutable,
    mut queue: mpsc::Receiver<Request>,
    mut released: watch::Receiver<bool>,
    metrics: &Metrics,
) {
    let (mut unanswered, mut pause) = (Vec::new(), PAUSE);
    let mut has_ended = false;
    loop {
        if unanswered.is_empty() {
            tokio::select! {
                request = queue.recv() => match request {
                    Some(request) => unanswered.push(request),
                    None => return,
                },
                () = until_true(&mut released) => return,
            }
        }
        let started = Instant::now();
        match executable.start() {
            Ok((mut child, socket)) => {
                if has_ended {
                    metrics.index_restarts_total.increment();
                }
                let ended = exchange(socket, (&mut queue, &mut released), &mut unanswered, metrics);
                let ended = ended.await;
                if ended {
                    // Its socket is closed, so that it exits.
                    let _ = child.wait().await;
                    return;
                }
                let pid = child.id();
                let _ = child.start_kill();
                let status = child.wait().await;
                let exit = status.map_or_else(|error| error.to_string(), |exit| exit.to_string());
                tracing::error!(
                    exit,
                    pid,
                    "the index process ended; the next request starts it again"
                );
                has_ended = true;
            }
            Err(error) => {
                tracing::error!(%error, "the index process cannot be started");
                refuse(&mut unanswered, &error);
            }
        }
        pause = if started.elapsed() > STABLE { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        time::sleep(pause).await;
    }
}

/// Waits until the value is true, or for ever if nothing can set it any more.
async fn until_true(value: &mut watch::Receiver<bool>) {
    if value.wait_for(|value| *value).await.is_err() {
        std::future::pending().await
    }
}

/// Answers requests that no process can take.
fn refuse(unanswered: &mut Vec<Request>, error: &io::Error) {
    for request in unanswered.drain(..) {
        let message = format!("the index process cannot be started: {error}");
        request.answer(FromIndex::Failed(IndexErrorKind::Storage.because(message)));
    }
}

/// Exchanges frames until the process ends. Returns true if no handle exists any more, or if the
/// process must leave the collections to another. Requests without an answer are left in
/// `unanswered`.
async fn exchange(
    socket: UnixStream,
    (queue, released): (&mut mpsc::Receiver<Request>, &mut watch::Receiver<bool>),
    unanswered: &mut Vec<Request>,
    metrics: &Metrics,
) -> bool {
    let (mut reader, mut writer) = socket.into_split();
    let (answers, mut answered) = mpsc::channel(2 * IN_FLIGHT_MAX);
    let reading = tokio::spawn(async move {
        while let Ok(answer) = read(&mut reader).await {
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    });
    let mut in_flight: BTreeMap<u64, Request> = BTreeMap::new();
    let mut again = std::mem::take(unanswered);
    let mut next = 0;
    let mut heard = time::Instant::now();
    let ended = loop {
        if in_flight.is_empty() {
            heard = time::Instant::now();
        }
        if let Some(mut request) = take_next(&mut again, &in_flight) {
            if request.attempts >= ATTEMPTS_MAX {
                let message = "the index process ended three times while it handled this request";
                request.answer(FromIndex::Failed(IndexErrorKind::Storage.because(message)));
                continue;
            }
            if request.attempts > 0 {
                metrics.index_requests_retried_total.increment();
            }
            request.attempts += 1;
            next += 1;
            let sent = write(&mut writer, next, &request).await;
            if let Err(error) = &sent
                && error.kind() == io::ErrorKind::InvalidInput
            {
                let message = "the request is too large; send fewer documents at once";
                request.answer(FromIndex::Failed(IndexErrorKind::Full.because(message)));
                continue;
            }
            in_flight.insert(next, request);
            if sent.is_err() {
                break false;
            }
            continue;
        }
        tokio::select! {
            request = queue.recv() => match request {
                Some(request) => again.push(request),
                None => break true,
            },
            () = until_true(released), if in_flight.is_empty() => break true,
            () = time::sleep_until(heard + SILENCE_MAX), if !in_flight.is_empty() => {
                tracing::error!(seconds = SILENCE_MAX.as_secs(), "killing the index process, which answers nothing");
                break false;
            }
            answer = answered.recv() => match answer {
                Some((id, answer)) => {
                    heard = time::Instant::now();
                    if let Some(request) = in_flight.remove(&id) {
                        let answer = request.settle(answer);
                        request.answer(answer);
                    }
                }
                None => break false,
            },
        }
    };
    reading.abort();
    unanswered.extend(in_flight.into_values().chain(again));
    ended
}

/// Takes a request that can be sent now. Those that were in a process when it ended are sent one at
/// a time, so that one that ends the process takes none of the others with it repeatedly. A new
/// change waits for repeated ones: they would undo it, although it is acknowledged later. Requests
/// whose caller has gone are dropped: none of them was acknowledged.
fn take_next(again: &mut Vec<Request>, in_flight: &BTreeMap<u64, Request>) -> Option<Request> {
    again.retain(|request| !request.reply.is_closed());
    let is_repeated = in_flight.values().any(|request| request.attempts > 1);
    let was_sent = again.iter().filter(|request| request.attempts > 0);
    let repeated = was_sent.chain(in_flight.values().filter(|request| request.attempts > 1));
    let changes_again = repeated.into_iter().any(|request| request.message.is_change());
    let can_be_sent = |request: &Request| match request.attempts {
        0 => !(changes_again && request.message.is_change()),
        _ => !is_repeated,
    };
    let index = again.iter().position(can_be_sent)?;
    Some(again.remove(index))
}

impl Request {
    /// Answers the caller, which may have gone.
    fn answer(self, answer: FromIndex) {
        let Self { reply, held, permit, .. } = self;
        drop((held, permit));
        let _ = reply.send(answer);
    }

    /// Returns the answer for the caller. A process may have done what was asked, and ended before
    /// it answered. Doing it again then fails.
    fn settle(&self, answer: FromIndex) -> FromIndex {
        let FromIndex::Failed(error) = &answer else { return answer };
        let was_done = match self.message {
            ToIndex::Create(..) => error.kind == IndexErrorKind::Exists,
            ToIndex::Drop(_) => error.kind == IndexErrorKind::NotFound,
            _ => false,
        };
        if self.attempts > 1 && was_done { FromIndex::Done } else { answer }
    }
}

async fn write(writer: &mut OwnedWriteHalf, id: u64, request: &Request) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let control = message::encode(&request.message).map_err(too_large)?;
    let header = Header::new(Direction::ToIndex, id, control.len(), request.payload.len());
    let header = header.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut head = BytesMut::with_capacity(HEADER_BYTES + control.len());
    head.extend_from_slice(&header.to_bytes());
    head.extend_from_slice(&control);
    writer.write_all(&head).await?;
    writer.write_all(&request.payload).await
}

async fn read(reader: &mut OwnedReadHalf) -> io::Result<(u64, FromIndex)> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).await?;
    let header = Header::parse(&header, Direction::FromIndex)?;
    let mut bytes = vec![0; header.control_len() + header.payload_len()];
    reader.read_exact(&mut bytes).await?;
    Ok((header.id(), message::decode(&bytes[..header.control_len()])?))
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
