//! Tests of the store on real directories.

use onnxd_proto::domain::{Facts, PoolingMode, Task};

use crate::models::{sources::fake::ByName, store::*};

fn source_with(content: &str) -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("model.onnx"), content).unwrap();
    source
}

fn record_of(version: &str) -> Record {
    let facts = Facts {
        dimension: 4,
        max_tokens: 8,
        pooling: PoolingMode::Mean.into(),
        normalize: true,
        ..Facts::new(Task::Embed)
    };
    let configured_source = "/x".parse().unwrap();
    Record { version: version.into(), configured_source, facts, drift: None }
}

fn stage(store: &Store, content: &str) -> Staged {
    let source = source_with(content);
    store.stage(&SourceUri::from_directory(source.path()), &Conditions::default(), &|_| {}).unwrap()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn equal_content_is_one_version() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
    let first = stage(&store, "a");
    let version = first.version.clone();
    assert!(first.folder().is_some());
    store.keep(first).unwrap();
    let again = stage(&store, "a");
    assert_eq!((again.version.as_str(), again.folder()), (version.as_str(), None));
    assert_eq!(store.files(&again), ["model.onnx"]);
    assert_ne!(stage(&store, "b").version, version);
    let model = store.layout().version(&version).join("model.onnx");
    assert_eq!(fs::metadata(model).unwrap().permissions().mode() & 0o777, 0o444);
    assert!(is_empty(&store.layout().staging()), "staged copies are removed unless kept");
}

#[test]
fn restart_serves_the_newest_generation_and_removes_leftovers() {
    let root = tempfile::tempdir().unwrap();
    let model = "m".parse().unwrap();
    let store = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
    assert_eq!(store.newest(&model).unwrap(), None);
    let staged = stage(&store, "a");
    let record = record_of(&staged.version);
    store.keep(staged).unwrap();
    store.record(&model, 9, &record).unwrap();
    store.record(&model, 10, &record).unwrap();
    store.record(&model, 11, &record_of("a version that was never kept")).unwrap();
    assert!(store.record(&model, 10, &record).is_err(), "a number is never reused");
    std::mem::forget(tempfile::tempdir_in(store.layout().staging()).unwrap());
    drop(store);
    let store = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
    assert!(is_empty(&store.layout().staging()));
    assert_eq!(store.newest(&model).unwrap(), Some((10, record)));
    assert_eq!(store.generations(&model).unwrap(), [9, 10, 11]);
}

#[test]
fn second_writer_is_refused_with_the_pid_of_the_first() {
    let root = tempfile::tempdir().unwrap();
    let _first = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
    let second = format!("{:?}", Store::open(root.path(), 3, ByName::sources(), None).unwrap_err());
    assert!(second.contains(&std::process::id().to_string()), "{second}");
}
