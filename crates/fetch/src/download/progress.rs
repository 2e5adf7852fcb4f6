//! Counts the bytes of a download and reports them a few times a second, and at its end.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::{Duration, Instant},
};

use onnxd_proto::domain::fetch::FetchEvent;

/// Minimum time between two reports.
const INTERVAL: Duration = Duration::from_millis(200);
/// Time after which work without downloaded bytes is reported: the supervisor ends a silent process.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The progress of a download.
pub(crate) struct Progress<'a> {
    bytes: Cell<u64>,
    total: Cell<u64>,
    /// Lengths that were learned during the download, by path.
    announced: RefCell<BTreeMap<String, u64>>,
    reported: Cell<Option<Instant>>,
    reported_bytes: Cell<u64>,
    emit: RefCell<&'a mut dyn FnMut(FetchEvent)>,
}

impl<'a> Progress<'a> {
    /// Creates a progress that is reported to `emit`.
    pub(crate) fn new(emit: &'a mut dyn FnMut(FetchEvent)) -> Self {
        Self {
            bytes: Cell::new(0),
            total: Cell::new(0),
            announced: RefCell::default(),
            reported: Cell::new(None),
            reported_bytes: Cell::new(0),
            emit: RefCell::new(emit),
        }
    }

    /// Sets the bytes that are to be downloaded.
    pub(super) fn start(&self, total: u64) {
        self.total.set(total);
    }

    /// Adds the length of a file, which a server stated only when it sent the file.
    pub(super) fn announce(&self, path: &str, bytes: u64) {
        let before = self.announced.borrow_mut().insert(path.to_owned(), bytes).unwrap_or(0);
        self.total.set(self.total.get().saturating_sub(before).saturating_add(bytes));
    }

    /// Returns the bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Returns the bytes in all, as far as they are known.
    pub(super) fn total(&self) -> u64 {
        self.total.get()
    }

    /// Counts bytes, and reports them if the last report is old enough.
    pub(super) fn add(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        let now = Instant::now();
        let is_due = |last: Instant| now.duration_since(last) >= INTERVAL;
        if self.reported.get().is_none_or(is_due) {
            self.reported.set(Some(now));
            self.report();
        }
    }

    /// Repeats the last report if it is old. Called while files are read or unpacked.
    pub(crate) fn tick(&self) {
        let now = Instant::now();
        match self.reported.get() {
            Some(last) if now.duration_since(last) < HEARTBEAT => {}
            last => {
                self.reported.set(Some(now));
                if last.is_some() {
                    self.report();
                }
            }
        }
    }

    /// Reports the bytes since the last report, which would otherwise be missing from the sum.
    pub(crate) fn finish(&self) {
        if self.bytes() != self.reported_bytes.get() {
            self.report();
        }
    }

    fn report(&self) {
        let (bytes, total) = (self.bytes(), self.total().max(self.bytes()));
        self.reported_bytes.set(bytes);
        (self.emit.borrow_mut())(FetchEvent::Progress { bytes, total });
    }

    /// Takes bytes back that are downloaded again.
    pub(super) fn subtract(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_rare_and_never_exceed_the_total() {
        let mut events = Vec::new();
        let mut emit = |event| events.push(event);
        let progress = Progress::new(&mut emit);
        progress.start(10);
        progress.announce("a", 5);
        progress.announce("a", 7);
        assert_eq!(progress.total(), 17);
        for _ in 0..20 {
            progress.add(1);
        }
        progress.subtract(3);
        assert_eq!(progress.bytes(), 17);
        std::thread::sleep(INTERVAL);
        progress.add(8);
        progress.finish();
        progress.add(1);
        progress.finish();
        drop(progress);
        let at = |bytes, total| FetchEvent::Progress { bytes, total };
        assert_eq!(events, [at(1, 17), at(25, 25), at(26, 26)]);
    }

    #[test]
    fn long_work_without_bytes_is_reported() {
        let mut events = Vec::new();
        let mut emit = |event| events.push(event);
        let progress = Progress::new(&mut emit);
        progress.tick();
        progress.tick();
        let old = Instant::now().checked_sub(HEARTBEAT).unwrap();
        progress.reported.set(Some(old));
        progress.tick();
        progress.tick();
        drop(progress);
        assert_eq!(events, [FetchEvent::Progress { bytes: 0, total: 0 }]);
    }
}
