//! Tests of the refresh, with versions that are just their name.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
};

use onnxd_proto::{
    control_page::ControlPage,
    domain::{Facts, PoolingMode, Record, Task},
};
use tempfile::TempDir;

use super::*;

/// The supervisor's side, and a model that follows it.
struct Bench {
    page: ControlPage,
    view: ControlPageView,
    layout: Layout,
    model: Model<String>,
    loader: Loader<String>,
    loads: Arc<AtomicU32>,
    reports: Receiver<FromWorker>,
    _dir: TempDir,
}

impl Content for String {
    fn is_compiled(&self) -> bool {
        self == "y"
    }

    fn cost_table(&self) -> CostTable {
        CostTable::default()
    }

    fn follow(&mut self, _facts: &Facts) {}
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let page = ControlPage::create().unwrap();
        let view = ControlPageView::map(page.read_only().unwrap()).unwrap();
        let model_slot = ModelSlot { name: "m".parse().unwrap(), slot: 0 };
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.generations(&model_slot.name)).unwrap();
        let (loads, (sender, reports)) = (Arc::new(AtomicU32::new(0)), mpsc::channel());
        let count = Arc::clone(&loads);
        // Versions whose name begins with "bad" do not load.
        let load = move |version: &str| {
            count.fetch_add(1, Ordering::Relaxed);
            assert!(version != "panic", "no luck");
            let bad = version.starts_with("bad");
            if bad { Err(RefusalKind::Load.because(version)) } else { Ok(version.to_owned()) }
        };
        let sender = move |message: &FromWorker| sender.send(message.clone()).unwrap();
        let loader = Loader::start(Box::new(load), Box::new(sender)).unwrap();
        Self {
            page,
            view,
            layout,
            model: Model::new(model_slot),
            loader,
            loads,
            reports,
            _dir: dir,
        }
    }

    fn loads(&self) -> u32 {
        self.loads.load(Ordering::Relaxed)
    }

    fn commit(&self, generation: Generation, version: &str) {
        let facts = Facts {
            dimension: 1,
            max_tokens: 1,
            pooling: PoolingMode::Mean.into(),
            normalize: true,
            ..Facts::new(Task::Embed)
        };
        let version = version.to_owned();
        let record =
            Record { version, configured_source: "/s".parse().unwrap(), facts, drift: None };
        let path = self.layout.generation(&self.model.model_slot.name, generation);
        fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
        self.page.commit(0, generation);
    }

    fn refresh(&mut self, now: Instant) -> Option<FromWorker> {
        self.model.refresh(&self.view, &self.layout, now, &self.loader)
    }

    /// Loads a version ahead and returns the answer.
    fn load_ahead(&self, version: &str) -> FromWorker {
        let at_once = self.model.load_ahead(version, &self.loader);
        at_once.unwrap_or_else(|| self.reports.recv_timeout(Duration::from_secs(10)).unwrap())
    }

    fn serves(&mut self) -> (Generation, String) {
        let serving = self.model.serving().unwrap();
        (serving.generation, serving.content.clone())
    }
}

/// Returns the message of a refresh that had to load nothing.
fn swapped(generation: Generation, compiled: bool) -> FromWorker {
    let costs = CostTable::default();
    FromWorker::Loaded { slot: 0, generation, load_micros: 0, compiled, costs }
}

#[test]
fn generation_and_version_change_together_on_commit() {
    let now = Instant::now();
    let mut bench = Bench::new();
    assert_eq!(bench.refresh(now), None);
    assert_eq!(bench.model.serving().unwrap_err(), "no generation is committed");
    bench.commit(1, "x");
    assert!(matches!(bench.refresh(now), Some(FromWorker::Loaded { generation: 1, .. })));
    assert_eq!(bench.refresh(now), None);
    assert_eq!(bench.serves(), (1, "x".into()));
    bench.commit(2, "y");
    assert!(matches!(bench.refresh(now), Some(FromWorker::Loaded { generation: 2, .. })));
    assert_eq!((bench.serves(), bench.loads()), ((2, "y".into()), 2));
}

#[test]
fn generation_with_the_same_version_loads_nothing() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    bench.commit(2, "x");
    let reports = bench.refresh(now);
    assert_eq!(reports, Some(swapped(2, false)));
    assert_eq!((bench.serves(), bench.loads()), ((2, "x".into()), 1));
}

#[test]
fn failed_load_keeps_the_old_generation_and_is_reported_once() {
    let mut now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    bench.commit(2, "bad");
    let failed = FromWorker::LoadFailed { slot: 0, generation: 2, reason: "bad".into() };
    assert_eq!(bench.refresh(now), Some(failed));
    for pause in [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
        let before = bench.loads();
        now += pause * 9 / 10;
        assert_eq!((bench.refresh(now), bench.loads()), (None, before), "{pause:?}");
        now += pause / 5;
        assert_eq!((bench.refresh(now), bench.loads()), (None, before + 1), "{pause:?}");
        assert_eq!(bench.serves(), (1, "x".into()));
    }
    bench.commit(3, "bad too");
    assert!(matches!(bench.refresh(now), Some(FromWorker::LoadFailed { generation: 3, .. })));
    bench.commit(4, "y");
    assert!(matches!(bench.refresh(now), Some(FromWorker::Loaded { generation: 4, .. })));
    assert_eq!(bench.serves(), (4, "y".into()));
}

#[test]
fn generation_without_a_record_fails_until_it_appears() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.page.commit(0, 1);
    assert!(matches!(bench.refresh(now), Some(FromWorker::LoadFailed { generation: 1, .. })));
    assert!(bench.model.serving().unwrap_err().contains("generations/m/1"));
    bench.commit(1, "x");
    assert_eq!(bench.refresh(now), None);
    let later = now + RETRY_FIRST * 2;
    assert!(matches!(bench.refresh(later), Some(FromWorker::Loaded { generation: 1, .. })));
}

#[test]
fn version_loaded_ahead_is_swapped_in_at_its_commit() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    let ahead = bench.load_ahead("y");
    assert!(matches!(ahead, FromWorker::LoadedAhead { slot: 0, .. }), "{ahead:?}");
    assert_eq!(bench.refresh(now), None);
    assert_eq!(bench.serves(), (1, "x".into()));
    bench.commit(2, "y");
    assert_eq!(bench.refresh(now), Some(swapped(2, true)));
    assert_eq!((bench.serves(), bench.loads()), ((2, "y".into()), 2));
}

#[test]
fn loaded_and_ready_versions_are_not_loaded_again() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    bench.load_ahead("y");
    for version in ["y", "x"] {
        let version = version.to_owned();
        let expected =
            FromWorker::LoadedAhead { slot: 0, version: version.clone(), load_micros: 0 };
        assert_eq!(bench.load_ahead(&version), expected);
    }
    assert_eq!(bench.loads(), 2);
}

#[test]
fn unused_version_loaded_ahead_is_dropped() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    bench.load_ahead("y");
    bench.load_ahead("z");
    bench.commit(2, "y");
    bench.refresh(now);
    assert_eq!((bench.serves(), bench.loads()), ((2, "y".into()), 4), "a later one replaces it");
    bench.commit(3, "z");
    bench.refresh(now);
    assert_eq!((bench.serves(), bench.loads()), ((3, "z".into()), 5), "another commit drops it");
}

#[test]
fn failed_load_ahead_is_reported_and_changes_nothing() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    for (version, words) in [("bad", "bad"), ("panic", "no luck")] {
        match bench.load_ahead(version) {
            FromWorker::LoadAheadFailed { slot: 0, reason, .. } => {
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.refresh(now), None);
    assert_eq!(bench.serves(), (1, "x".into()));
    assert!(matches!(bench.load_ahead("y"), FromWorker::LoadedAhead { .. }), "the loader survives");
}

#[test]
fn unload_drops_all_versions_and_is_reported_once() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    bench.load_ahead("y");
    bench.page.unload(0);
    assert_eq!(bench.refresh(now), Some(FromWorker::Unloaded { slot: 0 }));
    assert_eq!(bench.refresh(now), None);
    assert_eq!(bench.model.serving().unwrap_err(), "no generation is committed");
    bench.commit(2, "y");
    let reports = bench.refresh(now);
    assert!(matches!(reports, Some(FromWorker::Loaded { generation: 2, .. })), "{reports:?}");
    assert_eq!((bench.serves(), bench.loads()), ((2, "y".into()), 3), "y was loaded again");
}

#[test]
fn unload_forgets_the_failed_load() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "bad");
    assert!(matches!(bench.refresh(now), Some(FromWorker::LoadFailed { .. })));
    bench.page.unload(0);
    assert_eq!(bench.refresh(now), Some(FromWorker::Unloaded { slot: 0 }));
    assert_eq!(bench.model.serving().unwrap_err(), "no generation is committed");
    assert_eq!(bench.refresh(now), None);
}
