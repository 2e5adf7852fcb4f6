//! The database stops, and the process is confined.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use onnxd_proto::search::{Filter, FromIndex, IndexErrorKind, Shown, ToIndex};

use crate::{
    database::{Database, SECRET},
    process::{Process, document, embed, hits, settings, upsert},
};

fn count(process: &Process) -> FromIndex {
    process.ask(&ToIndex::Count { collection: "docs".into(), filter: Filter::default() }, &[])
}

/// Asks until the database is back.
fn wait(process: &Process) {
    let start = Instant::now();
    while !matches!(count(process), FromIndex::Changed(_)) {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", count(process));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Passes connections on to a database, and loses an answer if told so.
struct Lossy {
    address: SocketAddr,
    /// The statement whose answer is lost, with its connection.
    statement: Arc<Mutex<Option<&'static str>>>,
}

impl Lossy {
    fn start(database: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let lossy = Self { address: listener.local_addr().unwrap(), statement: Arc::default() };
        let statement = Arc::clone(&lossy.statement);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(database).unwrap();
                let (to_server, to_client) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                let is_lost = Arc::new(AtomicBool::new(false));
                let (found, statement) = (Arc::clone(&is_lost), Arc::clone(&statement));
                thread::spawn(move || {
                    pass(client, &to_server, |bytes| {
                        let mut statement = statement.lock().unwrap();
                        let is_found = |wanted: &mut &str| {
                            bytes.windows(wanted.len()).any(|part| part == wanted.as_bytes())
                        };
                        if statement.take_if(is_found).is_some() {
                            found.store(true, Ordering::SeqCst);
                        }
                        true
                    });
                });
                thread::spawn(move || {
                    pass(server, &to_client, |_| !is_lost.load(Ordering::SeqCst));
                });
            }
        });
        lossy
    }

    /// Loses the answer to the next statement like this.
    fn lose(&self, statement: &'static str) {
        *self.statement.lock().unwrap() = Some(statement);
    }

    /// Returns whether the answer was lost.
    fn has_lost(&self) -> bool {
        self.statement.lock().unwrap().is_none()
    }
}

/// Passes bytes on until one side closes, or `may_pass` says no, and closes both.
fn pass(mut from: TcpStream, mut to: &TcpStream, may_pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !may_pass(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_create_whose_answer_is_lost_succeeds_once() {
    let database = Database::start();
    let proxy = Lossy::start(database.address());
    let url = database.url().replace(&database.address().to_string(), &proxy.address.to_string());
    let process = Process::postgres(&url);
    process.create("docs", "{}");
    proxy.lose("COMMIT");
    process.create("more", "{}");
    assert!(proxy.has_lost());
    assert_eq!(database.sql("SELECT count(*) FROM \"my docs\"._collections"), "2");
    for name in ["docs", "more"] {
        let again = ToIndex::Create(name.into(), settings("{}"));
        assert_eq!(process.refused(&again, &[]), IndexErrorKind::Exists, "{name}");
        // A connection that is lost before anything was created excuses nothing: here, while the
        // create waits for other changes, with this number.
        proxy.lose("\0\0\0onnxd");
        assert_eq!(process.refused(&again, &[]), IndexErrorKind::Exists, "{name}");
        assert!(proxy.has_lost());
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_write_is_whole_or_absent_when_the_database_crashes() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let mut acknowledged = 0;
    let mut rejected = 0;
    for crash in 0..6_u64 {
        // Batch `n` sets the text of all 40 documents to `n`, in all of their vectors, too.
        let batch = |n: u64| {
            let documents: Vec<_> = (0..40)
                .map(|id| document(id, &format!("batch {n}"), &format!("{{\"n\":{n}}}")))
                .collect();
            let vectors: Vec<_> = documents.iter().map(|one| embed("v1", &one.text)).collect();
            (upsert("docs", "v1", documents), vectors)
        };
        std::thread::scope(|scope| {
            let stopper = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(150 + 37 * crash));
                database.stop("immediate");
            });
            let mut next = acknowledged + 1;
            loop {
                let (message, vectors) = batch(next);
                match process.ask(&message, &vectors) {
                    FromIndex::Changed(40) => acknowledged = next,
                    FromIndex::Failed(error) => {
                        assert_eq!(error.kind, IndexErrorKind::Unavailable, "{error}");
                        rejected += 1;
                        break;
                    }
                    other => panic!("unexpected {other:?}"),
                }
                next += 1;
            }
            stopper.join().unwrap();
        });
        let start = Instant::now();
        let FromIndex::Failed(error) = count(&process) else { panic!("the database is gone") };
        assert_eq!(error.kind, IndexErrorKind::Unavailable);
        assert!(start.elapsed() < Duration::from_secs(2), "fails at once");
        database.resume();
        wait(&process);
        let shown = Shown { text: true, payload: true, vector: Some("v1".into()) };
        let (collection, filter) = ("docs".to_owned(), Filter::default());
        let all = ToIndex::Scroll { collection, filter, from: None, limit: 100, shown };
        let found = hits(process.ask(&all, &[]));
        assert_eq!(found.len(), 40);
        let text = found[0].text.clone().unwrap();
        let n: u64 = text.strip_prefix("batch ").unwrap().parse().unwrap();
        // The last one may have been committed without an answer.
        assert!(n == acknowledged || n == acknowledged + 1, "{n} after {acknowledged}");
        for hit in &found {
            assert_eq!((hit.text.as_ref(), &hit.vector), (Some(&text), &found[0].vector));
            assert_eq!(hit.payload.as_deref(), Some(&*format!("{{\"n\":{n}}}")));
        }
        assert_eq!(process.nearest("docs", "v1", &text).len(), 10, "complete");
        acknowledged = n;
    }
    assert!(acknowledged > 12 && rejected == 6, "{acknowledged} {rejected}");
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_process_starts_without_the_database_and_finds_it_later() {
    let database = Database::start();
    database.stop("fast");
    let process = Process::postgres(&database.url());
    for _ in 0..3 {
        assert_eq!(process.refused(&ToIndex::List, &[]), IndexErrorKind::Unavailable);
    }
    database.resume();
    let start = Instant::now();
    while process.ask(&ToIndex::List, &[]) != FromIndex::Collections(vec![]) {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    process.create("docs", "{}");
    process.upsert("docs", "v1", vec![document(1, "a", "{}")]);
    // Restarted while nothing is asked: the next request does not notice.
    database.stop("fast");
    database.resume();
    assert_eq!(process.nearest("docs", "v1", "a").len(), 1);
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_database_that_hangs_counts_as_gone() {
    let database = Database::start();
    database.signal(Signal::SIGSTOP);
    let process = Process::postgres(&database.url());
    let start = Instant::now();
    assert_eq!(process.refused(&ToIndex::List, &[]), IndexErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    database.signal(Signal::SIGCONT);
    let start = Instant::now();
    while process.ask(&ToIndex::List, &[]) != FromIndex::Collections(vec![]) {
        assert!(start.elapsed() < Duration::from_secs(15));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn requests_at_the_same_time_are_answered_by_several_sessions() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let mut waiting = std::collections::BTreeSet::new();
    for id in 0..60 {
        let one = document(id % 7, &format!("text {id}"), "{}");
        let vector = vec![embed("v1", &one.text)];
        waiting.insert(process.send(&upsert("docs", "v1", vec![one]), &vector));
    }
    while !waiting.is_empty() {
        let (id, answer) = process.receive();
        assert_eq!(answer, FromIndex::Changed(1));
        assert!(waiting.remove(&id));
    }
    assert_eq!(count(&process), FromIndex::Changed(7));
    assert_eq!(process.nearest("docs", "v1", "text").len(), 7);
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn the_password_is_in_no_command_line() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    assert_eq!(process.ask(&ToIndex::List, &[]), FromIndex::Collections(vec![]));
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.pid())).unwrap();
    assert!(!read("cmdline").contains(SECRET));
    assert_eq!(read("comm").trim(), "onnxd-postgres");
    let status = read("status");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn one_server_uses_a_schema_and_its_successor_waits() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let second = Process::postgres(&database.url());
    let answer = second.ask(&ToIndex::List, &[]);
    let FromIndex::Failed(error) = answer else { panic!("unexpected {answer:?}") };
    assert_eq!(error.kind, IndexErrorKind::Unavailable);
    assert!(error.message.contains("another server uses this schema"), "{error}");
    // Another schema is no concern of theirs.
    let third = Process::postgres(&database.url().replace("my%20docs", "third"));
    assert_eq!(third.ask(&ToIndex::List, &[]), FromIndex::Collections(vec![]));
    process.upsert("docs", "v1", vec![document(1, "a", "{}")]);
    second.send(&ToIndex::List, &[]);
    drop(process);
    assert!(matches!(second.receive().1, FromIndex::Collections(all) if all.len() == 1));
    assert_eq!(count(&second), FromIndex::Changed(1));
}
