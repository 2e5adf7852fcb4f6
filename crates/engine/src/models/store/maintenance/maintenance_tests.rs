//! Tests of surveys, repairs and removals on real state directories.

use onnxd_proto::domain::{Facts, Record, SourceUri, Task, model_name::ModelName};

use super::{
    prune::Kept,
    survey::{RecordState, Survey},
    *,
};
use crate::models::{
    sources::{Conditions, fake::ByName},
    store::Store,
};

/// A state directory whose models have a generation per content, from 1.
fn state(models: &[(&str, &[&str])]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for (model, contents) in models {
        for (content, generation) in contents.iter().zip(1..) {
            let source = tempfile::tempdir().unwrap();
            fs::write(source.path().join("model.onnx"), content).unwrap();
            let uri = SourceUri::from_directory(source.path());
            let staged = store.stage(&uri, &Conditions::default(), &|_| {}).unwrap();
            let record = Record {
                version: staged.version.clone(),
                configured_source: "hf://org/name".parse().unwrap(),
                facts: Facts::new(Task::Embed),
                drift: None,
            };
            store.keep(staged).unwrap();
            fs::create_dir_all(store.layout().compiled(&record.version).join("key")).unwrap();
            store.record(&name(model), generation, &record).unwrap();
        }
    }
    root
}

fn open(root: &Path) -> Store {
    Store::open(root, 3, ByName::sources(), None).unwrap()
}

fn name(model: &str) -> ModelName {
    model.parse().unwrap()
}

fn record_of(root: &Path, model: &str, generation: u64) -> PathBuf {
    Layout::new(root).generation(&name(model), generation)
}

fn version_of(root: &Path, model: &str, generation: u64) -> PathBuf {
    let layout = Layout::new(root);
    layout.version(&layout.read_record(&name(model), generation).unwrap().version)
}

fn repair(root: &Path) -> Vec<Change> {
    let maintenance = Maintenance::open(root).unwrap();
    let changes = repair::plan(&maintenance.survey().unwrap());
    changes.iter().for_each(|change| maintenance.apply(change).unwrap());
    changes
}

fn served(root: &Path, model: &str) -> Option<u64> {
    open(root).newest(&name(model)).unwrap().map(|(generation, _)| generation)
}

#[test]
fn a_whole_directory_needs_no_repair() {
    let root = state(&[("m", &["a", "b"]), ("n", &["a"])]);
    let survey = Survey::read(root.path()).unwrap();
    assert!(!survey.is_damaged());
    let shown: Vec<_> =
        survey.models.iter().map(|model| (model.model.as_str(), model.serves)).collect();
    assert_eq!(shown, [("m", Some(2)), ("n", Some(1))]);
    assert_eq!(survey.models[0].source.as_deref(), Some("hf://org/name"));
    let shared = survey.versions.iter().find(|version| version.models.len() == 2);
    assert!(shared.is_some_and(|version| version.bytes > 0), "{:?}", survey.versions);
    assert_eq!(repair(root.path()), []);
}

/// Damages the record at a path.
type Damage = fn(&Path);

#[test]
fn damaged_records_are_set_aside_and_their_numbers_stay_used() {
    let damages: [(&str, Damage); 5] = [
        ("empty", |path| fs::write(path, "").unwrap()),
        ("cut", |path| fs::write(path, "{\"version\":").unwrap()),
        ("another type", |path| fs::write(path, "[1]").unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a full directory", |path| fs::create_dir_all(path.join("x/y")).unwrap()),
    ];
    for (what, damage) in damages {
        let root = state(&[("m", &["a", "b"]), ("n", &["c"])]);
        let record = record_of(root.path(), "m", 2);
        fs::remove_file(&record).unwrap();
        damage(&record);
        let store = open(root.path());
        assert_eq!(store.damaged_records(&name("m")), [2], "{what}");
        assert_eq!(store.damaged_records(&name("n")), [0; 0], "{what}");
        drop(store);
        let survey = Survey::read(root.path()).unwrap();
        let damaged: Vec<_> = survey.models[0].damaged().map(|record| record.generation).collect();
        assert_eq!((survey.models[0].serves, damaged), (Some(1), vec![2]), "{what}");

        let changes = repair(root.path());
        assert_eq!(changes[0].action, Action::SetAsideRecord, "{what}");
        let moved = root.path().join("damaged/generations/m/2");
        assert_eq!(changes[0].to.as_deref(), Some(&*moved), "{what}");
        assert!(moved.exists(), "{what}");
        let survey = Survey::read(root.path()).unwrap();
        assert!(!survey.is_damaged() && survey.set_aside_bytes == changes[0].bytes, "{what}");
        assert_eq!(survey.models[0].records[1].state, RecordState::SetAside, "{what}");
        let store = open(root.path());
        assert_eq!(store.generations(&name("m")).unwrap(), [1, 2], "{what}");
        assert_eq!(store.damaged_records(&name("m")), [0; 0], "{what}");
        drop(store);
        assert_eq!((served(root.path(), "m"), served(root.path(), "n")), (Some(1), Some(1)));

        fs::remove_file(&record).unwrap();
        fs::write(&record, "again").unwrap();
        let again = repair(root.path());
        assert!(again[0].to.as_ref().is_some_and(|to| to.ends_with("2.2")), "{what}: {again:?}");
    }
}

#[test]
fn damaged_versions_are_set_aside_with_the_records_that_would_serve_them() {
    let damages: [(&str, Damage); 5] = [
        ("model.onnx was changed", |path| replace(path, "model.onnx", Some("x"))),
        ("model.onnx was changed", |path| replace(path, "model.onnx", Some("longer"))),
        ("model.onnx is missing", |path| replace(path, "model.onnx", None)),
        ("other does not belong to it", |path| replace(path, "other", Some(""))),
        ("MANIFEST was changed", |path| replace(path, "MANIFEST", Some("onnxd manifest 1\n"))),
    ];
    for (what, damage) in damages {
        let root = state(&[("m", &["a", "b"]), ("n", &["a"])]);
        let folder = version_of(root.path(), "m", 2);
        damage(&folder);
        fs::write(folder.join(".nfs0001"), "left by a file system").unwrap();
        let survey = Survey::read(root.path()).unwrap();
        let found: Vec<_> = survey.versions.iter().filter_map(|one| one.damage.clone()).collect();
        assert_eq!(found, [what]);
        repair(root.path());
        let aside = root.path().join("damaged/versions").join(folder.file_name().unwrap());
        assert!(aside.is_dir() && !folder.exists(), "{what}");
        assert_eq!(served(root.path(), "m"), Some(1), "{what}");
        assert!(!Survey::read(root.path()).unwrap().is_damaged(), "{what}");
    }
}

/// Changes a file of a kept version.
fn replace(folder: &Path, file: &str, content: Option<&str>) {
    let path = folder.join(file);
    let _ = fs::remove_file(&path);
    if let Some(content) = content {
        fs::write(path, content).unwrap();
    }
}

#[test]
fn leftovers_are_removed_and_records_that_cannot_be_listed_stay() {
    let root = state(&[("m", &["a"])]);
    let layout = Layout::new(root.path());
    fs::create_dir_all(layout.staging().join("half")).unwrap();
    fs::create_dir_all(layout.version("v.removed")).unwrap();
    fs::write(layout.generations_root().join("broken"), "").unwrap();
    let removed: Vec<PathBuf> = repair(root.path()).into_iter().map(|change| change.path).collect();
    assert_eq!(removed, [layout.staging().join("half"), layout.version("v.removed")]);
    assert!(removed.iter().all(|path| !path.exists()));
    let survey = Survey::read(root.path()).unwrap();
    assert!(survey.is_damaged() && survey.models[0].unreadable.is_some());
    assert!(layout.generations_root().join("broken").exists());
}

#[test]
fn a_locked_directory_can_be_surveyed_and_not_changed() {
    let root = state(&[("m", &["a"])]);
    let _server = open(root.path());
    let pid = std::process::id().to_string();
    assert_eq!(Survey::read(root.path()).unwrap().server.as_ref(), Some(&pid));
    let refused = Maintenance::open(root.path()).unwrap_err().message;
    assert!(refused.contains(&pid) && refused.contains("stop it"), "{refused}");
}

#[test]
fn another_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for path in [root.path().to_owned(), root.path().join("missing")] {
        let refused = Survey::read(&path).unwrap_err().message;
        assert!(
            refused.contains("--state-dir: ") && Maintenance::open(&path).is_err(),
            "{refused}"
        );
    }
    assert!(fs::read_dir(root.path()).unwrap().next().is_none(), "nothing is created");
}

#[test]
fn pruning_removes_exactly_what_no_kept_model_uses() {
    let root = state(&[("m", &["a", "b"]), ("old", &["a", "c"]), ("older.x", &["d"])]);
    let layout = Layout::new(root.path());
    for folder in [layout.downloads().join("x"), layout.quarantine(&name("old"))] {
        fs::create_dir_all(folder).unwrap();
    }
    let kept = [version_of(root.path(), "m", 1), version_of(root.path(), "m", 2)];
    let gone = [version_of(root.path(), "old", 2), version_of(root.path(), "older.x", 1)];
    let keep = Kept { models: [name("m")].into(), sources: Vec::new() };
    let others = prune::unconfigured(&layout, &keep).unwrap();
    assert_eq!(others, [name("old"), name("older.x")]);

    let changes = prune::plan(&layout, &keep).unwrap();
    assert!(gone.iter().all(|path| path.exists()), "a plan changes nothing");
    let maintenance = Maintenance::open(root.path()).unwrap();
    changes.iter().for_each(|change| maintenance.apply(change).unwrap());
    drop(maintenance);
    assert!(kept.iter().all(|path| path.exists()) && gone.iter().all(|path| !path.exists()));
    assert!(!layout.downloads().join("x").exists() && !layout.quarantine(&name("old")).exists());
    assert!(
        gone.iter()
            .all(|path| !layout.compiled(path.file_name().unwrap().to_str().unwrap()).exists())
    );
    assert_eq!(prune::plan(&layout, &keep).unwrap(), []);
    assert_eq!(served(root.path(), "m"), Some(2));
    assert!(!Survey::read(root.path()).unwrap().is_damaged());
}

#[test]
fn a_model_of_a_hub_stays_also_before_its_rename() {
    let root = state(&[("org/Name", &["a"]), ("minilm", &["b"]), ("other", &["c"])]);
    let layout = Layout::new(root.path());
    let keep = Kept { models: [name("org/Name"), name("MiniLM")].into(), sources: Vec::new() };
    assert_eq!(prune::unconfigured(&layout, &keep).unwrap(), [name("other")]);
    let maintenance = Maintenance::open(root.path()).unwrap();
    for change in prune::plan(&layout, &keep).unwrap() {
        maintenance.apply(&change).unwrap();
    }
    for model in ["org/Name", "minilm"] {
        assert!(version_of(root.path(), model, 1).exists(), "{model}");
    }
    assert!(!layout.generations(&name("other")).exists());
}

#[test]
fn a_record_is_set_aside_in_one_step_on_any_file_system() {
    let root = tempfile::tempdir().unwrap();
    let (record, to) = (root.path().join("2"), root.path().join("to"));
    let fill = || {
        fs::write(&record, "damaged").unwrap();
        fs::write(&to, "note").unwrap();
    };
    fill();
    replace_record(&record, &to).unwrap();
    let read = |path| fs::read_to_string(path).unwrap();
    assert_eq!((read(&record), read(&to)), ("note".to_owned(), "damaged".to_owned()));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    // A directory cannot be replaced in one step, so its number would be free for a moment.
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let refused = replace_record(&record, &to).unwrap_err().to_string();
    assert!(refused.contains("repair again") && record.is_dir(), "{refused}");
}

#[test]
fn pruning_waits_for_the_repair_of_a_model_that_stays() {
    let root = state(&[("m", &["a"]), ("old", &["b"])]);
    let layout = Layout::new(root.path());
    let record = record_of(root.path(), "m", 1);
    fs::remove_file(&record).unwrap();
    fs::write(&record, "").unwrap();
    let keep = Kept { models: [name("m")].into(), sources: Vec::new() };
    let error = prune::plan(&layout, &keep).unwrap_err().to_string();
    assert!(error.contains("onnxd state repair"), "{error}");
    // Damage of a model that goes is no obstacle.
    let keep = Kept { models: [name("old")].into(), sources: Vec::new() };
    assert!(!prune::plan(&layout, &keep).unwrap().is_empty());
}

#[test]
fn a_stray_file_does_not_keep_old_versions() {
    let root = state(&[("m", &["a", "b", "c", "d", "e"])]);
    let versions = |root: &Path| fs::read_dir(Layout::new(root).versions()).unwrap().count();
    assert_eq!(versions(root.path()), 5);
    fs::write(Layout::new(root.path()).generations_root().join("README"), "").unwrap();
    drop(open(root.path()));
    assert_eq!(versions(root.path()), 3);
}
