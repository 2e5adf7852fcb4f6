//! The refresh, with versions that are only their directory's name.

use std::{cell::Cell, fs};

use onnxd_proto::{
    control_page::ControlPage,
    layout::Record,
    message::{Facts, Pooling, Task},
};
use tempfile::TempDir;

use super::*;

/// A supervisor's half and a model that follows it.
struct Bench {
    page: ControlPage,
    view: ControlPageView,
    layout: Layout,
    model: Model<String>,
    loads: Cell<u32>,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let page = ControlPage::create().unwrap();
        let view = ControlPageView::map(page.read_only().unwrap()).unwrap();
        let place = ModelSlot { name: "m".parse().unwrap(), slot: 0 };
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.generations(&place.name)).unwrap();
        Self { page, view, layout, model: Model::new(place), loads: Cell::new(0), _dir: dir }
    }

    fn commit(&self, generation: Generation, version: &str) {
        let facts = Facts {
            task: Task::Embed,
            dimension: 1,
            max_tokens: 1,
            pooling: Pooling::Mean,
            normalize: true,
        };
        let version = version.to_owned();
        let record = Record { version, configured_source: "/s".into(), facts };
        let path = self.layout.generation(&self.model.place.name, generation);
        fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
        self.page.commit(0, generation);
    }

    /// Versions whose name begins with "bad" do not load.
    fn refresh(&mut self, now: Instant) -> Option<FromWorker> {
        self.model.refresh(&self.view, &self.layout, now, |dir| {
            self.loads.set(self.loads.get() + 1);
            let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("bad") { Err(RefusalKind::Load.because(name)) } else { Ok(name) }
        })
    }

    fn serves(&mut self) -> (Generation, String) {
        let serving = self.model.serving().unwrap();
        (serving.generation, serving.content.clone())
    }
}

#[test]
fn the_label_changes_with_the_content_and_only_when_something_was_committed() {
    let now = Instant::now();
    let mut bench = Bench::new();
    assert_eq!(bench.refresh(now), None);
    assert_eq!(bench.model.serving().unwrap_err(), "nothing is committed");
    bench.commit(1, "x");
    assert!(matches!(bench.refresh(now), Some(FromWorker::Loaded { generation: 1, .. })));
    assert_eq!(bench.refresh(now), None);
    assert_eq!(bench.serves(), (1, "x".into()));
    bench.commit(2, "y");
    assert!(matches!(bench.refresh(now), Some(FromWorker::Loaded { generation: 2, .. })));
    assert_eq!((bench.serves(), bench.loads.get()), ((2, "y".into()), 2));
}

#[test]
fn a_generation_with_the_same_content_loads_nothing() {
    let now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    bench.commit(2, "x");
    let told = bench.refresh(now);
    assert_eq!(told, Some(FromWorker::Loaded { slot: 0, generation: 2, load_micros: 0 }));
    assert_eq!((bench.serves(), bench.loads.get()), ((2, "x".into()), 1));
}

#[test]
fn what_cannot_be_loaded_leaves_the_old_one_under_its_own_number_and_is_told_once() {
    let mut now = Instant::now();
    let mut bench = Bench::new();
    bench.commit(1, "x");
    bench.refresh(now);
    bench.commit(2, "bad");
    let failed = FromWorker::LoadFailed { slot: 0, generation: 2, reason: "bad".into() };
    assert_eq!(bench.refresh(now), Some(failed));
    for pause in [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
        let before = bench.loads.get();
        now += pause * 9 / 10;
        assert_eq!((bench.refresh(now), bench.loads.get()), (None, before), "{pause:?}");
        now += pause / 5;
        assert_eq!((bench.refresh(now), bench.loads.get()), (None, before + 1), "{pause:?}");
        assert_eq!(bench.serves(), (1, "x".into()));
    }
    bench.commit(3, "bad too");
    assert!(matches!(bench.refresh(now), Some(FromWorker::LoadFailed { generation: 3, .. })));
    bench.commit(4, "y");
    assert!(matches!(bench.refresh(now), Some(FromWorker::Loaded { generation: 4, .. })));
    assert_eq!(bench.serves(), (4, "y".into()));
}

#[test]
fn a_generation_without_a_record_is_a_failure_that_may_heal() {
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
