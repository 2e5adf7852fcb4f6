//! Looks for passwords where none may be: in what onnxd prints, and in the list of processes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use e2e::processes;

use crate::servers::{PASSWORD, USER, WRONG_PASSWORD};

/// Time between two looks at the list of processes. A fetcher lives longer.
const PERIOD: Duration = Duration::from_millis(20);

/// Checks that a text contains no password in any form.
pub(crate) fn assert_none(what: &str, text: &str) {
    for password in [PASSWORD, WRONG_PASSWORD] {
        let encoded = BASE64_STANDARD.encode(format!("{USER}:{password}"));
        for form in [password, &encoded] {
            let found = text.find(form);
            let shown = found.map(|at| &text[text.floor_char_boundary(at.saturating_sub(500))..at]);
            assert!(shown.is_none(), "{what} shows {form} after {shown:?}");
        }
    }
}

/// Collects the command lines of a supervisor and its processes.
pub(crate) struct CommandLines {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl CommandLines {
    /// Starts to collect.
    pub(crate) fn of(supervisor: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                seen.insert(processes::command_line(supervisor));
                let all = processes::descendants(supervisor);
                seen.extend(all.into_iter().map(|process| processes::command_line(process.pid)));
                thread::sleep(PERIOD);
            }
            seen
        });
        Self { stop, thread }
    }

    /// Checks that a fetcher was seen, and that no command line contains a password.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        assert!(seen.iter().any(|line| line.starts_with("onnxd-fetch")), "{seen:?}");
        seen.iter().for_each(|line| assert_none("a command line", line));
    }
}
