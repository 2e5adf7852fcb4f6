//! Tests of the store on state directories in which something was edited, replaced or removed.

use std::os::unix::{fs::symlink, net::UnixListener};

use onnxd_proto::{
    domain::{Facts, Task},
    generation::GENERATION_MAX,
};

use super::{
    maintenance::{Action, Maintenance, repair, survey::Survey},
    *,
};
use crate::models::sources::fake::ByName;

fn open(root: &Path) -> Store {
    Store::open(root, 3, ByName::sources(), None).unwrap()
}

fn model() -> ModelName {
    "m".parse().unwrap()
}

fn stage(store: &Store, content: &str) -> Staged {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("model.onnx"), content).unwrap();
    fs::create_dir(source.path().join("1_Pooling")).unwrap();
    fs::write(source.path().join("1_Pooling/config.json"), "{}").unwrap();
    store.stage(&SourceUri::from_directory(source.path()), &Conditions::default(), &|_| {}).unwrap()
}

/// Records a generation of model `m` with this content. Returns its version.
fn serve(store: &Store, generation: Generation, content: &str) -> String {
    let staged = stage(store, content);
    let version = staged.version.clone();
    store.keep(staged).unwrap();
    let configured_source = "/x".parse().unwrap();
    let facts = Facts::new(Task::Embed);
    let record = Record { version: version.clone(), configured_source, facts, drift: None };
    store.record(&model(), generation, &record).unwrap();
    version
}

fn served(store: &Store) -> Option<Generation> {
    store.newest(&model()).unwrap().map(|(generation, _)| generation)
}

/// Replaces what is at a path.
type Damage = (&'static str, fn(&Path));

fn remove(path: &Path) {
    whole::remove_all(path).unwrap();
}

fn fifo(path: &Path) {
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(path, mode).unwrap();
}

const SPECIAL: [Damage; 5] = [
    ("a FIFO", fifo),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ("a link", |path| symlink("/dev/zero", path).unwrap()),
    ("a huge file", |path| File::create(path).unwrap().set_len(1 << 40).unwrap()),
];

#[test]
fn an_edited_file_of_the_newest_version_is_not_served() {
    for file in ["1_Pooling/config.json", "model.onnx", "MANIFEST"] {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        serve(&store, 1, "a");
        let version = serve(&store, 2, "b");
        assert_eq!((served(&store), store.damaged_records(&model())), (Some(2), vec![]));
        let path = store.layout().version(&version).join(file);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, "[]").unwrap();
        let survey = Survey::read(root.path()).unwrap();
        assert_eq!((survey.models[0].serves, survey.is_damaged()), (Some(1), true), "{file}");
        assert_eq!((served(&store), store.damaged_records(&model())), (Some(1), vec![2]), "{file}");
        assert!(!store.has(&version), "{file}: it can be staged again");
        assert!(stage(&store, "b").folder().is_some(), "{file}");
        // The next start agrees, although the version is gone.
        store.retire(&HashSet::new());
        drop(store);
        let store = open(root.path());
        assert_eq!((served(&store), store.damaged_records(&model())), (Some(1), vec![2]), "{file}");
    }
}

#[test]
fn a_kept_version_that_was_edited_is_staged_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let version = serve(&store, 1, "a");
    serve(&store, 2, "b");
    fs::write(store.layout().version(&version).join("onnxd.toml"), "pooling = 'cls'").unwrap();
    let staged = stage(&store, "a");
    assert!(staged.folder().is_some() && staged.version == version);
    store.keep(staged).unwrap();
    assert!(store.is_whole(&version));
}

#[test]
fn anything_in_the_place_of_a_version_or_its_files_is_damage() {
    for part in ["", "MANIFEST", "model.onnx"] {
        let file: Damage = ("a file", |path| fs::write(path, "x").unwrap());
        for (what, damage) in SPECIAL.into_iter().chain([file]) {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path());
            serve(&store, 1, "a");
            let version = serve(&store, 2, "b");
            let path = store.layout().version(&version).join(part);
            let path = if part.is_empty() { store.layout().version(&version) } else { path };
            remove(&path);
            damage(&path);
            let survey = Survey::read(root.path()).unwrap();
            let shown = &survey.models[0];
            assert_eq!((shown.serves, survey.is_damaged()), (Some(1), true), "{part} {what}");
            assert_eq!(served(&store), Some(1), "{part} {what}");
            let staged = stage(&store, "b");
            assert!(staged.folder().is_some(), "{part} {what}");
            // Something may appear while the version is checked.
            damage(&store.layout().version(&version));
            store.keep(staged).unwrap();
            assert!(store.is_whole(&version), "{part} {what}");
        }
    }
}

#[test]
fn a_record_that_is_no_regular_file_is_damaged_and_repaired() {
    for (what, damage) in SPECIAL {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        serve(&store, 1, "a");
        serve(&store, 2, "b");
        let record = store.layout().generation(&model(), 2);
        remove(&record);
        damage(&record);
        drop(store);
        let store = open(root.path());
        assert_eq!((served(&store), store.damaged_records(&model())), (Some(1), vec![2]), "{what}");
        drop(store);
        let maintenance = Maintenance::open(root.path()).unwrap();
        let changes = repair::plan(&maintenance.survey().unwrap());
        assert_eq!(changes[0].action, Action::SetAsideRecord, "{what}");
        changes.iter().for_each(|change| maintenance.apply(change).unwrap());
        assert!(!maintenance.survey().unwrap().is_damaged(), "{what}");
        drop(maintenance);
        let store = open(root.path());
        assert_eq!(store.generations(&model()).unwrap(), [1, 2], "{what}: the number stays used");
        assert_eq!(store.damaged_records(&model()), [0; 0], "{what}");
    }
}

#[test]
fn numbers_that_no_generation_can_have_are_damage() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    serve(&store, 1, "a");
    let whole = store.layout().generation(&model(), 1);
    for number in [0, GENERATION_MAX + 1, u64::MAX] {
        fs::copy(&whole, store.layout().generation(&model(), number)).unwrap();
    }
    drop(store);
    let store = open(root.path());
    let wrong = [0, GENERATION_MAX + 1, u64::MAX];
    assert_eq!((served(&store), store.damaged_records(&model())), (Some(1), wrong.to_vec()));
    assert_eq!(store.generations(&model()).unwrap(), [1], "the next number is 2");
    drop(store);
    let maintenance = Maintenance::open(root.path()).unwrap();
    let changes = repair::plan(&maintenance.survey().unwrap());
    changes.iter().for_each(|change| maintenance.apply(change).unwrap());
    let survey = maintenance.survey().unwrap();
    assert!(!survey.is_damaged() && survey.models[0].records.len() == 1, "{survey:?}");
}

#[test]
fn a_record_names_no_path() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let version = serve(&store, 1, "a");
    let text = fs::read_to_string(store.layout().generation(&model(), 1)).unwrap();
    for (number, other) in (2..).zip(["../generations", "", ".", "/etc"]) {
        let text = text.replace(&version, other);
        fs::write(store.layout().generation(&model(), number), text).unwrap();
    }
    assert_eq!((served(&store), store.damaged_records(&model())), (Some(1), vec![2, 3, 4, 5]));
    assert!(store.layout().generations_root().exists());
}

#[test]
fn a_lock_file_that_was_replaced_is_refused_at_once() {
    for (what, damage) in SPECIAL.into_iter().take(4) {
        let root = tempfile::tempdir().unwrap();
        drop(open(root.path()));
        let path = root.path().join("lock");
        remove(&path);
        damage(&path);
        let refused = Store::open(root.path(), 3, ByName::sources(), None).unwrap_err().message;
        assert!(refused.contains(path.to_str().unwrap()), "{what}: {refused}");
        assert!(Survey::read(root.path()).is_err(), "{what}");
    }
}

#[test]
fn only_a_whole_record_of_the_configured_source_can_be_restored() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (source, other) = ("/x".parse().unwrap(), "/y".parse().unwrap());
    let keeps = |source| store.keeps_source(&model(), source);
    assert!(!keeps(&source), "nothing was served");
    let first = serve(&store, 1, "first");
    assert!(keeps(&source) && !keeps(&other));
    serve(&store, 2, "second");
    let record = store.layout().generation(&model(), 2);
    fs::remove_file(&record).unwrap();
    fs::write(&record, "{").unwrap();
    assert!(keeps(&source), "the first is whole");
    whole::remove_all(&store.layout().version(&first)).unwrap();
    assert!(!keeps(&source), "a record is damaged, and the version of the other is missing");
}
