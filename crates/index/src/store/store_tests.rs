use tempfile::tempdir;

use super::*;
use crate::vector::Vector;

fn row(key: u32, text: &str) -> Row {
    let id = DocumentId::Number(key.into());
    Row { key, id, edition: 1, text: text.to_owned(), payload: "{}".to_owned() }
}

fn created(path: &Path) -> Store {
    Store::create(path, "docs", 0).unwrap();
    assert!(!path.with_extension("db-wal").exists(), "all is in the file");
    Store::open(path, "docs").unwrap()
}

#[test]
fn documents_and_vectors_survive_a_restart() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("1.db");
    let store = created(&path);
    store.begin(true).unwrap();
    let version = store.add_version("v1", 2).unwrap();
    store.put(&row(3, "a fox"), None).unwrap();
    store.put_vector(&version, 3, &Vector::Dense(vec![0.5, -1.0])).unwrap();
    store.commit().unwrap();
    store.begin(true).unwrap();
    store.put(&row(4, "lost"), None).unwrap();
    store.roll_back();
    drop(store);

    let store = Store::open(&path, "docs").unwrap();
    assert_eq!(store.keys().unwrap().iter().collect::<Vec<_>>(), [3]);
    assert_eq!(store.get(3).unwrap(), Some(row(3, "a fox")));
    assert_eq!(store.find(&DocumentId::Number(3)).unwrap(), Some(row(3, "a fox")));
    assert_eq!(store.versions().unwrap(), std::slice::from_ref(&version));
    assert_eq!(store.vectors(&version, &[3]).unwrap(), [Vector::Dense(vec![0.5, -1.0])]);
    store.remove_version(version.number).unwrap();
    assert_eq!(store.versions().unwrap(), []);
}

#[test]
fn full_text_follows_changes() {
    let folder = tempdir().unwrap();
    let store = created(&folder.path().join("1.db"));
    let find = |text: &str| {
        let mut found = Vec::new();
        store
            .match_text(text, |key| {
                found.push(key);
                true
            })
            .unwrap();
        found
    };
    store.put(&row(1, "the fox"), None).unwrap();
    store.put(&row(2, "fox and fox"), None).unwrap();
    assert_eq!(find("FOX? \"quoted\" AND"), [2, 1]);
    store.put(&row(2, "a dog"), Some(&row(2, "fox and fox"))).unwrap();
    assert_eq!(find("fox"), [1]);
    store.remove(&row(1, "the fox")).unwrap();
    assert_eq!((find("fox"), find("dog"), find("  ")), (vec![], vec![2], vec![]));
}

#[test]
fn damage_is_found_and_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("1.db");
    let store = created(&path);
    let version = store.add_version("v1", 2).unwrap();
    store.put(&row(3, "a fox"), None).unwrap();
    store.put_vector(&version, 3, &Vector::Dense(vec![0.5, -1.0])).unwrap();
    for change in [
        "UPDATE documents SET text = 'a dog'",
        "UPDATE documents SET payload = '[]', edition = 9",
        "UPDATE vectors_1 SET vector = x'0000000000000000'",
        "UPDATE vectors_1 SET vector = x'00'",
    ] {
        store.begin(true).unwrap();
        store.connection.execute_batch(change).unwrap();
        let mut found = Vec::new();
        found.extend(store.get(3).err());
        found.extend(store.vectors(&version, &[3]).err());
        let all = store.for_each_vector(&version, |_, _| {});
        assert_eq!(all.is_err(), change.contains("vectors"), "{change}");
        assert_eq!(found.len(), 1, "{change}");
        assert_eq!(found[0].kind, IndexErrorKind::Damaged);
        assert!(found[0].message.contains("collection docs: "), "{}", found[0]);
        assert!(found[0].message.contains("document number 3"), "{}", found[0]);
        store.roll_back();
    }
    drop(store);
    std::fs::write(&path, "not a database, but long enough to be read as one").unwrap();
    let error = Store::open(&path, "docs").unwrap_err();
    assert!(error.message.contains("is damaged"), "{error}");
}
