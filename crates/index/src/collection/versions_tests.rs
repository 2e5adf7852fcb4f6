use onnxd_proto::search::Settings;

use super::{
    super::tests::{Fixture, document, embed, hits, ids, query, settings, upsert},
    *,
};

#[test]
fn vectors_of_an_equal_version_are_reused() {
    let fixture = Fixture::new();
    upsert(&fixture.collection, "v1", vec![document(1, "one", "{}"), document(2, "two", "{}")]);
    assert_eq!(fixture.collection.reuse("v0", "v2").unwrap(), 0);
    assert_eq!(fixture.collection.reuse("v1", "v2").unwrap(), 2);
    assert_eq!(fixture.collection.reuse("v1", "v2").unwrap(), 0);
    let fixture = fixture.reopen();
    let found = fixture.collection.search(&query("v2", 1), embed("v1", "two")).unwrap();
    assert_eq!(ids(&hits(found)), [2]);
    // Documents added since are reused as well.
    upsert(&fixture.collection, "v1", vec![document(3, "three", "{}")]);
    assert!(fixture.collection.search(&query("v2", 1), embed("v1", "two")).is_err());
    assert_eq!(fixture.collection.reuse("v1", "v2").unwrap(), 1);
    let found = fixture.collection.search(&query("v2", 3), embed("v1", "three")).unwrap();
    assert_eq!(ids(&hits(found))[0], 3);
}

#[test]
fn reused_vectors_are_marked_until_they_are_discarded() {
    let marks = |collection: &Collection| {
        let versions = collection.count_versions().1.into_iter();
        versions.map(|known| (known.version, known.reused_from)).collect::<Vec<_>>()
    };
    let mut fixture = Fixture::new();
    upsert(&fixture.collection, "v1", vec![document(1, "one", "{}")]);
    fixture.collection.reuse("v1", "v2").unwrap();
    let copied = [("v1".to_owned(), None), ("v2".to_owned(), Some("v1".to_owned()))];
    for _ in 0..2 {
        assert_eq!(marks(&fixture.collection), copied);
        fixture = fixture.reopen();
    }
    fixture.collection.discard("v2").unwrap();
    for _ in 0..2 {
        assert_eq!(marks(&fixture.collection), [("v1".to_owned(), None)]);
        assert_eq!(fixture.collection.unembedded("v2", 9).unwrap().1, 1);
        fixture = fixture.reopen();
    }
}

#[test]
fn vector_for_a_text_of_a_deleted_collection_is_not_stored_in_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let open = |number: i64| {
        let path = folder.path().join(format!("{number}.db"));
        Collection::create(&path, (number, "docs")).unwrap();
        Collection::open(&path, (number, "docs"), &settings()).unwrap()
    };
    let [deleted, successor] = [1, 2].map(open);
    for collection in [&deleted, &successor] {
        upsert(collection, "v1", vec![document(1, "one", "{}")]);
    }
    let (texts, _) = deleted.unembedded("v2", 9).unwrap();
    let late = [(texts[0].key, texts[0].edition)];
    assert_eq!(
        successor
            .embedded((&settings().embedded_as(), "v2"), &late, vec![embed("v2", "one")])
            .unwrap(),
        0
    );
    assert_eq!(
        deleted
            .embedded((&settings().embedded_as(), "v2"), &late, vec![embed("v2", "one")])
            .unwrap(),
        1
    );
}

#[test]
fn vectors_are_refused_if_the_collection_was_bound_anew_meanwhile() {
    let fixture = Fixture::new();
    let shorter = Settings { dimensions: Some(2), ..settings() };
    fixture.collection.rebind(&shorter, || Ok(())).unwrap();
    let upsert = |settings: &Settings| {
        let documents = vec![document(1, "one", "{}")];
        let vectors = vec![embed("v1", "one")];
        fixture.collection.upsert((&settings.embedded_as(), "v1"), documents, vectors)
    };
    assert_eq!(upsert(&settings()).unwrap_err().kind, IndexErrorKind::Changed);
    assert_eq!(upsert(&shorter).unwrap(), 1);
    let (texts, _) = fixture.collection.unembedded("v2", 9).unwrap();
    let late = [(texts[0].key, texts[0].edition)];
    let embedded = |settings: &Settings| {
        let made_by = (&settings.embedded_as(), "v2");
        fixture.collection.embedded(made_by, &late, vec![embed("v2", "one")])
    };
    assert_eq!(embedded(&settings()).unwrap_err().kind, IndexErrorKind::Changed);
    assert_eq!(embedded(&shorter).unwrap(), 1);
}

#[test]
fn file_that_is_lost_empty_or_of_another_collection_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["1.db", "2.db"].map(|name| folder.path().join(name));
    let open = |path, number| {
        let error = Collection::open(path, (number, "docs"), &settings()).unwrap_err();
        assert_eq!(error.kind, IndexErrorKind::Damaged);
        error.message
    };
    assert!(open(&one, 1).contains("is lost or empty"));
    std::fs::write(&one, "").unwrap();
    assert!(open(&one, 1).contains("is lost or empty"));
    Collection::create(&two, (2, "docs")).unwrap();
    std::fs::copy(&two, &one).unwrap();
    assert!(open(&one, 1).contains("is that of collection number 2"));
    assert!(Collection::open(&two, (2, "docs"), &settings()).is_ok());
}
