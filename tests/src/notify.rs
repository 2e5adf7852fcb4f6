//! A fake systemd: binds the socket for `NOTIFY_SOCKET` and records what arrives.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::wait::eventually;

/// A received datagram.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Time of arrival.
    pub at: Instant,
    /// Its lines, such as `READY=1`.
    pub lines: Vec<String>,
}

impl Datagram {
    /// Returns whether it contains this line.
    pub fn has_line(&self, line: &str) -> bool {
        self.lines.iter().any(|own| own == line)
    }

    /// Returns the text after `name=`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

/// A bound notification socket.
#[derive(Debug)]
pub struct Notify {
    path: PathBuf,
    received: Arc<Mutex<Vec<Datagram>>>,
    stop: Arc<AtomicBool>,
}

impl Notify {
    /// Binds a socket in this directory and records what arrives.
    ///
    /// # Panics
    /// Panics on an I/O error.
    pub fn bind(directory: &Path) -> Self {
        let path = directory.join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let received: Arc<Mutex<Vec<Datagram>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (record, ended) = (Arc::clone(&received), Arc::clone(&stop));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ended.load(Ordering::Relaxed) {
                let Ok(count) = socket.recv(&mut buffer) else { continue };
                let text = String::from_utf8_lossy(&buffer[..count]);
                let lines = text.lines().map(ToOwned::to_owned).collect();
                record.lock().unwrap().push(Datagram { at: Instant::now(), lines });
            }
        });
        Self { path, received, stop }
    }

    /// Returns the value for `NOTIFY_SOCKET`.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Returns all datagrams received so far.
    pub fn all(&self) -> Vec<Datagram> {
        self.received.lock().unwrap().clone()
    }

    /// Waits for the first datagram, at index `from` or later, that contains `line`. Returns it
    /// with its index.
    pub async fn next(&self, line: &str, from: usize) -> (usize, Datagram) {
        let timeout = Duration::from_secs(60);
        eventually(&format!("the datagram {line}"), timeout, async || {
            let all = self.all();
            let index = all.iter().skip(from).position(|datagram| datagram.has_line(line))? + from;
            Some((index, all[index].clone()))
        })
        .await
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
