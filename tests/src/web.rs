//! A web server with the files of a directory, as a source of models. Records its requests, and can
//! be taken away.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::fixtures::write_checksums;

/// The list of files that is uploaded last.
pub const CHECKSUMS: &str = "SHA256SUMS";

/// A served request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub method: String,
    pub path: String,
    pub status: u16,
}

/// A web server, which runs until it is dropped.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    is_away: AtomicBool,
    is_stopped: AtomicBool,
    served: Mutex<Vec<Served>>,
}

impl Web {
    /// Serves the files below `directory`.
    ///
    /// # Panics
    /// Panics if no port is free.
    pub fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            is_away: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            served: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A client may close its connection at any time.
                thread::spawn(move || drop(shared.serve(&stream)));
            }
        });
        Self { address, shared }
    }

    /// Returns the URL of the server, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URI of a folder.
    pub fn uri(&self, folder: &str) -> String {
        format!("{}/{folder}/", self.url())
    }

    /// Closes every connection without an answer from now on, or answers again.
    pub fn take_away(&self, is_away: bool) {
        self.shared.is_away.store(is_away, Ordering::Relaxed);
    }

    /// Returns the requests so far, and forgets them.
    ///
    /// # Panics
    /// Panics if a connection's thread panicked.
    pub fn take_served(&self) -> Vec<Served> {
        std::mem::take(&mut self.shared.served.lock().unwrap())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut known = None;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let Some((name, value)) = header.trim().split_once(':') else { break };
                if name.eq_ignore_ascii_case("if-none-match") {
                    known = Some(value.trim().to_owned());
                }
            }
            if self.is_away.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut words = line.split(' ');
            let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let file = fs::read(self.directory.join(path.trim_start_matches('/')));
            let (status, body) = match file {
                Ok(body) => (200, body),
                Err(_) => (404, Vec::new()),
            };
            let tag = format!("\"{:x}\"", fingerprint(&body));
            let status = if known.as_ref() == Some(&tag) { 304 } else { status };
            let served = Served { method: method.to_owned(), path: path.to_owned(), status };
            self.served.lock().expect("no panic while it is held").push(served);
            let length = if status == 304 { 0 } else { body.len() };
            let head =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\netag: {tag}\r\n\r\n");
            let mut stream = stream;
            stream.write_all(head.as_bytes())?;
            if method == "GET" && status != 304 {
                stream.write_all(&body)?;
            }
        }
    }
}

/// Returns a number that differs between files: the FNV-1a hash.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Uploads a model file by file, the checksums last, as an uploader must.
///
/// # Panics
/// Panics if a file cannot be copied.
pub fn upload(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(&path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&path), target).unwrap();
    }
    write_checksums(to);
}

/// Returns the paths of all files below a directory.
fn files(directory: &Path) -> Vec<String> {
    let mut find = Command::new("find");
    find.args([".", "-type", "f", "-printf", "%P\\n"]).current_dir(directory);
    let output = find.output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().filter(|name| *name != CHECKSUMS).map(str::to_owned).collect()
}
