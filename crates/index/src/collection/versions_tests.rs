use onnxd_proto::search::Distance;

use super::{
    super::tests::{Fixture, document, embed, hits, ids, query, upsert},
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
        Collection::open(&path, (number, "docs"), Distance::Cosine).unwrap()
    };
    let [deleted, successor] = [1, 2].map(open);
    for collection in [&deleted, &successor] {
        upsert(collection, "v1", vec![document(1, "one", "{}")]);
    }
    let (texts, _) = deleted.unembedded("v2", 9).unwrap();
    let late = [(texts[0].key, texts[0].edition)];
    assert_eq!(successor.embedded("v2", &late, vec![embed("v2", "one")]).unwrap(), 0);
    assert_eq!(deleted.embedded("v2", &late, vec![embed("v2", "one")]).unwrap(), 1);
}
